"""What a peer's events.jsonl tells: when it fine-tuned, whom it merged, what moved.

The lines may be torn, partial or written by something else: what isn't as expected is left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bt.eventlog import EventReader


@dataclass(frozen=True)
class Merge:
    """The peer took in version `version` of `source`."""

    time: float  # unix seconds
    source: str
    version: int


@dataclass(frozen=True)
class Fit:
    """A fine-tune that ended at `time` and made `version`."""

    time: float  # unix seconds
    seconds: float
    version: int
    dice: float | None  # on the training slices, while the weights still change
    bytes_in: float  # received by this peer until then


@dataclass(frozen=True)
class History:
    """One peer's, oldest first."""

    fits: tuple[Fit, ...]
    merges: tuple[Merge, ...]
    began: float | None  # unix seconds

    def published(self, version: int) -> float | None:
        """When it had `version` to give, unix seconds."""
        return next((fit.time for fit in self.fits if fit.version == version), None)


def read_history(path: Path) -> History:
    """Of the events.jsonl at `path`; without events if there is none."""
    fits: list[Fit] = []
    merges: list[Merge] = []
    began: float | None = None
    bytes_in = 0.0
    for event in EventReader(path).new():
        time = number(event.get("time"))
        if time is None:
            continue
        began = time if began is None else min(began, time)
        version = _count(event)
        match event["event"]:
            case "weights" if "from" in event:
                bytes_in += number(event.get("bytes")) or 0.0
            case "merge" if version is not None and isinstance(event.get("from"), str):
                merges.append(Merge(time, event["from"], version))
            case "fit" if version is not None:
                seconds = max(0.0, number(event.get("seconds")) or 0.0)
                fits.append(Fit(time, seconds, version, number(event.get("dice")), bytes_in))
    return History(tuple(fits), tuple(merges), began)


def number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        found = float(value)
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def _count(event: Mapping[str, Any]) -> int | None:
    """3 of version "3", and of "1.3": incarnation 1, count 3."""
    count = str(event.get("version", "")).rpartition(".")[2]
    return int(count) if count.isdecimal() and len(count) < 10 else None
