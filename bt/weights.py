"""One model as ONE contiguous buffer plus its schema (names, dtypes, shapes, hash).

The buffer is exactly the body of a safetensors file, so a model is published, sent, merged and
saved without ever being taken apart: tensors are views of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

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
_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class UnsupportedTensor(ValueError):
    """A tensor whose dtype has no place on the wire."""


def schema_of(tensors: Mapping[str, Tensor]) -> Schema:
    """Names, dtypes and shapes. Raises UnsupportedTensor."""
    for name, tensor in tensors.items():
        if tensor.dtype not in _NAMES:
            raise UnsupportedTensor(f"tensor {name}: {tensor.dtype} can't be sent to peers")
    return Schema.of(
        TensorSpec(name, _NAMES[tensor.dtype], tuple(tensor.shape))
        for name, tensor in tensors.items()
    )


class FlatWeights:
    """A model's parameters and buffers in one uint8 tensor of `schema.nbytes` bytes (CPU)."""

    def __init__(self, schema: Schema, buffer: Tensor) -> None:
        if buffer.dtype != torch.uint8 or buffer.numel() != schema.nbytes:
            raise ValueError(f"expected {schema.nbytes} bytes, got {buffer.numel()}")
        self.schema = schema
        self.buffer = buffer

    @classmethod
    def empty(cls, schema: Schema) -> Self:
        """All zeros."""
        return cls(schema, torch.zeros(schema.nbytes, dtype=torch.uint8))

    @classmethod
    def of(cls, tensors: nn.Module | Mapping[str, Tensor]) -> Self:
        """A copy of a module's state dict (or of named tensors), from any device and layout."""
        state = tensors.state_dict() if isinstance(tensors, nn.Module) else tensors
        weights = cls.empty(schema_of(state))
        for name, view in weights.tensors().items():
            view.copy_(state[name].detach())
        return weights

    @classmethod
    def from_body(cls, schema: Schema, body: memoryview | bytes) -> Self:
        """A view of `body` (no copy); nobody may write to it."""
        if not schema.nbytes:
            return cls.empty(schema)
        with warnings.catch_warnings():  # torch has no read-only tensors and says so
            warnings.filterwarnings("ignore", message="The given buffer is not writable")
            return cls(schema, torch.frombuffer(body, dtype=torch.uint8))

    def tensors(self) -> dict[str, Tensor]:
        """Views by name, in the schema's shapes."""
        views = {}
        for spec in self.schema.specs:
            begin, end = self.schema.offsets[spec.name]
            views[spec.name] = self.buffer[begin:end].view(DTYPES[spec.dtype]).view(spec.shape)
        return views

    def float_runs(self) -> list[Tensor]:
        """Flat views that together cover every floating-point value: what merging works on."""
        return [
            self.buffer[begin:end].view(DTYPES[dtype])
            for dtype, begin, end in self.schema.float_runs
        ]

    def is_finite(self) -> bool:
        """Whether no value is NaN or infinite."""
        return all(bool(torch.isfinite(run).all()) for run in self.float_runs())

    def load_into(self, module: nn.Module) -> None:
        """Copy into `module`'s parameters and buffers, whatever their device and layout."""
        state = module.state_dict()
        with torch.no_grad():
            for name, view in self.tensors().items():
                state[name].copy_(view)

    def body(self) -> memoryview:
        """The bytes, without a copy."""
        return self.buffer.numpy().data

    def copy(self) -> FlatWeights:
        """A copy with a buffer of its own."""
        return FlatWeights(self.schema, self.buffer.clone())
