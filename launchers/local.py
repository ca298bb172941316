"""Processes on this machine, each on a lifeline: none outlives the launcher, however it dies.

Or, detached, each left running, with a log and its process id in the folder it keeps.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from launchers import lifeline
from launchers.base import Command, LaunchError, Plan
from launchers.shell import expanded, left_running

_POLL_S = 0.05
_LAST_S = 5.0
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


class LocalLauncher:
    """Starts every command as a child in a session of its own.

    Ctrl-C in the terminal then reaches the launcher alone, which ends the children in order.
    """

    def __init__(self, *, detach: bool = False) -> None:
        self._detach = detach

    def plan(self, commands: tuple[Command, ...]) -> Plan:
        if self._detach:
            return Plan(tuple(_detached(command) for command in commands))
        files = {
            Path(expanded(command.folder or ""), expanded(path)): text
            for command in commands
            for path, text in command.files.items()
        }
        return Plan(tuple(replace(command, files={}) for command in commands), files)

    def start(self, plan: Plan) -> LocalRun:
        return LocalRun().all(plan)


def _detached(command: Command) -> Command:
    there = left_running(replace(command, folder=None))
    return Command(command.name, ("sh", "-c", there), folder=command.folder)


def _check_folders(plan: Plan) -> None:
    """Before anything is written, which might make them. Raises LaunchError."""
    for command in plan.commands:
        if command.folder is not None and not Path(expanded(command.folder)).is_dir():
            raise LaunchError(
                f"{command.name} can't be started: its folder is set to {command.folder}, which "
                "does not exist on this machine; make it, or change the setting"
            )


class LocalRun:
    """Running children, by name.

    `mortal` children are programs that know nothing of lifelines and start others themselves:
    mpirun, srun. They end (SIGTERM) with the thread that starts them. To stop they get SIGUSR1:
    that they all hand on and wait, but of SIGTERM some make SIGKILL within the second.
    """

    def __init__(self, *, mortal: bool = False) -> None:
        self._reading, self._writing = os.pipe()  # both ends close on exec by default
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._mortal = mortal

    def all(self, plan: Plan) -> LocalRun:
        """Start everything, or nothing. Raises LaunchError."""
        try:
            _check_folders(plan)
            plan.write_files()
            for command in plan.commands:
                self.add(command)
        except LaunchError:
            self.stop(grace_s=0.0)
            raise
        except OSError as exc:
            self.stop(grace_s=0.0)
            why = f"{exc.filename}: {exc.strerror}" if exc.filename else exc
            where = "" if command.folder is None else f" (in {command.folder})"
            raise LaunchError(f"{command.name} can't be started{where}: {why}") from exc
        return self

    def add(self, command: Command, *, stdin: int = subprocess.DEVNULL) -> None:
        """Start one more child."""
        line = {} if self._mortal else {lifeline.VARIABLE: str(self._reading)}
        with ExitStack() as stack:
            output = None
            if command.log is not None:
                command.log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(command.log.open("ab"))
            self._children[command.name] = subprocess.Popen(
                [expanded(word) for word in command.argv],
                bufsize=0,
                cwd=None if command.folder is None else expanded(command.folder),
                env=os.environ | dict(command.env) | line,
                stdin=stdin,
                stdout=output,
                stderr=output,
                pass_fds=() if self._mortal else (self._reading,),
                preexec_fn=_end_with_parent if self._mortal else None,
                start_new_session=True,
            )

    def poll(self) -> dict[str, int | None]:
        return {name: child.poll() for name, child in self._children.items()}

    def wait(self, timeout_s: float | None = None) -> dict[str, int | None]:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while None in (codes := self.poll()).values():
            if until is not None and time.monotonic() >= until:
                break
            time.sleep(_POLL_S)
        return codes

    def stop(self, grace_s: float = 4.0) -> None:
        self._signal(signal.SIGUSR1 if self._mortal else signal.SIGTERM)
        self.wait(grace_s)
        if self._mortal:
            self._signal(signal.SIGTERM)  # the programs end what they have started
            self.wait(min(grace_s, _LAST_S))
        self._signal(signal.SIGKILL)
        for child in self._children.values():
            child.wait()
        for descriptor in (self._reading, self._writing):
            if descriptor >= 0:
                os.close(descriptor)
        self._reading = self._writing = -1

    def _signal(self, number: signal.Signals) -> None:
        for child in self._children.values():
            if child.poll() is None:
                child.send_signal(number)


_LIBC = ctypes.CDLL(None)


def _end_with_parent() -> None:
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
