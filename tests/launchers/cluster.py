"""A real Slurm of one node, this machine: munged, slurmctld and slurmd with files of their own."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.waiting import said, wait_until

CONFIG = """\
ClusterName=test
SlurmctldHost={node}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SwitchType=switch/none
ReturnToService=2
KillWait=5
NodeName={node} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8
"""
PROGRAMS = ("munged", "slurmctld", "slurmd", "srun", "sbatch", "scancel", "scontrol", "sinfo")


@contextmanager
def running(folder: Path) -> Iterator[None]:
    """SLURM_CONF in the environment leads to it."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    found = {name: shutil.which(name, path=path) for name in PROGRAMS}
    if missing := [name for name, where in found.items() if where is None]:
        pytest.skip(f"no {missing[0]}: apt-get install slurm-wlm munge")
    if os.geteuid() != 0:
        pytest.skip("Slurm's daemons are started by root alone")
    for part in ("state", "spool"):
        (folder / part).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(2)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    config = folder / "slurm.conf"
    node = socket.gethostname().partition(".")[0]
    cpus = os.cpu_count()
    config.write_text(CONFIG.format(node=node, folder=folder, ports=ports, cpus=cpus))
    munge = ["--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.sock",
             f"--pid-file={folder}/munged.pid", f"--seed-file={folder}/munge.seed",
             f"--log-file={folder}/munged.log"]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch, ExitStack() as daemons:
        patch.setenv("SLURM_CONF", str(config))
        for name in [name for name in os.environ if name.startswith("SLURM_JOB")]:
            patch.delenv(name)
        for name, options in (
            ("munged", munge),
            ("slurmctld", ["-D", "-c", "-f", str(config)]),
            ("slurmd", ["-D", "-c", "-f", str(config)]),
        ):
            daemons.enter_context(_daemon([found[name], *options], folder / f"{name}.out"))
            if name == "munged":
                wait_until(lambda: (folder / "munge.sock").exists(), 20)
        wait_until(lambda: _state() == "idle", 40)
        yield


@contextmanager
def _daemon(argv: list[str | None], output: Path) -> Iterator[None]:
    with (
        output.open("wb") as file,
        subprocess.Popen(
            [str(word) for word in argv], stdout=file, stderr=file, start_new_session=True
        ) as process,
    ):
        try:
            yield
            assert process.poll() is None, said(output)
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _state() -> str:
    answer = ["sinfo", "--noheader", "--format=%T"]
    return subprocess.run(answer, capture_output=True, text=True, check=False).stdout.strip()
