"""Messages as files, in a folder of the peer that they are for; it deletes what it has read.

A file is called SENDER~START~NUMBER: START, the time, tells the processes of a sender apart, and
NUMBER counts its messages to this peer. It holds a checksum, the number and lengths of the frames,
and the frames. Whatever else lies there is left alone.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import xxhash

from transports import files
from transports.base import Frame, PeerGone, Received, flat, valid_name

INBOX = "in"
MOST_FRAMES = 64
MOST_UNREAD_BYTES, MOST_UNREAD = 1 << 26, 1024  # of one sender; more is not put there
_MAGIC = b"bt-msg-1"
_HEAD = struct.Struct("<8s16sQ")  # magic, XXH3-128 of all that follows it, number of frames
_NAME = re.compile(r"([A-Za-z0-9._-]{1,64})~([0-9]{20})~([0-9]{12})")
_MOST_MISSING = 64  # messages looked for one by one where a listing lacks them


class Letter(NamedTuple):
    """The name of a file, which sorts as sent."""

    sender: str
    start: int
    number: int

    def __str__(self) -> str:
        return f"{self.sender}~{self.start:020}~{self.number:012}"


def _letter(name: str) -> Letter | None:
    found = _NAME.fullmatch(name)
    if found is None or not valid_name(found[1]):
        return None
    return Letter(found[1], int(found[2]), int(found[3]))


def clear(inbox: int, sender: str | None = None) -> None:
    """Remove the messages in there, finished or not: all of them, or those of one sender."""
    with os.scandir(inbox) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name.startswith("."):
            letter = _letter(name[1:].rpartition(".")[0])
        else:
            letter = _letter(name)
        if letter is not None and sender in (None, letter.sender):
            files.remove(name, inbox)


class Outbox:
    """What `sender` puts into the folder of one other peer."""

    def __init__(self, path: str, sender: str, to: str, like: os.stat_result) -> None:
        self._path, self._sender, self._to, self._like = path, sender, to, like
        self._start, self._number = time.time_ns(), 0
        self._unread: deque[tuple[str, int]] = deque()  # as far as is known; name, bytes
        self._bytes = 0

    def put(self, frames: Sequence[Frame]) -> None:
        """Raises PeerGone: the other one doesn't read, or the file can't be written."""
        views = [flat(frame) for frame in frames]
        lengths = struct.pack(f"<{1 + len(views)}Q", len(views), *[v.nbytes for v in views])
        digest = xxhash.xxh3_128(lengths)
        for view in views:
            digest.update(view)
        size = sum(view.nbytes for view in views)
        name = str(Letter(self._sender, self._start, self._number))
        try:
            with files.folder(self._path, self._to, INBOX) as inbox:
                if not self._has_room(inbox, size):
                    raise PeerGone(self._to, "does not read its messages")
                parts: list[Frame] = [_MAGIC, digest.digest(), lengths, *views]
                files.write(name, parts, inbox, self._like)
        except OSError as exc:
            place = f"{self._path}/{self._to}/{INBOX}"
            raise PeerGone(self._to, f"can't write into {place}: {exc.strerror}") from exc
        self._number += 1
        self._unread.append((name, size))
        self._bytes += size

    def _has_room(self, inbox: int, size: int) -> bool:
        while self._unread and not self._fits(size):
            name, length = self._unread[0]
            try:
                os.stat(name, dir_fd=inbox, follow_symlinks=False)
            except FileNotFoundError:
                self._unread.popleft()  # read
                self._bytes -= length
            else:
                return False
        return True

    def _fits(self, size: int) -> bool:
        return self._bytes + size <= MOST_UNREAD_BYTES and len(self._unread) < MOST_UNREAD

    def expire(self) -> None:
        """Take back what was not read: the other one is not there any more. Raises OSError."""
        if self._unread:
            with files.folder(self._path, self._to, INBOX) as inbox:
                for name, _ in self._unread:
                    files.remove(name, inbox)
            self._unread.clear()
            self._bytes = 0


class Inbox:
    """What others have put into the folder of `me`, in the order in which each sent it."""

    def __init__(self, path: str, me: str, most_bytes: int) -> None:
        self._path, self._me = path, me
        self._most = most_bytes + _HEAD.size + 8 * MOST_FRAMES
        self._listed: deque[Letter] = deque()
        self._next: dict[str, tuple[int, int]] = {}  # by sender: start, number

    def take(self) -> Received | None:
        """The next message, if there is one. Raises OSError if the folder can't be read."""
        with files.folder(self._path, self._me, INBOX) as inbox:
            if not self._listed:
                self._list(inbox)
            while self._listed:
                if (message := self._read(self._listed.popleft(), inbox)) is not None:
                    return message
        return None

    def _list(self, inbox: int) -> None:
        with os.scandir(inbox) as entries:
            found = sorted(filter(None, (_letter(entry.name) for entry in entries)))
        for letter in found:
            start, number = self._next.get(letter.sender, (letter.start, 0))
            if letter[1:] < (start, number):
                files.remove(str(letter), inbox)  # too late: others have overtaken it
                continue
            if letter.start == start:
                # A listing made while files come in may lack some that were there before others.
                first = max(number, letter.number - _MOST_MISSING)
                self._listed += [letter._replace(number=n) for n in range(first, letter.number)]
            self._listed.append(letter)
            self._next[letter.sender] = letter.start, letter.number + 1

    def _read(self, letter: Letter, inbox: int) -> Received | None:
        """None: it isn't there, came too late, or is no message."""
        try:
            content = files.read(str(letter), inbox, self._most)
        except OSError:
            content = b""  # gone, a link, a folder, too large
        files.remove(str(letter), inbox)
        frames = _frames(content)
        return None if frames is None else Received(letter.sender, frames)


def _frames(content: bytes) -> tuple[memoryview, ...] | None:
    """The frames of a message; None if it is none, or not all of it."""
    if len(content) < _HEAD.size:
        return None
    magic, digest, count = _HEAD.unpack_from(content)
    begin = _HEAD.size + 8 * count
    if magic != _MAGIC or count > MOST_FRAMES or begin > len(content):
        return None
    whole = memoryview(content)
    if xxhash.xxh3_128_digest(whole[24:]) != digest:
        return None
    frames = []
    for length in struct.unpack_from(f"<{count}Q", content, _HEAD.size):
        frames.append(whole[begin : begin + length])
        begin += length
    return tuple(frames) if begin == len(content) else None
