"""Answers to pings, which leave together: a runner in steps, and messages that wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bt.checkpoint import CheckpointFile
from bt.eventlog import EventLog
from bt.protocol import Peer
from bt.runner import Runner
from tests.test_runner import LIMITS, SCHEMA, FakeTrainer
from transports import image, messages
from transports.inproc import InprocTransport, Network

PING = messages.encode(messages.Ping("b"))
PULL = messages.encode(messages.Pull("b", "0" * 32, 0, 1))


class Pair:
    """The runner of a, which awaits an answer of b, and b, which only says what a test says."""

    def __init__(
        self, folder: Path, a: InprocTransport, b: InprocTransport, log: EventLog
    ) -> None:
        self.b = b
        sizes = image.nbytes(SCHEMA), image.header_bytes(SCHEMA)
        peer = Peer("a", ["b"], 1, SCHEMA.hash, 1, *sizes)
        file = CheckpointFile(folder / "checkpoint.safetensors")
        self.runner = Runner(peer, a, FakeTrainer(), file, log, epochs=1, limits=LIMITS)
        self.steps = self.runner.steps()
        self.step()
        assert self.heard() == ["Ping"]

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            next(self.steps)

    def heard(self) -> list[str]:
        """Kinds of the messages that have come to b since the last time."""
        kinds = []
        while (received := self.b.recv(0.0)) is not None:
            kinds.append(type(messages.decode(received.frames, limits=LIMITS)).__name__)
        return kinds


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    network = Network(("a", "b"))
    log = EventLog(tmp_path / "events.jsonl")
    with closing(network.join("a")) as a, closing(network.join("b")) as b, closing(log):
        made = Pair(tmp_path, a, b, log)
        yield made
        made.steps.close()  # type: ignore[attr-defined]


def test_answers_wait_for_those_to_pings_that_are_here_and_for_nothing_else(pair: Pair) -> None:
    for _ in range(3):
        pair.b.send("a", PING)
    pair.step(3)
    assert pair.heard() == []
    due = pair.runner.deadline
    assert due is not None
    assert due <= time.monotonic(), "and the runner is not put to sleep"
    pair.step()
    assert pair.heard() == ["Version"] * 3


def test_a_flood_of_what_needs_no_answer_does_not_hold_them_back(pair: Pair) -> None:
    nothing = messages.encode(messages.Weights("b", "0" * 32, 0, 0, memoryview(b"")))
    pair.b.send("a", PING)
    for _ in range(9):
        pair.b.send("a", nothing)
    pair.step()
    assert pair.heard() == []
    pair.step()
    assert pair.heard() == ["Version"]


def test_nothing_overtakes_them(pair: Pair) -> None:
    for frames in (PING, PING, PULL, PING):
        pair.b.send("a", frames)
    pair.step(3)
    assert pair.heard() == ["Version"] * 3 + ["Weights"]  # one with the model that is not there


def test_they_leave_when_they_are_many(pair: Pair) -> None:
    for _ in range(40):
        pair.b.send("a", PING)
    pair.step(32)
    assert pair.heard() == ["Version"] * 32


def test_they_leave_before_what_is_announced(pair: Pair) -> None:
    pair.b.send("a", PING)
    pair.step()
    pair.runner.stop("left")
    with pytest.raises(StopIteration):
        pair.step()
    states = []
    while (received := pair.b.recv(0.0)) is not None:
        message = messages.decode(received.frames, limits=LIMITS)
        assert isinstance(message, messages.Version)
        states.append(message.state)
    assert states == ["training", "leaving"]


def test_they_leave_before_a_peer_that_is_finished_does(pair: Pair) -> None:
    pair.b.send("a", PING)
    pair.step()
    pair.runner.peer.finished = True
    with pytest.raises(StopIteration):
        pair.step()
    assert pair.heard() == ["Version"]
