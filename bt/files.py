"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path


def write_atomic(path: Path, data: bytes, mode: int = 0o666) -> None:
    """Write to a temporary name, fsync, rename: a crash leaves the old file or the new one.

    Permissions are `mode` less the umask. The temporary name can't be guessed, and "x" opens
    nothing that exists: a link waiting in a folder that others write to is not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder; name a file to write")
    temporary = path.with_name(f".{secrets.token_hex(8)}.partial")
    with open(temporary, "xb", opener=partial(os.open, mode=mode)) as file:
        try:
            file.write(data)
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
