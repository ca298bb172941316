"""One model as ONE contiguous buffer plus its schema (names, dtypes, shapes, hash).

The buffer is exactly the body of a safetensors file, with room for the file's header in front: a
model is published, sent, merged and saved without ever being taken apart. Tensors are views.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from transports import image
from transports.schema import Schema, TensorSpec

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
LARGEST = 1e18  # a weight: averages of these can't overflow, in any dtype
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class UnsupportedTensor(ValueError):
    """A tensor whose dtype has no place on the wire."""


class Floats(NamedTuple):
    """A run of floating-point values of one dtype, and where in the body it begins (bytes)."""

    begin: int
    values: Tensor


def schema_of(tensors: Mapping[str, Tensor]) -> Schema:
    """Names, dtypes and shapes. Raises UnsupportedTensor."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise UnsupportedTensor(f"tensor {name}: {tensor.dtype} can't be sent to peers")
    return _schema(
        tuple(
            (name, _NAMES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()
        )
    )


@lru_cache(maxsize=8)
def _schema(specs: tuple[tuple[str, str, tuple[int, ...]], ...]) -> Schema:
    return Schema.of(TensorSpec(*spec) for spec in specs)


_spare: list[NDArray[np.uint8]] = []  # one at most


def _memory(nbytes: int) -> Tensor:
    """Memory for a model, used again once nothing looks at it any more.

    Fresh memory costs as much as what is copied into it, and a peer needs a model's worth of it
    at every merge and every fine-tune.
    """
    try:
        memory = _spare.pop()
    except IndexError:
        memory = np.empty(0, np.uint8)
    if memory.nbytes != nbytes:
        memory = np.empty(nbytes, np.uint8)
    lease = memory[:]  # kept alive by the tensor and whatever is made of it
    weakref.finalize(lease, _take_back, memory).atexit = False
    return torch.from_numpy(lease)


def _take_back(memory: NDArray[np.uint8]) -> None:
    _spare[:] = [memory]


class FlatWeights:
    """A model's parameters and buffers in one uint8 tensor of `schema.nbytes` bytes (CPU)."""

    def __init__(self, schema: Schema, buffer: Tensor) -> None:
        if buffer.dtype != torch.uint8 or buffer.numel() != schema.nbytes:
            raise ValueError(f"expected {schema.nbytes} bytes, got {buffer.numel()}")
        self.schema = schema
        self.buffer = buffer

    @classmethod
    def empty(cls, schema: Schema) -> Self:
        """Whatever the memory holds, to be filled."""
        return cls(schema, _memory(image.nbytes(schema))[image.header_bytes(schema) :])

    @classmethod
    def of(cls, tensors: nn.Module | Mapping[str, Tensor]) -> Self:
        """A copy of a module's state dict (or of named tensors), from any device and layout."""
        state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
        weights = cls.empty(schema_of(state))
        with torch.no_grad():
            for specs, _, run in weights._runs():
                # cheaper than a hundred copies
                torch.cat([state[spec.name].cpu().flatten() for spec in specs], out=run)
        return weights

    @classmethod
    def from_body(cls, schema: Schema, body: memoryview | bytes) -> Self:
        """A view of `body` (no copy); nobody may write to it."""
        return cls(schema, _as_tensor(body))

    def tensors(self) -> dict[str, Tensor]:
        """Views by name, in the schema's shapes."""
        views = {}
        for specs, sizes, run in self._runs():
            for spec, part in zip(specs, torch.split(run, sizes), strict=True):
                views[spec.name] = part if len(spec.shape) == 1 else part.view(spec.shape)
        return views

    def _runs(self) -> Iterator[tuple[list[TensorSpec], list[int], Tensor]]:
        """The tensors of each dtype, how many values each has, and all of these."""
        begin = 0
        for name, specs, sizes in self.schema.by_dtype:
            dtype = DTYPES[name]
            end = begin + sum(sizes) * dtype.itemsize
            yield specs, sizes, self.buffer[begin:end].view(dtype)
            begin = end

    def floats(self, begin: int = 0, end: int | None = None) -> Iterator[Floats]:
        """The floating-point values in bytes [begin, end) of the body: what merging works on."""
        end = self.schema.nbytes if end is None else end
        return floats_in(self.schema, begin, self.buffer[begin:end])

    @cached_property
    def squares(self) -> float:
        """`squares` of all floating-point values: of a model that does not change any more."""
        return sum(squares(values) for _, values in self.floats())

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        sound = not math.isnan(self.squares)  # the usual case, and looked at once
        return sound or all(bool(torch.isfinite(values).all()) for _, values in self.floats())

    def load_into(self, module: nn.Module) -> None:
        """Copy into `module`'s parameters and buffers, whatever their device and layout."""
        state = module.state_dict()
        with torch.no_grad():
            for name, view in self.tensors().items():
                state[name].copy_(view)

    def body(self) -> memoryview:
        """The bytes, without a copy."""
        return self.buffer.numpy().data

    def image(self, header: bytes) -> memoryview:
        """The whole file: `header` is written into the room in front of the body. No copy.

        For buffers made by `empty`, `of` and `copy`; ValueError for any other.
        """
        room = self.buffer.storage_offset()
        whole = torch.empty(0, dtype=torch.uint8)
        whole.set_(self.buffer.untyped_storage())
        if room != len(header) or whole.numel() != room + self.schema.nbytes:
            raise ValueError(f"no room for a header of {len(header)} bytes")
        view: memoryview = whole.numpy().data
        view[:room] = header
        return view.toreadonly()

    def copy(self) -> FlatWeights:
        """A copy with a buffer of its own."""
        copied = FlatWeights.empty(self.schema)
        copied.buffer.copy_(self.buffer)
        return copied


def floats_in(schema: Schema, begin: int, data: Tensor | memoryview) -> Iterator[Floats]:
    """The floating-point values among bytes [begin, begin + len(data)) of the body, as views.

    A range must not cut through a value: ValueError.
    """
    end = begin + (data.numel() if isinstance(data, Tensor) else data.nbytes)
    for dtype, run_begin, run_end in schema.float_runs:
        first, last = max(begin, run_begin), min(end, run_end)
        if first < last:
            kind = DTYPES[dtype]
            width = kind.itemsize
            if (first - run_begin) % width or (last - run_begin) % width:
                raise ValueError(f"bytes {first} to {last} cut through a value")
            if isinstance(data, Tensor):
                values = data[first - begin : last - begin].view(kind)
            else:
                count = (last - first) // width
                values = torch.frombuffer(data, dtype=kind, count=count, offset=first - begin)
            yield Floats(first, values)


def squares(values: Tensor) -> float:
    """The sum of the squares; NaN if a value is NaN, infinite or beyond LARGEST: all others can be
    averaged."""
    # So small a sum has only such values, and costs one pass (halves are copied: their own sum
    # would be coarse); a larger one may have, too: a second look tells.
    wide = values if values.dtype == torch.float64 else values.float()
    total: float = torch.dot(wide, wide).item()
    if total <= LARGEST**2:
        return total
    if values.numel() and not values.abs().amax().item() <= LARGEST:  # in halves it is infinity
        return math.nan
    norm: float = torch.linalg.vector_norm(values, dtype=torch.float64).item()
    return norm**2


def _as_tensor(data: memoryview | bytes) -> Tensor:
    return torch.frombuffer(data, dtype=torch.uint8) if len(data) else torch.empty(0).byte()


with warnings.catch_warnings(action="ignore"):  # torch has no read-only tensors and says so, once
    torch.frombuffer(b"-", dtype=torch.uint8)
