"""Models on disk for the length of a round: for merge rules that must see all of them at once.

The file has no name: it is gone with the process, however that ends. It is written and read with
plain calls, not mapped: a full disk is then an error that says so, and memory holds what was
read, no more.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path

import torch
from torch import Tensor


class Spool:
    """Places for models of `nbytes`, in a file in `folder` (None: where temporary files go)."""

    def __init__(self, folder: Path | None, nbytes: int) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            self._file = os.dup(file.fileno())
        weakref.finalize(self, os.close, self._file)
        self._nbytes = nbytes

    def write(self, place: int, begin: int, data: memoryview) -> None:
        """Bytes [begin, begin + len(data)) of the model in that place. Raises OSError."""
        at = place * self._nbytes + begin
        while data.nbytes:
            written = os.pwrite(self._file, data, at)
            data, at = data[written:], at + written

    def read(self, place: int, begin: int, end: int) -> Tensor:
        """Bytes [begin, end) of the model in that place; uint8."""
        found = bytearray(end - begin)
        view, at = memoryview(found), place * self._nbytes + begin
        while view.nbytes:
            count = os.preadv(self._file, [view], at)
            if not count:
                raise ValueError(f"place {place} holds no bytes {begin} to {end}")
            view, at = view[count:], at + count
        return torch.frombuffer(found, dtype=torch.uint8)

    def keep(self, places: int) -> None:
        """Give back the disk of all places but the first so many."""
        os.ftruncate(self._file, places * self._nbytes)
