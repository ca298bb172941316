"""One model on its way from a peer: which ranges to ask for, and what to make of the answers.

Flow control by credit: about `Link.credit` bytes are asked for and not yet here, so that a
transfer needs little memory, a small message never waits long behind a big one, and a fast link
is kept full. The credit follows from the speed measured. Ranges are taken in order; after
a loss one asks again from the first that is missing, of the same peer started anew as well: the
image is named by its digest. Pure, as protocol.py: no clock, no sockets, no tensors.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from transports import messages

GRAIN = 1 << 16  # bytes; ranges begin and end at multiples of it, counted from the body
LEAST_CREDIT = 2 * GRAIN
MOST_CREDIT = 9 << 19
LARGEST_RANGE = 9 << 17  # every message costs; large ones fall out of caches, and leave gaps
LEAST_BYTES_PER_S = 1 << 13  # a link, or a peer, that is slower costs a round too much
_AHEAD_S = 0.25  # how long what is asked for may take to come in, beside the round trip


@dataclass(slots=True)
class Link:
    """What is known of the way to one peer."""

    credit: int = LEAST_CREDIT  # bytes to have asked for, and not more
    round_trip_s: float = float("inf")  # the shortest since the credit was last the least
    took_s: float = 0.0  # a recent answer, from when it was first asked for
    bytes_per_s: float | None = None  # the latest

    @property
    def range_bytes(self) -> int:
        """Up to a third of the credit: few sizes, so that freed memory fits the next."""
        share = max(self.credit // 3, GRAIN)
        return LARGEST_RANGE if share >= LARGEST_RANGE else 1 << (share.bit_length() - 1)

    def measured(self, nbytes: int, seconds: float) -> None:
        """So many bytes came in within the `seconds` between a question and its answer."""
        seconds = max(seconds, 1e-6)
        least = self.credit <= LEAST_CREDIT  # so little is no queue: the way itself takes so long
        self.round_trip_s = seconds if least else min(self.round_trip_s, seconds)
        self.bytes_per_s = nbytes / seconds
        credit = self.bytes_per_s * (self.round_trip_s + _AHEAD_S)
        self.credit = int(min(max(credit, LEAST_CREDIT), MOST_CREDIT))


class Gone(Exception):
    """The peer does not serve this image any more."""


class Misfit(Exception):
    """An image that can't be one of this federation's models; the message says why."""


@dataclass
class Transfer:
    """The image announced in `announced`: `size` bytes of which the first `header` are no body.

    With a `base` it is asked for as a difference from that, and until the first range has come
    nobody knows of how many bytes, or whether the peer still has the base.
    """

    me: str
    announced: messages.Version
    size: int
    header: int
    link: Link
    began_at: float
    encoding: str = messages.PLAIN  # wished for; the peer keeps what it sends as the next base
    base: str | None = None
    progress_at: float = field(init=False)  # when something last arrived,
    asked_at: float = 0.0  # and when all that is missing was last asked for
    arrived: int = 0  # bytes
    asked: int = 0
    _pending: deque[tuple[int, float, int]] = field(default_factory=deque)  # end, when, arrived
    _first: dict[int, float] = field(default_factory=dict)  # offset -> when it was first asked for
    _rewinds: int = 0  # since something arrived

    def __post_init__(self) -> None:
        self.progress_at = self.began_at

    @property
    def done(self) -> bool:
        """Whether every byte is here."""
        return self.arrived == self.size

    @property
    def coming(self) -> int:
        """Bytes asked for and not yet here."""
        return self.asked - self.arrived

    def ask(self, now: float, room: int = MOST_CREDIT) -> list[messages.Pull]:
        """As many ranges as the credit allows, and as `room` bytes have place for."""
        pulls = []
        most = min(self.link.credit, self.coming + room)
        while self.asked < self.size:
            if self.base is not None and self.asked and not self.arrived:
                break
            header = 0 if self.arrived else self.header  # the first range has it beside its share
            share = self.link.range_bytes
            if not self.coming:  # anything is better than nothing: others may leave little room
                share = min(share, max(most // GRAIN, 1) * GRAIN)
            length = min(share, self.size - max(self.asked, header))
            if self.coming - min(header, self.asked) + length > most:
                break
            length += 0 if self.asked else header
            digest = self.announced.digest
            assert digest is not None
            where = self.asked, length, self.encoding, self.base
            pulls.append(messages.Pull(self.me, digest, *where))
            self._first.setdefault(self.asked, now)
            self.asked += length
            self._pending.append((self.asked, now, self.arrived))
        return pulls

    def take(self, answer: messages.Weights, now: float) -> bool:
        """Whether this range is the next; others come too soon, or once more.

        Raises Gone, Misfit.
        """
        if answer.digest != self.announced.digest or answer.offset != self.arrived:
            return False
        if not answer.size:
            raise Gone
        if not self._pending:
            return False
        coded = answer.encoding != messages.PLAIN
        if coded and (self.base is None or answer.encoding != self.encoding):
            return False  # to a question of an earlier transfer
        if self.arrived and self.base is not None and not coded:
            raise Gone  # it lost the base in the middle of a difference
        fits = answer.size == self.size
        if coded and not self.arrived:
            fits = answer.size < self.size
        if not fits:
            raise Misfit(f"sent a model of {answer.size} bytes, expected {self.size}")
        end, asked_at, arrived_then = self._pending[0]
        if answer.offset + answer.data.nbytes != min(end, answer.size):
            return False
        self._pending.popleft()
        self.base = self.base if coded else None
        self.size = answer.size
        self.arrived = answer.offset + answer.data.nbytes
        first_asked_at = self._first.pop(answer.offset, asked_at)
        self.link.took_s = max(now - first_asked_at, 0.9 * self.link.took_s)
        if first_asked_at == asked_at:  # else nobody knows which question this answers
            self.link.measured(self.arrived - arrived_then, now - asked_at)
        self._rewinds = 0
        self.progress_at = now
        return True

    def stalled(self, now: float, patience_s: float, most_s: float) -> bool:
        """Whether nothing has come for longer than a slow link explains."""
        patience_s = max(patience_s, 2 * self.link.took_s) * 2 ** min(self._rewinds, 6)
        return now >= max(self.progress_at, self.asked_at) + min(patience_s, most_s)

    def overdue(self, now: float, patience_s: float) -> bool:
        """Whether all of it has taken longer than over the slowest link that is of use."""
        return now >= self.began_at + patience_s + self.size / LEAST_BYTES_PER_S

    def rewind(self, now: float) -> None:
        """Ask again for all that has not arrived, gently: it may all be still on its way."""
        self._rewinds += 1
        self.link.credit = LEAST_CREDIT
        self.asked_at = now
        self.asked = self.arrived
        self._pending.clear()
