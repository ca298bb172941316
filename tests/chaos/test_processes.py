"""Three real peers over tcp: killed, stopped, their checkpoints damaged. They finish all the same.

One story, told once; the tests look at what it left. `make soak` tells longer ones.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest

from benchmarks.peers import Federation, Site, wait_for, waits_s
from bt.checkpoint import CheckpointFile
from bt.modelfile import read_model

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
NAMES = ("A", "B", "C")
ENDLESS = 100_000  # rounds
DEADLINE_S = 1.0  # --ping-timeout
SLACK_S = 2.0  # of a busy machine
GOES_ON = "goes on from the checkpoint before the last"
SEED = int(os.environ.get("BT_CHAOS_SEED", "1"))


class Kill(NamedTuple):
    """Of one peer: what was saved before it, and the number of its next start, from 0."""

    peer: str
    saved: int
    start: int


class Story(NamedTuple):
    federation: Federation
    rounds: int
    kills: list[Kill]
    half_written: int  # checkpoints, when their peer was killed
    stopped_at: float  # C stood still from here
    until: float  # to here
    damaged: str  # whose checkpoint


def wait_until_up(site: Site) -> None:
    wait_for(lambda: len(site.events("start")) == site.starts, f"{site.name} has started again")


def tell(federation: Federation, kills_each: int, stand_still_s: float) -> Story:
    chance = random.Random(SEED)
    federation.start_together()
    federation.wait_for_updates(2)

    stopped_at = time.time()
    federation["C"].signal(signal.SIGSTOP)
    time.sleep(stand_still_s)
    until = time.time()
    federation["C"].signal(signal.SIGCONT)

    kills, half_written, damaged = [], 0, ""
    victims = [name for name in NAMES for _ in range(kills_each)]
    chance.shuffle(victims)
    for number, name in enumerate(victims):
        site = federation[name]
        wait_until_up(site)
        if number % 3 == 0:
            site.kill_while_sending()  # the first: later ones wait until others are up to ask
        elif number % 3 == 2:
            site.kill_while_saving()
            half_written += len([*site.folder.glob("*.partial")])
        else:
            federation.wait_for_updates(3, name)
            time.sleep(chance.random())
            site.kill()
        saved = site.count
        path = site.folder / "checkpoint.safetensors"
        if not damaged and number % 3 == 1:
            damaged = name
            content = bytearray(path.read_bytes())
            content[-chance.randrange(1, 1000)] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
            saved -= 1
        kills.append(Kill(name, saved, site.starts))
        site.start()  # while it does, the next one dies
        if damaged == name:
            wait_for(lambda site=site: GOES_ON in site.said(), f"{name} says what it lost")
    for name in NAMES:
        wait_until_up(federation[name])
    for name in NAMES:  # out of power, all at once; then a few more rounds to the end
        federation[name].kill()
    rounds = 3 + max(federation[name].count for name in NAMES)
    for name in NAMES:
        federation[name].argv += ["--rounds", str(rounds)]
    federation.start_together()
    codes = federation.finish()
    assert set(codes.values()) == {0}, codes
    return Story(federation, rounds, kills, half_written, stopped_at, until, damaged)


@pytest.fixture(scope="module")
def story(federate: Callable[..., Federation]) -> Story:
    federation = federate(*NAMES, rounds=ENDLESS, more=("--ping-timeout", str(DEADLINE_S)))
    return tell(federation, kills_each=1, stand_still_s=3 * DEADLINE_S)


@pytest.mark.soak
def test_more_of_the_same(federate: Callable[..., Federation]) -> None:
    federation = federate(*NAMES, rounds=ENDLESS, more=("--ping-timeout", str(DEADLINE_S)))
    told = tell(federation, kills_each=10, stand_still_s=30)
    test_every_peer_finishes_and_has_merged_the_others(told)
    test_kill_and_restart_lose_at_most_the_running_fine_tune(told)
    test_no_version_is_ever_made_twice(told)


def test_every_peer_finishes_and_has_merged_the_others(story: Story) -> None:
    for name in NAMES:
        site = story.federation[name]
        assert site.count == story.rounds
        _, description = read_model(site.folder / "aggregated.safetensors")
        counts = [
            int(str(version).rpartition(".")[2])
            for version in description["aggregated_of"].values()
        ]
        assert counts == [story.rounds] * len(NAMES)
        assert "Traceback" not in site.said()


def test_kill_and_restart_lose_at_most_the_running_fine_tune(story: Story) -> None:
    assert {kill.peer for kill in story.kills} == set(NAMES)
    for kill in story.kills:
        event = story.federation[kill.peer].events("start")[kill.start]
        resumed = int(str(event["version"]).rpartition(".")[2])
        # one more than was logged: killed between the renaming and the log
        assert 0 < kill.saved <= resumed <= kill.saved + 1, kill


def test_peers_are_killed_in_the_middle_of_saving_and_nothing_is_left_of_it(story: Story) -> None:
    assert story.half_written > 0
    for name in NAMES:
        assert not [*story.federation[name].folder.glob("*.partial")]


def test_a_flipped_bit_is_named_and_the_checkpoint_before_it_used(story: Story) -> None:
    site = story.federation[story.damaged]
    # First of all: killed again before it could save, it says so once more.
    reason = site.events("damaged")[0]["reason"]
    assert reason.startswith(str(site.folder / "checkpoint.safetensors"))
    assert "checksum" in reason
    assert GOES_ON in site.said()
    assert CheckpointFile(site.folder / "checkpoint.safetensors").damaged.exists()
    incarnation, _, count = str(site.events("persist")[-1]["version"]).rpartition(".")
    assert int(incarnation) >= 1
    assert int(count) == story.rounds


def test_no_version_is_ever_made_twice(story: Story) -> None:
    for name in NAMES:
        persisted = [str(event["version"]) for event in story.federation[name].events("persist")]
        again = [version for version in set(persisted) if persisted.count(version) > 1]
        assert not again, "two models under one number"


def test_a_peer_that_stands_still_costs_one_deadline_and_then_nothing(story: Story) -> None:
    for name in ("A", "B"):
        site = story.federation[name]
        lost = [
            event
            for event in site.events("gone")
            if event["peer"] == "C" and story.stopped_at < event["time"] < story.until
        ]
        assert len(lost) <= 1, "known to be gone, it was waited for again"
        waits = waits_s(site, since=story.stopped_at)
        assert max(waits) < DEADLINE_S + SLACK_S
        assert sorted(waits)[len(waits) // 2] < DEADLINE_S / 2, "each round waited"


def test_nobody_is_set_aside_for_a_fault(story: Story) -> None:
    for name in NAMES:
        assert story.federation[name].events("reject") == []
