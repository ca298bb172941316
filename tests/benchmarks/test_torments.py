"""bt bench chaos and hostile: what they need, and what a person sees of what they found."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import chaos, hostile
from benchmarks.peers import Site, rounds_of, waits_s
from benchmarks.results import Attack, Fault, Found, Undisturbed
from benchmarks.table import show
from bt.eventlog import EventLog


def test_without_scans_they_say_so(tmp_path: Path) -> None:
    missing = tmp_path / "no-scans"
    for found in (
        chaos.run(True, lambda now: None, missing, seeds=1),
        hostile.run(True, lambda now: None, missing),
    ):
        (reason,) = found.skipped.values()
        assert "no-scans" in reason
        assert not found.failed


def test_the_tables_say_what_was_measured() -> None:
    found = Found()
    found.cases["chaos/kill -9"] = Fault(3, 5.02, 0.3, 0, 7.125)
    found.cases["chaos/dice"] = Undisturbed(20, [0.7, 0.8], [0.74, 0.78], 0.01, [5, 5])
    found.cases["hostile/noise"] = Attack(10_000, 2.0, 0, 420.0, 431.0, 425.0, 7, "hung up on")
    text = io.StringIO()
    show(Console(file=text, width=160), "torments", found)
    said = text.getvalue()
    for part in ("5.02", "7.12", "0.750 undisturbed, 0.760 with 20 kills in 2 runs (+0.010)"):
        assert part in said
    for part in ("10,000", "420 431 425", "hung up on"):
        assert part in said


def test_a_rounds_wait_is_from_when_it_could_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr("bt.eventlog.time.time", lambda: now)
    log = EventLog(tmp_path / "events.jsonl")
    for at, event, fields in (
        (10.0, "start", {"version": "0"}),
        (18.0, "fit", {"version": "1", "seconds": 3.0}),
        (18.5, "persist", {"version": "1"}),
        (19.5, "fit", {"version": "2", "seconds": 1.0}),
    ):
        now = at
        log.write(event, **fields)
    log.close()
    site = Site("A", tmp_path, [])
    assert rounds_of(site) == [(10.0, 5.0), (18.5, 0.0)]
    assert waits_s(site, since=12.0) == [0.0]
    assert site.resumed == 0
    assert site.count == 1
