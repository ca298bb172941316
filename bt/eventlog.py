"""events.jsonl: one JSON line for everything that happened at a peer, for people and programs.

`time` is in unix seconds. `peer` is whom something was sent to or is said about, `from` where
something came from; the folder says whose log it is.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

warn: Callable[[str], None] = logging.getLogger("bt").warning  # a person, by default


class Log(Protocol):
    """Where a runner tells what happens."""

    def write(self, event: str, **fields: Any) -> bool:
        """Whether it could; `from_` stands for the field `from`, which Python keeps for itself."""


class EventLog:
    """Appends; every line is on its way to the disk when `write` returns.

    A disk that takes no more costs lines, and nothing else: `tell` hears of it once, and the log
    says how many are missing when it goes on.
    """

    def __init__(self, path: Path, tell: Callable[[str], None] = warn) -> None:
        self._path = path
        self._tell = tell
        self._missing = 0
        self._torn = False  # the last line has no end: it must not swallow the next one
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        if self._file.tell():
            self._file.seek(-1, 2)
            self._torn = self._file.read(1) != b"\n"

    def write(self, event: str, **fields: Any) -> bool:
        """One line; False if the disk did not take it."""
        now = round(time.time(), 3)
        if self._missing:
            line = {"time": now, "event": "unlogged", "events": self._missing}
            if self._append(line):
                self._missing = 0
        line = {"time": now, "event": event}
        line |= {name.rstrip("_"): value for name, value in fields.items()}
        if not self._missing and self._append(line):
            return True
        self._missing += 1
        return False

    def _append(self, line: dict[str, Any]) -> bool:
        data = b"\n" * self._torn + json.dumps(line).encode() + b"\n"
        try:
            written = self._file.write(data)
        except OSError as exc:
            if not self._missing:
                why = exc.strerror or exc
                self._tell(f"can't write {self._path}: {why}; training goes on without a log")
            return False
        self._torn = written < len(data)
        if self._torn and not self._missing:
            self._tell(f"{self._path}: the disk is full; training goes on without a log")
        return not self._torn

    def close(self) -> None:
        self._file.close()


class EventReader:
    """Reads what was appended since the last call; skips torn lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

    def skip(self) -> None:
        """Go to the end: what is there already is of no interest, and may be much."""
        with suppress(FileNotFoundError):
            self._offset = self._path.stat().st_size

    def new(self) -> Iterator[dict[str, Any]]:
        """The new events, oldest first; none while the file does not exist."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read()
        except FileNotFoundError:
            return
        whole = data.rpartition(b"\n")[0]
        self._offset += len(whole) + 1 if whole else 0
        for line in whole.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict) and "event" in event:
                yield event
