"""bt peer: what one peer says at its end."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bt import config as configs
from bt import peer
from bt.config import Config, change
from bt.contacts import Contacts
from bt.outcome import Outcome
from tests.conftest import renumber, write_cohort

TOTALS: dict[str, float] = dict.fromkeys(
    ("merged", "bytes_in", "bytes_out", "seconds_training", "seconds"), 0
)


@pytest.mark.parametrize(
    ("reason", "aggregated_of", "code", "says"),
    [
        ("finished", {"A": "1"}, peer.MERGED_NOBODY, "Were the other peers running"),
        ("finished", {"A": "1", "B": "1"}, peer.MERGED_NOBODY, "try more --rounds"),
        ("interrupted", {}, 130, "the same command goes on"),
    ],
)
def test_the_last_line_says_what_to_do(
    cohort: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    aggregated_of: dict[str, str],
    code: int,
    says: str,
) -> None:
    def run(node: peer.Node, trainer: Any, connect: Any) -> Outcome:
        return Outcome(reason, TOTALS, trainer.weights(), aggregated_of=aggregated_of)

    monkeypatch.setattr(peer.Node, "run", run)
    settings = {"path": str(cohort), "filters": 2, "precision": "float32", "test_scans": 1}
    config = change(Config(), settings)
    text = io.StringIO()
    console = Console(file=text, markup=False, width=100)
    contacts = Contacts("A", "tcp://127.0.0.1:7301", {"B": None})
    assert peer.run(config, contacts, None, tmp_path / "A", console) == code
    assert says in text.getvalue().splitlines()[-1]
    assert configs.read(tmp_path / "A" / "config.toml").federation.peers == 2


@pytest.mark.parametrize("alone", [True, False])
def test_label_numbers_in_no_table_are_named_where_no_run_has_done_so(
    tmp_path: Path, alone: bool
) -> None:
    folder = write_cohort(tmp_path / "blobs", range(3))
    renumber(folder, 2, 7)
    settings = {"path": str(folder), "filters": 2, "precision": "float32", "test_scans": 1}
    config, text = change(Config(), settings), io.StringIO()
    own = peer.own_scans(config, None)
    peer.build_trainer(config, "A", own, Console(file=text, markup=False, width=100), alone=alone)
    assert ("label number 7 is not in the table" in text.getvalue()) is alone
