"""Small changes to bytes, text and JSON: most of the input stays right, so it gets far."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

# As JSON text: what a field may hold instead of what it should.
HOSTILE = (
    *("null", "true", "false", "0", "-1", "1", "1.0", "1e400", "-0.0", "NaN", "Infinity"),
    *(str(2**n + d) for n in (7, 8, 15, 16, 31, 32, 53, 63, 64) for d in (-1, 0, 1)),
    "9" * 400,
    *('""', '"0"', '"none"', '"training"', '"../../etc/passwd"', '"\\u0000"', '"\\ud800"'),
    *('"\\n\\u001b[31m"', '"\\u202e"', '"caf\\u00e9"', '"__metadata__"', '"a"'),
    '"' + "x" * 65 + '"',
    '"' + "f" * 32 + '"',
    '"' + "0" * 64 + '"',
    *("[]", "[0]", "[0,0]", "[1,2]", "[-1,0]", "[0,1,2]", "[null]", "[[0]]", "[1.5,1]"),
    *("{}", '{"a":1}', '{"a":{"a":{}}}', '{"a":1,"a":2}'),
    "[" * 500 + "]" * 500,
)
MARK = "@@here@@"  # until all else is JSON: most hostile values have no place in Python


def edited(chance: Random, data: bytes, words: Sequence[bytes], most: int = 3) -> bytes:
    """`data` after some changes: bits, words of the format, pieces lost, doubled or moved."""
    out = bytearray(data)
    for _ in range(chance.randint(1, most)):
        at = chance.randrange(len(out) + 1)
        end = min(len(out), at + chance.choice((1, 2, 4, 8, 32)))
        match chance.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << chance.randrange(8)
            case 1:
                out[at:end] = chance.choice(words)
            case 2:
                out[at:at] = chance.choice(words)
            case 3:
                del out[at:end]
            case 4:
                out[at:at] = out[at:end]
            case 5:
                out[at:end] = chance.randbytes(end - at)
            case 6 if chance.random() < 0.3:
                del out[at:]
    return bytes(out)


def hostile(chance: Random, value: Any) -> str:
    """A JSON value with one place in it, however deep, that holds something else."""
    return filled(chance, json.dumps(marked(chance, value)))


def filled(chance: Random, text: str) -> str:
    """JSON text with something hostile at every mark."""
    first, *rest = text.split(f'"{MARK}"')
    return first + "".join(chance.choice(HOSTILE) + part for part in rest)


def marked(chance: Random, value: Any) -> Any:
    """`value` with the mark in one place, or a member gone, or one too many."""
    if isinstance(value, dict) and value and chance.random() < 0.95:
        name = chance.choice([*value])
        match chance.randrange(12):
            case 0:
                return {key: each for key, each in value.items() if key != name}
            case 1:
                return {**value, chance.choice(("more", "kind", "", "\n", *value)): MARK}
            case _:
                return {**value, name: marked(chance, value[name])}
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        inner = [] if chance.random() < 0.1 else [marked(chance, value[at])]
        return [*value[:at], *inner, *value[at + 1 :]]
    return MARK
