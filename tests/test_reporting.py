"""What a peer tells of itself when it is asked how it is doing."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from bt import events
from bt.protocol import Peer
from bt.reporting import Reporter, short
from bt.versions import Version
from transports import messages, reports
from transports.reports import Fit, Known

SCHEMA, DIGEST = "0" * 64, "1" * 32
TOTALS = {"merged": 3, "bytes_in": 1000, "bytes_out": 70, "seconds_training": 6.5, "seconds": 9.0}


class Written:
    """A log that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, event: str, **fields: Any) -> None:
        self.lines.append({"event": event} | fields)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def make(others: tuple[str, ...] = ("b", "c", "d")) -> tuple[Reporter, Peer, Written, Clock]:
    peer = Peer("a", others, 4, SCHEMA, 8, 100, 50)
    log, clock = Written(), Clock()
    return Reporter(log, peer, TOTALS, clock), peer, log, clock


def version(sender: str, count: int, schema: str = SCHEMA) -> events.Received:
    return events.Received(messages.Version(sender, (0, count), 4, schema, "done", DIGEST))


def test_it_tells_what_the_peer_knows_and_what_happened() -> None:
    reporter, peer, log, clock = make()
    reporter.write("start", version="0", samples=4)
    peer.resume(Version(0, 2), {"b": Version(0, 1)})
    peer.digest = DIGEST
    peer.handle(version("b", 3), 99.0)
    peer.handle(version("c", 1, schema="f" * 64), 99.0)
    reporter.write("reject", peer="c", reason="trains another\nmodel \x1b[2J")
    peer.handle(events.PeerGone("d"), 99.0)
    clock.now = 102.5
    reporter.write("merge", from_="b", version="1", samples=4)
    reporter.write("fit", version="1.2", loss=0.5, dice=None, seconds=6.0)
    reporter.write("ping", peer="b")
    clock.now = 103.0
    told = reporter.report()
    assert (told.sender, told.state, told.phase) == ("a", "training", "idle")
    assert (told.version, told.rounds, told.samples) == ((0, 2), 8, 4)
    assert told.others["b"] == Known((0, 1), (0, 3), "done", 4, gone=False)
    assert told.others["d"] == Known(None, None, None, None, gone=True)
    assert told.aside.keys() == {"c"}
    assert told.aside["c"].left_s == 26  # of 30
    assert told.aside["c"].reason.startswith("trains another model (schema ffffffff")
    assert told.fits == (Fit(2, 500_000, None),)
    assert [(e.number, e.ago_ms, e.event, e.peer, e.text) for e in told.events] == [
        (1, 3000, "start", None, "v0"),
        (2, 3000, "reject", "c", "trains another model \\x1b[2J"),
        (3, 500, "merge", "b", "v1"),
        (4, 500, "fit", None, "v1.2"),
    ]
    assert (told.merges, told.bytes_in, told.bytes_out) == (3, 1000, 70)
    assert (told.training_ms, told.waiting_ms, told.uptime_ms) == (6500, 2500, 3000)
    assert [line["event"] for line in log.lines] == ["start", "reject", "merge", "fit", "ping"]
    assert log.lines[2] == {"event": "merge", "from_": "b", "version": "1", "samples": 4}


def test_it_is_made_a_few_times_a_second_however_many_ask() -> None:
    reporter, peer, _, clock = make()
    first = reporter.frames()
    assert all(reporter.frames() is first for _ in range(1000))
    peer.resume(Version(0, 2), {})
    clock.now += 0.3
    assert reporter.report().version == (0, 2)


def test_nothing_it_is_made_of_can_make_it_too_large() -> None:
    names = tuple(f"{'n' * 50}-{i:03}" for i in range(900))
    reporter, peer, _, _ = make(names)
    for i, name in enumerate(names):
        peer.handle(version(name, 3, schema=SCHEMA if i % 2 else "f" * 64), i / 10)
        reporter.write("reject", peer=name, reason="x" * 9999)
        reporter.write("fit", version=str(i + 1), loss=float("nan"), dice=1e300, seconds=0.0)
    told = messages.decode(reporter.frames(), limits=messages.Limits(1 << 20))
    assert isinstance(told, messages.Report)
    assert len(told.others) == reports.MOST_OTHERS
    assert names[-1] in told.others, "those heard of last"
    assert told.fits[-1] == Fit(900, None, None)
    json.dumps(told.events)


def test_who_says_something_new_all_the_time_does_not_fill_the_log() -> None:
    reporter, _, log, clock = make()
    for number in range(20_000):
        clock.now += 0.001
        reporter.write("version", from_="b", version=str(number))
    assert len(log.lines) <= 5_110
    assert [line["peer"] for line in log.lines if line["event"] == "unlogged"] == ["b"]
    log.lines.clear()
    reporter.write("merge", from_="b", version="1", samples=4)
    reporter.write("version", from_="c", version="1")
    reporter.write("fit", version="1.2", loss=0.5, dice=None, seconds=6.0)
    assert [line["event"] for line in log.lines] == ["merge", "version", "fit"]
    clock.now += 10.0
    reporter.write("version", from_="b", version="x")
    assert log.lines[-1]["version"] == "x", "it is heard again once it is calm"


@pytest.mark.parametrize("others", [4, 199])
def test_it_costs_the_peer_next_to_nothing(others: int) -> None:
    reporter, _, _, clock = make(tuple(f"peer-{i:03}" for i in range(others)))
    runs = 20
    began = time.perf_counter()
    for _ in range(runs):
        clock.now += 1
        reporter.frames()
    each_s = (time.perf_counter() - began) / runs
    assert each_s < 0.05, "of a second in which it was asked once; 1 ms is usual"
    assert sum(map(len, reporter.frames())) < 1000 + 60 * others


def test_short_lines() -> None:
    assert short("a\n\tb \x00") == "a b \\x00"
    assert len(short("x" * 1000)) == reports.LONGEST_TEXT
