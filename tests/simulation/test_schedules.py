"""Schedules of faults against the real peers: nothing that must hold is violated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bt.config import ConfigError
from bt.simulation import faults, soak, spread
from bt.simulation.world import Setup, World

ALL = faults.KINDS


@pytest.mark.parametrize("part", range(10))
def test_three_hundred_schedules_hold(part: int) -> None:
    totals = soak.run_some(Setup(), ALL, range(24 * part, 24 * (part + 1)))
    totals.join(soak.run_some(Setup(fanout=1), ALL, range(1000 + 3 * part, 1003 + 3 * part)))
    totals.join(soak.run_some(Setup(), (), range(2000 + 3 * part, 2003 + 3 * part)))
    assert totals.failed == {}
    assert totals.schedules == 30
    assert totals.events > 50 * totals.schedules, "hardly anything has happened"


def test_seeds_that_failed_once_hold() -> None:
    seeds = (
        15346,  # a lost disk, and a long first fine-tune that asks nobody
        22888,  # a difference that comes twice, the second time when another base was named
        40882,  # dead between rename and sync, started again, and then the power was lost
        86032,  # the same, with only the checkpoint before the last in its place
        99532,  # a lost disk, and one who asks, but took the peer for gone
        700285,  # timers looked at only when due: a silent peer was waited for too long
    )
    for seed in seeds:
        assert soak.run_some(Setup(), ALL, range(seed, seed + 1)).failed == {}


def test_every_kind_of_fault_happens() -> None:
    marks = {
        "loss": " lost on the way to ",
        "cut": " cut between ",
        "crash": " dies",
        "wipe": " loses its disk",
        "full": " can't save ",
        "slow": " stands still for ",
        "clock": " has its clock go forward ",
        "leave": " ends: left",
        "liar": " can't accept what ",
    }
    for kind, mark in marks.items():
        setup = Setup(peers=3)
        texts = (soak.transcribed(setup, (kind,), seed)[1] for seed in range(60))
        assert any(mark in text for text in texts), kind
    for kind in ("delay", "twice", "order", "late"):
        plain = [soak.run_some(Setup(), (), range(s, s + 1)).events for s in range(4)]
        other = [soak.run_some(Setup(), (kind,), range(s, s + 1)).events for s in range(4)]
        assert plain != other, kind


def test_a_seed_decides_everything(tmp_path: Path) -> None:
    code = (
        "from bt.simulation import faults, soak; from bt.simulation.world import Setup;"
        "import hashlib; text = [soak.transcribed(Setup(), faults.KINDS, s)[1] for s in range(6)];"
        "print(hashlib.sha256(''.join(text).encode()).hexdigest())"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": number},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for number in ("1", "2")
    }
    assert len(hashes) == 1


def test_rounds_and_the_aggregated_model_are_those_of_the_paper_in_calm_weather(
    tmp_path: Path,
) -> None:
    world = World(0, tmp_path, Setup(peers=4), ())
    ended = world.run()
    assert ended.violations == ()
    for process in world.processes.values():
        assert process.ended
        assert process.peer.version.count == world.setup.rounds
        assert len(process.runner.outcome.aggregated_of) == 4


def test_a_kind_of_fault_nobody_knows_is_named() -> None:
    with pytest.raises(ConfigError, match="--faults flood: expected all, none, or some of"):
        faults.chosen("crash,flood")
    assert faults.chosen("none") == ()
    assert faults.chosen("loss,crash") == ("loss", "crash")


def test_the_command_counts_and_exits(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bt", "simulate", "--schedules", "3", "--peers", "3"]
    ended = subprocess.run(
        [*command, "--json"], cwd=Path.cwd(), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["schedules"] == 3
    assert found["violations"] == 0
    assert found["events"] > 100
    assert found["events_per_second"] > 0


def test_asking_a_few_costs_the_same_however_many_there_are() -> None:
    few, more = (spread.measure(peers, fanout=3, seed=0) for peers in (12, 36))
    for one in (few, more):
        assert one.violations == 0
        assert one.messages_by_the_law == 12
        assert one.messages_per_round == pytest.approx(12, rel=0.15)
        assert 1 <= one.rounds_to_spread <= 3 * one.rounds_by_the_law + 1
    assert more.bytes_per_round < 1.2 * few.bytes_per_round


def test_asking_all_costs_as_much_as_there_are_and_takes_one_round() -> None:
    for peers in (6, 18):
        one = spread.measure(peers, fanout=None, seed=0)
        assert one.violations == 0
        assert one.messages_by_the_law == 5 * (peers - 1)
        assert 0.6 * one.messages_by_the_law < one.messages_per_round < one.messages_by_the_law
        assert one.rounds_to_spread == 1
    assert spread.sizes(100) == [10, 30, 100]
