"""The seam every launcher fills: commands become a plan (pure text), a plan becomes a run."""

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
    """One process: what to run, where, what to add to its environment, where its output goes."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    log: Path | None = None  # on this machine
    host: str | None = None  # in the launcher's own words; None: this machine, or any
    folder: str | None = None  # to start in; None: this one, over ssh the home folder
    files: Mapping[str, str] = field(default_factory=dict)  # to write first: text by path
    keeps: str | None = None  # folder for the log and the process id of what is left running

    def __str__(self) -> str:
        settings = [f"{key}={shlex.quote(value)}" for key, value in sorted(self.env.items())]
        output = [">>", shlex.quote(str(self.log)), "2>&1"] if self.log else []
        line = " ".join([*settings, shlex.join(self.argv), *output])
        return line if self.folder is None else f"(cd {shlex.quote(self.folder)} && {line})"


@dataclass(frozen=True)
class Plan:
    """Everything that will be written and run, readable and comparable before it is."""

    commands: tuple[Command, ...]
    files: Mapping[Path, str] = field(default_factory=dict)  # written first, on this machine

    def __str__(self) -> str:
        files = [f"# {path}\n{text}" for path, text in self.files.items()]
        return "\n".join([*files, *(str(command) for command in self.commands)])

    def write_files(self) -> None:
        """Raises LaunchError."""
        for path, text in self.files.items():
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
            except OSError as exc:
                raise LaunchError(f"can't write {path}: {exc.strerror}") from exc


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
