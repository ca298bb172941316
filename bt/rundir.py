"""The folder of a run: fresh, or one to go on with; never one to overwrite."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from bt import config as configs
from bt.config import Config
from bt.files import write_atomic

_OF_THE_MODEL = ("seed", "name", "filters", "view", "spacing_mm")  # what it starts from, and sees
_locks: dict[Path, int] = {}  # open as long as the process lives


class RunFolderError(Exception):
    """The folder can't be used; the message says what to do."""


def lock(folder: Path) -> None:
    """Keep `folder` for this process until it ends, making it if need be.

    Raises RunFolderError if another has it, or it can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if folder.resolve() in _locks:
            return
        file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        why = "a file lies there" if isinstance(exc, FileExistsError) else exc.strerror
        raise _unwritable(folder, why) from exc
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(file)
        raise RunFolderError(
            f"{folder} is in use by another bt: is this one running already? If not, choose "
            "another --out"
        ) from exc
    _locks[folder.resolve()] = file


def choose(out: Path | None, name: str) -> Path:
    """`out`, or runs/NAME: the one to go on with if it is unfinished, else the next free one."""
    if out is not None:
        return out
    candidate, number = Path("runs") / name, 1
    while _finished(candidate):
        number += 1
        candidate = Path("runs") / f"{name}-{number}"
    return candidate


def enter(folder: Path, config: Config) -> bool:
    """Make `folder` this run's, with its config.toml; True if an earlier start goes on.

    Raises RunFolderError where it belongs to a finished or to another run.
    """
    stored = folder / "config.toml"
    refuse_finished(folder)
    lock(folder)
    if not stored.exists():
        write_atomic(stored, configs.to_toml(config).encode())
        return False
    differing = configs.differences(configs.read(stored), config)
    if differing:
        raise RunFolderError(
            f"{folder} holds an unfinished run with other settings ({', '.join(differing)}); "
            "repeat its command to go on with it, or choose another --out"
        )
    return True


def reenter(folder: Path, config: Config) -> None:
    """Make `folder` this peer's, or go on with what is there, and write its config.toml.

    Raises RunFolderError where there is a model that other settings have made.
    """
    lock(folder)
    stored = folder / "config.toml"
    if stored.exists() and (folder / "checkpoint.safetensors").exists():
        differing = configs.differences(configs.read(stored), config)
        if of_the_model := [name for name in differing if name in _OF_THE_MODEL]:
            raise RunFolderError(
                f"{folder} holds a model of other settings ({', '.join(of_the_model)}); go on "
                "with the same, or choose another --out"
            )
    write_atomic(stored, configs.to_toml(config).encode())


def refuse_finished(folder: Path | None) -> None:
    """Raise RunFolderError if a finished run is there: before minutes go into another one."""
    if folder is not None and _finished(folder):
        raise RunFolderError(f"{folder} holds a finished run; choose another --out")


def refuse_unwritable(folder: Path) -> None:
    """Raise RunFolderError where it can't be made or written to; nothing is made there yet."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    if not there.is_dir():
        raise _unwritable(folder, "a file lies there")
    if not os.access(there, os.W_OK | os.X_OK):
        raise _unwritable(folder, "permission denied")


def _unwritable(folder: Path, why: str | None) -> RunFolderError:
    return RunFolderError(f"can't write to {folder}: {why}; choose another --out")


def read_results(path: Path) -> dict[str, Any] | None:
    """The content of a results.json; None if there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _finished(folder: Path) -> bool:
    results = read_results(folder / "results.json")
    return results is not None and bool(results.get("complete"))
