"""What the reports of many peers add up to: the federation, as far as it can be seen from here.

A peer that does not answer is known by what the others have heard of it; any of them may lie, so
what a peer says of itself counts for more. Times are of the watcher's own clock: reports tell how
long ago something was, so no two clocks need to agree.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_low
from typing import Any, NamedTuple

from bt.outside import NO_ADDRESS, NoAnswer
from bt.versions import NEVER_TRAINED, Version
from transports.reports import MILLION, Known, Report

_MOST_EVENTS = 4000
_MOST_FITS = 4000  # of each peer
_MOST_TOLD_OF = 100  # peers that nobody asks: names are easily made up
NO_ANSWER = "no answer"
PROBLEMS = ("reject", "gone", "limit")  # events that a person may want to look into


class Event(NamedTuple):
    """Something that happened at `peer`, at `at` of the watcher's clock."""

    at: float
    peer: str
    event: str
    other: str | None
    text: str


@dataclass
class _Seen:
    """Of one peer, what it last said."""

    report: Report | None = None
    at: float = float("-inf")
    silent: str | None = None  # why it did not answer, the last time
    rate_in: float | None = None  # bytes a second, between its last two reports
    rate_out: float | None = None
    last_event: int = 0
    fits: dict[int, tuple[float | None, float | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """What is to be seen of one peer."""

    name: str
    state: str  # a phase, or done, finished, leaving, gone, no answer
    version: Version
    rounds: int | None = None
    samples: int | None = None
    behind: float | None = None  # versions made since by those it has merged, mean over them
    loss: float | None = None
    dice: float | None = None
    merges: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    rate_in: float | None = None  # bytes/s
    rate_out: float | None = None
    training_s: float | None = None
    waiting_s: float | None = None
    uptime_s: float | None = None
    age_s: float | None = None  # of its last report
    silent: str | None = None  # why it does not answer
    pulling: tuple[str, ...] = ()
    # Whom it has set aside, and who has set it aside: seconds left, why.
    aside: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    aside_by: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    asked: bool = True  # False: others tell of it, and that may be all there is of it


class Federation:
    """Take what peers answer; look at the rows, the vectors and the events.

    `closed`: nobody takes part but those asked, whomever they tell of.
    """

    def __init__(self, *, closed: bool = False) -> None:
        self._closed = closed
        self._seen: dict[str, _Seen] = {}
        self.events: deque[Event] = deque(maxlen=_MOST_EVENTS)  # oldest first

    @property
    def names(self) -> list[str]:
        """Those asked, sorted; then those told of, as many as most of the others tell of."""
        asked = sorted(self._seen)
        if self._closed:
            return asked
        told = Counter(name for report in self._reports().values() for name in report.others)
        further = sorted(told.keys() - self._seen.keys(), key=lambda name: (-told[name], name))
        return asked + further[:_MOST_TOLD_OF]

    def take(self, answers: Mapping[str, Report | NoAnswer], now: float) -> None:
        """One look at them all."""
        fresh: list[Event] = []
        for name, answer in answers.items():
            seen = self._seen.setdefault(name, _Seen())
            if isinstance(answer, NoAnswer):
                seen.silent, seen.rate_in, seen.rate_out = answer.reason, None, None
                continue
            fresh += self._take_report(name, seen, answer, now)
        self.events.extend(sorted(fresh, key=lambda event: event.at))

    def _take_report(self, name: str, seen: _Seen, report: Report, now: float) -> list[Event]:
        before = seen.report
        again = before is None or report.uptime_ms < before.uptime_ms  # seen first, or restarted
        if before is not None and (passed := now - seen.at) > 0:
            seen.rate_in = max(0, report.bytes_in - before.bytes_in) / passed
            seen.rate_out = max(0, report.bytes_out - before.bytes_out) / passed
        if again:
            seen.last_event = 0
        news = [e for e in report.events if e.number > seen.last_event]
        seen.last_event = max([seen.last_event, *(e.number for e in news)])
        for fit in report.fits:
            seen.fits[fit.made] = _unit(fit.loss_millionths), _unit(fit.dice_millionths)
        for made in [*seen.fits][:-_MOST_FITS]:  # those it told of first
            del seen.fits[made]
        seen.report, seen.at, seen.silent = report, now, None
        return [Event(now - e.ago_ms / 1000, name, e.event, e.peer, e.text) for e in news]

    # What is to be seen -----------------------------------------------------------------------
    def newest(self) -> dict[str, Version]:
        """The newest version of each peer: as it says, or of a silent one as the others heard."""
        return {name: self._newest(name) for name in self.names}

    def _newest(self, name: str) -> Version:
        seen = self._seen.get(name, _Seen())
        own = NEVER_TRAINED if seen.report is None else Version(*seen.report.version)
        if seen.report is not None and not seen.silent:
            return own
        heard = [known.heard for known in self._told_of(name) if known.heard is not None]
        # The middle one: a liar alone can't move it far. It may be older than what it said itself.
        return max(own, Version(*median_low(heard))) if heard else own

    def merged(self) -> dict[str, dict[str, Version]]:
        """Of each peer that has answered, its version vector."""
        names = set(self.names)
        return {
            name: {
                other: Version(*known.merged)
                for other, known in report.others.items()
                if known.merged and other in names
            }
            for name, report in self._reports().items()
        }

    def curve(self, name: str) -> list[tuple[int, float | None, float | None]]:
        """(version's count, loss, Dice) of a peer's fine-tunes, oldest first."""
        seen = self._seen.get(name)
        return [] if seen is None else [(made, *seen.fits[made]) for made in sorted(seen.fits)]

    def rows(self, now: float) -> list[Row]:
        """One for each peer, sorted by name."""
        newest, merged = self.newest(), self.merged()
        aside_by: dict[str, dict[str, tuple[int, str]]] = {}
        for who, report in self._reports().items():
            for whom, aside in report.aside.items():
                aside_by.setdefault(whom, {})[who] = aside.left_s, aside.reason
        return [
            self._row(name, newest, merged.get(name), aside_by.get(name, {}), now)
            for name in self.names
        ]

    def _row(
        self,
        name: str,
        newest: Mapping[str, Version],
        merged: Mapping[str, Version] | None,
        aside_by: Mapping[str, tuple[int, str]],
        now: float,
    ) -> Row:
        seen = self._seen.get(name, _Seen(silent="nobody has asked it"))
        report = seen.report
        if report is None:
            state = self._second_hand(name)
            return Row(
                name, state, newest[name], silent=seen.silent, aside_by=aside_by,
                asked=name in self._seen,
            )  # fmt: skip
        # Of those that nobody asks, not those that another may have made up.
        met = {o: v for o, v in newest.items() if o in self._seen or o in report.others}
        curve = self.curve(name)
        _, loss, dice = curve[-1] if curve else (0, None, None)
        state = report.phase if report.state == "training" else report.state
        return Row(
            name,
            self._second_hand(name) if seen.silent else state,
            newest[name],
            report.rounds,
            report.samples,
            _behind(name, met, merged or {}),
            loss,
            dice,
            report.merges,
            report.bytes_in,
            report.bytes_out,
            seen.rate_in,
            seen.rate_out,
            report.training_ms / 1000,
            report.waiting_ms / 1000,
            report.uptime_ms / 1000,
            now - seen.at,
            seen.silent,
            report.pulling if not seen.silent else (),
            {whom: (aside.left_s, aside.reason) for whom, aside in report.aside.items()},
            aside_by,
        )

    def _second_hand(self, name: str) -> str:
        """The state of a peer that does not answer, as most of the others have it."""
        told = self._told_of(name)
        gone = sum(known.gone for known in told)
        if told and 2 * gone > len(told):
            return "gone"
        met = [known for known in told if known.state and not known.gone]
        if met and self._seen.get(name, _Seen()).silent == NO_ADDRESS:
            return str(min(met, key=lambda known: known.ago_s or 0).state)  # as last heard
        ended = [known.state for known in told if known.state in ("finished", "leaving")]
        return ended[0] if ended and not self._seen.get(name, _Seen()).report else NO_ANSWER

    def _told_of(self, name: str) -> list[Known]:
        return [r.others[name] for r in self._reports().values() if name in r.others]

    def _reports(self) -> dict[str, Report]:
        return {name: seen.report for name, seen in self._seen.items() if seen.report is not None}


def _unit(millionths: int | None) -> float | None:
    return None if millionths is None else millionths / MILLION


def _behind(
    name: str, newest: Mapping[str, Version], merged: Mapping[str, Version]
) -> float | None:
    whom = merged or {other: version for other, version in newest.items() if other != name}
    missing = [lag(newest[other], merged.get(other)) for other in whom]
    return sum(missing) / len(missing) if missing else None


def lag(newest: Version, merged: Version | None) -> int:
    """How many versions were made since the one that was merged."""
    if merged is None or merged.incarnation != newest.incarnation:
        return newest.count
    return max(0, newest.count - merged.count)


def to_json(federation: Federation, now: float, *, simulated: bool) -> dict[str, Any]:
    """All of it, for machines and for the page."""
    rows = federation.rows(now)
    names = [row.name for row in rows]
    merged = federation.merged()
    return {
        "simulated": simulated,
        "peers": {row.name: _row_json(row, federation) for row in rows},
        "merged": {
            name: [None if (v := vector.get(other)) is None else list(v) for other in names]
            for name, vector in merged.items()
        },
        "events": [
            {"seconds_ago": round(now - e.at, 1), "peer": e.peer, "event": e.event,
             "about": e.other, "text": e.text}
            for e in federation.events
        ],
    }  # fmt: skip


def _row_json(row: Row, federation: Federation) -> dict[str, Any]:
    def rounded(value: float | None, digits: int = 1) -> float | None:
        return None if value is None else round(value, digits)

    return {
        "state": row.state,
        "version": list(row.version),
        "rounds": row.rounds,
        "samples": row.samples,
        "versions_behind": rounded(row.behind, 2),
        "loss": row.loss,
        "dice": row.dice,
        "merges": row.merges,
        "bytes_in": row.bytes_in,
        "bytes_out": row.bytes_out,
        "bytes_in_per_s": rounded(row.rate_in, 0),
        "bytes_out_per_s": rounded(row.rate_out, 0),
        "seconds_training": rounded(row.training_s),
        "seconds_waiting": rounded(row.waiting_s),
        "seconds_up": rounded(row.uptime_s),
        "seconds_since_report": rounded(row.age_s),
        "asked": row.asked,
        "no_answer": row.silent,
        "pulling": list(row.pulling),
        "set_aside": {whom: list(aside) for whom, aside in row.aside.items()},
        "set_aside_by": {who: list(aside) for who, aside in row.aside_by.items()},
        "curve": federation.curve(row.name),
    }
