"""Merging models: a running weighted mean over flat weights (paper, section 2.2, step 4).

Other rules are in robust.py.

Streaming: models come in ranges, from several peers at once, and every range is folded in and
dropped as it arrives; memory grows neither with the number of peers nor with their size.
Floating-point values (batch-norm statistics too) are averaged; integer buffers stay one's own.
"""

from __future__ import annotations

from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from bt.transfer import GRAIN
from bt.weights import FlatWeights, floats_in


class MergeRule(Protocol):
    """start, add any number of times, finish, and so on with the next round; or start over at any
    time. The arguments are never changed."""

    def start(self, own: FlatWeights, weight: float) -> None:
        """Begin from one's own model; `weight` 0 leaves its floating-point values out."""

    def add(self, peer: str, begin: int, data: memoryview, weight: float) -> None:
        """Take bytes [begin, begin + len(data)) of the body of the model of `peer`, which counts
        for `weight` (above 0; by rights its number of scans). Every model is added whole, in any
        number of ranges."""

    def finish(self) -> FlatWeights:
        """The merged model. One's own if nothing was added."""


class WeightedMean:
    """sum_i (a_i / a) W^i with a = sum_i a_i, kept as a running mean in the models' own dtype.

    a_i is the weight of a model. Each grain of the body knows the sum of the weights in it, so
    models may arrive side by side.
    """

    def __init__(self) -> None:
        self._own: FlatWeights | None = None
        self._mean: FlatWeights | None = None
        self._runs: dict[torch.dtype, tuple[int, Tensor, Tensor]] = {}  # begin, of own, of mean
        self._weights: list[float] = []  # by grain
        self._own_weight = 0.0

    def start(self, own: FlatWeights, weight: float) -> None:
        self._own = own
        self._own_weight = weight
        self._mean = FlatWeights.empty(own.schema)
        self._runs = {
            mine.values.dtype: (mine.begin, mine.values, mean.values)
            for mine, mean in zip(own.floats(), self._mean.floats(), strict=True)
        }
        self._weights = [-1.0] * -(-own.schema.nbytes // GRAIN)  # -1: not even one's own
        edge = 0
        for _, begin, end in (*own.schema.float_runs, ("", own.schema.nbytes, 0)):
            self._mean.buffer[edge:begin] = own.buffer[edge:begin]  # integers
            edge = end

    def add(self, peer: str, begin: int, data: memoryview, weight: float) -> None:
        if self._own is None:
            raise RuntimeError("start() comes before add()")
        check_range(begin, data, weight, self._own.schema.nbytes)
        end = begin + data.nbytes
        grains = range(begin // GRAIN, -(-end // GRAIN))
        for before, group in groupby(grains, key=self._weights.__getitem__):
            same = list(group)
            first, until = same[0] * GRAIN, min((same[-1] + 1) * GRAIN, end)
            self._fold(first, data[first - begin : until - begin], before, weight)
            total = (self._own_weight if before < 0 else before) + weight
            self._weights[same[0] : same[-1] + 1] = [total] * len(same)

    def _fold(self, begin: int, data: memoryview, before: float, weight: float) -> None:
        """Into a stretch in which models of weight `before` are so far."""
        assert self._own is not None
        share = weight / (weight + (self._own_weight if before < 0 else before))
        for at, theirs in floats_in(self._own.schema, begin, data):
            run_begin, own, mean = self._runs[theirs.dtype]
            first = (at - run_begin) // theirs.itemsize
            part = slice(first, first + len(theirs))
            if share == 1.0:
                mean[part].copy_(theirs)  # random weights must not leak in
            else:
                present = own if before < 0 else mean
                torch.lerp(present[part], theirs, share, out=mean[part])

    def finish(self) -> FlatWeights:
        if self._own is None or self._mean is None:
            raise RuntimeError("start() comes before finish()")
        if min(self._weights, default=0) < 0 <= max(self._weights, default=0):
            raise RuntimeError("a model was added in part")
        merged = self._own.copy() if max(self._weights, default=-1) < 0 else self._mean
        self._own = self._mean = None
        self._runs = {}
        return merged


def check_range(begin: int, data: memoryview, weight: float, nbytes: int) -> None:
    """Raise ValueError unless this may be a range of a model with a body of `nbytes`."""
    end = begin + data.nbytes
    if begin % GRAIN or (end % GRAIN and end != nbytes) or not 0 <= begin <= end <= nbytes:
        raise ValueError(f"bytes {begin} to {end} are no range of a model of {nbytes}")
    if not weight > 0:  # nor NaN
        raise ValueError(f"a model can't count for {weight}")
