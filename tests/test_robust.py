"""Robust merge rules beside plain NumPy, whatever the order of ranges, and what a liar can do."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bt import robust
from bt.merge import MergeRule
from bt.robust import ClippedMean, Median, TrimmedMean, rule_named
from bt.spool import Spool
from bt.transfer import GRAIN
from bt.weights import FlatWeights

Model = dict[str, NDArray[np.float64]]
NAMES = ("clipped", "median", "trimmed")
COUNTS = (1, 2, 9)  # of peers merged
SHAPES = {"conv": (GRAIN // 4 + 40, 1), "bias": (7,), "empty": (0,), "scale": ()}


def cast(seed: int, scale: float = 1.0) -> Model:
    chance = np.random.default_rng(seed)
    return {name: scale * chance.normal(size=shape) for name, shape in SHAPES.items()}


def flat(model: Model, steps: int = 0) -> FlatWeights:
    """In three dtypes, and an integer buffer."""
    kinds = {"conv": torch.float32, "bias": torch.float64, "scale": torch.float16}
    tensors = {n: torch.tensor(v, dtype=kinds.get(n, torch.float32)) for n, v in model.items()}
    return FlatWeights.of(tensors | {"steps": torch.tensor([steps])})


def exact(weights: FlatWeights) -> Model:
    """What it holds, rounded as its dtypes round."""
    return {name: weights.tensors()[name].double().numpy() for name in SHAPES}


def merge(
    rule: MergeRule,
    own: FlatWeights,
    samples: int,
    others: Sequence[FlatWeights],
    counts: Sequence[int],
    order: random.Random | None = None,
) -> FlatWeights:
    """In whole models, or in any order of ranges that keeps those of each model in turn."""
    rule.start(own, samples)
    ranges = []
    for number, other in enumerate(others):
        nbytes = other.schema.nbytes
        inner = range(GRAIN, nbytes, GRAIN)
        cuts = order.sample(inner, order.randint(0, len(inner))) if order else []
        ranges.append([(number, edge) for edge in pairwise(sorted({0, nbytes, *cuts}))])
    while any(ranges):
        left = [some for some in ranges if some]
        number, (begin, end) = (order.choice(left) if order else left[0]).pop(0)
        rule.add(f"peer-{number}", begin, others[number].body()[begin:end], counts[number])
    return rule.finish()


# The formulas -----------------------------------------------------------------------------------
def by_numpy(
    name: str, own: Model, samples: int, others: list[Model], counts: list[int], way: Model | None
) -> Model:
    return {
        tensor: _by_numpy(
            name, own[tensor], samples, np.stack([other[tensor] for other in others]), counts,
            None if way is None else way[tensor],
        )
        for tensor in own
    }  # fmt: skip


def _by_numpy(
    name: str, own: NDArray[np.float64], samples: int, others: NDArray[np.float64],
    counts: list[int], way: NDArray[np.float64] | None,
) -> NDArray[np.float64]:  # fmt: skip
    every = np.concatenate([own[None], others]) if samples else others
    if name == "median":
        return np.asarray(np.median(every, axis=0))
    if name == "trimmed":
        dropped = min(int(np.ceil(len(every) / 5)), (len(every) - 1) // 2)
        return np.asarray(np.sort(every, axis=0)[dropped : len(every) - dropped].mean(axis=0))
    centre = own if samples else np.median(others, axis=0)
    shares = [count / (sum(counts) + samples) for count in counts]
    if own.ndim < 2:
        ways = others - centre
        rows = [*np.abs(ways)] + [np.abs(np.zeros_like(own) if way is None else way)] * bool(
            samples
        )
        most = np.sort(np.array(rows), axis=0)[(len(rows) - 1) // 2]
        return np.asarray(centre + np.tensordot(shares, np.clip(ways, -most, most), 1))
    lengths = [float(np.sqrt(np.sum((other - centre) ** 2))) for other in others]
    mine = [0.0 if way is None else float(np.sqrt(np.sum(way**2)))] if samples else []
    radius = sorted(lengths + mine)[(len(lengths + mine) - 1) // 2]
    merged = np.array(centre)
    for other, share, length in zip(others, shares, lengths, strict=True):
        merged += share * min(1.0, radius / length if length else 1.0) * (other - centre)
    return merged


def agree(found: FlatWeights, expected: Model) -> None:
    for name, values in exact(found).items():
        off = 2e-3 if name == "scale" else 1e-4 if name == "conv" else 1e-12
        np.testing.assert_allclose(values, expected[name], rtol=off, atol=off, err_msg=name)


@given(
    name=st.sampled_from(NAMES),
    counts=st.lists(st.integers(1, 500), min_size=1, max_size=12),
    samples=st.integers(0, 500),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=25)
def test_a_rule_is_its_formula_whatever_the_order_of_the_ranges(
    name: str, counts: list[int], samples: int, seed: int
) -> None:
    order = random.Random(seed)
    models = [flat(cast(seed + n, order.choice((0.1, 1, 30))), n) for n in range(len(counts) + 1)]
    own, *others = models
    merged = merge(rule_named(name)(), own, samples, others, counts, order)
    agree(merged, by_numpy(name, exact(own), samples, [*map(exact, others)], counts, None))
    assert merged.tensors()["steps"].tolist() == [0], "integers stay one's own"
    assert own.buffer.equal(models[0].buffer)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_next_round_is_not_touched_by_the_last_one(name: str, count: int) -> None:
    """But for the clipped mean's own way since it."""
    rule, counts = rule_named(name), [1 + n for n in range(count)]
    first = merge(rule(), flat(cast(0)), 4, [flat(cast(1))] * (count + 2), [1] * (count + 2))
    own, others = flat(cast(2)), [flat(cast(3 + n)) for n in range(count)]
    way = {name: exact(own)[name] - values for name, values in exact(first).items()}
    merged = merge(rule(), own, 4, others, counts, random.Random(count))
    agree(merged, by_numpy(name, exact(own), 4, [*map(exact, others)], counts, way))


@pytest.mark.parametrize("name", NAMES)
def test_a_merge_that_starts_over_forgets_what_it_had(name: str) -> None:
    rule = rule_named(name)()
    own, others = flat(cast(0)), [flat(cast(n)) for n in (1, 2)]
    rule.start(own, 1)
    rule.add("peer-9", 0, flat(cast(9, 1e9)).body(), 1)
    rule.add("peer-0", 0, others[0].body()[:GRAIN], 1)  # in part
    merged = merge(rule, own, 1, others, [1, 1])
    agree(merged, by_numpy(name, exact(own), 1, [*map(exact, others)], [1, 1], None))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_equal_models_stay_what_they_are(name: str, count: int) -> None:
    own = flat(cast(5))
    for _ in range(2):
        merged = merge(rule_named(name)(), own, 3, [own] * count, [7] * count)
        agree(merged, exact(own))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_added_gives_ones_own(name: str) -> None:
    own = flat(cast(5), 3)
    merged = merge(rule_named(name)(), own, 3, [], [])
    assert merged.buffer.equal(own.buffer)
    assert merged.buffer.data_ptr() != own.buffer.data_ptr()


def test_what_cant_be_merged_is_refused() -> None:
    rule, other = Median(), flat(cast(1))
    with pytest.raises(RuntimeError, match="start"):
        rule.add("a", 0, other.body(), 1)
    with pytest.raises(RuntimeError, match="start"):
        rule.finish()
    rule.start(other, 1)
    with pytest.raises(ValueError, match="count for 0"):
        rule.add("a", 0, other.body(), 0)
    with pytest.raises(ValueError, match="no range"):
        rule.add("a", 8, other.body()[8:], 1)
    rule.add("a", 0, other.body()[:GRAIN], 1)
    with pytest.raises(RuntimeError, match="in part"):
        rule.finish()


def test_own_weights_without_samples_stay_out_whatever_they_are() -> None:
    own = FlatWeights.of({"w": torch.full((3,), float("nan")), "steps": torch.tensor(4)})
    others = [
        FlatWeights.of({"w": torch.full((3,), v), "steps": torch.tensor(0)}) for v in (1.0, 2.0)
    ]
    for name in NAMES:
        merged = merge(rule_named(name)(), own, 0, others, [1, 1]).tensors()
        assert merged["w"].tolist() == [1.5, 1.5, 1.5], name
        assert merged["steps"] == 4


# Liars ------------------------------------------------------------------------------------------
@given(
    honest=st.integers(2, 8), lie=st.floats(-1e18, 1e18), counts=st.integers(1, 10**6),
    seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=25)
def test_one_liar_stays_within_what_the_honest_say(
    honest: int, lie: float, counts: int, seed: int
) -> None:
    """Median and trimmed mean, of three models or more; nothing becomes NaN."""
    chance = np.random.default_rng(seed)
    values = chance.normal(size=(honest, 50)).astype(np.float32)
    own, *others = [FlatWeights.of({"w": torch.from_numpy(value)}) for value in values]
    others.insert(seed % honest, FlatWeights.of({"w": torch.full((50,), lie)}))
    for rule in (Median(), TrimmedMean()):
        merged = merge(rule, own, 3, others, [counts] * honest).tensors()["w"].numpy()
        assert np.isfinite(merged).all()
        assert (merged >= values.min(axis=0) - 1e-6).all()
        assert (merged <= values.max(axis=0) + 1e-6).all()


@given(
    lie=st.sampled_from([1e-3, 1.0, 1e3, 1e18]), others=st.integers(0, 7), seed=st.integers(0, 9)
)
def test_a_clipped_liar_pulls_no_further_than_its_share_of_an_honest_way(
    lie: float, others: int, seed: int
) -> None:
    chance = np.random.default_rng(seed)
    start = chance.normal(size=60)

    def model(values: NDArray[np.float64]) -> FlatWeights:
        return FlatWeights.of({"w": torch.from_numpy(values[:, None]).float()})

    ways = chance.normal(size=(others + 1, 60)) / 10
    rule = ClippedMean()
    merge(rule, model(start), 1, [model(start)], [1])
    own, *honest = [model(start + way) for way in ways]
    liar = model(start + lie * chance.choice((-1, 1), 60))
    counts = [1] * others
    without = merge(rule, own, 1, honest, counts) if honest else own
    rule = ClippedMean()
    merge(rule, model(start), 1, [model(start)], [1])
    bent = merge(rule, own, 1, [liar, *honest], [1, *counts])
    off = np.linalg.norm(exact_w(bent) - exact_w(without))
    longest = 2 * max(np.linalg.norm(ways, axis=1))  # between any two of the honest
    assert off <= 2 * longest / (others + 2) + 1e-5


def exact_w(weights: FlatWeights) -> NDArray[np.float64]:
    return weights.tensors()["w"].double().numpy().ravel()


def test_a_liars_noise_makes_no_variance_negative() -> None:
    """Those of batch norm may be far smaller than what others in the tensor change by."""
    chance = np.random.default_rng(0)
    start = np.geomspace(1e-4, 10, 60)
    rule = rule_named("clipped")

    def model(values: NDArray[np.float64]) -> FlatWeights:
        return FlatWeights.of({"variance": torch.from_numpy(values)})

    merge(rule(), model(start), 1, [model(start)], [1])
    own, *honest = [model(start * chance.uniform(0.8, 1.2, 60)) for _ in range(4)]
    liar = model(100 * chance.normal(size=60))
    merged = merge(rule(), own, 1, [liar, *honest], [1] * 4).tensors()["variance"].numpy()
    assert (merged > 0.5 * start).all()
    assert (merged < 2 * start).all()


# Memory and disk --------------------------------------------------------------------------------
def test_models_are_cut_into_blocks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the blocks, the result is the same."""
    own, others = flat(cast(0)), [flat(cast(n)) for n in range(1, 6)]
    whole = {name: merge(rule_named(name)(), own, 2, others, [3] * 5) for name in NAMES}
    monkeypatch.setattr(robust, "BLOCK_BYTES", 1)
    read: list[int] = []
    before = Spool.read

    def spy(self: Spool, place: int, begin: int, end: int) -> torch.Tensor:
        read.append(end - begin)
        return before(self, place, begin, end)

    monkeypatch.setattr(Spool, "read", spy)
    for name in NAMES:
        again = merge(rule_named(name)(), own, 2, others, [3] * 5)
        agree(again, exact(whole[name]))
    assert max(read) <= GRAIN


def test_the_spool_has_no_name_and_gives_its_disk_back(tmp_path: Path) -> None:
    rule, own = Median(tmp_path), flat(cast(0))
    merge(rule, own, 1, [own] * 3, [1] * 3)
    assert not [*tmp_path.iterdir()]
    assert rule._spool is not None
    assert os.fstat(rule._spool._file).st_size == 0


def test_a_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*about: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    rule, own = Median(tmp_path), flat(cast(0))
    rule.start(own, 1)
    with pytest.raises(OSError, match="No space"):
        rule.add("a", 0, own.body(), 1)


def test_what_was_never_written_is_not_read(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 100)
    spool.write(1, 0, memoryview(b"x" * 100))
    assert bytes(spool.read(1, 40, 50).numpy()) == b"x" * 10
    with pytest.raises(ValueError, match="place 2"):
        spool.read(2, 0, 10)
