"""bt experiment as it is typed: what it leaves, going on after an interruption, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bt.modelfile import read_model
from bt.models import restore
from tests.test_cli import Bt, bt, misused, refused  # noqa: F401
from tests.waiting import wait_until

SMALL = [
    "--filters", 2, "--precision", "float32", "--device", "cpu", "--test-scans", 2,
    "--epochs", 1, "--rounds", 2, "--jobs", 2, "--out", "out",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.processes
def test_it_leaves_the_papers_tables_and_a_second_start_does_only_what_is_missing(
    bt: Bt,  # noqa: F811
    cohort: Path,
) -> None:
    ask = ["experiment", "uniform", "--data", cohort, *SMALL, "--clients", 2, "--seeds", 1]
    ended = bt(*ask, "--methods", "braintorrent", "fedavg")
    assert ended.code == 0, ended.err
    assert "2 parts to run" in ended.out
    assert "braintorrent less fedavg, aggregated: " in ended.out
    result = Path("out/parts/2x2-3/braintorrent/seed-0/result.json")
    written = result.stat().st_mtime_ns

    dry = bt(*ask, "--methods", "braintorrent", "fedavg", "only-client", "--dry-run")
    assert dry.code == 0
    assert "1 part to run" in dry.out
    ended = bt(*ask, "--methods", "braintorrent", "fedavg", "only-client", "--json")
    assert ended.code == 0, ended.err
    assert "1 part to run" in ended.err
    assert result.stat().st_mtime_ns == written

    content = json.loads(Path("out/experiment.json").read_text())
    assert json.loads(ended.out) == content
    check_form(content, cohort)
    _, labels = restore(*read_model(result.parent / "aggregated.safetensors"))
    assert labels.structures[1:] == tuple(content["settings"]["structures"])
    refused(
        bt(*ask, "--methods", "fedavg", "--filters", 3),
        "was run with other settings (filters)",
    )


def check_form(content: dict[str, Any], cohort: Path) -> None:
    settings = content["settings"]
    assert settings["experiment"] == "uniform"
    assert settings["data"] == cohort.name
    assert settings["clients"] == 2
    assert settings["client_names"] == ["peer-1", "peer-2"]
    assert settings["scans_per_client"] == [3, 2]
    assert settings["test_scans"] == 2
    assert settings["seeds"] == [0]
    methods = content["methods"]
    assert list(methods) == ["braintorrent", "fedavg", "only-client"]
    for name, method in methods.items():
        assert [len(of_seed) for of_seed in method["clients"]] == [2]
        assert (method["aggregated"] == [None]) == (name == "only-client")
        (curve,) = method["curve"]
        assert [point["round"] for point in curve] == [1, 2]
        assert curve[-1]["aggregated"] == method["aggregated"][0]
        assert curve[-1]["bytes"] == method["bytes"][0]
        assert curve[-1]["clients"] == pytest.approx(sum(method["clients"][0]) / 2)
        (of_clients,) = method["client_structures"]
        assert set(of_clients["peer-1"]) == set(settings["structures"])
    scans = methods["fedavg"]["scans"][0]
    assert len(scans) == 2
    assert methods["fedavg"]["aggregated"][0] == pytest.approx(
        sum(of_seed[0] for of_seed in methods["fedavg"]["structures"].values()) / 2
    )
    assert {one["b"] for one in content["comparisons"]} == {"fedavg", "only-client"}
    assert content["also"] == []


@pytest.mark.slow
@pytest.mark.processes
def test_killed_it_goes_on_with_what_is_missing(cohort: Path, tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "bt", "experiment", "uniform", "--data", str(cohort)]
    argv += [*map(str, SMALL), "--clients", "2", "--seeds", "3", "--methods", "only-client"]
    argv += ["--jobs", "1", "--out", str(tmp_path / "out")]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    first = tmp_path / "out/parts/2x2-3/only-client/seed-0/result.json"
    wait_until(lambda: first.exists() or process.poll() is not None)
    assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()
    written = first.stat().st_mtime_ns
    ended = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
    assert ended.returncode == 0, ended.stderr
    assert first.stat().st_mtime_ns == written
    content = json.loads((tmp_path / "out/experiment.json").read_text())
    assert (tmp_path / "out/report.html").is_file()
    assert content["settings"]["seeds"] == [0, 1, 2]
    assert len(content["methods"]["only-client"]["clients"]) == 3


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["uniform", "--clients", 2, 9], "too few labelled scans"),
        (["uniform", "--clients", 1], "--clients 1: a federation needs at least 2"),
        (["uniform", "--clients", 2, 2], "--clients: each number at most once"),
        (["uniform", "--clients", 2, 3, 4, "--scans-per-client", 1, 2], "2 numbers for 3 of"),
        (["uniform", "--methods", "braintorent"], "--methods 'braintorent': expected some of"),
        (["uniform", "--methods", "fedavg", "fedavg"], "--methods: each at most once"),
        (["uniform", "--clients", 2, "--seeds", 0], "--seeds 0: expected at least 1"),
        (["uniform", "--clients", 2, "--jobs", 0], "--jobs 0: expected at least 1"),
        (["uniform", "--clients", 2, "--test-scans", 0], "--test-scans 0"),
        (["uniform", "--adam", "gone"], "--adam 'gone': expected fresh or kept"),
        (["uniform", "--fanout", 0], "--fanout 0: expected at least 1"),
        (["uniform", "--clients", 2, "--merge", "trimmed"], "needs the models of 2 other peers"),
        (["uniform", "--filters", 0], "filters = 0: expected at least 1"),
        (["bands", "--by", "age", "--bands", 2], "no scan has a column 'age': there are no"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else "",
)
def test_what_is_refused(bt: Bt, cohort: Path, args: list[object], says: str) -> None:  # noqa: F811
    refused(bt("experiment", args[0], "--data", cohort, *SMALL, *args[1:]), says)
    assert not Path("out/experiment.json").exists()


def test_several_values_after_one_option_need_a_number_each(bt: Bt, cohort: Path) -> None:  # noqa: F811
    misused(bt("experiment", "uniform", "--data", cohort, "--clients", 2, "x"), "x")
    misused(bt("experiment", "uniform", "--data", cohort, "--seeds", 2, 3), "3")
    misused(bt("experiment", "bands", "--data", cohort), "--by")
    refused(bt("experiment", "bands", "--by", "age"), "needs --data")
