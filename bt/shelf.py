"""The images a peer serves: of its last model, and of older ones while somebody reads them.

Readers get views, no copies; an image is freed with the last view of it. Who asks for it gets
the difference from a model it has instead (delta.py).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from bt.delta import Reader
from bt.weights import FlatWeights
from transports import image, messages

PATIENCE_S = 60.0  # for a reader of an older image who asks for nothing more
MOST_BYTES = 1 << 23  # in one answer


@dataclass
class _Image:
    model: image.Model
    weights: FlatWeights
    data: memoryview
    readers: dict[str, float] = field(default_factory=dict)  # peer -> when it last asked


class Shelf:
    """Images by digest; the last one put there is the current one."""

    def __init__(self, *, differences: bool = True) -> None:
        self._differences = differences  # whether to make any
        self._images: dict[str, _Image] = {}
        self._readers: dict[str, Reader] = defaultdict(Reader)  # those that ask for differences

    def put(self, model: image.Model, weights: FlatWeights) -> str:
        """Serve `weights`, which must not be changed any more. Returns the image's digest."""
        data = weights.image(image.encode(model, weights.schema))
        digest = image.digest(data)
        self._images.pop(digest, None)
        self._images[digest] = _Image(model, weights, data)
        self._tidy(float("-inf"))
        return digest

    def read(self, pull: messages.Pull, me: str, now: float) -> messages.Weights:
        """The answer to `pull`, of size 0 if that image is not here (any more)."""
        self._tidy(now)
        found = self._images.get(pull.digest)
        if found is None:
            return messages.Weights(me, pull.digest, 0, pull.offset, memoryview(b""))
        for other in self._images.values():
            other.readers.pop(pull.sender, None)
        coded = self._coded(pull, found)
        whole, encoding = (found.data, messages.PLAIN) if coded is None else (coded, pull.encoding)
        data = whole[pull.offset : pull.offset + min(pull.length, MOST_BYTES)]
        if pull.offset + data.nbytes < whole.nbytes:
            found.readers[pull.sender] = now
        offset = min(pull.offset, whole.nbytes)
        return messages.Weights(me, pull.digest, whole.nbytes, offset, data, encoding)

    def image(self, digest: str | None) -> memoryview:
        """All bytes of the image with this digest; none if it is not here."""
        found = None if digest is None else self._images.get(digest)
        return memoryview(b"") if found is None else found.data

    def version_of(self, digest: str) -> tuple[int, int]:
        """Version of an image that was just read."""
        return self._images[digest].model.version

    def _coded(self, pull: messages.Pull, found: _Image) -> memoryview | None:
        """The image as a difference, if that is asked for and can be."""
        if pull.encoding == messages.PLAIN or not self._differences:
            self._readers.pop(pull.sender, None)
            return None
        reader = self._readers[pull.sender]
        file = reader.file(pull, found.model, found.weights)
        if file is None:
            reader.keep(pull.digest, found.weights)
        return file

    def _tidy(self, now: float) -> None:
        *older, _ = [*self._images] or [""]
        for digest in older:
            readers = self._images[digest].readers
            if all(now >= asked_at + PATIENCE_S for asked_at in readers.values()):
                del self._images[digest]
