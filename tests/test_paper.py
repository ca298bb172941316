"""One test per sentence of Algorithm 1 (Roy et al. 2019, section 2.2)."""

from __future__ import annotations

import random

import pytest
import torch

from bt import events
from bt.merge import WeightedMean
from bt.schedule import Sequential
from bt.versions import Version
from bt.weights import FlatWeights
from tests.simulated import IMAGE_BYTES, Federation
from transports import messages

ABC = ("a", "b", "c")


def recorded_merges(federation: Federation) -> list[events.Merge]:
    """Every range that is merged from now on."""
    merges = []
    carry_out = federation.carry_out

    def record(name: str, instruction: events.Instruction) -> list[events.Event]:
        if isinstance(instruction, events.Merge):
            merges.append(instruction)
        return carry_out(name, instruction)

    federation.carry_out = record  # type: ignore[method-assign]
    return merges


def test_each_client_keeps_its_version_and_for_every_other_the_last_version_it_merged() -> None:
    federation = Federation(ABC)
    for name in ("b", "b", "c"):
        federation.update(name)
    federation.update("a")
    a = federation.peers["a"]
    assert a.version == Version(0, 1)
    assert a.vector == {"b": Version(0, 2), "c": Version(0, 1)}


def test_all_entries_start_at_zero() -> None:
    peer = Federation(ABC).peers["a"]
    assert peer.version == Version(0, 0)
    assert not any(peer.vector.get(name, Version(0, 0)).count for name in ABC)


def test_every_fine_tuning_increments_the_own_version() -> None:
    federation = Federation(ABC)
    for count in (1, 2, 3):
        federation.update("a")
        assert federation.peers["a"].version == Version(0, count)


def test_every_client_trains_locally_in_parallel() -> None:
    federation = Federation(ABC)
    for name in ABC:
        federation.start_round(name)
    federation.deliver_all()
    assert federation.training == set(ABC)
    assert [merged for _, merged in federation.trained] == [(), (), ()]


def test_the_initiator_sends_a_ping_request_to_all_others() -> None:
    federation = Federation(ABC)
    federation.start_round("a")
    assert federation.flying == [("a", name, messages.Ping("a")) for name in ("b", "c")]


def test_and_gets_their_current_versions() -> None:
    federation = Federation(ABC)
    federation.update("b")
    federation.flying.clear()
    federation.start_round("a")
    federation.deliver(0)
    sender, to, answer = federation.flying[-1]
    assert (sender, to) == ("b", "a")
    assert isinstance(answer, messages.Version)
    assert answer.version == (0, 1)


def test_every_client_with_a_newer_version_sends_weights_and_sample_count() -> None:
    federation = Federation(ABC, samples={"a": 1, "b": 7, "c": 2})
    federation.update("b")
    federation.start_round("a")
    merges = recorded_merges(federation)
    sent = []
    while federation.flying:
        if isinstance(federation.flying[0][2], messages.Weights):
            sent.append(federation.flying[0])
        federation.deliver()
    assert {(sender, to) for sender, to, _ in sent} == {("b", "a")}
    assert sum(weights.data.nbytes for _, _, weights in sent) == IMAGE_BYTES
    assert {merge.announced.samples for merge in merges} == {7}


def test_the_others_send_nothing() -> None:
    federation = Federation(ABC)
    federation.update("b")
    assert federation.update("a") == ("b",)  # c never trained
    assert federation.update("a") == ()  # and b has nothing new since
    federation.update("c")
    assert federation.update("a") == ("c",)


def test_the_subset_is_merged_with_the_own_model_by_weighted_averaging() -> None:
    values, samples = {"a": 1.0, "b": 4.0, "c": 10.0}, {"a": 1, "b": 2, "c": 3}
    rule = WeightedMean()
    rule.start(FlatWeights.of({"w": torch.tensor([values["a"]])}), samples["a"])
    for name in ("b", "c"):
        theirs = FlatWeights.of({"w": torch.tensor([values[name]])})
        rule.add(name, 0, theirs.body(), samples[name])
    expected = sum(values[n] * samples[n] for n in ABC) / sum(samples.values())
    assert rule.finish().tensors()["w"].item() == pytest.approx(expected, rel=1e-6)


def test_then_it_fine_tunes_and_its_version_goes_up_by_one() -> None:
    federation = Federation(ABC)
    federation.update("b")
    federation.start_round("a")
    federation.deliver_all()
    assert federation.trained[-1] == ("a", ("b",))
    assert federation.peers["a"].version == Version(0, 0)  # not before it is trained
    federation.finish_training("a")
    assert federation.peers["a"].version == Version(0, 1)


def test_one_round_updates_one_client() -> None:
    federation = Federation(ABC)
    for name in ABC:
        federation.update(name)
    before = {name: federation.peers[name].version for name in ABC}
    federation.update("b")
    changed = [name for name in ABC if federation.peers[name].version != before[name]]
    assert changed == ["b"]


def test_a_random_client_initiates_and_r_rounds_of_the_server_equal_r_times_n_of_these() -> None:
    rounds = 4
    federation = Federation(ABC, rounds=rounds, schedule=Sequential(ABC, rounds, seed=1))
    order = []
    while any(peer.state == "training" for peer in federation.peers.values()):
        ready = [name for name in ABC if federation.peers[name].ready]
        if federation.peers[ready[0]].version.count:
            assert len(ready) == 1, "one initiator at a time"
            order.append(ready[0])
        federation.update(ready[0])
    assert sorted(order) == sorted(ABC * (rounds - 1))
    assert order != list(ABC * (rounds - 1)), "the order is random"
    assert order == Sequential(ABC, rounds, seed=1).turns, "and reproducible from the seed"
    assert Sequential(ABC, rounds, seed=2).turns != order


def test_a_new_client_starts_from_the_others_models_without_its_own_random_weights() -> None:
    federation = Federation(ABC)
    federation.update("b")
    federation.update("c")
    federation.start_round("a")
    merges = recorded_merges(federation)
    federation.deliver_all()
    assert {merge.weights.sender for merge in merges} == {"b", "c"}
    assert {merge.own_weight for merge in merges} == {0}

    rule = WeightedMean()
    rule.start(FlatWeights.of({"w": torch.tensor([float("nan")])}), 0)
    for value in (2.0, 4.0):
        rule.add(str(value), 0, FlatWeights.of({"w": torch.tensor([value])}).body(), 1)
    assert rule.finish().tensors()["w"].item() == 3.0


def test_the_aggregated_model_is_the_average_of_all_clients() -> None:
    federation = Federation(ABC, rounds=1)
    for name in random.Random(0).sample(ABC, 3):
        federation.update(name)
    for _ in range(5):
        federation.wait(1.0)
        federation.deliver_all()
    for name in ABC:
        assert set(federation.aggregated[name]) == set(ABC) - {name}
        assert federation.peers[name].finished
