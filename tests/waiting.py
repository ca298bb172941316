"""Waiting for other processes: until something is so, not for long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

TIMEOUT_S = 100
_POLL_S = 0.02


def wait_until(happened: Callable[[], bool], seconds: float = TIMEOUT_S) -> None:
    """Raises AssertionError if it does not happen in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(_POLL_S)


def lives(number: int | str) -> bool:
    """Whether there is a process of this id that has not ended."""
    try:
        state = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def said(log: Path) -> str:
    """What is in a log so far; nothing if it is not there yet."""
    try:
        return log.read_text()
    except OSError:
        return ""
