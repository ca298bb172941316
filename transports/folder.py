"""Peers joined by a folder that all can write to: a disk they share, or one carried between them.

For nodes without a network between them, and for peers that are never online together. Below the
folder, each peer has one of its name:

    in/           messages for it, as files (mailbox.py)
    alive, lock   who runs it, and that nobody else does (seat.py)
    version       what it last said of itself, and the image of its last model, which answer for
    *.model       it while it is away (left.py)

Nothing but files is needed, no clocks that agree, and no notice of changes: the folder is looked
at again and again, less and less often while nothing comes. Whoever can write to the folder can
speak in any peer's name, so it must be private to the group; `insecure` lifts that.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from collections.abc import Collection, Sequence
from contextlib import suppress

from transports import files, messages
from transports.base import Frame, PeerGone, Received, TransportError, flat, valid_name
from transports.left import Left
from transports.mailbox import INBOX, Inbox, Outbox, clear
from transports.seat import BEAT_S, Seat

_LEAST_S, _MOST_S = 1e-3, 0.1  # between two looks for messages
MOST_PEERS = 1000  # that are looked for


class FolderTransport:
    """A Transport through the folder `path`, which must exist.

    `peers` are others that may come; whoever has a folder there is one too, also later: then
    `peers` grows. Messages of more than `max_message_bytes` are dropped. Raises TransportError if
    another process is `me`, or the folder can't be used, or others than its owner and group can
    get at it.
    """

    def __init__(
        self,
        me: str,
        path: str | os.PathLike[str],
        peers: Collection[str] = (),
        *,
        max_message_bytes: int = 1 << 30,
        insecure: bool = False,
    ) -> None:
        for name in (me, *peers):
            if not valid_name(name):
                raise TransportError(f"{name!r} can't name a peer")
        if me in peers:
            raise TransportError(f"peer {me} is among its own peers")
        self.me = me
        self._path = os.path.abspath(path)
        self._like = like = check_folder(self._path, insecure=insecure)
        self._closed = False
        self._outboxes: dict[str, Outbox] = {}
        self._arrived: deque[Received] = deque()  # answers that peers have left
        self._look_at, self._pause_s = 0.0, _LEAST_S
        self._look_around_at = float("-inf")
        self.peers = tuple(sorted(peers))
        self._seat = Seat(self._path, me, like)
        self._inbox = Inbox(self._path, me, max_message_bytes)
        self._left = Left(self._path, me, like)
        self._look_around()
        for name in self.peers:  # what an earlier process of this peer told them
            with suppress(OSError), files.folder(self._path, name, INBOX) as theirs:
                clear(theirs, me)

    # --- Transport

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        self._check_open()
        if to not in self.peers:
            raise PeerGone(to, f"has no place in {self._path}")
        there = self._seat.sees(to)
        answer = self._left.answer(to, frames, there=there)
        if answer is not None:
            views = tuple(flat(frame).toreadonly() for frame in messages.encode(answer))
            self._arrived.append(Received(to, views))
            return
        if not there:
            raise PeerGone(to, "not there now")
        self._put(to, frames)

    def publish(self, frames: Sequence[Frame]) -> None:
        self._check_open()
        for name in self.peers:
            if self._seat.sees(name):
                with suppress(PeerGone):
                    self._put(name, frames)

    def leave(self, announcement: Sequence[Frame], digest: str | None, image: memoryview) -> None:
        """Have this at hand for others while this peer is away. Raises TransportError."""
        self._check_open()
        self._left.put(announcement, digest, image)

    def recv(self, timeout_s: float) -> Received | None:
        self._check_open()
        deadline = time.monotonic() + timeout_s
        while True:
            self._look_around()
            if self._arrived:
                return self._arrived.popleft()
            now = time.monotonic()
            if now >= self._look_at:
                if (received := self._take()) is not None:
                    return received
                self._pause_s = min(1.5 * self._pause_s, _MOST_S)
                self._look_at = now + self._pause_s
            if now >= deadline:
                return None
            time.sleep(max(0.0, min(self._look_at, deadline) - time.monotonic()))

    def close(self, linger_s: float = 5.0) -> None:
        """Go; what was sent lies there for those who are."""
        if not self._closed:
            self._closed = True
            self._expire()
            self._seat.leave()

    # ---

    def _put(self, to: str, frames: Sequence[Frame]) -> None:
        if to not in self._outboxes:
            self._outboxes[to] = Outbox(self._path, self.me, to, self._like)
        self._outboxes[to].put(frames)

    def _take(self) -> Received | None:
        try:
            while (received := self._inbox.take()) is not None:
                self._pause_s = _LEAST_S
                if received.sender not in self.peers:
                    self._look_around(now=True)
                if received.sender in self.peers:
                    return received
        except OSError:
            self._pause_s = _MOST_S  # the file server is away; if for good, the seat finds out
        return None

    def _look_around(self, *, now: bool = False) -> None:
        """Be seen, see who is new, and take back what nobody will read."""
        if not now and time.monotonic() < self._look_around_at:
            return
        self._look_around_at = time.monotonic() + BEAT_S
        self._seat.beat()
        with suppress(OSError), files.folder(self._path) as root:
            found = {name for name in os.listdir(root) if valid_name(name)}
            for name in sorted(found - {self.me, *self.peers})[: MOST_PEERS - len(self.peers)]:
                with suppress(OSError), files.folder(self._path, name, INBOX):
                    self.peers = tuple(sorted({*self.peers, name}))
        self._expire()

    def _expire(self) -> None:
        for name, outbox in self._outboxes.items():
            if not self._seat.sees(name):
                with suppress(OSError):
                    outbox.expire()

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport of {self.me} is closed")


def check_folder(path: str, *, insecure: bool = False) -> os.stat_result:
    """The folder, as it is. Raises TransportError if it is not one to use."""
    try:
        found = os.stat(path)
    except OSError as exc:
        raise TransportError(
            f"the folder {path} can't be used: {exc.strerror}; make it first, for the peers alone "
            "(mkdir, chgrp, chmod 2770)"
        ) from exc
    if not stat.S_ISDIR(found.st_mode):
        raise TransportError(f"{path} is no folder")
    if found.st_mode & 0o007 and not insecure:
        raise TransportError(
            f"everybody on this machine can get at {path}, and whoever writes there can speak for "
            f"any peer: chmod o-rwx {path}, or allow it (--insecure)"
        )
    return found
