"""Waiting for other processes: until something is so, not for long enough."""

from __future__ import annotations

import time
from collections.abc import Callable

TIMEOUT_S = 100
_POLL_S = 0.02


def wait_until(happened: Callable[[], bool], seconds: float = TIMEOUT_S) -> None:
    """Raises AssertionError if it does not happen in time."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(_POLL_S)
