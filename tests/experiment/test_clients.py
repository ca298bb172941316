"""The budget, and what the paper leaves open."""

from __future__ import annotations

import pytest
import torch

from bt.experiment.clients import batch_norm_tensors
from bt.experiment.plan import Choices
from bt.outcome import Diverged
from bt.weights import FlatWeights
from tests.experiment.small import clients, trainer, trainers


def test_nobody_trains_beyond_the_budget() -> None:
    found = clients(trainers(), rounds=1)
    found.fit("peer-0", None)
    with pytest.raises(RuntimeError, match="has had its 1 updates"):
        found.fit("peer-0", None)


def test_a_model_that_is_not_finite_ends_the_part() -> None:
    found = trainers()
    with torch.no_grad():
        found["peer-1"].model.get_parameter("0.bias").fill_(float("inf"))
    with pytest.raises(Diverged, match=r"peer-1 diverged.*lower --learning-rate"):
        clients(found).fit("peer-1", None)


@pytest.mark.parametrize(("adam", "kept"), [("fresh", False), ("kept", True)])
def test_adams_moments_are_dropped_or_kept(adam: str, kept: bool) -> None:
    found = trainer(0, choices=Choices(adam=adam))
    first, second = found.optimiser(0), found.optimiser(2)
    assert (first is second) is kept
    assert second.param_groups[0]["lr"] == found.learning_rate(2) < found.learning_rate(0)


@pytest.mark.parametrize("where", ["averaged", "local"])
def test_batch_norm_layers_come_with_the_merged_model_or_stay(where: str) -> None:
    found = trainer(0, choices=Choices(batch_norm=where))
    own = batch_norm_tensors(found.model)
    assert own == {f"1.{name}" for name in found.model.get_submodule("1").state_dict()}
    merged = FlatWeights.of(
        {name: torch.ones_like(value) * 9 for name, value in found.model.state_dict().items()}
    )
    before = found.weights().tensors()
    found.load(merged)
    for name, value in found.weights().tensors().items():
        stays = where == "local" and name in own
        assert torch.equal(value, before[name] if stays else merged.tensors()[name]), name
