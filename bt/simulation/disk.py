"""A disk that loses power: what was not synced is lost, or torn.

Folders keep the order of what was done in them (as a journal does), files don't.
"""

from __future__ import annotations

import errno
import io
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from bt.files import Disk


@dataclass
class _Inode:
    data: bytearray = field(default_factory=bytearray)
    synced: int = 0  # bytes that a loss of power leaves alone


class _File(io.BytesIO):
    """Open for writing; every piece written is a step at which the process may die."""

    def __init__(self, inode: _Inode, disk: VirtualDisk) -> None:
        super().__init__()
        self.inode = inode
        self._disk = disk

    def writelines(self, lines: Iterable[object]) -> None:
        for line in lines:
            self._disk.step("write")
            if self._disk.full:
                raise OSError(errno.ENOSPC, "no space left on device")
            self.inode.data += memoryview(line)  # type: ignore[arg-type]


class VirtualDisk(Disk):
    """Of one peer. `step` is called before everything that is done, and may not return."""

    def __init__(self, step: Callable[[str], None]) -> None:
        self.step = step
        self.full = False
        self._names: dict[str, _Inode] = {}  # as processes see them
        self._journal: list[tuple[str, str | None]] = []  # from, to; to None: removed
        self._durable: dict[str, _Inode] = {}  # names after a loss of power, but for the journal

    # What bt/files.py asks for ----------------------------------------------------------------
    def create(self, path: Path, mode: int) -> BinaryIO:
        self.step("create")
        inode = self._names[path.name] = _Inode()
        self._durable[path.name] = inode  # an empty leftover harms nobody
        return _File(inode, self)

    def sync(self, file: BinaryIO) -> None:
        self.step("sync")
        assert isinstance(file, _File)
        file.inode.synced = len(file.inode.data)

    def rename(self, path: Path, target: Path) -> None:
        self.step("rename")
        self._names[target.name] = self._names.pop(path.name)
        self._journal.append((path.name, target.name))

    def keep(self, path: Path, name: Path) -> None:
        if path.name in self._names:
            self.rename(path, name)

    def remove(self, path: Path) -> None:
        self.step("remove")
        self._names.pop(path.name, None)
        self._journal.append((path.name, None))

    def sync_folder(self, path: Path) -> None:
        self.step("sync folder")
        self._commit(len(self._journal))

    # What happens to it -----------------------------------------------------------------------
    def lose_power(self, chance: random.Random) -> None:
        """Keep what was synced; of the rest anything or nothing."""
        self._commit(chance.randint(0, len(self._journal)))
        self._journal.clear()
        self._names = dict(self._durable)
        for inode in self._names.values():
            if inode.synced < len(inode.data):
                end = chance.randint(inode.synced, len(inode.data))
                size = chance.choice((end, len(inode.data)))  # cut off, or zeros in its place
                inode.data[end:] = bytes(size - end)
            inode.synced = len(inode.data)

    def wipe(self) -> None:
        self._names.clear()
        self._durable.clear()
        self._journal.clear()

    def put_out(self, path: Path) -> None:
        """Make the real file what this disk has under that name."""
        inode = self._names.get(path.name)
        if inode is None:
            path.unlink(missing_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(inode.data)

    def _commit(self, count: int) -> None:
        for name, target in self._journal[:count]:
            inode = self._durable.pop(name, None)
            if target is not None and inode is not None:
                self._durable[target] = inode
        del self._journal[:count]
