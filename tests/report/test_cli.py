"""bt report on the command line, and the page that bt train leaves."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from bt import options
from bt.cli import main
from bt.config import Config, change
from bt.report import cli, overlays
from bt.train import train
from tests.report.samples import experiment, write_experiment

SMALL = {
    "peers": 2, "scans_per_peer": 2, "test_scans": 3, "rounds": 2, "filters": 2, "epochs": 1,
    "precision": "float32", "device": "cpu", "transport": "inproc",
}  # fmt: skip


def bt(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bt", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code or 0
    assert isinstance(code, int)
    return code


@pytest.mark.usefixtures("undrawn")
def test_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_experiment(tmp_path, experiment(rounds=2, scans=3))
    assert bt(monkeypatch, "report", folder) == 0
    assert "report.html" in capsys.readouterr().out
    assert (folder / "report.html").is_file()


def test_without_the_extra_one_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert bt(monkeypatch, "report", tmp_path) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'braintorrent[report]'" in line
    screen = io.StringIO()
    assert (
        cli.report_of_run(tmp_path, "quicknat", Console(file=screen, width=200, markup=False))
        is None
    )
    (line,) = screen.getvalue().splitlines()
    assert "pip install 'braintorrent[report]'" in line


def test_a_report_that_fails_is_a_line_not_a_failed_run(tmp_path: Path) -> None:
    screen = io.StringIO()
    assert (
        cli.report_of_run(tmp_path, "quicknat", Console(file=screen, width=300, markup=False))
        is None
    )
    assert "neither a run nor an experiment" in screen.getvalue()


def test_a_report_that_is_interrupted_is_a_line_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bt.report.page.write_report", interrupted)
    screen = io.StringIO()
    console = Console(file=screen, width=300, markup=False)
    assert cli.report_of_run(tmp_path, "quicknat", console) is None
    (line,) = screen.getvalue().splitlines()
    assert line == "No report.html (KeyboardInterrupt); the run itself is whole"


def test_a_run_ends_with_a_report_of_three_scans(
    tmp_path: Path, cohort: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = change(Config(), SMALL | {"path": str(cohort)})
    screen = io.StringIO()
    code = train(
        config, tmp_path / "run", Console(file=screen, width=200, markup=False), as_json=False
    )
    assert code in (0, 3)
    assert "report.html" in screen.getvalue()
    made = {path.stem for path in (tmp_path / "run" / "report").iterdir()}
    assert {"scan-best", "scan-median", "scan-worst", "timeline", "vectors"} <= made
    page = (tmp_path / "run" / "report.html").read_text()
    assert "core [bright]" in page
    assert "all peers were threads of one process" in page
    monkeypatch.setattr(overlays, "_QUICK", 0)
    assert cli.report_of_run(tmp_path / "run", "quicknat", Console(file=screen)) is not None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "this network takes long" in page
    assert "The best test scan" not in page
