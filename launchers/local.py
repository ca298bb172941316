"""Processes on this machine, each on a lifeline: none outlives the launcher, however it dies."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import ExitStack

from launchers import lifeline
from launchers.base import Command, LaunchError, Plan

_POLL_S = 0.05


class LocalLauncher:
    """Starts every command as a child in a session of its own.

    Ctrl-C in the terminal then reaches the launcher alone, which ends the children in order.
    """

    def plan(self, commands: tuple[Command, ...]) -> Plan:
        return Plan(commands)

    def start(self, plan: Plan) -> LocalRun:
        run = LocalRun()
        try:
            for command in plan.commands:
                run.add(command)
        except OSError as exc:
            run.stop(grace_s=0.0)
            raise LaunchError(f"{command.name} can't be started: {exc}") from exc
        return run


class LocalRun:
    """Running children, by name."""

    def __init__(self) -> None:
        self._reading, self._writing = os.pipe()  # both ends close on exec by default
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def add(self, command: Command) -> None:
        """Start one more child."""
        with ExitStack() as stack:
            output = None
            if command.log is not None:
                command.log.parent.mkdir(parents=True, exist_ok=True)
                output = stack.enter_context(command.log.open("ab"))
            self._children[command.name] = subprocess.Popen(
                command.argv,
                env=os.environ | dict(command.env) | {lifeline.VARIABLE: str(self._reading)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(self._reading,),
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
        self._signal(signal.SIGTERM)
        self.wait(grace_s)
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
