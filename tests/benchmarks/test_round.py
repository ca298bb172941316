"""The share of a real run that was not training, from its events."""

import json
from pathlib import Path

import pytest

from benchmarks.children import Unavailable
from benchmarks.round import overhead


def _write(path: Path, *events: dict[str, object]) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))


def test_what_was_not_training_is_told_over_all_peers(tmp_path: Path) -> None:
    start = {"event": "start", "time": 100.0}
    fits = [{"event": "fit", "time": time, "seconds": 4.5} for time in (105.0, 110.0)]
    waiting = {"event": "end", "time": 500.0}  # for others: no part of its rounds
    _write(tmp_path / "a/events.jsonl", start, *fits, waiting)
    _write(tmp_path / "b/events.jsonl", start, {"event": "fit", "time": 110.0, "seconds": 10.0})
    found = overhead(tmp_path)
    assert found.share == pytest.approx(1 / 20)
    assert found.rounds == 3


def test_a_folder_without_fine_tunes_is_no_run(tmp_path: Path) -> None:
    _write(tmp_path / "a/events.jsonl", {"event": "start", "time": 1.0})
    with pytest.raises(Unavailable, match="no peer's events"):
        overhead(tmp_path)
