"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import BinaryIO


class Disk:
    """The calls that replacing a file is made of."""

    def create(self, path: Path, mode: int) -> BinaryIO:
        """A new file: "x" opens nothing that exists, so a link that waits in a folder others
        write to is not followed."""
        return open(path, "xb", opener=partial(os.open, mode=mode))

    def sync(self, file: BinaryIO) -> None:
        """What was written is on the disk when this returns."""
        file.flush()
        os.fsync(file.fileno())

    def rename(self, path: Path, target: Path) -> None:
        path.replace(target)

    def keep(self, path: Path, name: Path) -> None:
        """As rename; nothing if there is no such file."""
        with suppress(FileNotFoundError):
            path.replace(name)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_folder(self, path: Path) -> None:
        """What was renamed in it is on the disk when this returns."""
        folder = os.open(path, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


DISK = Disk()


def write_atomic(
    path: Path,
    *parts: bytes | memoryview,
    mode: int = 0o666,
    keep: Path | None = None,
    disk: Disk = DISK,
) -> None:
    """Write to a temporary name, fsync, rename: a crash leaves the old file or the new one.

    Permissions are `mode` less the umask. `keep` is what the old file is called from then on; a
    crash may leave it there and nothing at `path`. Raises OSError, with `path` in its text; also
    where `path` is a folder, a link or a device, which renaming would take away.
    """
    if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
        raise FileExistsError(f"can't write {path}: it is a folder, a link or a device")
    try:
        _replace(path, parts, mode, keep, disk)
    except OSError as exc:
        raise type(exc)(f"can't write {path}: {exc.strerror or exc}") from exc


def remove_leftovers(folder: Path) -> None:
    """What processes that were killed in the middle of write_atomic left in `folder`."""
    for leftover in folder.glob(f".{'[0-9a-f]' * 16}.partial"):
        leftover.unlink(missing_ok=True)


def _replace(
    path: Path,
    parts: Iterable[bytes | memoryview],
    mode: int,
    keep: Path | None,
    disk: Disk,
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name that can't be guessed: nothing can be put in its place beforehand.
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    with disk.create(temporary, mode) as file:
        try:
            file.writelines(parts)
            disk.sync(file)
            if keep is not None:
                disk.keep(path, keep)
            disk.rename(temporary, path)
        except BaseException:
            disk.remove(temporary)
            raise
    disk.sync_folder(path.parent)  # or the rename itself may be lost
