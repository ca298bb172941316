"""What peers say to each other: six messages, each a valid safetensors file.

Four train a model; Ask and Report (reports.py) are for those who watch. Only `Weights` carries
bytes: one range of a model's image (image.py). The ranges put together are that image, itself a
safetensors file. Any library opens a captured message; nothing in one can execute.

`decode` trusts nobody: it looks at sizes before it allocates, and at every field before it
believes one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from transports import header, ranges, reports
from transports.base import Frame, flat
from transports.encodings import ENCODINGS, PLAIN
from transports.header import (
    MAX_VERSION,
    Malformed,
    MessageError,
    TooLarge,
    WrongProtocol,
    WrongSchema,
)
from transports.reports import STATES, Ask, Report
from transports.schema import shown

__all__ = [
    "ENCODINGS",
    "MAX_VERSION",
    "PLAIN",
    "STATES",
    "Ask",
    "Limits",
    "Malformed",
    "Message",
    "MessageError",
    "Ping",
    "Pull",
    "Report",
    "TooLarge",
    "Version",
    "Weights",
    "WrongProtocol",
    "WrongSchema",
    "decode",
    "encode",
]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a received message may claim, and how many of a peer are answered."""

    max_message_bytes: int
    max_header_bytes: int = 1 << 16
    max_samples: int = 1_000_000
    samples_of: Mapping[str, int] = field(default_factory=dict)  # by name; others: max_samples
    pings_per_s: int = 100  # of one peer; a healthy one sends two
    pulls_per_s: int = 4000  # of one peer, ranges: 8 GB/s
    asks_per_s: int = 10  # of one peer; who watches sends one


@dataclass(frozen=True, slots=True)
class Ping:
    """Which version do you have? The answer is a Version."""

    sender: str

    def __post_init__(self) -> None:
        header.check_sender(self.sender)


@dataclass(frozen=True, slots=True)
class Version:
    """The sender's last finished version: (incarnation, count), of `samples` training scans.

    `schema` is a hash of what must be the same everywhere (network, structures), `state` one of
    STATES, `digest` the XXH3-128 of its image (None: there is no model yet). `seen` is the
    newest version of the receiver that the sender knows of: a peer that lost its disk learns from
    it what it once was. None in announcements, and where nothing is known.
    """

    sender: str
    version: tuple[int, int]
    samples: int
    schema: str
    state: str
    digest: str | None = None
    seen: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        header.check_sender(self.sender)
        header.check_version("version", self.version)
        header.check_integer("samples", self.samples)
        header.check_hash(self.schema)
        if self.state not in STATES:
            raise Malformed(f"state {shown(self.state)}: expected one of {', '.join(STATES)}")
        if self.digest is not None:
            header.check_digest(self.digest)
        if self.seen is not None:
            header.check_version("seen", self.seen)


@dataclass(frozen=True, slots=True)
class Pull:
    """Send `length` bytes from `offset` of the image with this digest.

    Coded by `encoding` if it is not PLAIN, as the difference from the model of yours with the
    digest `base`; plainly if you don't have that. The answer is Weights with at most so many
    bytes, or, if that image is not served (any more), of size 0.
    """

    sender: str
    digest: str
    offset: int
    length: int
    encoding: str = PLAIN
    base: str | None = None

    def __post_init__(self) -> None:
        header.check_sender(self.sender)
        header.check_digest(self.digest)
        header.check_integer("offset", self.offset)
        header.check_integer("length", self.length, least=1)
        _check_encoding(self.encoding)
        if self.base is not None:
            header.check_digest(self.base)


@dataclass(frozen=True, slots=True)
class Weights:
    """Bytes [offset, offset + data.nbytes) of the image with this digest, in this encoding.

    `size` is the length of it all; 0 says that there is no such image (any more).
    """

    sender: str
    digest: str
    size: int
    offset: int
    data: memoryview
    encoding: str = PLAIN

    def __post_init__(self) -> None:
        header.check_sender(self.sender)
        header.check_digest(self.digest)
        header.check_integer("size", self.size)
        header.check_integer("offset", self.offset)
        _check_encoding(self.encoding)
        if self.data.nbytes and self.offset + self.data.nbytes > self.size:
            raise Malformed(f"a range that ends beyond the {self.size} bytes it is of")


Small = Ping | Version | Pull | Ask | Report
Message = Small | Weights
_KINDS: dict[str, Any] = {
    "ping": Ping,
    "version": Version,
    "pull": Pull,
    "weights": Weights,
    "ask": Ask,
    "report": Report,
}
_KIND_OF = {kind: name for name, kind in _KINDS.items()}
_REPEATED_BYTES = 1 << 10  # messages up to this may come again just so,
_REPEATED = 4096  # and so many are remembered: two or three of each of a thousand peers
_FIELDS = {
    name: tuple(each.name for each in fields(kind) if each.name != "data")
    for name, kind in _KINDS.items()
}


def encode(message: Message) -> tuple[Frame, ...]:
    """The message as frames: (header,) or, for Weights, (header, data) with the data not copied.

    Their concatenation is a safetensors file.
    """
    if isinstance(message, Weights):
        data = flat(message.data)
        about = message.sender, message.digest, message.size, message.offset
        return ranges.write_range(*about, data.nbytes, message.encoding), data
    if isinstance(message, Pull):
        wanted = message.sender, message.digest, message.offset, message.length
        return (ranges.write_pull(*wanted, message.encoding, message.base),)
    if isinstance(message, Report):
        return (header.write(_about(message)),)
    return (_encoded(message),)


def decode(frames: Sequence[Frame], *, limits: Limits) -> Message:
    """The message in these frames, split in any way; data in a frame of its own is not copied.

    Raises MessageError and nothing else. The `sender` of the result is a claim: compare it with
    the sender the transport authenticated.
    """
    views = [flat(frame) for frame in frames]
    total = sum([view.nbytes for view in views])
    if total > limits.max_message_bytes:
        raise TooLarge(f"{total} bytes, at most {limits.max_message_bytes} are accepted")
    if len(views) == 1 and total <= min(_REPEATED_BYTES, limits.max_header_bytes):
        message = _decoded(views[0].tobytes())
    else:
        message = _split(views, limits.max_header_bytes)
    if isinstance(message, Version) and message.samples > limits.max_samples:
        raise TooLarge(
            f"claims {message.samples} samples, at most {limits.max_samples} are accepted"
        )
    return message


# Peers say the same again and again until their version changes.
@lru_cache(maxsize=_REPEATED)
def _encoded(message: Ping | Version | Ask) -> bytes:
    return header.write(_about(message))


@lru_cache(maxsize=_REPEATED)
def _decoded(file: bytes) -> Message:
    return _split([memoryview(file)], len(file))


def _split(frames: Sequence[memoryview], max_header_bytes: int) -> Message:
    head, rest = header.split(frames, max_header_bytes)
    if any([view.nbytes for view in rest]):
        return _weights(head, _joined(rest))
    if (pull := ranges.read_pull(head)) is not None:
        return Pull(*pull)
    kind, about, table = _read(head)
    if kind == "weights":
        return _weights(head, memoryview(b""))
    if table:
        raise Malformed(f"a message of kind {shown(kind)} carries no tensors")
    return _made(kind, about)


def _weights(head: bytes, data: memoryview) -> Message:
    if (found := ranges.read_range(head)) is not None and found[4] == data.nbytes:
        sender, digest, size, offset, _, encoding = found
        return Weights(sender, digest, size, offset, data.toreadonly(), encoding)
    kind, about, table = _read(head)
    if kind != "weights":
        raise Malformed(f"a message of kind {shown(kind)} carries no tensors")
    if table.keys() != {"range"} or not _is_range_of(table["range"], data.nbytes):
        raise Malformed(f"its tensors are not one range of {data.nbytes} bytes")
    return _made(kind, about, data=data.toreadonly())


def _read(head: bytes) -> tuple[str, dict[str, Any], dict[str, Any]]:
    about, table = header.read(head)
    kind = about.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise Malformed(f"unknown kind {shown(kind)}")
    return kind, about, table


def _about(message: Ping | Version | Ask | Report) -> dict[str, Any]:
    kind = _KIND_OF[type(message)]
    return {"kind": kind} | {name: getattr(message, name) for name in _FIELDS[kind]}


def _made(kind: str, about: dict[str, Any], **data: Any) -> Message:
    """The message of this kind; it looks at its fields itself."""
    values = header.fields(about, *_FIELDS[kind])
    if kind == "report":
        return reports.from_json(about)
    # JSON has no tuples
    values = [tuple(value) if isinstance(value, list) else value for value in values]
    made: Message = _KINDS[kind](**dict(zip(_FIELDS[kind], values, strict=True)), **data)
    return made


def _check_encoding(value: object) -> None:
    if not isinstance(value, str) or value not in ENCODINGS:
        raise Malformed(f"encoding {shown(value)}: expected one of {', '.join(ENCODINGS)}")


def _joined(frames: list[memoryview]) -> memoryview:
    full = [frame for frame in frames if frame.nbytes]
    return full[0] if len(full) == 1 else memoryview(b"".join(full))


def _is_range_of(entry: object, nbytes: int) -> bool:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        return False
    numbers = [entry["shape"], entry["data_offsets"]]
    return entry["dtype"] == "U8" and repr(numbers) == repr([[nbytes], [0, nbytes]])
