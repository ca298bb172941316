"""What the models of a round count: by scans, and on the paper's schedule by age if wished."""

from __future__ import annotations

import pytest

from bt.protocol import Peer
from bt.schedule import Sequential
from tests.simulated import SCHEMA, Federation, digest
from tests.test_paper import recorded_merges
from transports import messages

ABC = ("a", "b", "c")
SAMPLES = {"a": 1, "b": 2, "c": 3, "newcomer": 4}
ROUNDS = 6


def federation(stale_weight: float) -> Federation:
    schedule = Sequential(ABC, ROUNDS, 0, stale_weight)
    return Federation(ABC, rounds=ROUNDS, samples=SAMPLES, schedule=schedule)


@pytest.mark.parametrize("stale_weight", [1.0, 0.5, 0.01])
def test_a_model_counts_by_its_scans_and_by_how_many_turns_ago_it_was_trained(
    stale_weight: float,
) -> None:
    run = federation(stale_weight)
    for name in ABC:
        run.update(name)
    trained = dict.fromkeys(ABC, 0)  # turns done when each was last trained
    merges = recorded_merges(run)
    for turn in range(9):
        (name,) = (name for name in ABC if run.peers[name].ready)
        merges.clear()
        run.update(name)
        counts = {
            one: SAMPLES[one] * stale_weight ** ((turn - trained[one]) / len(ABC)) for one in ABC
        }
        assert bool(merges) == any(trained[one] > trained[name] or not turn for one in ABC)
        for merge in merges:
            assert merge.weight == pytest.approx(counts[merge.weights.sender])
            assert merge.own_weight == pytest.approx(counts[name])
        trained[name] = turn + 1


def test_the_aggregated_model_is_by_scans_alone() -> None:
    run = federation(0.1)
    merges = recorded_merges(run)
    while any(peer.state == "training" for peer in run.peers.values()):
        run.update(next(name for name in ABC if run.peers[name].ready))
    assert run.aggregated.keys() == set(ABC)
    counts = [merge.weight == SAMPLES[merge.weights.sender] for merge in merges]
    assert all(counts[-6:]), "three peers, two models of others each"
    assert not all(counts[:-6])


@pytest.mark.parametrize("count", [6, 7, 10**9])
def test_no_count_that_is_claimed_makes_a_model_newer_than_new(count: int) -> None:
    peer = later(federation(0.1))
    for name in peer.others:
        assert 0 < peer.schedule.weight(peer, claim(name, (0, 1))) < SAMPLES[name]
        assert peer.schedule.weight(peer, claim(name, (0, count))) == SAMPLES[name]


def test_models_of_which_nobody_knows_the_turn_count_as_new() -> None:
    peer = later(federation(0.1))
    for name in peer.others:  # that has lost its disk
        assert peer.schedule.weight(peer, claim(name, (1, 1))) == SAMPLES[name]
    assert peer.schedule.weight(peer, claim("newcomer", (0, 1))) == SAMPLES["newcomer"]


def later(run: Federation) -> Peer:
    """Who is to initiate after two turns."""
    for name in ABC:
        run.update(name)
    for _ in range(2):
        run.update(next(name for name in ABC if run.peers[name].ready))
    return next(peer for peer in run.peers.values() if peer.ready)


def claim(name: str, version: tuple[int, int]) -> messages.Version:
    samples = SAMPLES[name]
    told = digest(name, version)
    return messages.Version(name, version, samples, SCHEMA.hash, "training", told)


def test_however_old_a_model_counts_for_something() -> None:
    run = federation(1e-300)
    for name in ABC:
        run.update(name)
    merges = recorded_merges(run)
    for _ in range(9):
        run.update(next(name for name in ABC if run.peers[name].ready))
    assert merges
    assert all(merge.weight > 0 and merge.own_weight > 0 for merge in merges)
