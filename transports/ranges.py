"""The headers of the two messages that a model needs many of, written and read in one stroke.

They are to the byte what header.write gives. Read here is only what is exactly so; whatever else
a peer may send goes the long way, through JSON, which costs more than all the rest of a range.
"""

from __future__ import annotations

import re

from transports import header

_PULL_ABOUT = (
    '{"base":%s,"digest":"%s","encoding":"%s","kind":"pull","length":%d,"offset":%d,'
    f'"protocol":{header.PROTOCOL},"sender":"%s"}}'
)
_RANGE_ABOUT = (
    '{"digest":"%s","encoding":"%s","kind":"weights","offset":%d,'
    f'"protocol":{header.PROTOCOL},"sender":"%s","size":%d}}'
)
_RANGE_TABLE = ',"range":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}'


def _template(about: str, table: str = "") -> str:
    return '{"__metadata__":{"bt":"' + _quoted(about) + '"}' + table + "}"


def _quoted(text: str) -> str:
    return text.replace('"', '\\"')  # as JSON in JSON


def _pattern(template: str) -> re.Pattern[bytes]:
    """What matches a header made of it; the values as groups, to be looked at further."""
    groups = {
        ":%s": r':(null|\\"[0-9a-f]{32}\\")',
        "%s": r"([0-9A-Za-z._+-]{1,64})",
        "%d": r"(0|[1-9][0-9]{0,15})",
    }
    pattern = re.escape(template)
    for place, group in groups.items():
        pattern = pattern.replace(place, group)
    return re.compile(f"{pattern} *".encode())


_PULL = _template(_PULL_ABOUT)
_RANGE = _template(_RANGE_ABOUT, _RANGE_TABLE)
_IS_PULL, _IS_RANGE = _pattern(_PULL), _pattern(_RANGE)


def write_pull(
    sender: str, digest: str, offset: int, length: int, encoding: str, base: str | None
) -> bytes:
    named = "null" if base is None else _quoted(f'"{base}"')
    return header.framed((_PULL % (named, digest, encoding, length, offset, sender)).encode())


def write_range(
    sender: str, digest: str, size: int, offset: int, nbytes: int, encoding: str
) -> bytes:
    about = digest, encoding, offset, sender, size
    return header.framed((_RANGE % (*about, nbytes, nbytes)).encode())


def read_pull(head: bytes) -> tuple[str, str, int, int, str, str | None] | None:
    """The arguments of `write_pull`; nothing has looked at them yet. None: not written as here."""
    if (found := _IS_PULL.fullmatch(head)) is None:
        return None
    base, digest, encoding, length, offset, sender = found.groups()
    named = None if base == b"null" else base[2:-2].decode()
    about = sender.decode(), digest.decode(), int(offset), int(length)
    return *about, encoding.decode(), named


def read_range(head: bytes) -> tuple[str, str, int, int, int, str] | None:
    """The same of `write_range`."""
    if (found := _IS_RANGE.fullmatch(head)) is None:
        return None
    digest, encoding, offset, sender, size, nbytes, again = found.groups()
    if nbytes != again:
        return None
    about = sender.decode(), digest.decode(), int(size), int(offset), int(nbytes)
    return *about, encoding.decode()
