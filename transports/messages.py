"""What peers say to each other: four messages, each a valid safetensors file.

A file is an 8-byte length, a JSON header and the tensors' bytes. What is not a tensor stands, as
sorted JSON, under the ONE key "bt" of the header's `__metadata__`. Only `Weights` has tensors.
Any safetensors library opens a captured message; nothing in one can execute.

`decode` trusts nobody: it looks at sizes before it allocates, and at every field before it
believes one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transports import strictjson
from transports.base import Frame, flat, valid_name
from transports.schema import FloatRun, Schema, SchemaError, shown

PROTOCOL = 1
STATES = ("training", "done", "finished", "leaving")
MAX_VERSION = 2**31 - 1  # of either part: no peer ever gets there
_MAX_INTEGER = 2**53 - 1  # the largest every JSON reader holds exactly
_HASH = re.compile(r"[0-9a-f]{64}")


class MessageError(ValueError):
    """A message that must not be used; the subclasses say why, the text says what exactly."""


class Malformed(MessageError):
    """Not one of our messages: broken framing, header or field."""


class TooLarge(MessageError):
    """Larger than the limits allow."""


class WrongProtocol(MessageError):
    """The sender speaks another version of the protocol."""


class WrongSchema(MessageError):
    """The tensors are not those of our model."""


class NotFinite(MessageError):
    """The weights contain NaN or infinity."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a received message may claim."""

    max_message_bytes: int
    max_header_bytes: int = 1 << 20
    max_samples: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Ping:
    """Which version do you have? The answer is a Version."""

    sender: str

    def __post_init__(self) -> None:
        _check_sender(self.sender)


@dataclass(frozen=True, slots=True)
class Version:
    """The sender's last finished version: (incarnation, count), of `samples` training scans.

    `schema` is the hash of its model's schema, `state` one of STATES. `seen` is the receiver's
    version that the sender merged last: a peer that lost its disk learns from it what it once
    was. None in announcements, and where nothing was merged.
    """

    sender: str
    version: tuple[int, int]
    samples: int
    schema: str
    state: str
    seen: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        _check_sender(self.sender)
        _check_version("version", self.version)
        _check_integer("samples", self.samples)
        _check_hash(self.schema)
        if self.state not in STATES:
            raise Malformed(f"state {shown(self.state)}: expected one of {', '.join(STATES)}")
        if self.seen is not None:
            _check_version("seen", self.seen)


@dataclass(frozen=True, slots=True)
class Pull:
    """Send your weights if they are newer than `have`; None: whatever you have."""

    sender: str
    have: tuple[int, int] | None

    def __post_init__(self) -> None:
        _check_sender(self.sender)
        if self.have is not None:
            _check_version("have", self.have)


@dataclass(frozen=True, slots=True)
class Weights:
    """A model: `body` holds the `schema.nbytes` bytes of its tensors, little-endian."""

    sender: str
    version: tuple[int, int]
    samples: int
    schema: Schema
    body: memoryview

    def __post_init__(self) -> None:
        _check_sender(self.sender)
        _check_version("version", self.version)
        _check_integer("samples", self.samples, least=1)
        if self.body.nbytes != self.schema.nbytes:
            raise Malformed(
                f"the body has {self.body.nbytes} bytes, its schema says {self.schema.nbytes}"
            )


Message = Ping | Version | Pull | Weights


def encode(message: Message) -> tuple[Frame, ...]:
    """The message as frames: (header,) or, for Weights, (header, body) with the body not copied.

    Their concatenation is a safetensors file.
    """
    about: dict[str, Any] = {"protocol": PROTOCOL, "sender": message.sender}
    match message:
        case Ping():
            about |= {"kind": "ping"}
        case Version():
            about |= {
                "kind": "version",
                "version": message.version,
                "samples": message.samples,
                "schema": message.schema,
                "state": message.state,
                "seen": message.seen,
            }
        case Pull():
            about |= {"kind": "pull", "have": message.have}
        case Weights():
            about |= {
                "kind": "weights",
                "version": message.version,
                "samples": message.samples,
                "schema": message.schema.hash,
            }
            return _header(about, message.schema.table), flat(message.body)
    return (_header(about),)


def decode(frames: Sequence[Frame], *, limits: Limits, schema: Schema | None = None) -> Message:
    """The message in these frames, split in any way; a body in one frame is not copied.

    With `schema`, weights of any other are refused. Raises MessageError and nothing else. The
    `sender` of the result is a claim: compare it with the sender the transport authenticated.
    """
    head, rest = _split([flat(frame) for frame in frames], limits)
    prefix = _without_table(head, schema)
    header = _parse(head if prefix is None else prefix)
    metadata = header.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.keys() != {"bt"}:
        raise Malformed('the header\'s __metadata__ does not hold exactly the key "bt"')
    about = _parse(metadata["bt"])
    if about.get("protocol") != PROTOCOL or type(about["protocol"]) is not int:
        raise WrongProtocol(
            f"protocol {shown(about.get('protocol'))}: this peer speaks {PROTOCOL}"
        )
    del about["protocol"]
    kind = about.pop("kind", None)

    if kind == "weights":
        if schema is None or prefix is None:
            schema = _schema_of(header, schema)
        elif header:
            raise WrongSchema(f"tensor {shown(next(iter(header)))} is unknown")
        return _weights(about, schema, rest, limits)
    if header or prefix is not None or any(frame.nbytes for frame in rest):
        raise Malformed(f"a message of kind {shown(kind)} carries no tensors")
    if kind == "ping":
        return Ping(*_fields(about, "sender"))
    if kind == "pull":
        sender, have = _fields(about, "sender", "have")
        return Pull(sender, None if have is None else _pair(have))
    if kind == "version":
        sender, version, samples, hash_, state, seen = _fields(
            about, "sender", "version", "samples", "schema", "state", "seen"
        )
        _check_samples(samples, limits)
        known = None if seen is None else _pair(seen)
        return Version(sender, _pair(version), samples, hash_, state, known)
    raise Malformed(f"unknown kind {shown(kind)}")


def _weights(
    about: dict[str, Any], schema: Schema, rest: list[memoryview], limits: Limits
) -> Weights:
    sender, version, samples, hash_ = _fields(about, "sender", "version", "samples", "schema")
    _check_samples(samples, limits)
    if hash_ != schema.hash:
        raise WrongSchema(f"claims schema {shown(hash_)}, its tensors are {schema.hash}")
    nbytes = sum(frame.nbytes for frame in rest)
    if nbytes != schema.nbytes:
        raise Malformed(f"the body has {nbytes} bytes, its schema says {schema.nbytes}")
    full = [frame for frame in rest if frame.nbytes]
    body = full[0] if len(full) == 1 else memoryview(b"".join(full))
    body = _aligned(body.toreadonly())
    message = Weights(sender, _pair(version), samples, schema, body)
    for run in schema.float_runs:
        _check_finite(body, run, schema)
    return message


# --- framing


def _header(about: dict[str, Any], table: bytes = b"") -> bytes:
    text = json.dumps(about, sort_keys=True, separators=(",", ":"))
    head = b'{"__metadata__":' + json.dumps({"bt": text}, separators=(",", ":")).encode()
    head += (b"," + table if table else b"") + b"}"
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head


def _split(frames: list[memoryview], limits: Limits) -> tuple[bytes, list[memoryview]]:
    """(JSON header, the frames after it), both lengths checked before anything is copied."""
    total = sum(frame.nbytes for frame in frames)
    if total > limits.max_message_bytes:
        raise TooLarge(f"{total} bytes, at most {limits.max_message_bytes} are accepted")
    prefix, rest = _take(frames, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > total - 8:
        raise Malformed(f"{total} bytes are too few for the header they announce")
    if length > limits.max_header_bytes:
        raise TooLarge(
            f"a header of {length} bytes, at most {limits.max_header_bytes} are accepted"
        )
    return _take(rest, length)


def _take(frames: list[memoryview], count: int) -> tuple[bytes, list[memoryview]]:
    """A copy of the first `count` bytes (fewer if there are no more), and views of the rest."""
    taken = []
    for index, frame in enumerate(frames):
        taken.append(frame[:count])
        if count < frame.nbytes:
            return b"".join(taken), [frame[count:], *frames[index + 1 :]]
        count -= frame.nbytes
    return b"".join(taken), []


def _without_table(head: bytes, schema: Schema | None) -> bytes | None:
    """`head` less our own tensor table if it ends in exactly that (the usual case: no tensor is
    looked at one by one), else None.

    If what remains is an object that holds only `__metadata__`, the whole was that plus our table.
    """
    if schema is None or not schema.specs:
        return None
    tail = b"," + schema.table + b"}"
    text = head.rstrip(b" ")
    return text[: -len(tail)] + b"}" if text.endswith(tail) else None


def _schema_of(entries: dict[str, Any], ours: Schema | None) -> Schema:
    try:
        theirs = Schema.from_header(entries)
    except SchemaError as exc:
        raise WrongSchema(str(exc)) from exc
    difference = None if ours is None else ours.difference(theirs)
    if difference is not None:
        raise WrongSchema(difference)
    return theirs


def _aligned(body: memoryview) -> memoryview:
    """`body`, copied only if it starts at an odd place: tensors are read in place."""
    address: int = np.frombuffer(body, dtype=np.uint8).ctypes.data
    return body if address % 8 == 0 else memoryview(bytes(body))


def _parse(text: object) -> dict[str, Any]:
    try:
        return strictjson.parse(text)
    except strictjson.JSONError as exc:
        raise Malformed(str(exc)) from exc


# --- fields


def _fields(about: dict[str, Any], *names: str) -> list[Any]:
    if about.keys() != set(names):
        odd = sorted(about.keys() ^ set(names))
        raise Malformed(f"missing or unknown field {shown(odd[0])}")
    return [about[name] for name in names]


def _pair(value: object) -> tuple[int, int]:
    """A JSON list as a version; the message checks the rest."""
    if not isinstance(value, list):
        raise Malformed(f"version {shown(value)}: expected [incarnation, count]")
    return tuple(value)


def _check_sender(value: object) -> None:
    if not valid_name(value):
        raise Malformed(f"{shown(value)} is no name of a peer")


def _check_integer(name: str, value: object, least: int = 0) -> None:
    if type(value) is not int or not least <= value <= _MAX_INTEGER:
        raise Malformed(f"{name} {shown(value)}: expected an integer from {least} to 2^53-1")


def _check_version(name: str, value: object) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise Malformed(f"{name} {shown(value)}: expected (incarnation, count)")
    for part in value:
        _check_integer(name, part)
        if part > MAX_VERSION:
            raise Malformed(f"{name} {shown(value)}: expected at most {MAX_VERSION}")


def _check_samples(value: object, limits: Limits) -> None:
    _check_integer("samples", value)
    assert isinstance(value, int)
    if value > limits.max_samples:
        raise TooLarge(f"claims {value} samples, at most {limits.max_samples} are accepted")


def _check_hash(value: object) -> None:
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise Malformed(f"schema {shown(value)}: expected 64 hexadecimal digits")


# --- finite values

_BLOCK = 1 << 16  # elements looked at at once: no temporary of the model's size
_EXPONENTS = {"F16": 0x7C00, "BF16": 0x7F80}  # all exponent bits set: NaN or infinity


def _check_finite(body: memoryview, run: FloatRun, schema: Schema) -> None:
    exponent = _EXPONENTS.get(run.dtype)
    dtype = {"F32": "<f4", "F64": "<f8"}.get(run.dtype, "<u2")
    values = np.frombuffer(body[run.begin : run.end], dtype=dtype)
    for start in range(0, values.size, _BLOCK):
        block = values[start : start + _BLOCK]
        finite = np.isfinite(block) if exponent is None else block & exponent != exponent
        if not finite.all():
            index = start + int(np.argmin(finite))
            at = run.begin + index * values.itemsize
            name = next(n for n, (begin, end) in schema.offsets.items() if begin <= at < end)
            raise NotFinite(f"tensor {shown(name)} holds NaN or infinity")
