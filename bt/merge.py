"""Merging models: a running weighted mean over flat weights (paper, section 2.2, step 4).

Streaming: each incoming model is folded in and dropped, so memory does not grow with the number
of peers. Floating-point values (batch-norm statistics too) are averaged; integer buffers stay
the peer's own.
"""

from __future__ import annotations

from typing import Protocol

import torch

from bt.weights import FlatWeights


class MergeRule(Protocol):
    """start, add any number of times, finish; the arguments are never changed."""

    def start(self, own: FlatWeights, samples: int) -> None:
        """Begin from one's own model; `samples` 0 leaves its floating-point values out."""

    def add(self, other: FlatWeights, samples: int) -> None:
        """Fold in another peer's model, trained on `samples` scans (at least 1)."""

    def finish(self) -> FlatWeights:
        """The merged model. One's own if nothing was added."""


class WeightedMean:
    """sum_i (a_i / a) W^i with a = sum_i a_i, kept as a running mean in the models' own dtype."""

    def __init__(self) -> None:
        self._mean: FlatWeights | None = None
        self._samples = 0

    def start(self, own: FlatWeights, samples: int) -> None:
        self._mean = own.copy()
        self._samples = samples

    def add(self, other: FlatWeights, samples: int) -> None:
        if self._mean is None:
            raise RuntimeError("start() comes before add()")
        if other.schema.hash != self._mean.schema.hash:
            raise ValueError("models of different schemas can't be merged")
        if samples < 1:
            raise ValueError(f"a model trained on {samples} scans has no weight")
        self._samples += samples
        share = samples / self._samples
        for mean, value in zip(self._mean.float_runs(), other.float_runs(), strict=True):
            if share == 1.0:
                mean.copy_(value)  # whatever stood there (random weights) must not leak in
            else:
                torch.lerp(mean, value, share, out=mean)

    def finish(self) -> FlatWeights:
        if self._mean is None:
            raise RuntimeError("start() comes before finish()")
        merged, self._mean = self._mean, None
        return merged
