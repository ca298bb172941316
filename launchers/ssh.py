"""Peers on other hosts, by OpenSSH's own client with the user's configuration and agent.

No password is asked for or handled (BatchMode). The link itself is the lifeline: standard input
of the remote peer ends with it or with the launcher, and falls silent where a network drops it
without a word; either way the peer leaves. Ctrl-C is a word on it, as ssh carries no signals.
Detached, peers outlive the link.

The login shell of a host has to be one of sh, bash, dash, ksh or zsh; others will do as long as
no name has a quote, a backslash or an exclamation mark in it.
"""

from __future__ import annotations

import math
import os
import signal
import subprocess
import tarfile
import threading
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import IO

from launchers import lifeline
from launchers.base import Command, LaunchError, Plan
from launchers.local import LocalRun
from launchers.shell import ended, left_running, quoted, text_of

OPTIONS = (
    "-T", "-o", "BatchMode=yes", "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4",
)  # fmt: skip
LOST = 255  # exit code of ssh itself
_HERE_EVERY_S = 10.0
_PATIENCE_S = 60.0  # of a peer that hears nothing
_FETCH_TIMEOUT_S = 300.0
_MOST_HEADER_BYTES = 1 << 20


class SshLauncher:
    """`options` go to every ssh, before the host: -F FILE, -i FILE, -J HOST, ..."""

    def __init__(
        self,
        options: tuple[str, ...] = (),
        *,
        detach: bool = False,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._argv = ("ssh", *OPTIONS, *options, "--")
        self._detach = detach
        self._line = {lifeline.VARIABLE: "0", lifeline.PATIENCE: f"{patience_s:g}"}

    def plan(self, commands: tuple[Command, ...]) -> Plan:
        return Plan(tuple(self._over_ssh(command) for command in commands))

    def _over_ssh(self, command: Command) -> Command:
        if self._detach:
            return self._there(command, left_running(command))
        held = replace(command, env=dict(command.env) | self._line)
        return replace(self._there(command, text_of(held)), log=command.log)

    def _there(self, command: Command, text: str) -> Command:
        assert command.host is not None
        return Command(command.name, (*self._argv, command.host, text))

    def start(self, plan: Plan) -> SshRun:
        run = SshRun()
        run.all(plan)
        return run

    def end(self, command: Command, lock: str) -> Command:
        """The ssh that tells a detached peer to leave."""
        return self._there(command, ended(command, lock))

    def fetch(self, command: Command, names: Collection[str], into: Path) -> None:
        """Copy the files `names` of the folder the command keeps, as far as they are there.

        Nothing else is written, whatever the other side sends. Raises LaunchError.
        """
        assert command.keeps is not None
        steps = [] if command.folder is None else [f"cd {quoted(command.folder)}"]
        steps += [f"cd {quoted(command.keeps)}", f"exec tar -cf - {' '.join(map(quoted, names))}"]
        argv = self._there(command, " && ".join(steps)).argv
        into.mkdir(parents=True, exist_ok=True)
        with subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as ssh:
            assert ssh.stdout is not None
            assert ssh.stderr is not None
            late = threading.Timer(_FETCH_TIMEOUT_S, ssh.kill)
            late.start()
            try:
                arrived = _unpacked(ssh.stdout, set(names), into)
                said = ssh.stderr.read(4096).decode(errors="replace").strip().splitlines()
            finally:
                late.cancel()
                ssh.kill()
        if not arrived:
            why = said[-1] if said else "nothing came"
            raise LaunchError(f"no results of {command.name} from {command.host}: {why}")


class _Metered:
    """A stream of which `left` bytes more may be read: tarfile keeps headers of any length."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.left: float = _MOST_HEADER_BYTES

    def read(self, size: int) -> bytes:
        self.left -= size
        if self.left < 0:
            raise tarfile.ReadError("more than the header of a file")
        return self._stream.read(size)


def _unpacked(stream: IO[bytes], names: set[str], into: Path) -> bool:
    arrived, metered = False, _Metered(stream)
    try:
        with tarfile.open(fileobj=metered, mode="r|") as archive:  # type: ignore[call-overload]
            for member in archive:
                # A few bytes of a sparse file can be any number on the disk.
                whole = member.isreg() and not member.issparse()
                content = archive.extractfile(member) if whole else None
                if content is None or member.name not in names:
                    continue
                names.discard(member.name)
                partial = into / f".{member.name}.partial"
                with partial.open("wb") as file:
                    metered.left = math.inf
                    while piece := content.read(1 << 20):
                        file.write(piece)
                    metered.left = _MOST_HEADER_BYTES
                partial.replace(into / member.name)
                arrived = True
    except tarfile.TarError:
        pass  # the stream ended: what had arrived by then is whole
    return arrived


class SshRun(LocalRun):
    """Running ssh clients; their standard inputs are the peers' lifelines."""

    def __init__(self) -> None:
        super().__init__()
        self._stopped = threading.Event()
        threading.Thread(target=self._stay_in_touch, name="ssh", daemon=True).start()

    def add(self, command: Command, *, stdin: int = subprocess.PIPE) -> None:
        super().add(command, stdin=stdin)

    def stop(self, grace_s: float = 4.0) -> None:
        self._stopped.set()
        super().stop(grace_s)
        for child in self._children.values():
            if child.stdin is not None:
                child.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        if number == signal.SIGTERM:
            self._say(lifeline.LEAVE)
        else:
            super()._signal(number)

    def _stay_in_touch(self) -> None:
        while not self._stopped.wait(_HERE_EVERY_S):
            self._say(lifeline.HERE)

    def _say(self, word: bytes) -> None:
        for child in tuple(self._children.values()):
            if child.poll() is None and child.stdin is not None:
                try:
                    os.write(child.stdin.fileno(), word)
                except (OSError, ValueError):
                    pass  # it has just ended
