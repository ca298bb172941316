"""The safetensors header that messages and images of models share, written and read.

A file is an 8-byte length, a JSON header and the tensors' bytes. What is not a tensor stands, as
sorted JSON, under the ONE key "bt" of the header's `__metadata__`: safetensors metadata keeps no
order, one key does. Reading trusts nobody: lengths before bytes, every field before its use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from transports import strictjson
from transports.base import valid_name
from transports.schema import shown

PROTOCOL = 3
MAX_VERSION = 2**31 - 1  # of either part: no peer ever gets there
MAX_INTEGER = 2**53 - 1  # the largest every JSON reader holds exactly
_HASH = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(r"[0-9a-f]{32}")


class MessageError(ValueError):
    """A message or image that must not be used; the subclasses say why, the text what."""


class Malformed(MessageError):
    """Not one of ours: broken framing, header or field."""


class TooLarge(MessageError):
    """Larger than the limits allow."""


class WrongProtocol(MessageError):
    """The sender speaks another version of the protocol."""


class WrongSchema(MessageError):
    """The tensors are not those of our model."""


# --- writing

_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


def write(about: dict[str, Any], table: bytes = b"", length: int | None = None) -> bytes:
    """Length and header: `about` as metadata, then the members of a tensor table.

    Padded with spaces to a multiple of 8 bytes, or to `length` in all.
    """
    return pack(_encode({"protocol": PROTOCOL} | about), table, length)


def pack(text: str, table: bytes = b"", length: int | None = None) -> bytes:
    """The same, for any text under the one key."""
    head = b'{"__metadata__":' + _encode({"bt": text}).encode()
    return framed(head + (b"," + table if table else b"") + b"}", length)


def framed(head: bytes, length: int | None = None) -> bytes:
    """A JSON header with its length before it and the padding behind it."""
    padding = -len(head) % 8 if length is None else length - 8 - len(head)
    if padding < 0:
        raise ValueError(f"a header of {8 + len(head)} bytes does not fit into {length}")
    head += b" " * padding
    return len(head).to_bytes(8, "little") + head


# --- reading


def split(frames: Sequence[memoryview], max_header_bytes: int) -> tuple[bytes, list[memoryview]]:
    """(JSON header, the frames after it), the length checked before anything is copied."""
    if frames and 8 <= (own := frames[0].nbytes) <= 8 + max_header_bytes:
        if int.from_bytes(frames[0][:8], "little") == own - 8:  # the usual case: just the header
            return frames[0][8:].tobytes(), list(frames[1:])
    total = sum(frame.nbytes for frame in frames)
    prefix, rest = _take(frames, 8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > total - 8:
        raise Malformed(f"{total} bytes are too few for the header they announce")
    if length > max_header_bytes:
        raise TooLarge(f"a header of {length} bytes, at most {max_header_bytes} are accepted")
    return _take(rest, length)


def _take(frames: Sequence[memoryview], count: int) -> tuple[bytes, list[memoryview]]:
    """A copy of the first `count` bytes (fewer if there are no more), and views of the rest."""
    taken = []
    for index, frame in enumerate(frames):
        taken.append(frame[:count])
        if count < frame.nbytes:
            return b"".join(taken), [frame[count:], *frames[index + 1 :]]
        count -= frame.nbytes
    return b"".join(taken), []


def read(head: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
    """(what stands under "bt" less the protocol number, the tensor table) of a JSON header."""
    table = _parse(head)
    metadata = table.pop("__metadata__", None)
    if not isinstance(metadata, dict) or metadata.keys() != {"bt"}:
        raise Malformed('the header\'s __metadata__ does not hold exactly the key "bt"')
    about = _parse(metadata["bt"])
    protocol = about.pop("protocol", None)
    if protocol != PROTOCOL or type(protocol) is not int:
        raise WrongProtocol(f"protocol {shown(protocol)}: this peer speaks {PROTOCOL}")
    return about, table


def _parse(text: object) -> dict[str, Any]:
    try:
        return strictjson.parse(text)
    except strictjson.JSONError as exc:
        raise Malformed(str(exc)) from exc


# --- fields


def fields(about: dict[str, Any], *names: str) -> list[Any]:
    """The values of exactly these fields, in this order."""
    if about.keys() != set(names):
        odd = sorted(about.keys() ^ set(names))
        raise Malformed(f"missing or unknown field {shown(odd[0])}")
    return [about[name] for name in names]


def pair(value: object) -> tuple[int, int]:
    """A JSON list as a version; `check_version` looks at the rest."""
    if not isinstance(value, list):
        raise Malformed(f"version {shown(value)}: expected [incarnation, count]")
    return tuple(value)


def check_sender(value: object) -> None:
    if not valid_name(value):
        raise Malformed(f"{shown(value)} is no name of a peer")


def check_integer(name: str, value: object, least: int = 0) -> None:
    if type(value) is not int or not least <= value <= MAX_INTEGER:
        raise Malformed(f"{name} {shown(value)}: expected an integer from {least} to 2^53-1")


def check_version(name: str, value: object) -> None:
    if not isinstance(value, tuple) or len(value) != 2:
        raise Malformed(f"{name} {shown(value)}: expected (incarnation, count)")
    for part in value:
        check_integer(name, part)
        if part > MAX_VERSION:
            raise Malformed(f"{name} {shown(value)}: expected at most {MAX_VERSION}")


def check_hash(value: object) -> None:
    """A SHA-256."""
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise Malformed(f"schema {shown(value)}: expected 64 hexadecimal digits")


def check_digest(value: object) -> None:
    """An XXH3-128."""
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise Malformed(f"digest {shown(value)}: expected 32 hexadecimal digits")
