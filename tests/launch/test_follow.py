"""Logs of many peers as one, and results of strangers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bt.config import Config
from bt.launch.follow import Logs
from bt.launch.results import checked, gather

PEER: dict[str, Any] = {
    "dice": 0.5, "structures": {"blob": 0.5}, "version": 3, "samples": 2, "merged": 1,
    "bytes_in": 10, "bytes_out": 20, "seconds_training": 1.5, "seconds_waiting": 0.5,
    "aggregated_of": {"A": "3", "B": "3"}, "ended": "finished",
    "aggregated": {"dice": 0.6, "structures": {"blob": 0.6}},
}  # fmt: skip


def test_whole_lines_with_their_peers_name(tmp_path: Path) -> None:
    text = io.StringIO()
    files = {"A": tmp_path / "a", "long": tmp_path / "b", "none": tmp_path / "c"}
    files["A"].write_text("of an earlier start\n")
    logs = Logs(Console(file=text, width=20, markup=True), files)
    files["A"].write_text("of an earlier start\nA  version 1/3\nhalf")
    evil = b"\x1b[2J[bold]evil \xff[/bold]\n\n"
    files["long"].write_bytes(b"1%\r2%\rdone\n" + evil + b"x" * 999 + b"\n")
    logs.update()
    files["A"].write_text("of an earlier start\nA  version 1/3\nhalf a line\n")
    logs.update()
    assert text.getvalue().splitlines() == [
        "A    │ version 1/3",
        "long │ done",
        "long │ \\x1b[2J[bold]evil �[/bold]",
        "long │ " + "x" * 500,
        "A    │ half a line",
    ]


def test_a_flood_without_a_line_end_is_shown_and_passed(tmp_path: Path) -> None:
    text = io.StringIO()
    log = tmp_path / "a"
    logs = Logs(Console(file=text, width=20), {"A": log})
    log.write_bytes(b"x" * (1 << 20) + b"\nlast\n")
    logs.update()
    logs.update()
    assert text.getvalue().splitlines()[-1] == "A │ last"


def test_results_are_shown_as_they_are() -> None:
    assert checked(PEER) == PEER


@pytest.mark.parametrize(
    "broken",
    [
        {"version": "3"}, {"samples": -1}, {"merged": True}, {"seconds_training": float("nan")},
        {"bytes_in": 1 << 80}, {"aggregated_of": ["A"]}, {"aggregated_of": {"\x1b": "1"}},
    ],
)  # fmt: skip
def test_results_that_are_none(broken: dict[str, Any]) -> None:
    assert checked(PEER | broken) is None
    assert checked(None) is None


def test_what_a_stranger_adds_is_left_out() -> None:
    strange = {"dice": "0.9", "structures": {"\x1b[2J": 1.0, "blob": "x"}, "evil": 1, "ended": 3}
    assert checked(PEER | strange) == PEER | {
        "dice": None, "structures": {"blob": None}, "ended": "unknown",
    }  # fmt: skip


def test_the_aggregate_is_scored_by_those_that_have_this_very_one(tmp_path: Path) -> None:
    other = {"aggregated_of": {"C": "3"}, "aggregated": {"dice": 0.0, "structures": {}}}
    better = {"aggregated": {"dice": 0.8, "structures": {"blob": 0.8}}}
    for name, peer in (("A", PEER), ("B", PEER | better), ("C", PEER | other)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "results.json").write_text(json.dumps(peer))
    asked: list[str] = []
    names = ("A", "B", "C")
    found = gather(names, tmp_path, "finished", 1.0, Config(), lambda n: not asked.append(n))  # type: ignore[func-returns-value]
    assert asked == ["A"]
    assert found["complete"] is True
    assert found["aggregated"]["dice"] == pytest.approx(0.7)
    assert found["aggregated"]["structures"] == {"blob": pytest.approx(0.7)}
    assert json.loads((tmp_path / "results.json").read_text()) == found
    (tmp_path / "C" / "results.json").unlink()
    assert gather(names, tmp_path, "finished", 1.0, Config(), bool)["ended"] == "failed"
