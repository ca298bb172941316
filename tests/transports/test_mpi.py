"""The MPI transport under a real mpirun, and its look at how it was launched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from transports.base import TransportError
from transports.mpi import check_launch, launched_size, pause_s

MEMBER = Path(__file__).with_name("mpi_member.py")
ROOT = MEMBER.parents[2]


def mpirun() -> str | None:
    beside = Path(sys.executable).parent / "mpirun"
    return str(beside) if beside.exists() else shutil.which("mpirun")


@pytest.mark.mpi
@pytest.mark.parametrize("program", ["conformance", "unread", "early_leaver", "too_large"])
def test_under_mpirun(program):
    pytest.importorskip("mpi4py")
    launcher = mpirun()
    if launcher is None:
        pytest.skip("no mpirun on this machine")
    environ = os.environ | {
        "PYTHONPATH": str(ROOT),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI 5
        "OMPI_MCA_rmaps_base_oversubscribe": "1",  # Open MPI 4
    }
    done = subprocess.run(
        [launcher, "-n", "3", sys.executable, str(MEMBER), program],
        env=environ,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_launcher_says_how_many():
    assert launched_size({}) is None
    assert launched_size({"OMPI_COMM_WORLD_SIZE": "4"}) == 4
    assert launched_size({"PMI_SIZE": "3"}) == 3
    assert launched_size({"SLURM_STEP_NUM_TASKS": "2"}) == 2
    assert launched_size({"PMI_SIZE": "many"}) is None


def test_singletons_of_another_mpi_are_refused():
    with pytest.raises(TransportError, match="started 4 ranks, but MPI says 1"):
        check_launch(1, {"PMI_SIZE": "4"})
    check_launch(4, {"PMI_SIZE": "4"})
    check_launch(1, {"PMI_SIZE": "1"})
    check_launch(1, {})


def test_who_is_idle_looks_less_often_and_who_is_not_at_once():
    assert pause_s(0.001, busy=False) == pause_s(60.0, busy=True) < 1e-4
    moment, second, hour = (pause_s(quiet_s, busy=False) for quiet_s in (0.1, 0.8, 3600.0))
    assert 1e-3 < moment < second < hour <= 1e-2
