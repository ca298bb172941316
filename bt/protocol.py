"""BrainTorrent's Algorithm 1 as a pure state machine: events in, instructions out.

No sockets, clock, threads or tensors in here: the runner brings events with the time they
happened, and carries out the instructions. A round of this peer goes

    RoundDue -> Ping everybody -> Version replies -> Pull from those that are newer
             -> Merge each range as it comes -> Train -> version + 1 -> Persist -> Publish

and at any moment, training or not, pings and pulls of others are answered from the last
finished model. A peer that is silent costs a round one deadline, and nothing once it is known
to be gone. If one fails while its model comes in, the merge starts over without it: only whole
models are merged. After its last round a peer serves on until all are done or gone, forms the
aggregated model, and leaves when nobody needs it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from bt import events
from bt.events import Event, Instruction
from bt.fanout import Fanout
from bt.incarnation import Losses
from bt.others import LEFT, Other, Others, Timing, knowing
from bt.pulls import Pulls
from bt.schedule import Async, Schedule
from bt.transfer import Gone, Link, Misfit
from bt.trust import Aside, another_model
from bt.versions import NEVER_TRAINED, Version, VersionVector, typical_count
from transports import messages


class Phase(StrEnum):
    """What the peer is doing for itself; it answers others in every phase."""

    IDLE = "idle"
    PINGING = "pinging"
    PULLING = "pulling"
    TRAINING = "training"


@dataclass
class Peer:
    """One peer's side of the protocol. `handle` is the only mutator.

    version and vector are the paper's v, its own entry apart. After `rounds` updates it is done.
    """

    me: str
    others: Sequence[str]
    samples: int
    schema: str
    rounds: int
    image_bytes: int  # of every peer's model,
    header_bytes: int  # of which so many come before the body
    schedule: Schedule = field(default_factory=Async)
    timing: Timing = field(default_factory=Timing)
    pulls_at_once: int = 2
    choose: Callable[[Link], str] = lambda link: messages.PLAIN  # how models are coded for a link
    fanout: Fanout = field(default_factory=Fanout)
    least_models: int = 1  # that are merged at once, one's own included if it was trained

    version: Version = field(default=NEVER_TRAINED, init=False)
    digest: str | None = field(default=None, init=False)  # of the image that is served
    vector: VersionVector = field(default_factory=dict, init=False)
    joined_at: int = field(default=0, init=False)  # updates the others had when it came
    deadline: float | None = field(default=None, init=False)  # when a Tick is needed
    phase: Phase = field(default=Phase.IDLE, init=False)
    state: str = field(default="training", init=False)  # as told to the others
    finished: bool = field(default=False, init=False)  # nobody needs this peer any more

    def __post_init__(self) -> None:
        self._others = Others({name: Other() for name in sorted(self.others)})
        self._asked: list[str] = []  # in the round going on
        self._awaited: dict[str, float] = {}  # pinged, no answer yet -> deadline
        self._retry_at, self._now = float("-inf"), 0.0
        sizes = self.image_bytes, self.header_bytes
        self._pulls = Pulls(self.me, *sizes, self.pulls_at_once, self.choose)
        self._aggregating = False
        self._told = messages.Version(self.me, (0, 0), self.samples, self.schema, self.state)
        self._losses = Losses()
        self._done_at: float | None = None

    def resume(self, version: Version, vector: VersionVector, joined_at: int = 0) -> None:
        """Go on from a checkpoint; before the first event, and before `digest` is set."""
        self.version, self.joined_at = version, joined_at
        self.vector = dict(vector)
        if version.count >= self.rounds:
            self.state = "done"

    # What others may ask of it ----------------------------------------------------------------
    @property
    def ready(self) -> bool:
        """Whether a round may start now."""
        idle = self.phase is Phase.IDLE and self._on_disk and self.state == "training"
        return idle and self.schedule.ready(self)

    @property
    def _on_disk(self) -> bool:
        """Whether the last model is; until then it is nobody else's business."""
        return self.digest is not None or self.version.count == 0

    def known_version(self, peer: str) -> Version | None:
        """The newest version heard of `peer`; None if it is gone or was never heard."""
        return self._others.version_of(peer)

    def in_play(self, peer: str) -> bool:
        """Whether `peer` may still be waited for: reachable, trusted, not done with its rounds."""
        return self._others.in_play(peer, self._now)

    @property
    def set_aside(self) -> tuple[Aside, ...]:
        """From whom nothing is taken at the moment, why, and until when."""
        return self._others.set_aside(self._now)

    def look(self) -> tuple[Mapping[str, Other], Iterable[str]]:
        """What is known of the others, and whose models are coming in; not to be changed."""
        return self._others, self._pulls.running

    def announcement(self) -> messages.Version:
        """What this peer tells of itself."""
        told = self._told
        now = self.version, self.state, self.digest
        if self._on_disk and now != (told.version, told.state, told.digest):
            version, state, digest = now
            self._told = replace(told, version=version, state=state, digest=digest)
        elif self.state == "leaving" != told.state:
            self._told = replace(told, state=self.state)
        return self._told

    def answer(self, to: str) -> messages.Version:
        """Version, and the newest of `to`'s that is known: a peer that lost its disk learns it."""
        heard = Version(*known.version) if (known := self._others[to].known) else NEVER_TRAINED
        seen, told = max(heard, self.vector.get(to, heard)), self.announcement()
        return told if seen == NEVER_TRAINED else knowing(told, seen)

    # The only mutator -------------------------------------------------------------------------
    def handle(self, event: Event, now: float) -> list[Instruction]:
        """Take an event that happened at `now` (seconds, any origin); say what to do."""
        out: list[Instruction] = []
        self._now = now
        if self.state != "training" and self._done_at is None:
            self._done_at = now  # it was done before it was started again
        match event:
            case events.RoundDue():
                self._start_round(now, out)
            case events.Received(message):
                calm = not (self._others[message.sender].gone or self.phase is Phase.PULLING)
                self._receive(event, now, out)
                late = self.deadline is not None and now >= self.deadline
                if isinstance(message, messages.Ping | messages.Pull) and calm and not late:
                    return out  # nothing else has changed
            case events.PeerGone(peer, reason, refused):
                if refused:
                    self._awaited.pop(peer, None)  # no use
                self._lost(peer, reason, now, out)
            case events.Rejected(peer, reason):
                self._set_aside(peer, reason, now, out)
            case events.Merged():
                self._confirm_merge(event, now, out)
            case events.Trained():
                self._finish_training(out)
            case events.Persisted(digest):
                self.digest = digest if self.version.count else None  # random weights are nobody's
                told = self.announcement()
                gossip = self.fanout.most is not None and isinstance(self.schedule, Async)
                if not gossip or told.state != "training":  # else who asks is told
                    out.append(events.Publish(told))
            case events.Leave():
                self.state = "leaving"
                out.append(events.Publish(self.announcement()))
            case events.Met(peer):
                self._others.setdefault(peer, Other())
        self._advance(now, out)
        return out

    # Events -----------------------------------------------------------------------------------
    def _start_round(self, now: float, out: list[Instruction]) -> None:
        if self.phase is not Phase.IDLE:
            raise RuntimeError("a round is due only when the peer is ready")
        if not self.ready:
            return  # not any more: a peer to wait for has come back this very moment
        self._pulls.begin([])
        if self.schedule.merges(self):
            self.phase = Phase.PINGING
            fresh = self.version.count == 0  # or it lost its models: who merged them will tell
            self._asked = [*self._others] if fresh else self.fanout.asked(self._others, now)
            self._ping_all(self._asked, now, out)
        else:
            self._train(out)

    def _receive(self, event: events.Received, now: float, out: list[Instruction]) -> None:
        message, sender = event.message, event.message.sender
        other = self._others[sender]
        back = other.gone and not event.published  # who is gone is pinged, but not awaited
        if not event.published:
            other.gone, other.heard_at = False, now
        match message:
            case messages.Ping():
                out.append(events.Send(sender, self.answer(sender)))
            case messages.Pull():
                out.append(events.Serve(message))
            case messages.Version():
                asked = not event.published and self._awaited.pop(sender, None) is not None
                self._learn(other, message, now, out)
                if (asked or back) and other.is_ahead_of(message):  # lost its disk; may not ask us
                    out.append(events.Send(sender, self.answer(sender)))
                if asked and (why := other.outdated(message, now, self.timing.pull_s)):
                    self._set_aside(sender, why, now, out)
            case messages.Weights():
                self._take(message, now, out)

    def _learn(
        self, other: Other, message: messages.Version, now: float, out: list[Instruction]
    ) -> None:
        sender = message.sender
        if message.schema != self.schema:
            self._set_aside(sender, another_model(message.schema, self.schema), now, out)
            return
        if message.seen is not None and message.seen > self.version:
            self._reincarnate(sender, Version(*message.seen), now, out)
        if other.known is None or message.version >= other.known.version:
            before = other.known and (other.known.version, other.known.state)
            if before != (message.version, message.state):
                other.moved_at = now
            other.known = message
        if message.state == "leaving":
            self._lost(sender, LEFT, now, out)
            other.known = replace(message, state="training")  # should it come back

    def _reincarnate(self, sender: str, seen: Version, now: float, out: list[Instruction]) -> None:
        version = self._losses.start_after(seen, self.version, sender)
        if version is None:
            self._set_aside(sender, f"claims to know our version {seen}", now, out)
            return
        self.version, self.digest = version, None  # until it is served under that
        out.append(events.Persist())

    def _take(self, message: messages.Weights, now: float, out: list[Instruction]) -> None:
        try:
            transfer = self._pulls.take(message, now)
        except Gone:
            self._drop_pull(message.sender, out, again=True)  # it may have something newer
            return
        except Misfit as exc:
            self._set_aside(message.sender, str(exc), now, out)
            return
        if transfer is not None:
            told, keep = transfer.announced, transfer.encoding != messages.PLAIN
            own = self.schedule.weight(self, self.announcement()) if self.version.count else 0.0
            weights = self.schedule.weight(self, told), own
            out += self._pulls.ask(self._others, self._has_news, now)  # comes while this is merged
            out.append(events.Merge(message, told, *weights, transfer.base, keep))

    def _drop_pull(self, peer: str, out: list[Instruction], *, again: bool = False) -> None:
        if again:
            self._others[peer].failures += 1
            self._pulls.waiting.append(peer)
        if self._pulls.drop(peer):
            out.append(events.StartOver())

    def _confirm_merge(self, merged: events.Merged, now: float, out: list[Instruction]) -> None:
        self._others[merged.peer].base = merged.kept
        if merged.late:
            self._drop_pull(merged.peer, out, again=True)
        elif merged.refused is not None:
            self._set_aside(merged.peer, merged.refused, now, out)
        elif self._pulls.confirm(merged.peer):
            self._others[merged.peer].trust.merit()

    def _lost(self, peer: str, reason: str, now: float, out: list[Instruction]) -> None:
        other = self._others[peer]
        # It may still be starting, or the link come back in the middle of a model: until then.
        starting = other.known is None and now < self._awaited.get(peer, now)
        transfer = self._pulls.running.get(peer)
        halting = transfer is not None and now < transfer.progress_at + self.timing.ping_s
        if other.gone or starting or (halting and reason != LEFT):
            return
        other.gone = True
        self._awaited.pop(peer, None)
        self._drop_pull(peer, out)
        out.append(events.Note("gone", peer, reason))

    def _set_aside(self, peer: str, reason: str, now: float, out: list[Instruction]) -> None:
        self._awaited.pop(peer, None)
        self._drop_pull(peer, out)
        if self._others[peer].trust.strike(reason, now, self.timing.set_aside_s):
            out.append(events.Note("reject", peer, reason))

    def _finish_training(self, out: list[Instruction]) -> None:
        if self.phase is not Phase.TRAINING:
            raise RuntimeError("nothing was being trained")
        self.vector.update(self._pulls.merged)
        self.version = self.version.next()
        self.digest, self.phase = None, Phase.IDLE
        if self.version.count >= self.rounds:
            self.state = "done"
            self._done_at = self._now
        out.append(events.Persist())  # and announced once it is on disk

    # What follows -----------------------------------------------------------------------------
    def _advance(self, now: float, out: list[Instruction]) -> None:
        """Go as far as the clock and what is known allow, and set the next deadline."""
        for peer in [peer for peer, until in self._awaited.items() if now >= until]:
            del self._awaited[peer]  # lost or not: a deadline that has passed must not come back
            self._lost(peer, f"silent for {self.timing.ping_s:g} s", now, out)
        if self.phase is Phase.PINGING:
            if not self._awaited:
                self._start_pulls(self._asked, now)
            elif now >= self._retry_at:
                self._ping(list(self._awaited), now, out)
        if self.phase is Phase.PULLING:
            self._continue_pulls(now, out)
        if self.phase is Phase.IDLE and self._on_disk and self.state in ("done", "finished"):
            self._wind_up(now, out)
        if self.phase is Phase.IDLE and self._on_disk and not self.ready and now >= self._retry_at:
            self._ping_all(self._others, now, out)  # heartbeat while waiting for others
        self.deadline = self._next_deadline()

    def _start_pulls(self, peers: Iterable[str], now: float) -> None:
        self.phase = Phase.PULLING
        for peer in peers:
            self._others[peer].failures = 0
        news = [peer for peer in peers if self._has_news(peer, now)]
        news = news if self._aggregating else self.fanout.some(news)
        self._pulls.begin(news if self._enough(news) else [])  # they still have them next time

    def _continue_pulls(self, now: float, out: list[Instruction]) -> None:
        for peer, transfer in list(self._pulls.running.items()):
            heard_at = max(self._others[peer].heard_at, transfer.progress_at)
            if now >= heard_at + self.timing.ping_s:
                self._lost(peer, f"silent for {self.timing.ping_s:g} s", now, out)
            elif now >= transfer.progress_at + self.timing.pull_s:
                self._set_aside(peer, f"sent no weights for {self.timing.pull_s:g} s", now, out)
            elif transfer.overdue(now, self.timing.pull_s):
                self._set_aside(peer, "sends its model too slowly", now, out)
            elif transfer.stalled(now, self.timing.stall_s, self.timing.pull_s / 3):
                transfer.rewind(now)
        out += self._pulls.ask(self._others, self._has_news, now)
        if self._pulls.running and now >= self._retry_at:
            self._ping(list(self._pulls.running), now, out)  # a dead one is noticed that way
        if not self._pulls.done:
            return
        if not self._enough(self._pulls.merged):
            self._pulls.begin([])
            out.append(events.StartOver())
        if self._aggregating:
            self._aggregating, self.phase, self.state = False, Phase.IDLE, "finished"
            out.append(events.Aggregate(dict(self._pulls.merged)))
            out.append(events.Publish(self.announcement()))
        else:
            self._train(out)

    def _enough(self, peers: Collection[str]) -> bool:
        """Whether the models of these may be merged, or nobody's."""
        return not peers or len(peers) + bool(self.version.count) >= self.least_models

    def _train(self, out: list[Instruction]) -> None:
        self.phase = Phase.TRAINING
        if self.version.count == 0 and self._pulls.merged:
            self.joined_at = min(typical_count(self._pulls.merged), self.rounds)
        out.append(events.Train(self.joined_at + self.version.count, tuple(self._pulls.merged)))

    def _wind_up(self, now: float, out: list[Instruction]) -> None:
        """Done: once everybody is, form the aggregated model; once all have theirs, leave."""
        done_at = now if self._done_at is None else self._done_at
        waiting_for = self._others.awaited(now, done_at, self.timing)
        if self.state == "done" and "training" not in waiting_for:
            self._aggregating = True
            self._start_pulls(self._others, now)
            self._retry_at = now + self.timing.retry_s
            self._continue_pulls(now, out)
        elif self.state == "finished":
            self.finished = all(state in ("finished", "away") for state in waiting_for)

    def _has_news(self, peer: str, now: float) -> bool:
        """Whether `peer` has weights that are wanted now."""
        merged = NEVER_TRAINED if self._aggregating else self.vector.get(peer, NEVER_TRAINED)
        return self._others[peer].has_newer_than(merged, now)

    def _ping_all(self, peers: Iterable[str], now: float, out: list[Instruction]) -> None:
        """Ping these; wait for those not known to be gone, up to one deadline."""
        asked = [peer for peer in peers if not self._others[peer].trust.withheld(now)]
        for peer in asked:
            if not self._others[peer].gone:
                self._awaited.setdefault(peer, now + self.timing.ping_s)
        self._ping(asked, now, out)

    def _ping(self, peers: Sequence[str], now: float, out: list[Instruction]) -> None:
        busy = self.phase is Phase.PINGING or self.phase is Phase.PULLING
        self._retry_at = now + (self.timing.retry_s if busy else self.timing.heartbeat_s)
        out += [events.Send(peer, messages.Ping(self.me)) for peer in peers]

    def _next_deadline(self) -> float | None:
        busy = self.phase is Phase.TRAINING or (self.phase is Phase.IDLE and not self._on_disk)
        if busy or self.ready or self.finished:
            return None
        return min([self._retry_at, *self._awaited.values()])
