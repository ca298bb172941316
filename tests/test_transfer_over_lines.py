"""Peers that pull over one line, in virtual time: it is kept full, not flooded."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import count, pairwise

import pytest

from bt import events
from bt.protocol import Peer
from bt.transfer import MOST_CREDIT
from transports import image, messages

HASH = "0" * 64
HEADER = 960
ZEROS = memoryview(bytes(MOST_CREDIT))

MODEL = 14_000_000  # bytes
TEXT = 400  # of a small message, and of what comes with a range


class Line:
    """Peers that pull the models of s, one after the other, over its way out.

    The line carries `rate` bytes a second, first come first served; nothing is lost. s has a new
    model whenever it is asked. Peers train in no time.
    """

    def __init__(self, rate: float, round_trip_s: float, peers: int = 1, model: int = MODEL):
        self.rate = rate
        self.round_trip_s = round_trip_s
        self.now = self.free_at = 0.0
        self.size = HEADER + model
        self.merged = 0  # bytes, and taken back if the merge started over
        self.came: list[tuple[float, int, bool]] = []  # when, bytes, whether a model began
        self.slowest_ping_s = 0.0
        self.gone: list[str] = []
        self._versions = count(1)
        self._flying: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()
        self._pinged: dict[str, deque[float]] = {}
        self._partly: dict[str, int] = {}
        self.peers: dict[str, Peer] = {}
        for name in (f"p{number}" for number in range(peers)):
            self.peers[name] = Peer(name, ["s"], 1, HASH, 1 << 30, self.size, HEADER)
            self._pinged[name] = deque()
            self._partly[name] = 0
            self.at(0.0, partial(self.feed, name, events.Tick()))

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._flying, (when, next(self._numbers), what))

    def run(self, until: float) -> Line:
        while self._flying[0][0] <= until:
            self.now, _, what = heapq.heappop(self._flying)
            what()
        self.now = until
        return self

    def feed(self, name: str, event: events.Event) -> None:
        peer = self.peers[name]
        todo = [event]
        while todo:
            for instruction in peer.handle(todo.pop(0), self.now):
                todo += self.carry_out(name, instruction)
            if not todo and peer.ready:
                todo.append(events.RoundDue())
        if peer.deadline is not None:
            self.at(max(peer.deadline, self.now), partial(self.tick, name))

    def tick(self, name: str) -> None:
        deadline = self.peers[name].deadline
        if deadline is not None and self.now >= deadline:
            self.feed(name, events.Tick())

    def carry_out(self, name: str, instruction: events.Instruction) -> list[events.Event]:
        match instruction:
            case events.Send(_, message):
                if isinstance(message, messages.Ping):
                    self._pinged[name].append(self.now)
                self.at(self.now + self.round_trip_s / 2, partial(self.serve, message))
            case events.Merge(weights):
                self._partly[name] += weights.data.nbytes
                self.merged += weights.data.nbytes
                self.came.append((self.now, weights.data.nbytes, weights.offset == 0))
                if weights.offset + weights.data.nbytes == self.size:
                    self._partly[name] = 0
                    return [events.Merged("s")]
            case events.StartOver():
                self.merged -= self._partly[name]
                self._partly[name] = 0
            case events.Train(_, merged):
                rest_s = 0.0 if merged else 1.0
                self.at(self.now + rest_s, partial(self.feed, name, events.Trained()))
            case events.Persist():
                return [events.Persisted("f" * 32)]
            case events.Note(event, _, reason):
                self.gone.append(f"{name} {event} {reason}")
        return []

    def serve(self, message: messages.Message) -> None:
        reply: messages.Message
        if isinstance(message, messages.Pull):
            data = ZEROS[: min(message.length, self.size - message.offset)]
            reply = messages.Weights("s", message.digest, self.size, message.offset, data)
            size = TEXT + data.nbytes
        else:
            version = (0, next(self._versions))
            digest = image.digest(memoryview(repr(version).encode()))
            reply = messages.Version("s", version, 1, HASH, "training", digest)
            size = TEXT
        self.free_at = max(self.free_at, self.now) + size / self.rate
        arrives = self.free_at + self.round_trip_s / 2
        self.at(arrives, partial(self.arrive, message.sender, reply))

    def arrive(self, name: str, message: messages.Message) -> None:
        if isinstance(message, messages.Version):
            waited = self.now - self._pinged[name].popleft()
            self.slowest_ping_s = max(self.slowest_ping_s, waited)
        self.feed(name, events.Received(message))

    def utilisation(self, after: float) -> float:
        """Of the line, while models came in: from the first range of each to the last."""
        seconds = nbytes = 0.0
        for (before, _, _), (when, size, begins) in pairwise(self.came):
            if before >= after and not begins:
                seconds += when - before
                nbytes += size
        return nbytes / seconds / self.rate

    @property
    def worth(self) -> float:
        """What share of all it could carry until now came to use."""
        return self.merged / self.rate / self.now


MBIT = 125_000.0  # bytes per second


@pytest.mark.parametrize(
    ("rate", "round_trip_s", "until"),
    [(1000 * MBIT, 0.02, 3.0), (100 * MBIT, 0.05, 5.0), (10 * MBIT, 0.2, 25.0)],
)
def test_a_link_is_kept_full(rate: float, round_trip_s: float, until: float) -> None:
    line = Line(rate, round_trip_s).run(until)
    assert line.utilisation(after=1.0) >= 0.9
    assert not line.gone
    assert line.slowest_ping_s <= 0.25 + 2 * round_trip_s + MOST_CREDIT / rate


def test_a_link_is_full_at_once() -> None:
    line = Line(100 * MBIT, 0.05).run(1.5)
    assert line.merged >= MODEL
    assert line.utilisation(after=0.0) >= 0.9


def test_a_slow_link_is_kept_full_too() -> None:
    line = Line(MBIT, 0.05).run(150.0)
    assert line.utilisation(after=5.0) >= 0.9
    assert not line.gone


def test_a_ping_waits_three_seconds_at_most_on_a_link_of_1_mbit() -> None:
    assert Line(MBIT, 0.05).run(60.0).slowest_ping_s <= 3.0


@pytest.mark.parametrize(
    ("rate", "peers", "until"),
    [
        (MBIT, 2, 60.0),
        (10 * MBIT, 10, 60.0),
        pytest.param(0.2 * MBIT, 1, 400.0),
        pytest.param(MBIT, 5, 150.0),
        pytest.param(10 * MBIT, 20, 60.0),
    ],
)
def test_links_are_not_flooded_with_repeats(rate: float, peers: int, until: float) -> None:
    line = Line(rate, 0.1, peers, model=2_000_000).run(until)
    assert line.worth >= 0.8
    assert not line.gone


def test_a_way_that_becomes_longer_is_filled_again() -> None:
    line = Line(100 * MBIT, 0.01).run(3.0)
    line.round_trip_s = 0.4
    assert line.run(30.0).utilisation(after=10.0) >= 0.5
