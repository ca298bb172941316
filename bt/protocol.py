"""BrainTorrent's Algorithm 1 as a pure state machine: events in, instructions out.

No sockets, clock, threads or tensors in here: the runner brings events with the time they
happened, and carries out the instructions. A round of this peer goes

    RoundDue -> Ping everybody -> Version replies -> Pull from those that are newer
             -> Merge each as it comes -> Train -> version + 1 -> Persist -> Publish

and at any moment, training or not, pings and pulls of others are answered from the last
finished model. A peer that is silent costs a round one deadline, and nothing once it is known
to be gone. After its last round a peer serves on until all are done or gone, forms the
aggregated model, and leaves when nobody needs it any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from bt.events import (
    Aggregate,
    Event,
    Instruction,
    Leave,
    Merge,
    Merged,
    Note,
    PeerGone,
    Persist,
    Publish,
    Received,
    Rejected,
    RoundDue,
    Send,
    Serve,
    Tick,
    Train,
    Trained,
)
from bt.schedule import Async, Schedule
from bt.versions import NEVER_TRAINED, Version, VersionVector
from transports import messages

MOST_LOSSES = 16  # incarnations a peer may be behind what others know of it


class Phase(StrEnum):
    """What the peer is doing for itself; it answers others in every phase."""

    IDLE = "idle"
    PINGING = "pinging"
    PULLING = "pulling"
    TRAINING = "training"


@dataclass(frozen=True)
class Timing:
    """How long to wait, in seconds."""

    ping_s: float = 5.0  # a peer that is silent this long is gone
    retry_s: float = 0.5  # between two pings to a peer that has not answered
    pull_s: float = 60.0  # a peer that sends no weights this long is skipped
    heartbeat_s: float = 1.0  # between pings while waiting for the others
    patience_s: float = 3600.0  # at the end, for a peer that lives but makes no progress
    set_aside_s: float = 30.0  # first pause for a peer that sent something invalid; doubles


@dataclass
class _Other:
    """What this peer knows of another one."""

    known: messages.Version | None = None  # the newest version message heard
    moved_at: float = float("-inf")  # when its version or state last changed
    gone: bool = False
    strikes: int = 0
    aside_until: float = float("-inf")


@dataclass
class Peer:
    """One peer's side of the protocol. `handle` is the only mutator.

    version and vector are the paper's v, its own entry apart. After `rounds` fine-tunes the peer
    is done.
    """

    me: str
    others: Sequence[str]
    samples: int
    schema: str
    rounds: int
    schedule: Schedule = field(default_factory=Async)
    timing: Timing = Timing()
    pulls_at_once: int = 2

    version: Version = field(default=NEVER_TRAINED, init=False)
    vector: VersionVector = field(default_factory=dict, init=False)
    deadline: float | None = field(default=None, init=False)  # when a Tick is needed
    phase: Phase = field(default=Phase.IDLE, init=False)
    state: str = field(default="training", init=False)  # as told to the others
    finished: bool = field(default=False, init=False)  # nobody needs this peer any more

    def __post_init__(self) -> None:
        self._others = {name: _Other() for name in sorted(self.others)}
        self._awaited: dict[str, float] = {}  # pinged, no answer yet -> deadline
        self._retry_at = float("-inf")
        self._to_pull: list[str] = []
        self._pulling: dict[str, float] = {}  # peer -> deadline
        self._merging: dict[str, Version] = {}  # handed to Merge, not yet confirmed
        self._merged: VersionVector = {}
        self._aggregating = False
        self._told_of_loss: set[str] = set()  # peers that knew of lost models of ours
        self._now = self._done_at = 0.0

    def resume(self, version: Version, vector: VersionVector) -> None:
        """Go on from a checkpoint; before the first event."""
        self.version = version
        self.vector = dict(vector)
        if version.count >= self.rounds:
            self.state = "done"

    # What others may ask of it ----------------------------------------------------------------
    @property
    def ready(self) -> bool:
        """Whether a round may start now."""
        return self.phase is Phase.IDLE and self.state == "training" and self.schedule.ready(self)

    def known_version(self, peer: str) -> Version | None:
        """The newest version heard of `peer`; None if it is gone or was never heard."""
        other = self._others[peer]
        if other.gone or other.known is None:
            return None
        return Version(*other.known.version)

    def in_play(self, peer: str) -> bool:
        """Whether `peer` may still be waited for: reachable, trusted, not done with its rounds."""
        other = self._others[peer]
        if other.gone or self._now < other.aside_until:
            return False
        return other.known is None or other.known.state == "training"

    def gone(self) -> tuple[str, ...]:
        """The peers that can't be reached."""
        return tuple(name for name, other in self._others.items() if other.gone)

    def announcement(self) -> messages.Version:
        """What this peer tells of itself."""
        return messages.Version(self.me, self.version, self.samples, self.schema, self.state)

    # The only mutator -------------------------------------------------------------------------
    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take an event that happened at `now` (seconds, any origin); say what to do."""
        out: list[Instruction] = []
        self._now = now
        match event:
            case RoundDue():
                self._start_round(now, out)
            case Received(message):
                self._receive(message, now, out)
            case PeerGone(peer, reason):
                self._lost(peer, reason, now, out)
            case Rejected(peer, reason):
                self._set_aside(peer, reason, now, out)
            case Merged(peer, refused):
                self._confirm_merge(peer, refused, now, out)
            case Trained():
                self._finish_training(out)
            case Leave():
                self.state = "leaving"
                out.append(Publish(self.announcement()))
            case Tick():
                pass
        self._advance(now, out)
        return out

    # Events -----------------------------------------------------------------------------------
    def _start_round(self, now: float, out: list[Instruction]) -> None:
        if not self.ready:
            raise RuntimeError("a round is due only when the peer is ready")
        self._merged = {}
        if self.schedule.merges(self):
            self.phase = Phase.PINGING
            self._ping_all(now, out)
        else:
            self._train(out)

    def _receive(self, message: messages.Message, now: float, out: list[Instruction]) -> None:
        sender = message.sender
        other = self._others[sender]
        other.gone = False
        self._awaited.pop(sender, None)
        match message:
            case messages.Ping():
                out.append(Send(sender, self._answer(sender)))
            case messages.Pull(have=have):
                news = have is None or self.version > have
                serve = self.version.count > 0 and news
                out.append(Serve(sender) if serve else Send(sender, self._answer(sender)))
            case messages.Version():
                self._learn(other, message, now, out)
            case messages.Weights():
                self._take(message, now, out)

    def _answer(self, to: str) -> messages.Version:
        """Version, and which of `to`'s models was merged: a peer that lost its disk learns it."""
        return replace(self.announcement(), seen=self.vector.get(to))

    def _learn(
        self, other: _Other, message: messages.Version, now: float, out: list[Instruction]
    ) -> None:
        sender = message.sender
        if message.schema != self.schema:
            reason = (
                f"trains another model (schema {message.schema[:8]}, ours {self.schema[:8]}); "
                "network, filters and number of structures must be the same everywhere"
            )
            self._set_aside(sender, reason, now, out)
            return
        if message.seen is not None and message.seen > self.version:
            self._reincarnate(sender, Version(*message.seen), now, out)
        if other.known is None or message.version >= other.known.version:
            before = other.known and (other.known.version, other.known.state)
            if before != (message.version, message.state):
                other.moved_at = now
            other.known = message
        if message.state == "leaving":
            self._lost(sender, "left", now, out)
        elif sender in self._pulling and not self._has_news(sender, now):
            del self._pulling[sender]

    def _reincarnate(self, sender: str, seen: Version, now: float, out: list[Instruction]) -> None:
        """`sender` merged a newer model of ours than we have: our state was lost.

        At most once per peer, and by small steps: a liar must not drive versions up.
        """
        rise = seen.incarnation + 1 - self.version.incarnation
        if sender in self._told_of_loss or rise > MOST_LOSSES:
            self._set_aside(sender, f"claims to have merged our version {seen}", now, out)
            return
        self._told_of_loss.add(sender)
        self.version = Version(seen.incarnation + 1, self.version.count)
        out.append(Persist())

    def _take(self, message: messages.Weights, now: float, out: list[Instruction]) -> None:
        sender = message.sender
        if sender not in self._pulling:
            return  # too late, or never asked for
        del self._pulling[sender]
        version = Version(*message.version)
        merged = self.vector.get(sender, NEVER_TRAINED)
        if version < merged or version.count == 0 or (version == merged and not self._aggregating):
            self._set_aside(sender, f"sent version {version}, which is not news", now, out)
            return
        self._merging[sender] = version
        out.append(Merge(message, self.samples if self.version.count else 0))

    def _confirm_merge(
        self, peer: str, refused: str | None, now: float, out: list[Instruction]
    ) -> None:
        version = self._merging.pop(peer)
        if refused is None:
            self._merged[peer] = version
            self._others[peer].strikes = 0
        else:
            self._set_aside(peer, refused, now, out)

    def _lost(self, peer: str, reason: str, now: float, out: list[Instruction]) -> None:
        other = self._others[peer]
        starting = other.known is None and now < self._awaited.get(peer, now)
        if other.gone or starting:
            return  # a peer never heard of may still be starting: it gets until the deadline
        other.gone = True
        self._awaited.pop(peer, None)
        self._pulling.pop(peer, None)
        out.append(Note("gone", peer, reason))

    def _set_aside(self, peer: str, reason: str, now: float, out: list[Instruction]) -> None:
        other = self._others[peer]
        other.aside_until = now + self.timing.set_aside_s * 2.0 ** min(other.strikes, 7)
        other.strikes += 1
        self._awaited.pop(peer, None)
        self._pulling.pop(peer, None)
        out.append(Note("reject", peer, reason))

    def _finish_training(self, out: list[Instruction]) -> None:
        if self.phase is not Phase.TRAINING:
            raise RuntimeError("nothing was being trained")
        self.vector.update(self._merged)
        self._merged = {}
        self.version = self.version.next()
        self.phase = Phase.IDLE
        if self.version.count >= self.rounds:
            self.state = "done"
            self._done_at = self._now
        out += [Persist(), Publish(self.announcement())]

    # What follows -----------------------------------------------------------------------------
    def _advance(self, now: float, out: list[Instruction]) -> None:
        """Go as far as the clock and what is known allow, and set the next deadline."""
        for peer in [peer for peer, until in self._awaited.items() if now >= until]:
            self._lost(peer, f"silent for {self.timing.ping_s:g} s", now, out)
        if self.phase is Phase.PINGING:
            if not self._awaited:
                self._start_pulls(now)
            elif now >= self._retry_at:
                self._ping(list(self._awaited), now, out)
        if self.phase is Phase.PULLING:
            self._continue_pulls(now, out)
        if self.phase is Phase.IDLE and self.state in ("done", "finished"):
            self._wind_up(now, out)
        if self.phase is Phase.IDLE and not self.ready and now >= self._retry_at:
            self._ping_all(now, out)  # heartbeat while waiting for others
        self.deadline = self._next_deadline()

    def _start_pulls(self, now: float) -> None:
        self.phase = Phase.PULLING
        self._to_pull = [peer for peer in self._others if self._has_news(peer, now)]

    def _continue_pulls(self, now: float, out: list[Instruction]) -> None:
        for peer in [peer for peer, until in self._pulling.items() if now >= until]:
            self._set_aside(peer, f"sent no weights for {self.timing.pull_s:g} s", now, out)
        while self._to_pull and len(self._pulling) + len(self._merging) < self.pulls_at_once:
            peer = self._to_pull.pop(0)
            if self._has_news(peer, now):
                have = None if self._aggregating else self.vector.get(peer, NEVER_TRAINED)
                self._pulling[peer] = now + self.timing.pull_s
                out.append(Send(peer, messages.Pull(self.me, have)))
        if self._pulling and now >= self._retry_at:
            self._ping(list(self._pulling), now, out)  # a dead one is noticed by the transport
        if self._to_pull or self._pulling or self._merging:
            return
        if self._aggregating:
            self._aggregating = False
            self.phase = Phase.IDLE
            self.state = "finished"
            out += [Aggregate(dict(self._merged)), Publish(self.announcement())]
        else:
            self._train(out)

    def _train(self, out: list[Instruction]) -> None:
        self.phase = Phase.TRAINING
        out.append(Train(self.version.count, tuple(self._merged)))

    def _wind_up(self, now: float, out: list[Instruction]) -> None:
        """Done: once everybody is, form the aggregated model; once all have theirs, leave."""
        waiting_for = [
            other.known.state if other.known else "training"
            for other in self._others.values()
            if not other.gone
            and now >= other.aside_until
            and now < max(other.moved_at, self._done_at) + self.timing.patience_s
        ]
        if self.state == "done" and "training" not in waiting_for:
            self._aggregating = True
            self._merged = {}
            self._start_pulls(now)
            self._retry_at = now + self.timing.retry_s
            self._continue_pulls(now, out)
        elif self.state == "finished":
            self.finished = all(state == "finished" for state in waiting_for)

    def _has_news(self, peer: str, now: float) -> bool:
        """Whether `peer` has weights that are wanted now."""
        other = self._others[peer]
        if other.gone or now < other.aside_until or other.known is None:
            return False
        version = Version(*other.known.version)
        if self._aggregating:
            return version.count > 0
        return version > self.vector.get(peer, NEVER_TRAINED)

    def _ping_all(self, now: float, out: list[Instruction]) -> None:
        """Ping everybody; wait for those not known to be gone, up to one deadline."""
        asked = [peer for peer, other in self._others.items() if now >= other.aside_until]
        for peer in asked:
            if not self._others[peer].gone:
                self._awaited.setdefault(peer, now + self.timing.ping_s)
        self._ping(asked, now, out)

    def _ping(self, peers: Sequence[str], now: float, out: list[Instruction]) -> None:
        busy = self.phase is Phase.PINGING or self.phase is Phase.PULLING
        self._retry_at = now + (self.timing.retry_s if busy else self.timing.heartbeat_s)
        out += [Send(peer, messages.Ping(self.me)) for peer in peers]

    def _next_deadline(self) -> float | None:
        if self.phase is Phase.TRAINING or self.ready or self.finished:
            return None
        return min([self._retry_at, *self._pulling.values(), *self._awaited.values()])
