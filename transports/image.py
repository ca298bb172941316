"""The image of a model: the one safetensors file that its owner serves, a header and the body.

The header is padded to a length that the schema alone decides. So it is known before anything
arrives, and the same range of any peer's image holds the same values of the model.
"""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from transports import header
from transports.header import Malformed, WrongSchema
from transports.schema import Schema, SchemaError, shown

_ROOM = 512  # for the metadata: the longest has about 400 bytes
_ALIGNMENT = 64  # bytes, of the body: a cache line


@dataclass(frozen=True, slots=True)
class Model:
    """What the header says: whose model, which version, trained on how many scans."""

    sender: str
    version: tuple[int, int]
    samples: int

    def __post_init__(self) -> None:
        header.check_sender(self.sender)
        header.check_version("version", self.version)
        header.check_integer("samples", self.samples, least=1)


def header_bytes(schema: Schema) -> int:
    """Length of the header, with the 8 bytes before it, in the image of any such model."""
    return _ROOM + (8 + len(schema.table) + _ALIGNMENT - 1) // _ALIGNMENT * _ALIGNMENT


def nbytes(schema: Schema) -> int:
    """Length of the image of any such model."""
    return header_bytes(schema) + schema.nbytes


def digest(data: memoryview) -> str:
    """XXH3-128 in hexadecimal: finds what was damaged on its way, at the speed of memory."""
    return xxhash.xxh3_128_hexdigest(data)


def encode(model: Model, schema: Schema) -> bytes:
    """The header; the body's bytes follow."""
    about = {
        "kind": "model",
        "sender": model.sender,
        "version": model.version,
        "samples": model.samples,
        "schema": schema.hash,
    }
    return header.write(about, schema.table, header_bytes(schema))


def decode(data: memoryview, schema: Schema) -> Model:
    """What the header at the beginning of `data` says.

    Raises MessageError unless all of it is there and the tensors are those of `schema`.
    """
    expected = header_bytes(schema)
    head, _ = header.split([data], max_header_bytes=1 << 24)
    ours = _without_table(head, schema)
    about, table = header.read(head if ours is None else ours)
    if ours is None:
        _check_table(table, schema)
    elif table:
        raise WrongSchema(f"tensor {shown(next(iter(table)))} is unknown")
    if len(head) + 8 != expected:
        raise Malformed(f"a header of {len(head) + 8} bytes, expected {expected}")
    kind, sender, version, samples, hash_ = header.fields(
        about, "kind", "sender", "version", "samples", "schema"
    )
    if kind != "model":
        raise Malformed(f"an image of kind {shown(kind)} is no model")
    if hash_ != schema.hash:
        raise WrongSchema(f"claims schema {shown(hash_)}, its tensors are {schema.hash}")
    return Model(sender, header.pair(version), samples)


def _without_table(head: bytes, schema: Schema) -> bytes | None:
    """`head` less our own tensor table if it ends in exactly that (the usual case: no tensor is
    looked at one by one), else None.

    If what remains is an object that holds only `__metadata__`, the whole was that plus our table.
    """
    if not schema.specs:
        return None
    tail = b"," + schema.table + b"}"
    text = head.rstrip(b" ")
    return text[: -len(tail)] + b"}" if text.endswith(tail) else None


def _check_table(table: dict[str, object], schema: Schema) -> None:
    try:
        difference = schema.difference(Schema.from_header(table))
    except SchemaError as exc:
        raise WrongSchema(str(exc)) from exc
    if difference is not None:
        raise WrongSchema(difference)
