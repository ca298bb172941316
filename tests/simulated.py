"""A federation of protocol.Peer without transports, clocks or training, one event at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from bt import events
from bt.protocol import Peer
from bt.schedule import Async, Schedule
from bt.transfer import GRAIN
from bt.versions import NEVER_TRAINED, Version
from transports import image, messages
from transports.schema import Schema, TensorSpec

SCHEMA = Schema.of([TensorSpec("w", "F32", (1,))])
HEADER_BYTES = 64
IMAGE_BYTES = HEADER_BYTES + 5 * GRAIN // 2  # travels as three ranges
IMAGE = memoryview(bytes(IMAGE_BYTES))


def digest(name: str, version: tuple[int, int]) -> str:
    """Of that model of that peer."""
    return image.digest(memoryview(f"{name} {tuple(version)}".encode()))


@dataclass
class Federation:
    """N peers; messages stay in `flying` until delivered. What is carried out is recorded."""

    names: tuple[str, ...]
    rounds: int = 3
    samples: dict[str, int] = field(default_factory=dict)
    schedule: Schedule = field(default_factory=Async)

    def __post_init__(self) -> None:
        self.now = 0.0
        self.flying: list[tuple[str, str, messages.Message]] = []  # sender, receiver, message
        self.disk: dict[str, tuple[Version, dict[str, Version], int]] = {}
        self.newest: dict[str, Version] = dict.fromkeys(self.names, NEVER_TRAINED)
        self.served: dict[str, str] = {}  # peer -> digest of its image
        self.partly: dict[str, dict[str, tuple[str, int]]] = {}  # what came of whose image
        self.shares: dict[str, list[float]] = {}  # of the round going on
        self.totals: dict[str, float] = {}
        self.trained: list[tuple[str, tuple[str, ...]]] = []
        self.update_numbers: dict[str, list[int]] = {}
        self.training: set[str] = set()
        self.aggregated: dict[str, tuple[str, ...]] = {}
        self.notes: list[tuple[str, events.Note]] = []
        self.peers: dict[str, Peer] = {}
        for name in self.names:
            self.peers[name] = self.make(name)

    def make(self, name: str) -> Peer:
        others = [other for other in self.names if other != name]
        samples = self.samples.get(name, 1)
        return Peer(
            name,
            others,
            samples,
            SCHEMA.hash,
            self.rounds,
            IMAGE_BYTES,
            HEADER_BYTES,
            schedule=self.schedule,
        )

    # What happens -----------------------------------------------------------------------------
    def feed(self, name: str, event: events.Event) -> None:
        queue = [event]
        while queue:
            peer = self.peers[name]
            before = peer.version, dict(peer.vector)
            for instruction in peer.handle(queue.pop(0), self.now):
                queue += self.carry_out(name, instruction)
            self.check(name, *before)

    def carry_out(self, name: str, instruction: events.Instruction) -> list[events.Event]:
        peer = self.peers[name]
        match instruction:
            case events.Send(to, message):
                if isinstance(message, messages.Pull) and peer.state == "training":
                    known = peer.known_version(to)
                    assert known is not None, "asked a peer never heard of"
                    merged = peer.vector.get(to, NEVER_TRAINED)
                    assert known > merged, "asked a peer with nothing new"
                if to not in self.peers:
                    return [events.PeerGone(to)]
                self.flying.append((name, to, message))
            case events.Serve(pull):
                data = IMAGE[pull.offset : pull.offset + pull.length]
                if pull.digest != self.served.get(name):
                    data = IMAGE[:0]
                    self.flying.append((name, pull.sender, peer.answer(pull.sender)))
                size = IMAGE_BYTES if data else 0
                answer = messages.Weights(name, pull.digest, size, pull.offset, data)
                self.flying.append((name, pull.sender, answer))
            case events.Publish(message):
                self.flying += [(name, to, message) for to in peer.others if to in self.peers]
            case events.Merge():
                return self.merge(name, instruction)
            case events.StartOver():
                self.forget_merge(name)
            case events.Train(update, merged):
                assert update == peer.joined_at + peer.version.count
                self.update_numbers.setdefault(name, []).append(update)
                for _, arrived in self.partly.pop(name, {}).values():
                    assert arrived == IMAGE_BYTES, "trains on a model merged in part"
                shares = self.shares.pop(name, [1.0])
                self.totals.pop(name, None)
                assert abs(sum(shares) - 1) < 1e-9, "merge weights don't sum to one"
                self.training.add(name)
                self.trained.append((name, merged))
            case events.Persist():
                self.disk[name] = (peer.version, dict(peer.vector), peer.joined_at)
                self.newest[name] = max(self.newest[name], peer.version)
                self.served[name] = digest(name, peer.version)
                return [events.Persisted(self.served[name])]
            case events.Aggregate(merged):
                self.forget_merge(name)
                self.aggregated[name] = tuple(merged)
            case events.Note():
                self.notes.append((name, instruction))
        return []

    def merge(self, name: str, merge: events.Merge) -> list[events.Event]:
        """One range of the running mean of bt/merge.py; shares count with the last."""
        weights, announced = merge.weights, merge.announced
        assert weights.digest == announced.digest == digest(weights.sender, announced.version)
        partly = self.partly.setdefault(name, {})
        _, arrived = partly.get(weights.sender, ("", 0))
        assert weights.offset == arrived, "ranges are merged in order, each once"
        arrived += weights.data.nbytes
        partly[weights.sender] = (weights.digest, arrived)
        if arrived < IMAGE_BYTES:
            return []
        shares = self.shares.setdefault(name, [1.0] if merge.own_weight else [0.0])
        self.totals[name] = self.totals.get(name, merge.own_weight) + merge.weight
        share = merge.weight / self.totals[name]
        shares[:] = [old * (1 - share) for old in shares] + [share]
        return [events.Merged(weights.sender)]

    def forget_merge(self, name: str) -> None:
        for kept in (self.shares, self.totals, self.partly):
            kept.pop(name, None)

    def start_round(self, name: str) -> None:
        self.feed(name, events.RoundDue())

    def finish_training(self, name: str) -> None:
        self.training.remove(name)
        self.feed(name, events.Trained())

    def deliver(self, index: int = 0, *, keep: bool = False) -> None:
        _, to, message = self.flying[index] if keep else self.flying.pop(index)
        if to in self.peers:
            self.feed(to, events.Received(message))

    def deliver_all(self) -> None:
        while self.flying:
            self.deliver()

    def wait(self, seconds: float) -> None:
        """Let time pass, and everybody whose deadline it is have a tick."""
        self.now += seconds
        for name, peer in list(self.peers.items()):
            if peer.deadline is not None and self.now >= peer.deadline:
                self.feed(name, events.Tick())

    def crash(self, name: str) -> None:
        """The process is gone; what it sent may still arrive."""
        del self.peers[name]
        self.training.discard(name)
        self.forget_merge(name)

    def restart(self, name: str) -> None:
        self.peers[name] = self.make(name)
        self.served.pop(name, None)
        if name in self.disk:
            version, vector, joined_at = self.disk[name]
            self.peers[name].resume(version, vector, joined_at)
            if version.count:
                self.peers[name].digest = self.served[name] = digest(name, version)
        self.feed(name, events.Tick())

    # What must hold ---------------------------------------------------------------------------
    def check(self, name: str, version: Version, vector: dict[str, Version]) -> None:
        peer = self.peers[name]
        assert peer.version >= version, "own version fell"
        for other, merged in vector.items():
            assert peer.vector[other] >= merged, f"v[{other}] fell"
        for other, merged in peer.vector.items():
            assert merged <= self.newest[other], f"v[{other}] exceeds {other}'s true version"

    # Shortcuts --------------------------------------------------------------------------------
    def update(self, name: str) -> tuple[str, ...]:
        """One whole round of one peer; whom it merged."""
        self.start_round(name)
        self.deliver_all()
        while name not in self.training:
            self.wait(1.0)
            self.deliver_all()
        self.finish_training(name)
        self.deliver_all()
        return self.trained[-1][1]
