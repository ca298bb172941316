"""Event logs may be torn, partial or of something else."""

from __future__ import annotations

from pathlib import Path

from bt.report.history import Merge, read_history
from tests.report.samples import write_events


def test_fits_and_merges_are_found_in_order(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    write_events(log, [
        {"time": 1, "event": "start", "version": "0"},
        {"time": 2, "event": "weights", "from": "b", "bytes": 10},
        {"time": 2, "event": "weights", "peer": "b", "bytes": 99},
        {"time": 2, "event": "merge", "from": "b", "version": "1.3"},
        {"time": 5, "event": "fit", "version": "4", "seconds": 2, "dice": 0.5},
    ])  # fmt: skip
    history = read_history(log)
    assert history.merges == (Merge(2.0, "b", 3),)
    (fit,) = history.fits
    assert (fit.version, fit.seconds, fit.dice, fit.bytes_in) == (4, 2.0, 0.5, 10.0)
    assert history.began == 1.0
    assert history.published(4) == 5.0
    assert history.published(3) is None


def test_what_is_not_an_event_is_left_out(tmp_path: Path) -> None:
    log = tmp_path / "events.jsonl"
    write_events(log, [
        {"time": "soon", "event": "fit", "version": "1"},
        {"time": 1, "event": "fit", "version": "many"},
        {"time": 1, "event": "merge", "from": ["b"], "version": "1"},
        {"event": "fit", "version": "1"},
        {"time": float("nan"), "event": "fit", "version": "1"},
    ])  # fmt: skip
    with log.open("a") as file:
        file.write('{"time": 1, "event": "fit", "ver')
    history = read_history(log)
    assert not history.fits
    assert not history.merges
    assert not read_history(tmp_path / "nowhere.jsonl").fits
