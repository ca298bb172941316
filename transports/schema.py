"""What a model looks like on the wire: its tensors, laid out as ONE contiguous body.

The order is the one safetensors itself writes: wider dtypes first, then by name. So there are no
holes, every tensor is aligned, and the tensors of one dtype form one run of bytes. Two models
can be merged exactly if their schemas have the same hash.
"""

from __future__ import annotations

import hashlib
import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from operator import attrgetter
from typing import Any, NamedTuple

# Name -> (rank in safetensors' own order, bytes per element). A higher rank is written first.
_DTYPES = {
    "BOOL": (0, 1),
    "U8": (1, 1),
    "I8": (2, 1),
    "I16": (3, 2),
    "U16": (4, 2),
    "F16": (5, 2),
    "BF16": (6, 2),
    "I32": (7, 4),
    "U32": (8, 4),
    "F32": (9, 4),
    "F64": (10, 8),
    "I64": (11, 8),
    "U64": (12, 8),
}
DTYPES = frozenset(_DTYPES)
FLOAT_DTYPES = frozenset({"F16", "BF16", "F32", "F64"})

MAX_NAME_CHARS = 256
MAX_DIMENSIONS = 16
MAX_BYTES = 2**53 - 1  # the largest integer every JSON reader holds exactly


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = 80
_repr.maxlevel = 2
_MOST_SHOWN = 200


def shown(value: object) -> str:
    """A value for one line of a message: bounded, whatever a stranger put into it."""
    text = _repr.repr(value)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."


class SchemaError(ValueError):
    """A tensor list that can't be a model on the wire."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor: printable name, safetensors dtype name ("F32", "I64", ...), shape.

    Raises SchemaError for anything else.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        name = self.name
        if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME_CHARS and name.isprintable()):
            raise SchemaError(
                f"tensor name {shown(name)}: expected 1 to {MAX_NAME_CHARS} printable characters"
            )
        if name == "__metadata__":
            raise SchemaError("tensor name '__metadata__' is reserved by safetensors")
        if not isinstance(self.dtype, str) or self.dtype not in DTYPES:
            raise SchemaError(f"tensor {shown(name)}: unknown dtype {shown(self.dtype)}")
        object.__setattr__(self, "shape", tuple(self.shape))
        if len(self.shape) > MAX_DIMENSIONS or not all(_is_size(n) for n in self.shape):
            raise SchemaError(
                f"tensor {shown(name)}: expected at most {MAX_DIMENSIONS} sizes from 0 to 2^53-1"
            )

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * _DTYPES[self.dtype][1]

    def __str__(self) -> str:
        return f"{self.dtype} {list(self.shape)}"


class FloatRun(NamedTuple):
    """Bytes [begin, end) of the body that hold nothing but floats of one dtype."""

    dtype: str
    begin: int
    end: int


@dataclass(frozen=True)
class Schema:
    """The ordered tensors of a model. Build it with `Schema.of`; two are equal by their specs."""

    specs: tuple[TensorSpec, ...]

    @classmethod
    def of(cls, specs: Iterable[TensorSpec]) -> Schema:
        """The schema of these tensors, given in any order. Raises SchemaError."""
        ordered = tuple(sorted(specs, key=lambda s: (-_DTYPES[s.dtype][0], s.name)))
        if len({spec.name for spec in ordered}) != len(ordered):
            raise SchemaError("two tensors have the same name")
        if sum(spec.nbytes for spec in ordered) > MAX_BYTES:
            raise SchemaError("the tensors together are larger than 2^53 - 1 bytes")
        return cls(ordered)

    @cached_property
    def offsets(self) -> dict[str, tuple[int, int]]:
        """Name -> (begin, end) in bytes from the start of the body."""
        offsets, begin = {}, 0
        for spec in self.specs:
            offsets[spec.name] = (begin, begin + spec.nbytes)
            begin += spec.nbytes
        return offsets

    @cached_property
    def nbytes(self) -> int:
        """Length of the body."""
        return sum(spec.nbytes for spec in self.specs)

    @cached_property
    def hash(self) -> str:
        """SHA-256 (hex) of names, dtypes and shapes in canonical order."""
        rows = [[spec.name, spec.dtype, list(spec.shape)] for spec in self.specs]
        return hashlib.sha256(_json(rows).encode()).hexdigest()

    @cached_property
    def by_dtype(self) -> list[tuple[str, list[TensorSpec], list[int]]]:
        """The tensors of each dtype, which lie side by side, and how many values each has."""
        groups = groupby(self.specs, key=attrgetter("dtype"))
        together = [(dtype, list(specs)) for dtype, specs in groups]
        return [
            (dtype, specs, [math.prod(spec.shape) for spec in specs]) for dtype, specs in together
        ]

    @cached_property
    def float_runs(self) -> tuple[FloatRun, ...]:
        """Byte ranges that together hold every floating-point value, one per dtype."""
        runs: dict[str, FloatRun] = {}
        for spec in self.specs:
            if spec.dtype in FLOAT_DTYPES and spec.nbytes:
                begin, end = self.offsets[spec.name]
                first = runs.get(spec.dtype)
                runs[spec.dtype] = FloatRun(spec.dtype, first.begin if first else begin, end)
        return tuple(runs.values())

    def header_entries(self) -> dict[str, dict[str, Any]]:
        """The tensor table of the safetensors header, as JSON-ready values."""
        return {
            spec.name: {
                "dtype": spec.dtype,
                "shape": list(spec.shape),
                "data_offsets": list(self.offsets[spec.name]),
            }
            for spec in self.specs
        }

    @cached_property
    def table(self) -> bytes:
        """The tensor table as JSON members without the braces: the same bytes for every model of
        this schema, so that a message can be recognised without being parsed."""
        return _json(self.header_entries())[1:-1].encode()

    @classmethod
    def from_header(cls, entries: Mapping[str, object]) -> Schema:
        """The schema of a parsed safetensors tensor table. Raises SchemaError, also when the
        tensors do not lie in canonical order without holes."""
        schema = cls.of(_spec_from_entry(name, entry) for name, entry in entries.items())
        for name, expected in schema.header_entries().items():
            entry = entries[name]
            assert isinstance(entry, dict)  # _spec_from_entry has looked
            offsets = entry["data_offsets"]
            if offsets != expected["data_offsets"] or not all(_is_size(n) for n in offsets):
                raise SchemaError(
                    f"tensor {shown(name)} lies at {shown(offsets)}, "
                    f"expected {expected['data_offsets']}"
                )
        return schema

    def difference(self, other: Schema) -> str | None:
        """One line naming the first tensor in which `other` differs from this; None if equal."""
        theirs = {spec.name: spec for spec in other.specs}
        for spec in self.specs:
            their = theirs.pop(spec.name, None)
            if their is None:
                return f"tensor {shown(spec.name)} ({spec}) is missing"
            if their != spec:
                return f"tensor {shown(spec.name)} is {their}, expected {spec}"
        for name in theirs:
            return f"tensor {shown(name)} is unknown"
        return None


def _spec_from_entry(name: str, entry: object) -> TensorSpec:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise SchemaError(f"tensor {shown(name)}: expected exactly dtype, shape and data_offsets")
    if not isinstance(entry["shape"], list):
        raise SchemaError(f"tensor {shown(name)}: the shape is not a list")
    return TensorSpec(name, entry["dtype"], tuple(entry["shape"]))


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_BYTES  # a bool is no size


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
