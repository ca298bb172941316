"""Peers that lie in ways one message does not show: again, old, far too large."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from bt import events
from bt.events import Merged
from bt.intake import ABSURD, Bases, Refused
from bt.others import Timing
from bt.versions import Version
from bt.weights import FlatWeights, squares
from tests.simulated import Federation
from tests.test_delta import Pair, model
from tests.test_intake import MODELS, OWN, intake, ranges, served, whole_of

OTHER, THIRD = MODELS[1], MODELS[2]


def come(bases: Bases, weights: FlatWeights, version: tuple[int, int]) -> None:
    """As the model of peer b in a round of its own."""
    merge = whole_of(weights, version=version)
    assert intake(bases=bases).take(merge) == Merged(merge.weights.sender)


# The same weights -------------------------------------------------------------------------------
def test_who_sends_the_same_weights_under_new_numbers_is_found_out() -> None:
    bases = Bases()
    come(bases, OTHER, (0, 1))
    come(bases, OTHER, (0, 2))  # the first time is only remembered
    for number in (3, 3, 4):  # nor does it help to wait and send it once more
        with pytest.raises(Refused, match=f"version 2 again as version {number}"):
            come(bases, OTHER, (0, number))
    come(bases, THIRD, (0, 5))
    come(bases, OTHER, (0, 6))


def test_in_any_ranges() -> None:
    bases = Bases()
    come(bases, OTHER, (0, 1))
    come(bases, OTHER, (0, 2))
    announced, whole = served(OTHER, version=(0, 3))
    header = len(whole) - OTHER.schema.nbytes
    coming = intake(bases=bases)
    first, second = ranges(announced, whole, [header + (1 << 16), len(whole)])
    assert coming.take(first) is None
    with pytest.raises(Refused, match="again as version 3"):
        coming.take(second)


def test_as_differences() -> None:
    """Each corrects what the one before had rounded: some come until nothing is left of that."""
    pair = Pair("int8")
    pair.pull(pair.publish(1, model(0)))

    def again() -> None:
        for number in range(2, 9):
            pair.pull(pair.publish(number, model(1)))

    with pytest.raises(Refused, match="again as version"):
        again()


def test_models_that_only_begin_alike_are_merged() -> None:
    """Layers may be frozen."""
    bases = Bases()
    for number in range(1, 6):
        tensors = {name: tensor.clone() for name, tensor in OTHER.tensors().items()}
        last = list(OTHER.schema.offsets)[-1]
        tensors[last] += number
        come(bases, FlatWeights.of(tensors), (0, number))


def test_the_same_version_again_is_no_lie() -> None:
    """A merge that started over asks for it again, so does the aggregated model; and a peer that
    learned that it had lost its disk gives its model a new number."""
    bases = Bases()
    for version in ((0, 1), (0, 1), (0, 1), (1, 1), (2, 1)):
        come(bases, OTHER, version)


# Far too large ----------------------------------------------------------------------------------
def scaled(factor: float) -> FlatWeights:
    return FlatWeights.of({name: tensor * factor if tensor.is_floating_point() else tensor
                           for name, tensor in wide(OWN).tensors().items()})  # fmt: skip


def wide(weights: FlatWeights) -> FlatWeights:
    """In float32: half precision holds nothing that is absurd."""
    return FlatWeights.of({name: tensor.float() if tensor.is_floating_point() else tensor
                           for name, tensor in weights.tensors().items()})  # fmt: skip


def test_a_model_absurdly_larger_than_ones_own_is_refused() -> None:
    own = wide(OWN)
    with pytest.raises(Refused, match="more than 1000 times as large"):
        intake(own).take(whole_of(scaled(ABSURD * 1.1)))
    for factor in (ABSURD * 0.9, -3.0, 1e-9, 0.0):
        assert intake(own).take(whole_of(scaled(factor))) is not None


def test_who_has_no_model_of_its_own_can_not_say_what_is_absurd() -> None:
    huge = scaled(1e6)
    assert intake(wide(OWN), own_weight=0).take(whole_of(huge)) is not None
    assert intake(scaled(0.0)).take(whole_of(huge)) is not None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_squares_add_up_in_every_dtype(dtype: torch.dtype) -> None:
    values = torch.linspace(-3, 3, 1000).to(dtype)
    assert squares(values) == pytest.approx(float(values.double().square().sum()), rel=1e-4)
    assert squares(values[:0]) == 0.0
    for bad in (math.nan, math.inf, -math.inf):
        values[7] = bad
        assert math.isnan(squares(values))


# Old versions -----------------------------------------------------------------------------------
def reasons(answers: int, seconds: float, *, fresh: int = 0) -> list[str]:
    """Why a sets b aside, which was at version 7 and answers with 1, once every so many seconds;
    the `fresh`-th answer is 7."""
    federation = Federation(("a", "b"), rounds=999)
    old = federation.peers["b"].announcement()
    new = replace(old, version=(0, 7))
    federation.newest["b"] = federation.peers["a"].vector["b"] = Version(0, 7)
    federation.feed("a", events.Received(new))
    for number in range(1, answers + 1):
        federation.start_round("a")
        federation.feed("a", events.Received(new if number == fresh else old))
        federation.finish_training("a")
        federation.now += seconds
    return [note.reason for _, note in federation.notes]


def test_who_goes_on_answering_with_an_old_version_is_set_aside() -> None:
    told = ["still says that it is at version 0, and was at 7 before"]
    assert reasons(4, Timing().pull_s / 3) == told


def test_late_answers_are_no_lie() -> None:
    assert reasons(50, 0.1) == [], "within a minute messages may be late"
    assert reasons(3, 1000.0) == [], "and so may a few"
    assert reasons(6, 1000.0, fresh=4) == []
