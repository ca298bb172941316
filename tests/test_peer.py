"""bt peer: what one peer says at its end."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bt import peer
from bt.config import Config, change
from bt.runner import Outcome

TOTALS: dict[str, float] = dict.fromkeys(
    ("merged", "bytes_in", "bytes_out", "seconds_training", "seconds"), 0
)


@pytest.mark.parametrize(
    ("aggregated_of", "says"),
    [({"A": "1"}, "Were the other peers running"), ({"A": "1", "B": "1"}, "try more --rounds")],
)
def test_who_merged_nobody_hears_why(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    aggregated_of: dict[str, str],
    says: str,
) -> None:
    def run(node: peer.Node, trainer: Any, connect: Any) -> Outcome:
        return Outcome("finished", TOTALS, trainer.weights(), aggregated_of=aggregated_of)

    monkeypatch.setattr(peer.Node, "run", run)
    settings = {"path": str(cohort), "filters": 2, "precision": "float32", "test_scans": 1}
    text = io.StringIO()
    console = Console(file=text, markup=False, width=100)
    config = change(Config(), settings)
    code = peer.run(config, "A", ["B"], None, tmp_path / "A", console, lambda limit: None)  # type: ignore[arg-type, return-value]
    assert code == peer.MERGED_NOBODY
    assert says in text.getvalue().splitlines()[-1]
