"""The seam every launcher fills: a job becomes a plan (pure text), a plan becomes a run."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class LaunchError(Exception):
    """The job can't be started; the message says what to do."""


@dataclass(frozen=True)
class Command:
    """One process: what to run, what to add to its environment, where its output goes."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None

    def __str__(self) -> str:
        settings = [f"{key}={shlex.quote(value)}" for key, value in sorted(self.env.items())]
        output = [">>", shlex.quote(str(self.log)), "2>&1"] if self.log else []
        return " ".join([*settings, shlex.join(self.argv), *output])


@dataclass(frozen=True)
class Plan:
    """Everything that will run, readable and comparable before it does."""

    commands: tuple[Command, ...]

    def __str__(self) -> str:
        return "\n".join(str(command) for command in self.commands)


class Run(Protocol):
    """Started processes."""

    def poll(self) -> dict[str, int | None]:
        """Exit code by name; None while running; negative: killed by that signal."""

    def wait(self, timeout_s: float | None = None) -> dict[str, int | None]:
        """Wait until all ended, or for `timeout_s` seconds."""

    def stop(self, grace_s: float = 4.0) -> None:
        """Ask all to end; kill what still runs after `grace_s` seconds."""


class Launcher(Protocol):
    """How N peers get started."""

    def plan(self, commands: tuple[Command, ...]) -> Plan: ...

    def start(self, plan: Plan) -> Run: ...
