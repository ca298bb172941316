"""JSON from strangers: one way to read it, no surprises, every complaint one line.

Python's json takes NaN, repeated keys, integers of any length, and depth until the stack ends.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from transports.schema import shown


class JSONError(ValueError):
    """Text that is not the JSON we expect."""


def parse(text: object) -> dict[str, Any]:
    """An object of objects, lists, strings, integers, booleans and null, from str or UTF-8 bytes.

    Raises JSONError and nothing else.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        if not isinstance(text, str):
            raise JSONError(f"expected JSON text, got {shown(text)}")
        value = _decoder.decode(text)
    except RecursionError:
        raise JSONError("the JSON is nested too deeply") from None
    except JSONError:
        raise
    except ValueError as exc:  # undecodable bytes too
        raise JSONError(f"not JSON: {shown(str(exc))}") from exc
    if not isinstance(value, dict):
        raise JSONError("expected a JSON object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise JSONError("the JSON names something twice")
    return value


def _integer(digits: str) -> int:
    if len(digits) > 17:
        raise JSONError(f"integer {shown(digits)} is out of range")
    return int(digits)


def _not_an_integer(text: str) -> NoReturn:
    raise JSONError(f"number {shown(text)}: only integers are expected")


_decoder = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_integer,
    parse_float=_not_an_integer,
    parse_constant=_not_an_integer,
)
