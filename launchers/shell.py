"""A command as text for a POSIX shell: on another host, in a script, or left running.

Every word is quoted, whatever is in it. Only ~/ at the start of a word means the home folder.
"""

from __future__ import annotations

import shlex
from pathlib import Path, PurePosixPath

from launchers.base import Command

LOG, PROCESS = "log.txt", "pid"  # in the folder a command keeps
NOT_RUNNING = 3  # exit code of who was to be ended


def quoted(word: str) -> str:
    """The word as a shell reads it."""
    home, slash, rest = word.partition("/")
    return f"~/{shlex.quote(rest)}" if home == "~" and slash else shlex.quote(word)


def expanded(word: str) -> str:
    """The same for a word that no shell will read: ~/ becomes the home folder."""
    return str(Path.home() / word[2:]) if word.startswith("~/") else word


def text_of(command: Command, *, output: str | None = None) -> str:
    """Go to its folder, write its files, and become it."""
    return " && ".join([*_prepared(command), f"exec {_words(command, output)}"])


def left_running(command: Command) -> str:
    """Start it so that it outlives the shell, its process id beside its log."""
    assert command.keeps is not None
    kept = PurePosixPath(command.keeps)
    start = f"nohup {_words(command, str(kept / LOG))} </dev/null &"
    remember = f"echo $! > {quoted(str(kept / PROCESS))};"
    steps = [*_prepared(command), f"mkdir -p {quoted(str(kept))}", f"{{ {start} {remember} }}"]
    return " && ".join(steps)


def ended(command: Command, lock: str) -> str:
    """Tell what was left running to leave: SIGTERM; NOT_RUNNING if nobody holds its `lock`."""
    assert command.keeps is not None
    kept = quoted(command.keeps)
    there = [] if command.folder is None else [f"cd {quoted(command.folder)}"]
    tell = f'kill -TERM "$(cat {PROCESS})"'
    return " && ".join(
        [*there, f"cd {kept}", f"{{ flock -n {lock} true && exit {NOT_RUNNING}; {tell}; }}"]
    )


def _prepared(command: Command) -> list[str]:
    steps = [] if command.folder is None else [f"cd {quoted(command.folder)}"]
    for path, text in command.files.items():
        lines = " ".join(map(quoted, text.splitlines()))  # no shell minds a word without newlines
        steps.append(f"mkdir -p {quoted(str(PurePosixPath(path).parent))}")
        steps.append(f"printf '%s\\n' {lines} > {quoted(path)}")
    return steps


def _words(command: Command, output: str | None) -> str:
    settings = [f"{key}={quoted(value)}" for key, value in sorted(command.env.items())]
    words = [*(["env", *settings] if settings else []), *map(quoted, command.argv)]
    return " ".join(words) + (f" >> {quoted(output)} 2>&1" if output else "")
