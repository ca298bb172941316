"""What peers leave in a shared folder, and how it answers for them when they are not there.

A peer leaves what it last said of itself, `version`, and the image of its last model, named by
its digest: the same bytes that it would send. Who asks it finds the answer there, at once, whether
it is running or not: a ping is answered by what it said, a pull by a range of the file. Of a peer
that is not there the state is "away": nobody waits for it, but its model can be had.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from transports import files, messages
from transports.base import Frame, TransportError, flat

_VERSION, _IMAGE = "version", ".model"
_IS_IMAGE = re.compile(r"([0-9a-f]{32})\.model")  # others are not ours to remove
_LIMITS = messages.Limits(1 << 16)
_MOST_BYTES = 1 << 23  # in one answer
_KEPT = 2  # images: somebody may still read the last but one


class Left:
    """What lies in the folders below `path`; what `me` leaves there."""

    def __init__(self, path: str, me: str, like: os.stat_result) -> None:
        self._path, self._me, self._like = path, me, like
        self._digests: list[str] = []  # of one's own images there, newest last
        # What this peer said before it was started: if it lost its disk, it learns it from here.
        self._before = self._read(me)
        last = self._before and self._before.digest
        with suppress(OSError), files.folder(path, me) as own:
            found = map(_IS_IMAGE.fullmatch, os.listdir(own))
            digests = [image[1] for image in found if image is not None]
            self._digests = sorted(digests, key=lambda digest: digest == last)

    def put(self, announcement: Sequence[Frame], digest: str | None, image: memoryview) -> None:
        """Leave this; the image first, so that whoever reads of it finds it.

        Raises TransportError, and what was there before stays.
        """
        try:
            with files.folder(self._path, self._me) as own:
                if digest is not None and digest not in self._digests:
                    files.write(digest + _IMAGE, [image], own, self._like)
                    self._digests.append(digest)
                files.write(_VERSION, announcement, own, self._like)
                while len(self._digests) > _KEPT:
                    files.remove(self._digests.pop(0) + _IMAGE, own)
        except OSError as exc:
            raise TransportError(
                f"can't leave the model in {self._path}/{self._me}: {exc.strerror}"
            ) from exc

    def answer(
        self, of: str, question: Sequence[Frame], *, there: bool
    ) -> messages.Message | None:
        """What `of` would answer, from what it left; None: ask it.

        `there`: whether it is running.
        """
        if sum(memoryview(frame).nbytes for frame in question) > _LIMITS.max_message_bytes:
            return None
        try:
            asked = messages.decode(question, limits=_LIMITS)
        except messages.MessageError:
            return None
        if (told := self._read(of)) is None:
            return None
        match asked:
            case messages.Ping():
                return self._version(told, there=there)
            case messages.Pull():
                return self._range(of, asked, there=there)
        return None

    def _version(self, told: messages.Version, *, there: bool) -> messages.Version:
        if not there and told.state != "finished":
            told = replace(told, state="away")
        seen = None if self._before is None else self._before.version
        return replace(told, seen=seen)

    def _range(self, of: str, pull: messages.Pull, *, there: bool) -> messages.Message | None:
        try:
            with (
                files.folder(self._path, of) as place,
                files.regular(pull.digest + _IMAGE, place) as image,
            ):
                size = os.fstat(image).st_size
                length = min(pull.length, _MOST_BYTES)
                data = memoryview(files.read_range(image, pull.offset, length))
            return messages.Weights(of, pull.digest, size, min(pull.offset, size), data)
        except (OSError, messages.MessageError):
            # Not any more: it has a newer one, or none, or what lies there is no image.
            gone = messages.Weights(of, pull.digest, 0, pull.offset, memoryview(b""))
            return None if there else gone

    def _read(self, of: str) -> messages.Version | None:
        """What a peer last said of itself, if that is there and all right."""
        try:
            with files.folder(self._path, of) as place:
                content = files.read(_VERSION, place, _LIMITS.max_message_bytes)
            told = messages.decode([flat(content)], limits=_LIMITS)
        except (OSError, messages.MessageError):
            return None
        return told if isinstance(told, messages.Version) and told.sender == of else None
