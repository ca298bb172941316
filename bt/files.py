"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from functools import partial
from pathlib import Path


def write_atomic(path: Path, *parts: bytes | memoryview, mode: int = 0o666) -> None:
    """Write to a temporary name, fsync, rename: a crash leaves the old file or the new one.

    Permissions are `mode` less the umask. Raises OSError, with `path` in its text; also where
    `path` is a folder, a link or a device, which renaming would take away.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise FileExistsError(f"can't write {path}: it is a folder, a link or a device")
    try:
        _replace(path, parts, mode)
    except OSError as exc:
        raise type(exc)(f"can't write {path}: {exc.strerror or exc}") from exc


def _replace(path: Path, parts: Iterable[bytes | memoryview], mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that can't be guessed, and "x" opens nothing that exists: a link waiting in a folder
    # that others write to is not followed.
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
        try:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the rename itself may be lost
    finally:
        os.close(folder)
