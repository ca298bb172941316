"""Messages that are almost right: of every kind there is, one thing or two about them wrong.

Kinds, fields and their types come from transports/messages.py: a new kind is forged as soon as it
exists. Most get past the first checks, which random bytes never do.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import cache
from random import Random
from typing import Any

from benchmarks.fuzzing.edits import HOSTILE, MARK, edited, filled, marked
from transports import header, messages
from transports.base import Frame
from transports.messages import Message, MessageError

LIMITS = messages.Limits(max_message_bytes=1 << 20, max_header_bytes=1 << 14, max_samples=1000)
KINDS: dict[str, Any] = messages._KINDS
_GOOD: dict[str, tuple[Any, ...]] = {  # values by the name of the field
    "sender": ("a", "peer-1", "Site.b_c-9", "x" * 64),
    "schema": ("0123456789abcdef" * 4,),
    "digest": ("0123456789abcdef" * 2, "f" * 32),
    "base": (None, "0" * 32),
    "encoding": messages.ENCODINGS,
    "offset": (0, 512, 65536),
    "length": (1, 65536, 1 << 20),
    "size": (1 << 20, 1 << 21),
    "data": (memoryview(b"12345678"), memoryview(bytes(300)), memoryview(b"")),
}
_OF_TYPE: dict[Any, tuple[Any, ...]] = {  # and of those that are not named here, by type
    int: (0, 1, 12, 1000),
    float: (1.0, 0.0),
    bool: (True, False),
    tuple[int, int]: ((0, 0), (0, 3), (2, 1), (2**31 - 1, 2**31 - 1)),
    type(None): (None,),
    bytes: (b"", b"x"),
}
_TRIES, _ENOUGH = 3000, 24  # valid messages of a kind
_WORDS = [
    *(word.encode() for word in HOSTILE if len(word) < 80),
    *(name.encode() for name in _GOOD),
    *(kind.encode() for kind in KINDS),
    *(b'{"__metadata__":{"bt":"', b'"}', b'\\"', b'"', b"\\", b",", b":", b"  ", b"\0", b"\xff"),
    *(b'"protocol":2', b'"range":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}', b"U8", b"F32"),
]
_HUGE = bytes(LIMITS.max_message_bytes)


class Unknown(Exception):
    """A kind of message that nobody has taught this file to make."""


def good(kind: str) -> list[Message]:
    """Some valid messages of a kind. Raises Unknown if none can be made."""
    chance, made, why = Random(kind), [], ""
    hints = typing.get_type_hints(KINDS[kind])
    words = _words_of(KINDS[kind])
    for _ in range(_TRIES):
        values = {
            each.name: _value(chance, each.name, hints[each.name], words)
            for each in fields(KINDS[kind])
        }
        try:
            made.append(KINDS[kind](**values))
        except MessageError as exc:
            why = str(exc)
        if len(made) == _ENOUGH:
            break
    if not made:
        raise Unknown(f"no {kind} can be made ({why}): add good values to benchmarks/fuzzing")
    return made


def _value(chance: Random, name: str, hint: Any, words: list[str]) -> Any:
    """Of that type; what its name asks for, as far as that is known here."""
    if name in _GOOD:
        return chance.choice(_GOOD[name])
    if hint in _OF_TYPE:
        return chance.choice(_OF_TYPE[hint])
    if hint is str:
        return chance.choice((*words, "a", "peer-2", "x" * 40))
    inner = typing.get_args(hint)
    if hasattr(hint, "_fields"):  # a NamedTuple
        of = typing.get_type_hints(hint)
        return hint(*(_value(chance, each, of[each], words) for each in hint._fields))
    if typing.get_origin(hint) is tuple:
        kinds = inner[:1] * chance.randrange(4) if inner[-1] is ... else inner
        return tuple(_value(chance, "", each, words) for each in kinds)
    if typing.get_origin(hint) in (dict, Mapping):
        return {f"p{i}": _value(chance, "", inner[1], words) for i in range(chance.randrange(3))}
    return _value(chance, name, chance.choice(inner), words) if inner else None


def _words_of(kind: type) -> list[str]:
    """What a text may be: those of the constants beside the class, STATES for one."""
    there = vars(sys.modules[kind.__module__]).values()
    lists = [each for each in there if isinstance(each, tuple)]
    return [word for each in lists for word in each if isinstance(word, str)]


class Forge:
    """Makes one message after the other, as `chance` has it."""

    def __init__(self, chance: Random) -> None:
        self._chance = chance

    def frames(self) -> list[Frame]:
        """One message."""
        chance = self._chance
        sample = chance.choice(_samples())
        how = chance.random()
        if how < 0.002:
            return [sample.head, _HUGE]
        if how < 0.10:
            return self._split([sample.head + sample.data])
        if how < 0.30:  # what header.write would not have written, byte by byte
            text = edited(chance, sample.text, _WORDS, most=2)
            return self._split([header.framed(text), sample.data])
        if how < 0.40:
            return self._split([self._misframed(sample)])
        about, table = self._changed(sample)
        text = filled(chance, json.dumps(about))
        outer = filled(chance, json.dumps({"__metadata__": {"bt": text}} | table))
        return self._split([header.framed(outer.encode(errors="surrogatepass")), sample.data])

    def _changed(self, sample: _Sample) -> tuple[Any, dict[str, Any]]:
        """Fields and tensors, one or two of them wrong, or of another message."""
        chance = self._chance
        about, table = dict(sample.about), dict(sample.table)
        match chance.randrange(10):
            case 0:
                about |= chance.choice(_samples()).about
            case 1:
                about |= dict.fromkeys(chance.sample([*about], 2), MARK)
            case 2 if table:
                table["range"] = marked(chance, table["range"])
            case 3 if chance.random() < 0.5:
                table[chance.choice(("range", "w", "__metadata__"))] = MARK
            case 4 | 5:
                name = chance.choice([*about])
                about[name] = chance.choice(chance.choice(_samples()).values)
            case _:
                return marked(chance, about), table
        return about, table

    def _misframed(self, sample: _Sample) -> bytes:
        chance, whole = self._chance, sample.head + sample.data
        match chance.randrange(4):
            case 0:
                return whole[: chance.randrange(len(whole))]
            case 1:
                length = chance.choice((0, 1, 7, len(whole), 1 << 14, 1 << 32, 2**64 - 1))
                return length.to_bytes(8, "little") + whole[8:]
            case 2:
                return whole + chance.randbytes(chance.randint(1, 9))
            case _:
                return chance.randbytes(chance.randrange(64))

    def _split(self, frames: list[bytes]) -> list[Frame]:
        """As a transport may bring it: some frames empty, or cut anywhere."""
        if self._chance.random() < 0.7:
            return [frame for frame in frames if frame]
        whole = b"".join(frames)
        at = sorted(self._chance.randrange(len(whole) + 1) for _ in range(2))
        return [whole[: at[0]], whole[at[0] : at[1]], whole[at[1] :]]


class _Sample:
    """A valid message, and its parts."""

    def __init__(self, message: Message) -> None:
        whole = b"".join(messages.encode(message))
        end = 8 + int.from_bytes(whole[:8], "little")
        self.head, self.data = whole[:end], whole[end:]
        self.text = whole[8:end]
        table = json.loads(self.text)
        self.about: dict[str, Any] = json.loads(table.pop("__metadata__")["bt"])
        self.table: dict[str, Any] = table
        self.values = [*self.about.values()]


@cache
def _samples() -> list[_Sample]:
    return [_Sample(message) for kind in KINDS for message in good(kind)]


def forged(seed: int) -> Iterator[list[Frame]]:
    """Without end, the same for the same seed."""
    forge = Forge(Random(seed))
    while True:
        yield forge.frames()
