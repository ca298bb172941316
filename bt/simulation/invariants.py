"""What must hold at any moment, checked after every event of every honest peer.

What is true is kept apart from what the peers believe: `Truth` knows every model ever finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from bt import events
from bt.events import Event, Instruction
from bt.protocol import Phase
from bt.versions import NEVER_TRAINED, Version
from bt.weights import FlatWeights
from transports import messages

if TYPE_CHECKING:
    from bt.simulation.process import Process, WatchedPeer
    from bt.simulation.world import World

_FOR_SLOWNESS = ("sends its model too slowly", "sent no weights for")


class Model(NamedTuple):
    """A finished model."""

    owner: str
    version: Version
    samples: int
    value: float


@dataclass
class Truth:
    """What nobody in the federation can know."""

    models: dict[str, Model] = field(default_factory=dict)  # by digest
    numbers: dict[tuple[str, Version], tuple[str, int]] = field(default_factory=dict)
    newest: dict[str, Version] = field(default_factory=dict)  # finished ever
    told: dict[str, Version] = field(default_factory=dict)  # to others, since the disk is there
    kept: dict[str, tuple[Version, str]] = field(default_factory=dict)  # on the disk, and served
    merged: dict[tuple[str, str], str] = field(default_factory=dict)  # who whose -> digest
    wipes: dict[str, int] = field(default_factory=dict)
    reused: int = 0  # numbers that stand for two models, after a disk was lost

    def wiped(self, name: str) -> None:
        self.wipes[name] = self.wipes.get(name, 0) + 1
        self.told.pop(name, None)
        self.kept.pop(name, None)
        for key in [key for key in self.merged if key[0] == name]:
            del self.merged[key]


class Watch:
    """Looks at one life of one peer."""

    def __init__(self, world: World, process: Process, peer: WatchedPeer) -> None:
        self._world = world
        self._truth = world.truth
        self._process = process
        self._peer = peer
        self._me = peer.me
        self.began = False  # before the first event it only looks at its disk
        self._version = NEVER_TRAINED
        self._vector: dict[str, Version] = {}
        self._coming: dict[str, str] = {}  # peer -> digest of what is merged of it
        self._to_keep: dict[str, str] = {}  # the same, once the round is over
        self._expected: float | None = None  # at the next fine-tune; None: nobody knows
        self._tolerance = 0.0
        self._fallback: float | None = None  # if training on what was merged diverges
        self._began_at = 0.0
        self._heard_at: dict[str, float] = {}
        self._asked_at: dict[str, float] = {}
        self._in_touch: set[str] = set()  # heard of in calm weather
        self._there: dict[str, tuple[Version, str]] = {}  # at the round's begin; calm weather only

    def _begins(self) -> None:
        """The checkpoint is loaded."""
        self.began = True
        if self._peer.digest is not None:
            self._register(self._peer.digest)
        told = self._truth.told.get(self._me, NEVER_TRAINED)
        if self._peer.version < told and not self._process.liar:
            self._violated(f"came back as {self._peer.version}, but has told others of {told}")

    def after(self, event: Event, out: Sequence[Instruction], now: float) -> None:
        """Look at what an event has done."""
        world, peer = self._world, self._peer
        if self._process.dead:
            return
        world.events += 1
        if world.transcript is not None:
            world.transcript.handled(world.now, self._me, event, out)
        if not self.began:
            self._begins()
        if self._process.liar:
            if type(event) is events.Persisted:
                self._register(event.digest)
            return
        if type(event) is events.Received:
            self._hears(event.message, now)
        elif type(event) is events.RoundDue:
            self._round_begins(now)
        elif type(event) is events.Persisted:
            self._register(event.digest)
        elif type(event) is events.Trained:
            self._to_keep = {p: d for p, d in self._coming.items() if p in peer.merged}
            for name, merged in peer.merged.items():
                if peer.vector.get(name, NEVER_TRAINED) < merged:
                    self._violated(f"forgets that it has merged {merged} of {name}")
        self._check_versions()
        for instruction in out:
            self._check(instruction, now)
        if peer.phase is Phase.PINGING:
            self._check_pinging(now)
        pulling = peer.pulling
        if self._asked_at:
            self._asked_at = {p: at for p, at in self._asked_at.items() if p in pulling}
        for name in pulling:
            since = max(self._heard_at.get(name, now), self._asked_at.get(name, now))
            if now >= since + peer.timing.ping_s:
                self._violated(f"waits for {name}, silent for {now - since:.3f} s")

    def _hears(self, message: messages.Message, now: float) -> None:
        self._heard_at[message.sender] = now
        if self._world.calm:
            self._in_touch.add(message.sender)
        if isinstance(message, messages.Version) and message.seen is not None:
            seen = Version(*message.seen)
            if seen > self._peer.version and not self._world.processes[message.sender].liar:
                self._violated(
                    f"goes on as {self._peer.version}, but {message.sender} knows of {seen}"
                )

    # Versions ---------------------------------------------------------------------------------
    def _check_versions(self) -> None:
        peer = self._peer
        if peer.version != self._version:
            if peer.version < self._version:
                self._violated(f"own version fell from {self._version} to {peer.version}")
            self._version = peer.version
        if peer.vector == self._vector:
            return
        for name, before in self._vector.items():
            if peer.vector.get(name, NEVER_TRAINED) < before:
                self._violated(f"v[{name}] fell from {before} to {peer.vector.get(name)}")
        for name, merged in peer.vector.items():
            newest = self._truth.newest.get(name, NEVER_TRAINED)
            if merged > newest and not self._world.processes[name].liar:
                self._violated(f"v[{name}] is {merged}, but {name} never had more than {newest}")
        self._vector = dict(peer.vector)

    def _register(self, digest: str) -> None:
        """A model that is on the disk, and served from now."""
        peer, truth, process = self._peer, self._truth, self._process
        version = peer.version
        if not version.count:
            return
        model = Model(self._me, version, process.samples, process.trainer.value)
        truth.models.setdefault(digest, model)
        wipes = truth.wipes.get(self._me, 0)
        before, then = truth.numbers.setdefault((self._me, version), (digest, wipes))
        if before != digest and not process.liar:
            if then == wipes:
                self._violated(f"serves two models under the number {version}")
            else:
                truth.reused += 1
        truth.newest[self._me] = max(version, truth.newest.get(self._me, version))
        truth.kept[self._me] = version, digest
        self._world.finished(self._me, digest, self._to_keep)
        for name, taken in self._to_keep.items():
            truth.merged[self._me, name] = taken

    # Instructions -----------------------------------------------------------------------------
    def _check(self, instruction: Instruction, now: float) -> None:
        kind = type(instruction)
        if kind is events.Send:
            message = instruction.message  # type: ignore[union-attr]
            if type(message) is messages.Version:
                self._tells(message)
            elif type(message) is messages.Pull:
                self._check_pull(instruction.to, message, now)  # type: ignore[union-attr]
        elif kind is events.Publish:
            self._tells(instruction.message)  # type: ignore[union-attr,arg-type]
        elif kind is events.Merge:
            assert isinstance(instruction, events.Merge)
            assert instruction.announced.digest is not None
            self._coming[instruction.weights.sender] = instruction.announced.digest
        elif kind is events.StartOver:  # asks everybody anew
            self._coming.clear()
            self._asked_at.clear()
        elif isinstance(instruction, events.Train):
            self._expect(instruction.merged)
            self._check_freshness(instruction.merged)
        elif isinstance(instruction, events.Aggregate):
            self._expect(tuple(instruction.merged))
            self._check_aggregate(instruction)
        elif isinstance(instruction, events.Note) and instruction.event == "reject":
            self._check_rejection(instruction)

    def _tells(self, message: messages.Version) -> None:
        told = Version(*message.version)
        kept, digest = self._truth.kept.get(self._me, (NEVER_TRAINED, None))
        if message.digest is not None and (told, message.digest) != (kept, digest):
            self._violated(f"tells of {told}, but {kept} is on its disk")
        if told > self._truth.told.get(self._me, NEVER_TRAINED) and told.count:
            self._truth.told[self._me] = told

    def _check_pull(self, to: str, pull: messages.Pull, now: float) -> None:
        peer = self._peer
        self._asked_at.setdefault(to, now)
        if peer.state != "training":
            return  # for the aggregated model whatever there is is asked for
        known, merged = peer.known_version(to), peer.vector.get(to, NEVER_TRAINED)
        if known is None or known <= merged:
            self._violated(f"asks {to} for weights: it has {known}, merged is {merged}")

    def _check_rejection(self, note: events.Note) -> None:
        if self._world.processes[note.peer].liar:
            return
        if self._world.quiet or not note.reason.startswith(_FOR_SLOWNESS):
            self._violated(f"sets honest {note.peer} aside: {note.reason}")

    # Rounds -----------------------------------------------------------------------------------
    def _round_begins(self, now: float) -> None:
        self._began_at = now
        self._coming.clear()
        self._there = {n: k for n, k in self._truth.kept.items() if self._is_there(n)}

    def _is_there(self, name: str) -> bool:
        """Whether nothing excuses leaving out what that peer has."""
        process = self._world.processes[name]
        honest = name in self._in_touch and process.up and not process.liar
        return honest and not self._peer.distrusts(name)

    def _check_pinging(self, now: float) -> None:
        until = self._began_at + self._peer.timing.ping_s
        deadline = self._peer.deadline
        if now >= until:
            self._violated("waits for answers to its pings beyond their deadline")
        if deadline is None or deadline > until:
            self._violated("would sleep beyond the deadline of its pings")

    def _expect(self, merged: Sequence[str]) -> None:
        """The mean of one's own model and those merged."""
        process, models = self._process, self._truth.models
        own = process.trainer.value
        self._fallback = own
        total = process.samples if self._peer.version.count else 0
        raised = total * own
        largest = abs(own)
        for name in merged:
            digest = self._coming.get(name)
            model = models.get(digest or "")
            if model is None:
                self._violated(f"merges a model of {name} that nobody ever finished: {digest}")
                self._expected = None
                return
            if model.owner != name:
                self._violated(f"merges a model of {model.owner} as one of {name}")
            raised += model.samples * model.value
            total += model.samples
            largest = max(largest, abs(model.value))
        self._expected = raised / total if total else own
        self._tolerance = largest * self._world.setup.precision

    def _check_freshness(self, merged: Sequence[str]) -> None:
        """In calm weather a round gets everything there was when it began."""
        if self._world.setup.fanout is not None or not self._peer.schedule.merges(self._peer):
            return
        taken = self._peer.merged
        for name, (version, digest) in self._there.items():
            if not self._is_there(name):
                continue
            got = max(taken.get(name, NEVER_TRAINED), self._peer.vector.get(name, NEVER_TRAINED))
            if got < version:
                self._violated(f"left {version} of {name} out of its round, has {got}")
            elif got == version and name not in taken:
                had = self._truth.merged.get((self._me, name))
                if had is not None and had != digest:
                    self._violated(f"takes {version} of {name}, a new model, for an old one")

    def _check_aggregate(self, aggregate: events.Aggregate) -> None:
        for name, (version, _) in self._truth.kept.items():
            if self._is_there(name) and aggregate.merged.get(name, NEVER_TRAINED) < version:
                got = aggregate.merged.get(name)
                self._violated(f"left {version} of {name} out of the aggregated model, has {got}")

    # Values -----------------------------------------------------------------------------------
    def fits(self, least: float, greatest: float) -> None:
        """What a fine-tune starts from."""
        if not self._process.liar:
            self._check_value("trains on", least, greatest)
        self._expected = self._fallback

    def ends(self, aggregated: FlatWeights | None) -> None:
        if aggregated is None:
            self._violated("ends without an aggregated model")
        elif not self._process.liar:
            self._check_value("aggregates", *self._world.mould.values(aggregated))

    def _check_value(self, what: str, least: float, greatest: float) -> None:
        expected, off = self._expected, self._tolerance
        if expected is None:
            return
        if not (expected - off <= least and greatest <= expected + off):
            shown = f"{least:g}" if least == greatest else f"{least:g} to {greatest:g}"
            self._violated(f"{what} {shown}, but the mean of what was merged is {expected:g}")

    def _violated(self, what: str) -> None:
        self._world.violated(self._me, what)
