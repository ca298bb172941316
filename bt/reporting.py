"""What a peer tells of itself to whoever watches it: a Report, made when somebody asks.

A Reporter stands between the runner and its log, and so sees everything that happens; the rest is
read off the Peer. However many ask, a report is made a few times a second at most.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from bt.eventlog import Log
from bt.gate import Allowance
from bt.others import Other
from bt.protocol import Peer
from bt.wording import printable
from transports import messages, reports
from transports.base import Frame
from transports.reports import Aside, Fit, Happened, Known, Report

_FRESH_S = 0.25  # so long a report is as good as new
_LINES_PER_S, _LINES_AT_ONCE = 5, 5000  # of a peer: some rounds a second, for some minutes
_FLOODS = f"from here on no more than {_LINES_PER_S} lines a second about it: it floods the log"
_MOST_MILLIONTHS = 2**53 - 1
_TOLD = frozenset({"merge", "start", "fit", "reject", "gone", "limit", "end"})


class Story:
    """The last events of a peer and its fine-tunes, from what is written to its log."""

    def __init__(self) -> None:
        self.fits: deque[Fit] = deque(maxlen=reports.MOST_FITS)
        self.events: deque[tuple[int, float, str, str | None, str]] = deque(
            maxlen=reports.MOST_EVENTS
        )
        self._number = 0

    def take(self, event: Mapping[str, Any], now: float) -> None:
        """A line of the log."""
        what, text = event["event"], ""
        match what:
            case "merge" | "start":
                text = f"v{event['version']}"
            case "fit":
                text = f"v{event['version']}"
                count = int(str(event["version"]).rpartition(".")[2])
                scores = _millionths(event["loss"]), _millionths(event["dice"])
                self.fits.append(Fit(count, *scores))
            case _:
                text = short(str(event["reason"]))
        self._number += 1
        peer = event.get("peer", event.get("from"))
        self.events.append((self._number, now, what, peer, text))

    def told(self, now: float) -> tuple[Happened, ...]:
        """The events as a report has them."""
        return tuple(
            Happened(number, max(0, round((now - at) * 1000)), what, peer, text)
            for number, at, what, peer, text in list(self.events)
        )


class Reporter:
    """A Log that passes on what is written to it, and answers those who ask.

    Of each other peer only so many lines: who says something new all the time would fill the disk.
    What was merged is always told.
    """

    def __init__(
        self,
        log: Log,
        peer: Peer,
        totals: Mapping[str, float],
        clock: Callable[[], float],
    ) -> None:
        self._log = log
        self._peer = peer
        self._totals = totals
        self._clock = clock
        self._story = Story()
        self._began_at: float | None = None
        self._made: tuple[float, Report, tuple[Frame, ...]] | None = None
        self._lines: dict[str, Allowance] = {}  # by peer
        self._flooded: set[str] = set()

    def write(self, event: str, **fields: Any) -> bool:
        """Pass it on, and remember it if it is worth telling."""
        now = self._clock()
        peer = fields.get("peer") or fields.get("from_")
        written = not peer or event == "merge" or self._has_room(peer, now)
        if written:
            written = self._log.write(event, **fields)
        if self._began_at is None:
            self._began_at = now
        if event in _TOLD:
            named = {name.rstrip("_"): value for name, value in fields.items()}
            self._story.take({"event": event} | named, now)
        return written

    def _has_room(self, peer: str, now: float) -> bool:
        """Whether the log takes one more line about `peer`."""
        if (lines := self._lines.get(peer)) is None:
            lines = self._lines[peer] = Allowance(_LINES_PER_S, _LINES_AT_ONCE)
        if lines.take(now):
            return True
        if peer not in self._flooded:
            self._flooded.add(peer)
            self._log.write("unlogged", peer=peer, reason=_FLOODS)
        return False

    def report(self) -> Report:
        """How this peer is doing. Any thread may ask."""
        return self._fresh()[0]

    def frames(self) -> tuple[Frame, ...]:
        """The same, as a message."""
        return self._fresh()[1]

    def _fresh(self) -> tuple[Report, tuple[Frame, ...]]:
        now = self._clock()
        if self._made is None or now >= self._made[0] + _FRESH_S:
            report = self._make(now)
            self._made = now, report, messages.encode(report)
        return self._made[1:]

    def _make(self, now: float) -> Report:
        peer, totals = self._peer, self._totals
        others, pulling = peer.look()
        others = dict(others)  # in one go: another thread may be asking
        training_s = totals["seconds_training"]
        return Report(
            peer.me,
            peer.state,
            peer.phase.value,
            (peer.version.incarnation, peer.version.count),
            peer.rounds,
            peer.samples,
            {name: self._known(name, others[name], now) for name in _last_heard(others)},
            tuple(pulling)[: reports.MOST_PULLS],
            _set_aside(peer, now),
            tuple(self._story.fits),
            self._story.told(now),
            merges=int(totals["merged"]),
            bytes_in=int(totals["bytes_in"]),
            bytes_out=int(totals["bytes_out"]),
            training_ms=round(training_s * 1000),
            waiting_ms=max(0, round((totals["seconds"] - training_s) * 1000)),
            uptime_ms=round((now - (now if self._began_at is None else self._began_at)) * 1000),
        )

    def _known(self, name: str, other: Other, now: float) -> Known:
        merged = self._peer.vector.get(name)
        return Known(
            None if merged is None else (merged.incarnation, merged.count),
            None if other.known is None else other.known.version,
            None if other.known is None else other.known.state,
            None if other.heard_at < 0 else max(0, round(now - other.heard_at)),
            other.gone,
        )


def _set_aside(peer: Peer, now: float) -> dict[str, Aside]:
    return {
        aside.peer: Aside(max(1, round(aside.until - now)), short(aside.reason))
        for aside in peer.set_aside[: reports.MOST_ASIDE]
    }


def _last_heard(others: Mapping[str, Other]) -> Iterable[str]:
    """Those a report has room for."""
    if len(others) <= reports.MOST_OTHERS:
        return others
    return heapq.nlargest(reports.MOST_OTHERS, others, key=lambda name: others[name].heard_at)


def _millionths(value: float | None) -> int | None:
    if value is None or not 0 <= value * reports.MILLION <= _MOST_MILLIONTHS:
        return None  # a loss below zero is no Dice loss; nor is NaN
    return round(value * reports.MILLION)


def short(text: str) -> str:
    """On one line, printable, and no longer than a report takes."""
    line = printable(" ".join(text.split()))
    most = reports.LONGEST_TEXT
    return line if len(line) <= most else line[: most - 1] + "…"
