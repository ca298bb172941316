"""The images a peer serves: of its last model, and of older ones while somebody reads them.

Readers get views, no copies; an image is freed with the last view of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import xxhash

from transports import messages

PATIENCE_S = 60.0  # for a reader of an older image who asks for nothing more
MOST_BYTES = 1 << 23  # in one answer


def digest_of(image: memoryview) -> str:
    """XXH3-128 in hexadecimal: finds what was damaged on its way, at the speed of memory."""
    return xxhash.xxh3_128_hexdigest(image)


@dataclass
class _Image:
    data: memoryview
    version: str
    readers: dict[str, float] = field(default_factory=dict)  # peer -> when it last asked


class Shelf:
    """Images by digest; the last one put there is the current one."""

    def __init__(self) -> None:
        self._images: dict[str, _Image] = {}

    def put(self, image: memoryview, version: str) -> str:
        """Serve `image`, which must not be changed any more. Returns its digest."""
        digest = digest_of(image)
        self._images.pop(digest, None)
        self._images[digest] = _Image(image, version)
        self._tidy(float("-inf"))
        return digest

    def version_of(self, digest: str) -> str:
        """Version of an image that was just read."""
        return self._images[digest].version

    def read(self, pull: messages.Pull, me: str, now: float) -> messages.Weights:
        """The answer to `pull`, without data if that image is not here (any more)."""
        self._tidy(now)
        found = self._images.get(pull.digest)
        if found is None:
            return messages.Weights(me, pull.digest, pull.offset, memoryview(b""))
        for other in self._images.values():
            other.readers.pop(pull.sender, None)
        data = found.data[pull.offset : pull.offset + min(pull.length, MOST_BYTES)]
        if pull.offset + data.nbytes < found.data.nbytes:
            found.readers[pull.sender] = now
        return messages.Weights(me, pull.digest, pull.offset, data)

    def _tidy(self, now: float) -> None:
        *older, _ = [*self._images] or [""]
        for digest in older:
            readers = self._images[digest].readers
            if all(now >= asked_at + PATIENCE_S for asked_at in readers.values()):
                del self._images[digest]
