"""What bt train says of the scans before anything starts."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from bt.config import Config, change
from bt.federation import prepare
from tests.conftest import renumber, write_cohort


def said_of(folder: Path, **settings: object) -> list[str]:
    told = io.StringIO()
    ask = {"path": str(folder), "peers": 2, "test_scans": 1, **settings}
    prepare(change(Config(), ask), Console(file=told, width=80))
    return told.getvalue().splitlines()


@pytest.mark.parametrize("skip_bad", [False, True])
def test_label_numbers_in_no_table_are_named_once(tmp_path: Path, skip_bad: bool) -> None:
    folder = write_cohort(tmp_path / "blobs", range(5))
    assert not any("background" in line for line in said_of(folder))
    renumber(folder, 2, 7)
    if skip_bad:  # reads the others twice
        (folder / "imagesTr" / "blob_0.nii.gz").write_bytes(b"broken")
    line = f"label number 7 is not in the table and counts as background: bt data show {folder}"
    assert said_of(folder, skip_bad=skip_bad).count(line) == 1
