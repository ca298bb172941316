"""events.jsonl: one JSON line for everything that happened at a peer, for people and programs.

`time` is in unix seconds. `peer` is whom something was sent to or is said about, `from` where
something came from; the folder says whose log it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol


class Log(Protocol):
    """Where a runner tells what happens."""

    def write(self, event: str, **fields: Any) -> None:
        """`from_` stands for the field `from`, which Python keeps for itself."""


class EventLog:
    """Appends; every line is on its way to the disk when `write` returns."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a+b", buffering=0)
        if self._file.tell():  # a line torn by a crash must not swallow the next one
            self._file.seek(-1, 2)
            if self._file.read(1) != b"\n":
                self._file.write(b"\n")

    def write(self, event: str, **fields: Any) -> None:
        """One line."""
        line = {"time": round(time.time(), 3), "event": event}
        line |= {name.rstrip("_"): value for name, value in fields.items()}
        self._file.write(json.dumps(line).encode() + b"\n")

    def close(self) -> None:
        self._file.close()


class EventReader:
    """Reads what was appended since the last call; skips torn lines."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offset = 0

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
