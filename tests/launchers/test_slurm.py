"""Slurm: the exact scripts, and a real one that runs, stops, and goes back into the queue."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from launchers import slurm
from launchers.base import Command, LaunchError
from launchers.slurm import MPIRUN, SlurmJob, SlurmLauncher
from tests.launchers import cluster
from tests.launchers.test_mpirun import COMMANDS, RANKS
from tests.waiting import said, wait_until

FOLDER = Path("/run/it's x")
BATCH = """\
#!/bin/sh
#SBATCH --job-name=knees
#SBATCH --ntasks=3
#SBATCH '--output=/run/it'"'"'s x/job.txt'
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@60
#SBATCH --gpus-per-task=1
#SBATCH --nodelist=n1,n2
#SBATCH --partition=gpu

# 60 s before the time is up all peers leave, and the job goes back into the queue:
# every peer then goes on from its checkpoint.
trap 'again=yes; kill -USR1 "$step"' USR1
again=
module load python
export SLURM_HOSTFILE='/run/it'"'"'s x/nodes'
srun --job-name=knees --ntasks=3 --mpi=pmi2 --kill-on-bad-exit=1 --cpu-bind=none \
--gpus-per-task=1 --distribution=arbitrary sh '/run/it'"'"'s x/ranks.sh' &
step=$!
while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done
if [ -n "$again" ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
"""


def test_the_batch_script_is_text() -> None:
    launcher = SlurmLauncher(
        "knees", FOLDER, mpi="pmi2", gpus_per_peer=1, options=("--partition=gpu",),
        setup=("module load python",),
    )  # fmt: skip
    plan = launcher.plan(COMMANDS)
    assert plan.files == {
        Path("/w/s.toml"): "seed = 0\n",
        FOLDER / "ranks.sh": RANKS,
        FOLDER / "nodes": "n1\nn1\nn2\n",
        FOLDER / "job.sh": BATCH,
    }
    assert str(plan).splitlines()[-1] == "sbatch --parsable '/run/it'\"'\"'s x/job.sh'"


def test_inside_an_allocation_it_is_an_srun() -> None:
    commands = tuple(Command(name, ("bt",)) for name in "AB")
    launcher = SlurmLauncher("knees", Path("/run"), allocation="7", options=("--exclusive",))
    assert str(launcher.plan(commands)).splitlines()[-1] == (
        "srun --job-name=knees --ntasks=2 --mpi=none --kill-on-bad-exit=0 --cpu-bind=none "
        "--exclusive sh /run/ranks.sh >> /run/srun.txt 2>&1"
    )
    open_mpi = SlurmLauncher(
        "knees", Path("/run"), allocation="7", mpi=MPIRUN, mpirun=("mpirun", "--bind-to", "none")
    )
    assert str(open_mpi.plan(commands)).splitlines()[-1] == (
        "mpirun --bind-to none -n 2 sh /run/ranks.sh >> /run/mpirun.txt 2>&1"
    )


def test_how_ranks_find_each_other() -> None:
    assert [slurm.mpi_plugin(family) for family in (None, "MPICH", "Intel MPI", "Open MPI")] == [
        "none", "pmi2", "pmi2", MPIRUN,
    ]  # fmt: skip


def test_without_slurm_there_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(LaunchError, match="sinfo is not here: --via slurm is for Slurm clusters"):
        slurm.gpus()


# A real Slurm ---------------------------------------------------------------------------------
RANK = """
import os, signal, sys, time
def leave(number, frame):
    print(signal.Signals(number).name, flush=True)
    os._exit(0)
signal.signal(signal.SIGUSR1, leave)
name, ends = sys.argv[1:]
print(name, os.environ.get("SLURM_RESTART_COUNT", "0"), flush=True)
if not os.path.exists(ends):
    signal.pause()
"""


@pytest.fixture(scope="module")
def a_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with cluster.running(tmp_path_factory.mktemp("slurm")):
        yield


def commands(folder: Path) -> tuple[Command, ...]:
    return tuple(
        Command(
            name,
            (sys.executable, "-c", RANK, f"I'm {name}", str(folder / "ends")),
            log=folder / f"{name}.txt",
        )
        for name in ("A", "B")
    )


def logs(folder: Path) -> list[str]:
    return [said(folder / f"{name}.txt") for name in ("A", "B")]


@pytest.mark.processes
def test_a_job_is_requeued_before_its_time_is_up_and_then_stopped(
    a_cluster: None, tmp_path: Path
) -> None:
    assert slurm.gpus() is False
    folder = tmp_path / "it's"
    folder.mkdir()
    launcher = SlurmLauncher("knees", folder)
    run = launcher.start(launcher.plan(commands(folder)))
    assert isinstance(run, SlurmJob)
    first = ["I'm A 0\n", "I'm B 0\n"]
    wait_until(lambda: logs(folder) == first, 60)
    assert slurm.living(folder) == run.number
    # what Slurm itself does a minute before the end
    subprocess.run(["scancel", "--batch", "--signal=USR1", run.number], check=True)
    wait_until(lambda: logs(folder) == [f"{line}SIGUSR1\n" for line in first], 60)
    now = ["scontrol", "update", f"jobid={run.number}", "StartTime=now"]

    def runs_again() -> bool:
        """Not only once: while the job still ends, Slurm may put it off again."""
        subprocess.run(now, capture_output=True, check=False)
        again = ("I'm A 1\n", "I'm B 1\n")
        return all(log.endswith(end) for log, end in zip(logs(folder), again, strict=True))

    wait_until(runs_again, 60)
    assert run.poll() == {f"job {run.number}": None}
    run.stop(30)
    assert None not in run.poll().values()
    assert all(log.endswith("SIGUSR1\n") for log in logs(folder))
    assert slurm.living(folder) is None


@pytest.mark.processes
def test_a_job_that_ends_has_its_exit_code(a_cluster: None, tmp_path: Path) -> None:
    (tmp_path / "ends").touch()
    launcher = SlurmLauncher("knees", tmp_path)
    assert list(launcher.start(launcher.plan(commands(tmp_path))).wait(60).values()) == [0]
    assert logs(tmp_path) == ["I'm A 0\n", "I'm B 0\n"]
    broken = Command("B", ("false",))
    plan = launcher.plan((commands(tmp_path)[0], broken))
    assert list(launcher.start(plan).wait(60).values()) == [1]


@pytest.mark.processes
def test_srun_inside_an_allocation_hands_the_word_on(a_cluster: None, tmp_path: Path) -> None:
    shell = ["salloc", "--ntasks=2", "--no-shell"]
    granted = subprocess.run(shell, capture_output=True, text=True, check=True).stderr
    number = granted.split()[-1]
    try:
        os.environ["SLURM_JOB_ID"] = number  # taken back with the cluster's own
        launcher = SlurmLauncher("knees", tmp_path, allocation=number)
        run = launcher.start(launcher.plan(commands(tmp_path)))
        try:
            wait_until(lambda: logs(tmp_path) == ["I'm A 0\n", "I'm B 0\n"], 60)
        finally:
            run.stop(30)
        assert run.poll() == {"srun": 0}
        assert all(log.endswith("SIGUSR1\n") for log in logs(tmp_path))
    finally:
        del os.environ["SLURM_JOB_ID"]
        subprocess.run(["scancel", number], check=True)
