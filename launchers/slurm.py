"""Peers as the ranks of a Slurm job: srun inside an allocation, otherwise a batch script.

The batch script is a file to read and keep. Before the job's time is up, or when its node fails
or somebody preempts it, it goes back into the queue, and every peer on from its checkpoint.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from launchers.base import Command, LaunchError, Plan, Run
from launchers.local import LocalRun
from launchers.mpirun import OPEN_MPI
from launchers.ranks import files, in_order, slots

MPIRUN = "mpirun"  # instead of the name of a plugin of srun
JOB = "slurm-job"  # file with the number of a job, in its folder
_WARNING_S = 60
_POLL_S = 1.0
_TIMEOUT_S = 60
_WAITING = frozenset(
    "PENDING CONFIGURING REQUEUED REQUEUE_HOLD REQUEUE_FED RESIZING SUSPENDED SPECIAL_EXIT "
    "RUNNING COMPLETING STAGE_OUT SIGNALING STOPPED RESV_DEL_HOLD".split()
)


def mpi_plugin(family: str | None) -> str:
    """How ranks find each other; `family` as in launchers.mpirun, None: they need no MPI."""
    if family is None:
        return "none"
    return MPIRUN if family == OPEN_MPI else "pmi2"


@dataclass(frozen=True)
class SlurmLauncher:
    """`folder` is one that all nodes see; scripts and output go there."""

    name: str
    folder: Path
    mpi: str = "none"  # for srun --mpi; or mpirun, which then starts the ranks in its place
    mpirun: tuple[str, ...] = ()  # that mpirun and its options
    gpus_per_peer: int = 0
    options: tuple[str, ...] = ()  # of sbatch, or of srun inside an allocation
    setup: tuple[str, ...] = ()  # lines of the batch script, such as module load
    allocation: str | None = None  # number of the job we are in

    def plan(self, commands: tuple[Command, ...]) -> Plan:
        commands = in_order(commands)
        hosts = slots(commands)
        if hosts and sum(hosts.values()) < len(commands):
            raise LaunchError("slurm: name the host of every peer, or of none")
        written = files(commands, self._ranks)
        if hosts:
            nodes = [f"{command.host}\n" for command in commands]
            written[self._nodes] = "".join(nodes)
        step = self._step(len(commands), placed=bool(hosts))
        if self.allocation is not None:
            env = {"SLURM_HOSTFILE": str(self._nodes)} if hosts else {}
            starter = MPIRUN if self.mpi == MPIRUN else "srun"
            log = self.folder / f"{starter}.txt"
            return Plan((Command(starter, (*step, *self._ranked), env, log),), written)
        job = self.folder / "job.sh"
        written[job] = self._batch(step, len(commands), hosts)
        return Plan((Command("sbatch", ("sbatch", "--parsable", str(job))),), written)

    @property
    def _ranks(self) -> Path:
        return self.folder / "ranks.sh"

    @property
    def _nodes(self) -> Path:
        return self.folder / "nodes"

    @property
    def _ranked(self) -> tuple[str, ...]:
        return ("sh", str(self._ranks))

    def _step(self, count: int, *, placed: bool) -> tuple[str, ...]:
        if self.mpi == MPIRUN:
            return (*self.mpirun, "-n", str(count))
        argv = ["srun", f"--job-name={self.name}", f"--ntasks={count}", f"--mpi={self.mpi}"]
        argv += ["--kill-on-bad-exit=0" if self.mpi == "none" else "--kill-on-bad-exit=1"]
        argv += ["--cpu-bind=none"]
        if self.gpus_per_peer:
            argv.append(f"--gpus-per-task={self.gpus_per_peer}")
        if placed:
            argv.append("--distribution=arbitrary")
        return (*argv, *(self.options if self.allocation is not None else ()))

    def _batch(self, step: tuple[str, ...], count: int, hosts: Mapping[str, int]) -> str:
        wanted = [
            f"--job-name={self.name}",
            f"--ntasks={count}",
            f"--output={self.folder / 'job.txt'}",
            "--open-mode=append",
            "--requeue",
            f"--signal=B:USR1@{_WARNING_S}",
            *([f"--gpus-per-task={self.gpus_per_peer}"] if self.gpus_per_peer else []),
            *([f"--nodelist={','.join(hosts)}"] if hosts else []),
            *self.options,
        ]
        lines = [
            "#!/bin/sh",
            *(f"#SBATCH {shlex.quote(option)}" for option in wanted),
            "",
            f"# {_WARNING_S} s before the time is up all peers leave, and the job goes back into "
            "the queue:",
            "# every peer then goes on from its checkpoint.",
            "trap 'again=yes; kill -USR1 \"$step\"' USR1",
            "again=",
            *self.setup,
            *([f"export SLURM_HOSTFILE={shlex.quote(str(self._nodes))}"] if hosts else []),
            f"{shlex.join((*step, *self._ranked))} &",
            "step=$!",
            'while wait "$step"; code=$?; kill -0 "$step" 2>/dev/null; do :; done',
            'if [ -n "$again" ]; then exec scontrol requeue "$SLURM_JOB_ID"; fi',
            'exit "$code"',
        ]
        return "\n".join(lines) + "\n"

    def start(self, plan: Plan) -> Run:
        if self.allocation is not None:
            return LocalRun(mortal=True).all(plan)
        plan.write_files()
        (command,) = plan.commands
        number = _said(*command.argv).partition(";")[0]
        (self.folder / JOB).write_text(number + "\n", encoding="ascii")
        return SlurmJob(number, by_srun=self.mpi != MPIRUN)


class SlurmJob:
    """A batch job, wherever it is in the queue."""

    def __init__(self, number: str, *, by_srun: bool = True) -> None:
        self.number = number
        self._by_srun = by_srun
        self.state = "PENDING"
        self._code: int | None = None
        self._looked = 0.0

    def poll(self) -> dict[str, int | None]:
        if self._code is None and time.monotonic() - self._looked >= _POLL_S:
            self._looked = time.monotonic()
            try:
                shown = _said("scontrol", "--oneliner", "show", "job", self.number)
            except LaunchError as exc:
                if "Invalid job id" in str(exc):
                    raise
                return {f"job {self.number}": None}  # the controller is busy, or restarts
            found = dict(re.findall(r"(?:^|\s)(JobState|Reason|ExitCode)=(\S+)", shown))
            self.state = found.get("JobState", "unknown")
            if self.state not in _WAITING:
                code, _, number = found.get("ExitCode", "1:0").partition(":")
                failed = 0 if self.state == "COMPLETED" else 1
                self._code = int(code) or -int(number or 0) or failed
        return {f"job {self.number}": self._code}

    def wait(self, timeout_s: float | None = None) -> dict[str, int | None]:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while None in (codes := self.poll()).values():
            if until is not None and time.monotonic() >= until:
                break
            time.sleep(_POLL_S)
        return codes

    def stop(self, grace_s: float = 4.0) -> None:
        """Tell its ranks to leave; after `grace_s` seconds, or from the queue, cancel it."""
        if None not in self.poll().values():
            return
        if self.state == "RUNNING":
            # with srun the ranks are told, else the script, which tells its mpirun and requeues
            whom = () if self._by_srun else ("--batch",)
            _said("scancel", "--signal=USR1", *whom, self.number)
            until = time.monotonic() + grace_s
            while self.state == "RUNNING" and time.monotonic() < until:
                self.wait(_POLL_S)
        if None in self.poll().values():
            _said("scancel", self.number)
            self.wait(grace_s)


def cancel(folder: Path) -> str:
    """Cancel the job that was submitted from `folder`; its number. Raises LaunchError."""
    try:
        number = (folder / JOB).read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        raise LaunchError(f"no job was submitted from {folder}") from None
    _said("scancel", number)
    return number


def living(folder: Path) -> str | None:
    """The number of the job that was submitted from `folder`, while it waits or runs."""
    try:
        number = (folder / JOB).read_text(encoding="ascii").strip()
        job = SlurmJob(number)
        return number if None in job.poll().values() else None
    except (OSError, ValueError, LaunchError):
        return None  # none, or forgotten by now


def gpus() -> bool:
    """Whether the cluster has any."""
    return "gpu" in _said("sinfo", "--noheader", "--format=%G")


def _said(*argv: str) -> str:
    """What a command of Slurm prints. Raises LaunchError."""
    try:
        answer = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S,
            check=True,
        )  # fmt: skip
    except FileNotFoundError:
        raise LaunchError(f"{argv[0]} is not here: --via slurm is for Slurm clusters") from None
    except subprocess.TimeoutExpired:
        raise LaunchError(f"{argv[0]} has not answered in {_TIMEOUT_S} s") from None
    except subprocess.CalledProcessError as exc:
        said = (exc.stderr or exc.stdout).strip().splitlines()
        raise LaunchError(f"{argv[0]}: {said[-1] if said else 'failed'}") from None
    return answer.stdout.strip()
