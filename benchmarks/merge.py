"""Merging a 14 MB model into a running mean: flat, against tensor by tensor and against memcpy."""

from __future__ import annotations

import torch

from benchmarks.timing import interleaved
from bt.merge import WeightedMean
from bt.weights import FlatWeights


def run() -> dict[str, float]:
    """Median seconds by case."""
    torch.manual_seed(0)
    own = FlatWeights.of({f"layer{i:03}": torch.randn(35_000) for i in range(100)})
    other = FlatWeights.of({name: torch.randn(35_000) for name in own.tensors()})
    rule = WeightedMean()
    rule.start(own, 1)

    def by_tensor() -> dict[str, torch.Tensor]:
        theirs = other.tensors()
        return {name: 0.5 * mine + 0.5 * theirs[name] for name, mine in own.tensors().items()}

    return interleaved(
        {
            "copy of the model": own.copy,
            "merge, one running mean": lambda: rule.add(other, 1),
            "merge, tensor by tensor": by_tensor,
        }
    )
