"""The wall clock decides nothing: it may jump by years, either way, at any moment."""

from __future__ import annotations

import ast
import itertools
import time
from pathlib import Path
from typing import Any

import pytest

import bt
import transports
from tests.test_runner import FakeTrainer, Peers, result

YEAR_S = 3.2e7
# When something happened, and whether the clock is set: nothing waits for it, nothing stops.
TOLD_TO_PEOPLE = {"eventlog.py", "console.py", "preflight.py"}


def test_a_federation_does_not_notice_jumps_of_the_wall_clock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    jumps = itertools.cycle((0.0, -9 * YEAR_S, 30 * YEAR_S, 1.0))
    monkeypatch.setattr(time, "time", lambda: now + next(jumps))
    federation = Peers(tmp_path, ("a", "b", "c"), ping_s=5.0)
    try:
        began = time.monotonic()
        futures = [federation.start(name, FakeTrainer(), rounds=4) for name in federation.names]
        assert [result(future).reason for future in futures] == ["finished"] * 3
        assert time.monotonic() - began < 20
        events: list[Any] = [
            event for name in federation.names for event in federation.events(name, "gone")
        ]
        assert not events, "somebody was waited for too long, or not long enough"
        assert len({event["time"] for event in federation.events("a", "fit")}) > 1
    finally:
        federation.close()


def test_only_what_is_told_to_people_looks_at_the_wall_clock() -> None:
    """In all that a peer runs: protocol, runner, transports."""
    for package in (bt, transports):
        for path in Path(str(package.__file__)).parent.glob("*.py"):
            tree = ast.parse(path.read_text())
            calls = {
                ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)
            }
            if path.name not in TOLD_TO_PEOPLE:
                assert not calls & {"time.time", "datetime.now"}, path
