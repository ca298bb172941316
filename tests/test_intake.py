"""Models that come in side by side are merged exactly; what is wrong with one is said."""

from __future__ import annotations

import random
import weakref
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bt.events import Merge, Merged
from bt.incarnation import MOST_LOSSES
from bt.intake import Bases, Intake, Refused
from bt.merge import WeightedMean
from bt.transfer import GRAIN
from bt.weights import FlatWeights
from transports import header, image, messages

VALUES = 20_007  # few enough for one thread
SHAPES = {"w": torch.float32, "double": torch.float64, "half": torch.float16}


def random_model(seed: int) -> FlatWeights:
    """One tensor of each dtype, and some integers."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(VALUES, generator=generator).to(dtype) for name, dtype in SHAPES.items()
    }
    return FlatWeights.of(tensors | {"steps": torch.arange(3) + seed})


MODELS = [random_model(number) for number in range(5)]
OWN = MODELS[0]
SCHEMA = OWN.schema
HEADER = image.header_bytes(SCHEMA)
SIZE = image.nbytes(SCHEMA)
patient = settings(deadline=None)
SMALL = FlatWeights.of({"a": torch.arange(5.0), "b": torch.arange(4.0), "n": torch.tensor(-1)})


def served(
    weights: FlatWeights, peer: str = "b", version: tuple[int, int] = (0, 1), samples: int = 3
) -> tuple[messages.Version, bytes]:
    """What a peer says of its model, and the image."""
    header = image.encode(image.Model(peer, version, samples), weights.schema)
    whole = header + bytes(weights.body())
    digest = image.digest(memoryview(whole))
    hash_ = weights.schema.hash
    return messages.Version(peer, version, samples, hash_, "training", digest), whole


def ranges(
    announced: messages.Version, whole: bytes | bytearray, ends: list[int], keep: bool = False
) -> list[Merge]:
    assert announced.digest is not None
    fields = announced.digest, len(whole)
    return [
        Merge(
            messages.Weights(announced.sender, *fields, begin, memoryview(whole)[begin:end]),
            announced,
            announced.samples,
            1,
            keep=keep,
        )
        for begin, end in pairwise([0, *ends])
    ]


def cut(chance: random.Random, whole: int = SIZE, header: int = HEADER) -> list[int]:
    """Ends of ranges: whole grains, counted from the body."""
    grains = range(header + GRAIN, whole, GRAIN)
    return [*sorted(chance.sample(grains, chance.randint(0, len(grains)))), whole]


def intake(own: FlatWeights = OWN, own_weight: int = 1, bases: Bases | None = None) -> Intake:
    return Intake(WeightedMean, own, own_weight, bases or Bases())


def whole_of(weights: FlatWeights, **said: object) -> Merge:
    announced, whole = served(weights, **said)  # type: ignore[arg-type]
    (merge,) = ranges(announced, whole, [len(whole)])
    return merge


# --- what should work


def reference(models: list[FlatWeights], samples: list[int], name: str) -> np.ndarray:
    values = [weights.tensors()[name].to(torch.float64).numpy() for weights in models]
    return np.average(values, axis=0, weights=samples)


@patient
@given(seed=st.integers(0, 10_000), peers=st.integers(1, 4), own_weight=st.integers(0, 20))
def test_models_side_by_side_are_merged_exactly(seed: int, peers: int, own_weight: int) -> None:
    chance = random.Random(seed)
    models = MODELS[: peers + 1]
    samples = [own_weight, *(chance.randint(1, 50) for _ in range(peers))]
    coming = intake(own_weight=own_weight)
    waiting = []
    for number in range(1, peers + 1):
        announced, whole = served(models[number], f"p{number}", samples=samples[number])
        waiting.append(ranges(announced, whole, cut(chance)))
    while waiting:
        which = chance.choice(waiting)
        merge = which.pop(0)
        merged = coming.take(merge)
        if which:
            assert merged is None
        else:
            assert merged == Merged(merge.weights.sender)
            waiting.remove(which)
    found = coming.finish().tensors()
    for name, dtype in SHAPES.items():
        atol = 4 * torch.finfo(dtype).eps * peers
        expected = reference(models, samples, name)
        np.testing.assert_allclose(found[name].double().numpy(), expected, atol=atol)
    assert found["steps"].tolist() == [0, 1, 2], "integers stay one's own"


def test_without_samples_ones_own_stays_out_whatever_it_is() -> None:
    nan = FlatWeights.of({"w": torch.full((GRAIN,), float("nan")), "n": torch.tensor(5)})
    other = FlatWeights.of({"w": torch.full((GRAIN,), 2.0), "n": torch.tensor(6)})
    for ends in ([0], [0, GRAIN, 2 * GRAIN]):
        coming = intake(nan, own_weight=0)
        announced, whole = served(other)
        header = image.header_bytes(other.schema)
        for merge in ranges(announced, whole, [*(header + end for end in ends[1:]), len(whole)]):
            coming.take(merge)
        found = coming.finish().tensors()
        assert (found["w"] == 2.0).all()
        assert found["n"] == 5


def test_values_so_large_that_averages_could_overflow_are_refused() -> None:
    own = FlatWeights.of({"w": torch.full((100,), 1e16)})
    coming = intake(own)
    coming.take(whole_of(FlatWeights.of({"w": torch.full((100,), 1e18)})))
    assert coming.finish().is_finite()
    with pytest.raises(Refused, match="absurd"):
        intake(own).take(whole_of(FlatWeights.of({"w": torch.full((100,), 1e20)})))


@pytest.mark.parametrize(
    "tensors", [{}, {"w": torch.zeros(0, 3)}, {"n": torch.arange(4)}, {"w": torch.tensor(2.5)}]
)
def test_the_smallest_models(tensors: dict[str, torch.Tensor]) -> None:
    weights = FlatWeights.of(tensors)
    coming = intake(weights)
    assert coming.take(whole_of(weights)) == Merged("b")
    assert coming.finish().buffer.equal(weights.buffer)


def test_bytes_at_an_odd_place_are_merged_too() -> None:
    announced, whole = served(MODELS[1])
    raw = np.frombuffer(b"-" + whole, np.uint8).copy()
    fields = "b", announced.digest, SIZE, 0, memoryview(raw)[1:]
    coming = intake(own_weight=0)
    coming.take(Merge(messages.Weights(*fields), announced, 1, 0))  # type: ignore[arg-type]
    found = coming.finish().tensors()
    for name in SHAPES:
        assert found[name].equal(MODELS[1].tensors()[name])


def test_ranges_are_not_kept() -> None:
    class Bytes(bytearray):
        """Bytes that say when they are freed."""

    coming = intake()
    announced, whole = served(MODELS[1])
    for merge in ranges(announced, whole, cut(random.Random(1))):
        weights = merge.weights
        data = Bytes(weights.data)
        alive = weakref.ref(data)
        fields = weights.sender, weights.digest, weights.size, weights.offset
        coming.take(Merge(messages.Weights(*fields, memoryview(data)), announced, 1, 1))
        del data
        assert alive() is None


def test_a_model_may_be_kept_for_differences_from_it() -> None:
    bases = Bases()
    coming = intake(bases=bases)
    other = MODELS[1]
    announced, whole = served(other)
    arrived = bytearray(whole)
    *first, last = ranges(announced, arrived, cut(random.Random(2)), keep=True)
    for merge in first:
        assert coming.take(merge) is None
    assert announced.digest is not None
    assert bases.of("b", announced.digest) is None, "not before all of it is here"
    assert coming.take(last) == Merged("b", kept=announced.digest)
    kept = bases.of("b", announced.digest)
    assert kept is not None
    assert kept.buffer.equal(other.buffer)
    arrived[:] = bytes(len(arrived))
    assert kept.buffer.equal(other.buffer), "a copy"
    assert bases.of("c", announced.digest) is None
    assert bases.of("b", "0" * 32) is None


def test_one_base_of_each_peer_is_kept() -> None:
    bases = Bases()
    assert bases.keep("b", "1", SMALL) == "1"
    assert bases.keep("c", "1", OWN) == "1"
    assert bases.keep("b", "2", SMALL) == "2"
    assert bases.of("b", "1") is None
    assert bases.of("b", "2") is SMALL
    assert bases.of("c", "1") is OWN
    assert bases.keep("b", "3", None) is None
    assert bases.of("b", "2") is bases.of("b", "3") is None


def told(incarnation: int, count: int) -> messages.Version:
    return messages.Version("b", (incarnation, count), 3, SMALL.schema.hash, "training", "1" * 32)


def test_the_same_model_again_is_no_new_version_nor_a_new_incarnation_for_ever() -> None:
    bases = Bases()
    bases.remember(told(0, 5), b"begins", None)
    bases.remember(told(0, 6), b"begins", "body")
    assert bases.may_be_again(told(0, 7), b"begins")
    with pytest.raises(Refused, match="sends the weights of its version 6 again as version 7"):
        bases.remember(told(0, 7), b"begins", "body")
    for incarnation in range(1, MOST_LOSSES + 1):  # it lost its disk, as others told it
        assert bases.may_be_again(told(incarnation, 6), b"begins")
        bases.remember(told(incarnation, 6), b"begins", "body")
        bases.remember(told(incarnation, 6), b"begins", None)  # asked for again
    with pytest.raises(Refused, match=r"sends the weights of its version 16\.6 again"):
        bases.remember(told(MOST_LOSSES + 1, 6), b"begins", "body")
    bases.remember(told(MOST_LOSSES + 1, 7), b"other", None)  # at last it has trained
    bases.remember(told(MOST_LOSSES + 2, 7), b"other", "other")
    bases.remember(told(MOST_LOSSES + 3, 7), b"other", "other")


# --- what is refused


def refused(*merges: Merge, own: FlatWeights = SMALL) -> str:
    coming = intake(own)
    for merge in merges[:-1]:
        assert coming.take(merge) is None
    with pytest.raises(Refused) as caught:
        coming.take(merges[-1])
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 300
    return line


def test_what_was_announced_must_come() -> None:
    merge = whole_of(SMALL)
    for said in (
        {"samples": 4},
        {"version": (0, 2)},
        {"version": (1, 1)},
        {"peer": "c"},
    ):
        other, _ = served(SMALL, **said)  # type: ignore[arg-type]
        line = refused(Merge(merge.weights, other, 1, 1))
        assert line.startswith(f"announced ('{other.sender}', {other.version}, {other.samples})")
        assert "its weights say Model(sender='b', version=(0, 1), samples=3)" in line


def test_another_image_is_no_model() -> None:
    announced, whole = served(SMALL)
    newer = header.PROTOCOL + 1
    ours, theirs = (b'protocol\\":%d' % number for number in (header.PROTOCOL, newer))
    for bad, line in (
        (whole.replace(b'\\"model\\"', b'\\"delta\\"'), "an image of kind 'delta' is no model"),
        (whole.replace(ours, theirs), f"protocol {newer}: this peer speaks {header.PROTOCOL}"),
        (bytes(len(whole)), "not JSON"),
        (whole[:100], "too few for the header"),
        (b"\xff" * len(whole), "too few for the header"),
    ):
        assert bad != whole
        (merge,) = ranges(announced, bad, [len(bad)])
        assert line in refused(merge)


def test_another_schema_is_named() -> None:
    for other, line in (
        ({"a": torch.zeros(6), "b": torch.zeros(3)}, "tensor 'n' (I64 []) is missing"),
        (
            {"a": torch.zeros(5), "b": torch.zeros(2, 2), "n": torch.tensor(-1)},
            "tensor 'b' is F32 [2, 2], expected F32 [4]",
        ),
    ):
        assert line in refused(whole_of(FlatWeights.of(other)))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_values_that_are_not_finite_are_named(bad: float) -> None:
    for name, at in (("a", 0), ("a", 4), ("b", 0), ("b", 3)):
        other = SMALL.copy()
        other.tensors()[name][at] = bad
        assert refused(whole_of(other)) == f"tensor '{name}' holds NaN, infinity or absurd values"


@patient
@given(
    name=st.sampled_from(sorted(SHAPES)), at=st.integers(0, VALUES - 1), seed=st.integers(0, 99)
)
def test_they_are_seen_in_every_range(name: str, at: int, seed: int) -> None:
    other = MODELS[1].copy()
    other.tensors()[name][at] = float("nan")
    announced, whole = served(other)
    coming = intake()

    def take_all() -> None:
        for merge in ranges(announced, whole, cut(random.Random(seed))):
            coming.take(merge)

    with pytest.raises(Refused, match=f"tensor '{name}' holds NaN, infinity or absurd values"):
        take_all()


@patient
@given(st.data())
def test_a_damaged_byte_anywhere_is_refused(data: st.DataObject) -> None:
    announced, whole = served(SMALL)
    damaged = bytearray(whole)
    at = data.draw(st.integers(0, len(whole) - 1))
    damaged[at] ^= data.draw(st.integers(1, 255))
    (merge,) = ranges(announced, bytes(damaged), [len(whole)])
    line = refused(merge)
    if at >= image.header_bytes(SMALL.schema):
        assert line in (
            "its weights were damaged on the way: the checksum is wrong",
            "tensor 'a' holds NaN, infinity or absurd values",
            "tensor 'b' holds NaN, infinity or absurd values",
            "its weights are more than 1000 times as large as one's own",
        )


@patient
@given(at=st.integers(HEADER, SIZE - 1), seed=st.integers(0, 99))
def test_also_in_one_of_many_ranges(at: int, seed: int) -> None:
    announced, whole = served(OWN)
    damaged = bytearray(whole)
    damaged[at] ^= 1
    *first, last = ranges(announced, bytes(damaged), cut(random.Random(seed)))
    assert refused(*first, last, own=OWN).startswith("its weights were damaged on the way")


def test_an_integer_that_was_damaged_is_seen_though_it_is_not_merged() -> None:
    announced, whole = served(SMALL)
    begin, _ = SMALL.schema.offsets["n"]
    damaged = bytearray(whole)
    damaged[image.header_bytes(SMALL.schema) + begin] ^= 1
    (merge,) = ranges(announced, bytes(damaged), [len(whole)])
    assert "checksum" in refused(merge)


def test_another_digest_than_announced_is_refused() -> None:
    announced, whole = served(SMALL)
    other = replace(announced, digest="0" * 32)
    (merge,) = ranges(other, whole, [len(whole)])
    assert "checksum" in refused(merge)


def test_a_difference_from_what_is_not_here_is_refused() -> None:
    merge = whole_of(SMALL)
    assert "not here" in refused(Merge(merge.weights, merge.announced, 1, 1, base="0" * 32))


def test_nothing_of_a_refused_model_is_kept() -> None:
    bases = Bases()
    coming = intake(SMALL, bases=bases)
    announced, whole = served(SMALL)
    damaged = bytearray(whole)
    damaged[-1] ^= 1
    (merge,) = ranges(announced, bytes(damaged), [len(whole)], keep=True)
    with pytest.raises(Refused):
        coming.take(merge)
    assert announced.digest is not None
    assert bases.of("b", announced.digest) is None
