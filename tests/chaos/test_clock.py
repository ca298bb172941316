"""The wall clock decides nothing: it may jump by years, either way, at any moment."""

from __future__ import annotations

import ast
import itertools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bt
import transports
from benchmarks.peers import Federation, wait_for
from tests.test_runner import FakeTrainer, Peers, result

YEAR_S = 365 * 86_400
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
        gone: list[Any] = [
            event for name in federation.names for event in federation.events(name, "gone")
        ]
        # Who has finished leaves the network, and others that are about to may notice.
        silent = [event for event in gone if event["reason"] != "not in the network"]
        assert not silent, "somebody was waited for too long, or not long enough"
        assert len({event["time"] for event in federation.events("a", "fit")}) > 1
    finally:
        federation.close()


@pytest.mark.soak
@pytest.mark.processes
def test_a_real_peer_whose_system_clock_jumps(
    federate: Callable[..., Federation], tmp_path: Path
) -> None:
    """A's libc tells it another time of day, libzmq and torch included; B's tells the true one."""
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None)
    if library is None:
        pytest.skip("no libfaketime here: apt-get install faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    federation = federate("A", "B", rounds=100_000, more=("--ping-timeout", "2"))
    a, b = federation["A"], federation["B"]
    setting = (f"LD_PRELOAD={library}", f"FAKETIME_TIMESTAMP_FILE={clock}", "FAKETIME_NO_CACHE=1")
    a.prefix = ("env", *setting, "FAKETIME_DONT_FAKE_MONOTONIC=1")
    federation.start()
    wait_for(lambda: a.events("merge") and b.events("merge"), "they merge each other")
    for years in (-9, 30, 0):
        gone = len(a.events("gone")), len(b.events("gone"))
        (tmp_path / "new").write_text(f"{years:+d}y")
        (tmp_path / "new").rename(clock)
        jumped = time.time() + years * YEAR_S
        wait_for(
            lambda jumped=jumped: abs(a.events()[-1]["time"] - jumped) < 3600,
            f"A's clock is {years} years off",
        )
        merged = len(a.events("merge")), len(b.events("merge"))
        wait_for(
            lambda merged=merged: (
                len(a.events("merge")) > merged[0] + 2 and len(b.events("merge")) > merged[1] + 2
            ),
            "they go on merging each other",
        )
        assert (len(a.events("gone")), len(b.events("gone"))) == gone, "nobody was lost"
    assert a.code is b.code is None
    assert a.events("reject") == b.events("reject") == []


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
