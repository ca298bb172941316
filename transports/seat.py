"""A peer's place in a shared folder, which one process at a time can have, and who else is there.

Who runs touches a file every second. Whether another one's file is fresh is seen from the times
that the file server gave both: clocks of machines need not agree. A lock tells two processes of
one machine apart at once, and, where the file system has them, of two machines.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import socket
import time
from contextlib import suppress

from transports import files, mailbox
from transports.base import TransportError

BEAT_S = 1.0
STALE_S = 10.0  # without a touch: file servers and their clients tell of it late
_ALIVE, _LOCK = "alive", "lock"
_WHO = re.compile(r"([0-9a-f]{32}) on ([A-Za-z0-9._-]{1,255}), process ([0-9]{1,10})\n")
_LOOK_S = 0.5  # an answer about another peer is as good as new


class Seat:
    """The place of `me` in the folder `path`. Raises TransportError if it can't be had."""

    def __init__(self, path: str, me: str, like: os.stat_result) -> None:
        self._path, self._me = path, me
        self._seen: dict[str, tuple[float, bool]] = {}  # by peer: when looked at, whether there
        self._touched = 0.0, float("-inf")  # by the file server's clock, and by ours
        host = re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:255] or "somewhere"
        self._who = f"{secrets.token_hex(16)} on {host}, process {os.getpid()}\n"
        try:
            with files.folder(path) as root:
                files.make_folder(me, root, like)
            with files.folder(path, me) as own:
                files.make_folder(mailbox.INBOX, own, like)
                self._lock = os.open(
                    _LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=own
                )
                try:
                    self._claim(own, host)
                    with files.folder(path, me, mailbox.INBOX) as inbox:
                        mailbox.clear(inbox)  # for the process that was here before
                    files.write(_ALIVE, [self._who.encode()], own, like)
                except BaseException:
                    os.close(self._lock)
                    raise
        except OSError as exc:
            raise TransportError(f"can't take part in {path} as {me}: {exc.strerror}") from exc
        self.beat()

    def _claim(self, own: int, host: str) -> None:
        """Refuse if another process has this name."""
        locked = True
        before = _read(own)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken(before) from None
        except OSError:
            locked = False  # a file system without locks
        if before is None or (locked and before[2] == host):
            return
        # Of another machine, whose locks may not be seen here: does anybody touch it?
        until = time.monotonic() + STALE_S
        first = os.stat(_ALIVE, dir_fd=own).st_mtime_ns
        os.utime(_LOCK, dir_fd=own, follow_symlinks=False)
        if os.fstat(self._lock).st_mtime - first / 1e9 > STALE_S:
            return
        while time.monotonic() < until:
            with suppress(FileNotFoundError):
                if os.stat(_ALIVE, dir_fd=own).st_mtime_ns != first:
                    raise self._taken(before)
            time.sleep(BEAT_S / 4)

    def _taken(self, by: re.Match[str] | None) -> TransportError:
        whose = f" on {by[2]}, process {by[3]}" if by else ""
        return TransportError(
            f"{self._me} is in use in {self._path}: is this peer already running{whose}?"
        )

    def beat(self) -> None:
        """Say that this peer is there; call it often. Raises TransportError if another took it."""
        if time.monotonic() < self._touched[1] + BEAT_S:
            return
        try:
            with files.folder(self._path, self._me) as own:
                if (holder := _read(own)) is None or holder[0] != self._who:
                    whose = f"taken by a process on {holder[2]}" if holder else "removed"
                    raise TransportError(f"the place of {self._me} in {self._path} was {whose}")
                os.utime(_ALIVE, dir_fd=own, follow_symlinks=False)
                touched = os.stat(_ALIVE, dir_fd=own, follow_symlinks=False).st_mtime
        except FileNotFoundError as exc:
            raise TransportError(f"the place of {self._me} in {self._path} was removed") from exc
        except OSError:
            touched = self._touched[0]  # the file server is away: it may come back
        self._touched = touched, time.monotonic()

    def sees(self, name: str) -> bool:
        """Whether the process of another peer is there now."""
        now = time.monotonic()
        looked_at, there = self._seen.get(name, (float("-inf"), False))
        if now < looked_at + _LOOK_S:
            return there
        there = False
        with suppress(OSError), files.folder(self._path, name) as place:
            touched = os.stat(_ALIVE, dir_fd=place, follow_symlinks=False).st_mtime
            there = self._touched[0] + (now - self._touched[1]) - touched < STALE_S
        self._seen[name] = now, there
        return there

    def leave(self) -> None:
        """Give the place up."""
        with suppress(OSError), files.folder(self._path, self._me) as own:
            if (holder := _read(own)) is not None and holder[0] == self._who:
                files.remove(_ALIVE, own)
        os.close(self._lock)


def _read(own: int) -> re.Match[str] | None:
    """Who has the place; None: nobody."""
    try:
        return _WHO.fullmatch(files.read(_ALIVE, own, 1024).decode("ascii", errors="replace"))
    except FileNotFoundError:
        return None
