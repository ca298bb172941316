"""The running weighted mean against a float64 reference, and what it must leave alone."""

from __future__ import annotations

import random
import weakref
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bt.merge import WeightedMean
from bt.quicknat import QuickNAT
from bt.transfer import GRAIN
from bt.weights import FlatWeights


def of(value: float, steps: int = 0) -> FlatWeights:
    return FlatWeights.of({"w": torch.full((3,), float(value)), "steps": torch.tensor(steps)})


def add(rule: WeightedMean, other: FlatWeights, samples: float) -> None:
    """A whole model in one range."""
    rule.add("other", 0, other.body(), samples)


@given(
    samples=st.lists(st.integers(1, 10_000) | st.floats(1e-3, 10_000), min_size=1, max_size=20),
    seed=st.integers(0, 999),
)
def test_it_equals_a_float64_reference(samples: list[float], seed: int) -> None:
    models = np.random.default_rng(seed).normal(size=(len(samples), 50)).astype(np.float32)
    rule = WeightedMean()
    rule.start(FlatWeights.of({"w": torch.from_numpy(models[0])}), samples[0])
    for model, count in zip(models[1:], samples[1:], strict=True):
        add(rule, FlatWeights.of({"w": torch.from_numpy(model)}), count)
    reference = np.average(models.astype(np.float64), axis=0, weights=samples)
    np.testing.assert_allclose(rule.finish().tensors()["w"].numpy(), reference, atol=1e-6)


@given(
    seed=st.integers(0, 99),
    cuts=st.lists(st.lists(st.integers(1, 3), max_size=3), min_size=1, max_size=4),
)
def test_ranges_may_come_from_several_models_side_by_side(
    seed: int, cuts: list[list[int]]
) -> None:
    chance, order = np.random.default_rng(seed), random.Random(seed)
    values = chance.normal(size=(len(cuts) + 1, 2 * GRAIN // 4 + 100)).astype(np.float32)
    steps = torch.arange(3)
    models = [
        FlatWeights.of({"w": torch.from_numpy(v), "steps": steps + i})
        for i, v in enumerate(values)
    ]
    samples = chance.integers(1, 50, len(models)).tolist()
    rule = WeightedMean()
    rule.start(models[0], samples[0])
    ranges = []
    for number, cut in enumerate(cuts, start=1):
        edges = sorted(
            {0, *(np.minimum(np.cumsum(cut), 2) * GRAIN).tolist(), models[0].schema.nbytes}
        )
        ranges.append([(number, edge) for edge in pairwise(edges)])
    while any(ranges):
        number, (begin, end) = order.choice([r for r in ranges if r]).pop(0)
        rule.add(str(number), begin, models[number].body()[begin:end], samples[number])
    merged = rule.finish().tensors()
    reference = np.average(values.astype(np.float64), axis=0, weights=samples)
    np.testing.assert_allclose(merged["w"].numpy(), reference, atol=1e-5)
    assert merged["steps"].tolist() == [0, 1, 2]


def test_batch_norm_statistics_are_averaged_and_integers_stay_ones_own() -> None:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(QuickNAT(classes=2, filters=2))
        for _ in range(seed + 1):
            models[-1](torch.rand(3, 1, 16, 16))
    own, other = map(FlatWeights.of, models)
    rule = WeightedMean()
    rule.start(own, 1)
    add(rule, other, 3)
    merged, mine, theirs = rule.finish().tensors(), own.tensors(), other.tensors()
    counters = {name for name in mine if name.endswith("num_batches_tracked")}
    statistics = {name for name in mine if "running_" in name}
    assert counters
    assert statistics
    for name in counters:
        assert merged[name] == mine[name] != theirs[name]
    for name in mine.keys() - counters:
        torch.testing.assert_close(merged[name], 0.25 * mine[name] + 0.75 * theirs[name])


def test_memory_does_not_grow_with_the_number_merged() -> None:
    class Body(bytearray):
        """Bytes that say when they are freed."""

    own = of(0)
    rule = WeightedMean()
    rule.start(own, 1)
    for _ in range(5):
        body = Body(own.body())
        alive = weakref.ref(body)
        rule.add("other", 0, memoryview(body), 1)
        del body
        assert alive() is None, "a merged model is kept"


def test_own_weights_without_samples_stay_out_whatever_they_are() -> None:
    rule = WeightedMean()
    rule.start(of(float("nan"), steps=4), 0)
    add(rule, of(1), 2)
    add(rule, of(4), 1)
    merged = rule.finish().tensors()
    assert merged["w"].tolist() == [2, 2, 2]
    assert merged["steps"] == 4


def test_arguments_are_not_changed_and_nothing_added_gives_ones_own() -> None:
    own, other = of(1), of(3)
    rule = WeightedMean()
    rule.start(own, 1)
    add(rule, other, 1)
    rule.finish()
    assert own.tensors()["w"].tolist() == [1, 1, 1]
    assert other.tensors()["w"].tolist() == [3, 3, 3]
    rule.start(own, 1)
    alone = rule.finish()
    assert alone.buffer.equal(own.buffer)
    assert alone.buffer.data_ptr() != own.buffer.data_ptr()


def test_what_cant_be_merged_is_refused() -> None:
    rule = WeightedMean()
    with pytest.raises(RuntimeError, match="start"):
        add(rule, of(1), 1)
    rule.start(of(1), 1)
    with pytest.raises(ValueError, match="count for 0"):
        add(rule, of(2), 0)
    with pytest.raises(ValueError, match="no range"):
        add(rule, FlatWeights.of({"w": torch.zeros(6)}), 1)
    with pytest.raises(ValueError, match="no range"):
        rule.add("other", 4, of(2).body()[4:], 1)
    assert rule.finish().tensors()["w"].tolist() == [1, 1, 1]
    with pytest.raises(RuntimeError, match="start"):
        rule.finish()
