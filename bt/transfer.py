"""One model on its way from a peer: which ranges to ask for, and what to make of the answers.

Flow control by credit: no more than `Link.credit` bytes are asked for and not yet here, so that
a transfer needs little memory, a small message never waits long behind a big one, and a fast
link is kept full. The credit follows from the speed measured. Ranges are taken in order; after
a loss one asks again from the first that is missing, of the same peer started anew as well: the
image is named by its digest. Pure, as protocol.py: no clock, no sockets, no tensors.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from transports import messages

GRAIN = 1 << 16  # bytes; ranges begin and end at multiples of it, counted from the body
LEAST_CREDIT = 2 * GRAIN
MOST_CREDIT = 1 << 22
LARGEST_RANGE = 1 << 20  # larger messages fall out of the caches
_AHEAD_S = 0.25  # how long what is asked for may take to come in, beside the round trip


@dataclass
class Link:
    """What is known of the way to one peer."""

    credit: int = 8 * GRAIN  # bytes to have asked for, until speed has been measured
    round_trip_s: float = float("inf")  # the shortest seen

    @property
    def range_bytes(self) -> int:
        """A quarter of the credit, in grains."""
        return min(max(self.credit // 4 // GRAIN, 1) * GRAIN, LARGEST_RANGE)

    def measured(self, nbytes: int, seconds: float) -> None:
        """So many bytes came in within the `seconds` between a question and its answer."""
        seconds = max(seconds, 1e-6)
        self.round_trip_s = min(self.round_trip_s, seconds)
        credit = nbytes / seconds * (self.round_trip_s + _AHEAD_S)
        self.credit = int(min(max(credit, LEAST_CREDIT), MOST_CREDIT))


class Gone(Exception):
    """The peer does not serve this image any more."""


@dataclass
class Transfer:
    """The image announced in `announced`: `size` bytes of which the first `header` are no body."""

    me: str
    announced: messages.Version
    size: int
    header: int
    link: Link
    progress_at: float  # when something last arrived,
    asked_at: float = 0.0  # and when all that is missing was last asked for
    arrived: int = 0  # bytes
    asked: int = 0
    _pending: deque[tuple[int, float, int]] = field(default_factory=deque)  # end, when, arrived

    @property
    def done(self) -> bool:
        """Whether every byte is here."""
        return self.arrived == self.size

    def ask(self, now: float) -> list[messages.Pull]:
        """As many ranges as the credit allows."""
        pulls = []
        while self.asked < self.size and self.asked - self.arrived < self.link.credit:
            length = self.link.range_bytes + (0 if self.asked else self.header)
            length = min(length, self.size - self.asked)
            digest = self.announced.digest
            assert digest is not None
            pulls.append(messages.Pull(self.me, digest, self.asked, length))
            self.asked += length
            self._pending.append((self.asked, now, self.arrived))
        return pulls

    def take(self, answer: messages.Weights, now: float) -> bool:
        """Whether this range is the next; others come too soon, or once more. Raises Gone."""
        if answer.digest != self.announced.digest or answer.offset != self.arrived:
            return False
        if not answer.data.nbytes:
            raise Gone
        if not self._pending or answer.offset + answer.data.nbytes != self._pending[0][0]:
            return False
        end, asked_at, arrived_then = self._pending.popleft()
        self.arrived = end
        self.link.measured(end - arrived_then, now - asked_at)
        self.progress_at = now
        return True

    def rewind(self, now: float) -> None:
        """Ask again for all that has not arrived."""
        self.asked_at = now
        self.asked = self.arrived
        self._pending.clear()
