"""What people see of a run, from its events and its results."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bt.console import (
    PeerView,
    Progress,
    Seen,
    duration,
    print_cohort,
    print_results,
    print_scores,
)
from bt.data.checks import BadScan
from bt.data.labels import known_table
from bt.data.layouts import Cohort
from bt.eventlog import EventLog

FIT = {"event": "fit", "version": "1", "loss": 0.5, "dice": None, "seconds": 2.0, "time": 110.0}


def console(*, terminal: bool = False) -> tuple[Console, io.StringIO]:
    output = io.StringIO()
    return Console(
        file=output, markup=False, width=100, force_terminal=terminal, highlight=False
    ), output


def test_a_peers_state_follows_its_events() -> None:
    view = PeerView("peer-1")
    events: list[tuple[dict[str, Any], str]] = [
        ({"event": "start", "version": "0", "samples": 4, "time": 100.0}, "training"),
        ({"event": "pull", "peer": "peer-2"}, "pulling"),
        ({"event": "weights", "from": "peer-2", "bytes": 10}, "pulling"),
        ({"event": "merge", "from": "peer-2", "version": "3"}, "training"),
        ({"event": "weights", "peer": "peer-3", "bytes": 7}, "training"),
        (FIT, "training"),
        (FIT | {"version": "2", "time": 120.0}, "done"),
        ({"event": "end", "reason": "interrupted"}, "interrupted"),
    ]
    lines = []
    for event, state in events:
        lines.append(view.take(event, rounds=2))
        assert view.state == state, event
        if event is FIT:
            assert view.merged == ["peer-2 v3"]
            assert view.seconds_left(2, now=113.0) == pytest.approx(7)
    assert (view.bytes_in, view.bytes_out, view.version) == (10, 7, "2")
    assert "merged peer-2 v3" in (lines[5] or "")
    assert "merged nobody" in (lines[6] or "")
    assert view.seconds_left(2, now=130.0) == 0


def test_plain_lines_when_not_a_terminal_and_only_of_this_start(tmp_path: Path) -> None:
    logs = {name: EventLog(tmp_path / name / "events.jsonl") for name in ("a", "b")}
    logs["a"].write("gone", peer="old", reason="from an earlier start")
    out, text = console()
    with Progress(out, {name: tmp_path / name for name in logs}, 2) as progress:
        logs["a"].write("start", version="0", samples=1)
        logs["b"].write("reject", peer="a", reason="sent [nonsense] " + "x" * 120)
        progress.update()
        assert text.getvalue().splitlines() == [
            "a  starts at version 0 with 1 scan",
            "b  set a aside: sent [nonsense] " + "x" * 120,
        ]
    for log in logs.values():
        log.close()


@pytest.mark.parametrize(
    ("events", "says"),
    [
        ([{"event": "gone", "peer": "C", "reason": "silent for 5 s"}], "has not met C: silent"),
        (
            [
                {"event": "version", "from": "C", "version": "1", "state": "training"},
                {"event": "gone", "peer": "C", "reason": "silent for 5 s"},
            ],
            "lost C: silent",
        ),
        (
            [{"event": "unshared", "reason": "can't leave the model"}],
            "can't leave the model; trai",
        ),
        ([{"event": "limit", "peer": "C", "reason": "why"}], "answers C no more often: why"),
    ],
)
def test_what_is_said_of_others(events: list[dict[str, Any]], says: str) -> None:
    view = PeerView("a")
    lines = [view.take(event, 2) for event in events]
    assert (lines[-1] or "").startswith(says)


def test_a_live_table_on_a_terminal(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    out, text = console(terminal=True)
    with Progress(out, {"peer-1": tmp_path}, 9) as progress:
        log.write("start", version="0", samples=4)
        progress.update()
        assert "nobody" not in text.getvalue(), "it has not had the chance"
        log.write("fit", version="1", loss=0.25, dice=0.75, seconds=1.0)
        for peer in ("peer-2", "peer-3"):
            log.write("version", from_=peer, version="1", state="training")
        for peer in ("peer-2", "peer-2", "peer-3"):
            log.write("gone", peer=peer, reason="silent")
        progress.update()
    log.close()
    assert text.getvalue().split("slices, while")[-1].count("lost") == 2, "the same line twice"
    for shown in ("peer-1", "merged from", "1/9", "0.250", "0.750", "nobody"):
        assert shown in text.getvalue()


def test_durations() -> None:
    assert [duration(s) for s in (None, 7, 187.2, 3753)] == ["", "0:07", "3:07", "1:02:33"]


def test_the_tables_at_the_end_show_what_is_there_and_what_is_not() -> None:
    peer = {
        "dice": None, "structures": None, "version": 3, "samples": 4, "merged": 2,
        "bytes_in": 2_500_000, "bytes_out": 0, "seconds_training": 61, "seconds_waiting": 1,
    }  # fmt: skip
    scored = peer | {"dice": 0.5, "structures": {"core [bright]": 0.5, "rare": None}}
    aggregated = {"dice": 0.625, "structures": {"core [bright]": 0.625, "rare": None}}
    out, text = console()
    peers = {"peer-1": peer, "peer-2": scored, "peer-3": scored | {"dice": 0.25}}
    print_results(out, {"peers": peers, "aggregated": aggregated})
    assert "mean of peers   lowest   highest" in text.getvalue()
    lines = {line.split("  ")[0].strip(): line for line in text.getvalue().splitlines()}
    assert "2.5" in lines["peer-1"]
    assert "1:01" in lines["peer-1"]
    assert "0.625" in lines["core [bright]"], "a structure's name was taken for markup"
    assert lines["rare"].split() == ["rare", "–", "–", "–", "–"]
    assert lines["mean"].split() == ["mean", "0.625", "0.375", "0.250", "0.500"]
    out, text = console()
    print_results(out, {"peers": {"A": scored}, "aggregated": aggregated})  # bt peer
    lines = {line.split("  ")[0].strip(): line for line in text.getvalue().splitlines()}
    assert lines["Dice on the test scans"].split()[-2:] == ["aggregated", "A"]
    assert lines["rare"].split() == ["rare", "–", "–"]
    assert lines["mean"].split() == ["mean", "0.625", "0.500"]
    out, text = console()
    print_results(out, {"peers": {"A": peer}, "aggregated": aggregated | {"dice": None}})
    assert text.getvalue().splitlines()[-1].startswith("No Dice: there were no test scans")
    out, text = console()
    print_results(out, {"peers": {}, "aggregated": None})  # interrupted before anything happened
    assert "aggregated" not in text.getvalue()


@pytest.mark.parametrize(
    ("width", "gap", "last"), [(120, 3, "waiting"), (80, 2, "waiting"), (60, 2, "out")]
)
def test_peers_have_their_whole_names_however_narrow(width: int, gap: int, last: str) -> None:
    peer = {
        "dice": 0.5, "structures": {"core": 0.5}, "version": 12, "samples": 140, "merged": 24,
        "bytes_in": 12_345_678_900, "bytes_out": 9_345_678_900, "seconds_training": 41_234,
        "seconds_waiting": 13_753,
    }  # fmt: skip
    names = ["hospital-a", "hospital-b"]
    output = io.StringIO()
    print_results(
        Console(file=output, width=width),
        {"peers": dict.fromkeys(names, peer), "aggregated": None},
    )
    lines = output.getvalue().splitlines()
    assert [line.split()[0] for line in lines[3:-1]] == names
    assert lines[1].rstrip().endswith(last)
    assert f"0.500{' ' * gap}     12" in lines[3]
    assert "…" not in output.getvalue()


def test_who_is_in_the_aggregated_model() -> None:
    peer = {
        "dice": None, "structures": None, "version": 3, "samples": 4, "merged": 2,
        "bytes_in": 0, "bytes_out": 0, "seconds_training": 61, "seconds_waiting": 1,
        "aggregated_of": {"A": "3", "B": "1.2"},
    }  # fmt: skip
    aggregated: dict[str, Any] = {"dice": None, "structures": {}}
    last = "The aggregated model is made of A v3, B v1.2."
    for told in (aggregated, aggregated | {"peers": peer["aggregated_of"]}):  # bt peer; a run
        out, text = console()
        print_results(out, {"peers": {"A": peer}, "aggregated": told})
        assert text.getvalue().splitlines()[-1] == last


def test_scores_with_surface_distances() -> None:
    out, text = console()
    scores = {
        "dice": 0.75, "structures": {"blob [a]": 0.75}, "scans": {"s1": 0.5, "s2": 1, "s3": None},
        "hd95_mm": {"blob [a]": 2.5}, "mean_surface_distance_mm": {"blob [a]": 0.125},
    }  # fmt: skip
    print_scores(out, scores)
    for shown in ("blob [a]", "2.500", "0.125", "2 scans, from 0.500 (s1) to 1.000 (s2)"):
        assert shown in text.getvalue()
    out, text = console()
    print_scores(out, scores | {"scans": {"s1": 0.5}})
    assert text.getvalue().splitlines()[-1] == "1 scan, 0.500 (s1)"


def test_a_cohort_in_ranges_along_each_axis() -> None:
    out, text = console()
    seen = Seen([(31, 50, 36), (43, 42, 36)], [(1.0, 1.0, 0.8), (1.0, 1.0, 1.25)], {9, 4})
    reason = "its label map is on another grid, " * 5 + "at the end"
    seen.bad.append(BadScan("s3", Path("s3.nii.gz"), reason))
    print_cohort(out, Cohort(Path("x"), "BIDS", (), known_table("freesurfer")), seen)
    lines = [" ".join(line.split()) for line in text.getvalue().splitlines()]
    for shown in (
        "scans 2 usable, 1 not",
        "voxels 31–43 × 42–50 × 36",
        "voxel size, mm 1 × 1 × 0.8–1.25",
        "taken as background 4, 9",
        f"unusable: s3: {reason}",
    ):
        assert shown in lines
