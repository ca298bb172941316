"""Files in a folder that others write to as well: whole or not there, and no links.

Names below a folder are opened one by one and never through a symlink: whoever may write there
must not lead a peer to files outside it. What is read is bounded, and a regular file.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from transports.base import Frame

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def folder(path: str, *below: str) -> Iterator[int]:
    """A descriptor of the folder `path`/`below`, as long as it is needed. Raises OSError."""
    found = os.open(path, _FOLDER)
    try:
        for name in below:
            inner = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=found)
            os.close(found)
            found = inner
        yield found
    finally:
        os.close(found)


def make_folder(name: str, inside: int, like: os.stat_result) -> None:
    """Have the folder `name`, open to whom a folder of which `like` tells is. Raises OSError."""
    try:
        os.mkdir(name, dir_fd=inside)
    except FileExistsError:
        return
    made = os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=inside)
    try:
        _open_as(made, like, 0o777)
    finally:
        os.close(made)


def write(name: str, parts: Sequence[Frame], inside: int, like: os.stat_result) -> None:
    """Put a file there, whole or not at all: a temporary name, fsync, a rename. Raises OSError.

    Names that begin with a dot are temporary, and nobody's business.
    """
    temporary = f".{name}.{secrets.token_hex(4)}"
    made = os.open(temporary, _NEW, 0o600, dir_fd=inside)
    try:
        with open(made, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            _open_as(made, like, 0o666)
            os.fsync(made)
        os.rename(temporary, name, src_dir_fd=inside, dst_dir_fd=inside)
    except BaseException:
        remove(temporary, inside)
        raise


def _open_as(made: int, like: os.stat_result, most: int) -> None:
    """Whatever the umask says: the folder's owner decides who shares it."""
    if os.fstat(made).st_gid != like.st_gid:
        with suppress(PermissionError):
            os.chown(made, -1, like.st_gid)
    with suppress(PermissionError):  # some file systems have no modes
        os.chmod(made, stat.S_IMODE(like.st_mode) & most)


def remove(name: str, inside: int) -> bool:
    """Have no such file; whether there is none now."""
    try:
        os.unlink(name, dir_fd=inside)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def regular(name: str, inside: int) -> Iterator[int]:
    """A descriptor of a regular file, to read. Raises OSError."""
    found = os.open(name, _READ, dir_fd=inside)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, f"{name} is no regular file")
        yield found
    finally:
        os.close(found)


def read(name: str, inside: int, most: int) -> bytes:
    """All of a regular file of at most so many bytes. Raises OSError."""
    with regular(name, inside) as found:
        if (size := os.fstat(found).st_size) > most:
            raise OSError(errno.EFBIG, f"{name} has {size} bytes")
        return read_range(found, 0, size)


def read_range(found: int, begin: int, length: int) -> bytes:
    """So many bytes of an open file from there; fewer if it ends before. Raises OSError."""
    pieces = []
    while length > 0 and (piece := os.pread(found, length, begin)):
        pieces.append(piece)
        begin += len(piece)
        length -= len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
