"""Peers in one process, joined by queues; faults can be put in, reproducibly from a seed.

For tests, simulations and runs in one process: what works here under loss, delay, duplication and
reordering works over a network.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from transports.base import Frame, PeerGone, Received, TransportError, flat, valid_name


@dataclass(frozen=True)
class Faults:
    """Probabilities per message, and a range of seconds each one takes."""

    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0  # a message overtakes all that are waiting
    delay_s: tuple[float, float] = (0.0, 0.0)


@dataclass
class _Mailbox:
    """Messages for one peer: a heap of (time it arrives, order, message)."""

    waiting: list[tuple[float, int, Received]] = field(default_factory=list)
    latest: dict[str, float] = field(default_factory=dict)  # sender -> arrival of its last one
    count: int = 0


class Network:
    """The links between the peers in `names`. Thread-safe.

    Each link draws its faults from a generator of its own, so they depend on the seed and on what
    is sent over that link, not on how threads happen to run.
    """

    def __init__(
        self, names: Iterable[str], *, seed: int = 0, faults: Faults | None = None
    ) -> None:
        self.names = tuple(sorted(names))
        for name in self.names:
            if not valid_name(name):
                raise ValueError(f"{name!r} can't name a peer")
        self._faults = faults or Faults()
        self._seed = seed
        self._links: dict[tuple[str, str], random.Random] = {}
        self._mailboxes: dict[str, _Mailbox] = {}
        self._changed = threading.Condition()

    def join(self, name: str) -> InprocTransport:
        """The transport of peer `name`; again after it was closed, as a restarted peer would."""
        if name not in self.names:
            raise TransportError(f"{name!r} is not in this network: {', '.join(self.names)}")
        with self._changed:
            if name in self._mailboxes:
                raise TransportError(f"peer {name} has already joined")
            self._mailboxes[name] = _Mailbox()
        return InprocTransport(self, name)

    def leave(self, name: str) -> None:
        """Forget the peer and what waits for it."""
        with self._changed:
            self._mailboxes.pop(name, None)
            self._changed.notify_all()

    def deliver(self, sender: str, to: str, frames: tuple[memoryview, ...]) -> None:
        """Put a message on the link. Raises PeerGone if `to` is not there."""
        with self._changed:
            mailbox = self._mailboxes.get(to)
            if mailbox is None:
                raise PeerGone(to, "not in the network")
            if (chance := self._links.get((sender, to))) is None:
                chance = random.Random(f"{self._seed}/{sender}/{to}")
                self._links[sender, to] = chance
            if chance.random() < self._faults.loss:
                return
            copies = 2 if chance.random() < self._faults.duplication else 1
            for _ in range(copies):
                self._queue(mailbox, chance, Received(sender, frames))
            self._changed.notify_all()

    def _queue(self, mailbox: _Mailbox, chance: random.Random, message: Received) -> None:
        mailbox.count += 1
        at, order = time.monotonic() + chance.uniform(*self._faults.delay_s), mailbox.count
        if chance.random() < self._faults.reordering and mailbox.waiting:
            at, order = min(at, mailbox.waiting[0][0]), -order
        else:  # a link keeps its order however much the delays differ
            at = max(at, mailbox.latest.get(message.sender, at))
            mailbox.latest[message.sender] = at
        heapq.heappush(mailbox.waiting, (at, order, message))

    def take(self, name: str, timeout_s: float) -> Received | None:
        """The next message for `name` that has arrived, or None after `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while (mailbox := self._mailboxes.get(name)) is not None:
                now = time.monotonic()
                if mailbox.waiting and mailbox.waiting[0][0] <= now:
                    return heapq.heappop(mailbox.waiting)[2]
                if now >= deadline:
                    return None
                arrival = mailbox.waiting[0][0] if mailbox.waiting else deadline
                self._changed.wait(min(arrival, deadline) - now)
        return None


class InprocTransport:
    """One peer of a Network; a Transport. Frames are handed over without a copy."""

    def __init__(self, network: Network, me: str) -> None:
        self.me = me
        self._network = network
        self._closed = False

    @property
    def peers(self) -> tuple[str, ...]:
        return tuple(name for name in self._network.names if name != self.me)

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        self._check_open()
        if to not in self.peers:
            raise PeerGone(to, "not in the network")
        self._network.deliver(self.me, to, tuple(flat(frame).toreadonly() for frame in frames))

    def publish(self, frames: Sequence[Frame]) -> None:
        self._check_open()
        for name in self.peers:
            with suppress(PeerGone):
                self.send(name, frames)

    def recv(self, timeout_s: float) -> Received | None:
        self._check_open()
        return self._network.take(self.me, timeout_s)

    def close(self, linger_s: float = 5.0) -> None:
        """Leave; what was sent has already been delivered."""
        if not self._closed:
            self._closed = True
            self._network.leave(self.me)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport of {self.me} is closed")
