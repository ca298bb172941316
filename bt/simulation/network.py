"""The network between simulated peers: late, lossy, doubled, out of order, cut in two."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from transports.base import Frame, PeerGone, Received, flat

if TYPE_CHECKING:
    from bt.simulation.world import World

_LEAST_DELAY_S = 0.001


@dataclass
class Weather:
    """How bad the network is."""

    delay_s: float = 0.02  # at most
    loss: float = 0.0
    twice: float = 0.0
    in_order: bool = True  # between any two peers


@dataclass
class Cut:
    """Nothing passes from these to those before `until`."""

    senders: frozenset[str]
    receivers: frozenset[str]
    until: float
    keeps: bool  # it arrives later, as over TCP; else it is lost


@dataclass
class Traffic:
    """What was sent."""

    messages: int = 0
    bytes: int = 0


@dataclass
class Network:
    """Brings frames to `world.processes`."""

    world: World
    weather: Weather = field(default_factory=Weather)
    cuts: list[Cut] = field(default_factory=list)
    traffic: Traffic = field(default_factory=Traffic)
    _latest: dict[tuple[str, str], float] = field(default_factory=dict)  # arrival, by link

    def send(self, sender: str, to: str, frames: Sequence[Frame]) -> None:
        """Raises PeerGone if nobody is there, at times."""
        world, weather = self.world, self.weather
        self.traffic.messages += 1
        self.traffic.bytes += sum([len(frame) for frame in frames])
        chance = world.chance.random
        if not world.processes[to].up and chance() < 0.5:
            raise PeerGone(to)
        if weather.loss and chance() < weather.loss:
            world.note(sender, "lost", to, frames)
            return
        received = Received(sender, tuple([flat(frame).toreadonly() for frame in frames]))
        copies = 2 if weather.twice and chance() < weather.twice else 1
        for _ in range(copies):
            at = world.now + _LEAST_DELAY_S + chance() * weather.delay_s
            if weather.in_order:
                at = self._latest[sender, to] = max(at, self._latest.get((sender, to), 0.0))
            world.at(at, self._deliver, (to, received))

    def cut(self, sender: str, to: str) -> Cut | None:
        """What lies between the two now."""
        for cut in self.cuts:
            if self.world.now < cut.until and sender in cut.senders and to in cut.receivers:
                return cut
        return None

    def _deliver(self, to_and_what: tuple[str, Received]) -> None:
        to, received = to_and_what
        cut = self.cut(received.sender, to) if self.cuts else None
        if cut is None:
            self.world.processes[to].arrived(received)
        elif cut.keeps:
            self.world.at(cut.until, self._deliver, to_and_what)


class VirtualTransport:
    """A Transport of one process. What it received waits in `inbox`."""

    def __init__(
        self, me: str, peers: tuple[str, ...], network: Network, step: Callable[[str], None]
    ) -> None:
        self.me = me
        self.peers = peers
        self.inbox: deque[Received] = deque()
        self._network = network
        self._step = step

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        self._step("send")
        if to not in self._network.world.processes:
            raise PeerGone(to, "not in the network")
        self._network.send(self.me, to, frames)

    def publish(self, frames: Sequence[Frame]) -> None:
        for to in self.peers:
            self._step("publish")
            try:
                self._network.send(self.me, to, frames)
            except PeerGone:
                continue

    def recv(self, timeout_s: float) -> Received | None:
        self._step("receive")
        return self.inbox.popleft() if self.inbox else None

    def close(self, linger_s: float = 5.0) -> None:
        self.inbox.clear()
