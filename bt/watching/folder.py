"""The peers of a run on this machine, from the event logs in its folder: nobody is asked.

What a report has and a log does not (who is being trained for, right now) is guessed from the last
line. Logs may be torn or written by something else: what isn't as expected is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bt import config as configs
from bt.config import ConfigError
from bt.eventlog import EventReader
from bt.others import Timing
from bt.outside import NoAnswer
from bt.report.history import number
from bt.reporting import Story, short
from bt.trust import Trust
from bt.versions import NEVER_TRAINED, Version
from transports.base import valid_name
from transports.header import MAX_INTEGER, MAX_VERSION
from transports.reports import MOST_ASIDE, MOST_OTHERS, MOST_PULLS, STATES, Aside, Known, Report

_EVENTS = "events.jsonl"
_PAUSE_S = Timing().set_aside_s


class NothingToWatch(Exception):
    """There is no federation to be seen; the message says what to do."""


class Folder:
    """`runs/NAME` of bt train, or the folder of a single peer. Raises NothingToWatch."""

    simulated = False
    closed = False  # peers of this run may be on other machines

    def __init__(self, folder: Path) -> None:
        self.label = str(folder)
        found = {p.parent.name: p for p in sorted(folder.glob(f"*/{_EVENTS}"))}
        if (folder / _EVENTS).exists():
            found = {folder.resolve().name: folder / _EVENTS}
        self._logs = {name: _Log(name, path) for name, path in found.items() if valid_name(name)}
        if not self._logs:
            raise NothingToWatch(
                f"{folder} has no {_EVENTS} in it or below it: name the folder of a run, or ask "
                "its peers (--roster and --keys, or --peer)"
            )
        try:
            self._rounds = configs.read(folder / "config.toml").federation.rounds
        except ConfigError:
            self._rounds = 0

    def look(self, now: float) -> dict[str, Report | NoAnswer]:
        """How each is doing, as its log has it."""
        wall = time.time()
        return {name: log.report(self._rounds, wall) for name, log in self._logs.items()}

    def close(self) -> None:
        """Nothing is open."""


class _Log:
    """One peer's, read on with every look."""

    def __init__(self, name: str, path: Path) -> None:
        self._name = name
        self._reader = EventReader(path)
        self._story = Story()
        self._version = NEVER_TRAINED
        self._samples = 0
        self._phase, self._ended = "idle", ""
        self._merging: dict[str, Version] = {}  # in the round going on
        self._merged: dict[str, Version] = {}
        self._heard: dict[str, tuple[Version, str, float]] = {}
        self._gone: set[str] = set()
        self._pulling: dict[str, None] = {}
        self._trust: dict[str, Trust] = {}
        self._merges = 0
        self._bytes_in = self._bytes_out = self._training_s = self._earlier_s = 0.0
        self._started: float | None = None
        self._last = 0.0

    def report(self, rounds: int, now: float) -> Report | NoAnswer:
        """How it is doing at `now`, unix seconds."""
        for event in self._reader.new():
            try:
                self._take(event)
            except (KeyError, TypeError, ValueError, OverflowError):
                continue
        if self._started is None:
            return NoAnswer("its log is empty")
        state = "done" if rounds and self._version.count >= rounds else "training"
        if self._ended:
            state = "finished" if self._ended == "finished" else "leaving"
        up_s = max(0.0, (self._last if self._ended else now) - self._started)
        others = sorted({*self._heard, *self._merged, *self._gone})[:MOST_OTHERS]
        aside = {
            name: Aside(max(1, round(trust.until - now)), short(trust.reason))
            for name, trust in self._trust.items()
            if trust.withheld(now) and not self._ended
        }
        return Report(
            self._name,
            state,
            "idle" if self._ended else self._phase,
            _pair(self._version),
            rounds or self._version.count,
            self._samples,
            {name: self._known(name, now) for name in others},
            tuple(self._pulling)[:MOST_PULLS] if self._phase == "pulling" else (),
            dict(list(aside.items())[:MOST_ASIDE]),
            tuple(self._story.fits),
            self._story.told(now),
            self._merges,
            round(self._bytes_in),
            round(self._bytes_out),
            round(self._training_s * 1000),
            max(0, round((self._earlier_s + up_s - self._training_s) * 1000)),
            round(up_s * 1000),
        )

    def _known(self, name: str, now: float) -> Known:
        merged, heard = self._merged.get(name), self._heard.get(name)
        return Known(
            None if merged is None else _pair(merged),
            None if heard is None else _pair(heard[0]),
            None if heard is None else heard[1],
            None if heard is None else max(0, round(now - heard[2])),
            name in self._gone,
        )

    def _take(self, event: Mapping[str, Any]) -> None:
        at = number(event.get("time"))
        if at is None:
            return
        peer = event.get("peer", event.get("from"))
        if peer is not None and not valid_name(peer):
            return
        what, ours = event["event"], "from" not in event
        match what:
            case "start":
                self._earlier_s += 0.0 if self._started is None else self._last - self._started
                self._started, self._ended, self._phase = at, "", "training"
                self._version, self._samples = _version(event), _count(event["samples"])
                self._pulling.clear()
            case "version" if peer is not None and event["state"] in STATES:
                self._heard[peer] = _version(event), event["state"], at
                self._gone.discard(peer)
            case "pull" if ours and peer is not None:
                self._phase, self._pulling[peer] = "pulling", None
            case "weights" if ours:
                self._bytes_out += _count(event["bytes"])
            case "weights" if peer is not None:
                self._bytes_in += _count(event["bytes"])
                self._pulling.pop(peer, None)
            case "merge" if peer is not None:
                self._phase, self._merging[peer] = "training", _version(event)
                self._trust.setdefault(peer, Trust()).merit()
            case "fit":
                self._version, self._phase = _version(event), "training"
                self._merges += len(self._merging)
                self._merged.update(self._merging)
                self._merging.clear()
                self._training_s += number(event.get("seconds")) or 0.0
            case "reject" if peer is not None:
                trust = self._trust.setdefault(peer, Trust())
                trust.strike(str(event["reason"]), at, _PAUSE_S)
                self._pulling.pop(peer, None)
            case "gone" if peer is not None:
                self._gone.add(peer)
                self._pulling.pop(peer, None)
            case "end":
                self._ended = str(event["reason"])
        self._last = at
        self._story.take(event, at)


def _version(event: Mapping[str, Any]) -> Version:
    incarnation, _, count = str(event["version"]).rpartition(".")
    found = Version(int(incarnation or 0), int(count))
    if not all(0 <= part <= MAX_VERSION for part in found):
        raise ValueError(event["version"])
    return found


def _pair(version: Version) -> tuple[int, int]:
    return version.incarnation, version.count


def _count(value: Any) -> int:
    count = int(value)
    if not 0 <= count <= MAX_INTEGER:
        raise ValueError(value)
    return count
