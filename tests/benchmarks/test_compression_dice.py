"""Trainings compared: what cannot be trained is one line, not a traceback."""

from __future__ import annotations

from pathlib import Path

from benchmarks import compression_dice


def test_a_training_that_fails_says_why(tmp_path: Path) -> None:
    said: list[str] = []
    found = compression_dice.run(True, said.append, tmp_path / "no-scans", seeds=1, options=[])
    assert said == ["Dice with compression none, seed 0"]
    (reason,) = found.failed.values()
    assert reason.startswith("bt train ended with")
    assert "no-scans" in reason
