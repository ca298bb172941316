"""The only loop: a transport, a clock and one training thread around a Peer.

The calling thread owns the transport and the protocol and answers others at any time; the
training thread owns the trainer. Between them goes one job at a time; checkpoints are written by
a third thread (saving.py).
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from bt import events
from bt.checkpoint import TOTALS, Checkpoint, CheckpointFile
from bt.desk import Desk
from bt.eventlog import Log, warn
from bt.gate import Gate
from bt.intake import Bases, Intake, Late, Refused
from bt.leaving import Leaver
from bt.merge import MergeRule, WeightedMean
from bt.outcome import Diverged, Outcome
from bt.protocol import Peer
from bt.reporting import Reporter
from bt.saving import Saver
from bt.shelf import Shelf
from bt.trainer import FitMetrics, Stopped, Trainer
from bt.versions import Version
from bt.weights import FlatWeights
from transports import image, messages
from transports.base import PeerGone, Received, Transport, Unwelcome

_JOB_POLL_S, _SHORT_JOB_S = 0.02, 0.2  # when a fine-tune's end is noticed; sooner while shorter
_IDLE_POLL_S = 0.25  # how soon a request to stop is noticed
_TOGETHER = 32  # answers to pings that come close behind each other: hardly dearer than one
_SWITCH_INTERVAL_S = 5e-4  # a trainer busy in Python would make others wait (default: 5 ms)
_Start = Callable[[], FlatWeights] | None  # makes what a fine-tune starts from
_Fit = tuple[FlatWeights, FitMetrics]


class Runner:
    """Runs one peer until its rounds are done and nobody needs it any more, or it is stopped."""

    def __init__(
        self,
        peer: Peer,
        transport: Transport,
        trainer: Trainer,
        checkpoints: CheckpointFile,
        log: Log,
        *,
        epochs: int,
        limits: messages.Limits,
        description: dict[str, Any] | None = None,
        differences: bool = False,
        serves: Callable[[str], bool] = lambda name: True,
        rule: Callable[[], MergeRule] = WeightedMean,
        clock: Callable[[], float] = time.monotonic,
        workers: Callable[[], Executor] = lambda: ThreadPoolExecutor(2),
        tell: Callable[[str], None] = warn,
    ) -> None:
        self.peer = peer
        self._transport = transport
        self._trainer = trainer
        self._checkpoints = checkpoints
        self._epochs = epochs
        self._description = description or {}
        self._new_rule = rule
        self._clock = clock
        self._workers = workers
        self._stop_reason: str | None = None
        self._intake: Intake | None = None  # of the round going on
        self._snapshot = trainer.weights()  # the last finished model; never changed, replaced
        self._served: FlatWeights | None = None  # the snapshot, once it is on the shelf
        self._shelf = Shelf(differences=differences)
        self._leaver = Leaver(transport, self._shelf, log)
        self._bases = Bases()
        self._job: Future[Any] | None = None
        self._aggregated: Future[FlatWeights] | None = None
        self._began_at = float("-inf")  # when something last went to the pool
        self._job_done: Callable[[Any], None] = lambda result: None
        self._events: deque[events.Event] = deque()
        self._pulled_at: dict[str, float] = {}  # peer -> when its weights were asked for
        self._met = set(peer.others)
        self._answers: deque[tuple[str, messages.Version]] = deque()  # on their way out
        self._pinged: set[str] = set()  # who has not answered yet
        self._told: dict[str, tuple[object, ...]] = {}  # what each peer last said of itself
        self._readers: dict[str, str] = {}  # peer -> digest of what it last asked for
        self._outcome = Outcome("finished", {}, self._snapshot)
        self._totals = self._outcome.totals
        self._totals.update(dict.fromkeys(TOTALS, 0))
        self._log = reporter = Reporter(log, peer, self._totals, clock)
        self.report = reporter.report
        self._saver = Saver(checkpoints, clock, reporter, tell)
        self._desk = Desk(peer, self._shelf, transport, limits, reporter, serves)
        self._gate = Gate(limits, lambda name, why: reporter.write("limit", peer=name, reason=why))

    def stop(self, reason: str) -> None:
        """Leave as soon as the running batch ends. Safe from signal handlers and threads."""
        self._stop_reason = reason

    def run(self) -> Outcome:
        """Take part until finished or stopped. Raises what the trainer or the disk raises."""
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        deque(self.steps(), maxlen=0)
        return self._outcome

    def steps(self) -> Iterator[None]:
        """The same step by step; in each at most one message and one tick are taken."""
        self._resume()
        started, spent_before = self._clock(), self._totals["seconds"]
        evaluated = False
        with self._workers() as self._pool:  # one job at a time, and one save
            try:
                self._meet()  # first: who is done already would average its own model alone
                self._feed(events.Tick())
                while not self.peer.finished or self._job is not None or self._saver.pending:
                    if self._stop_reason is not None:
                        self._outcome.reason = self._stop_reason
                        break
                    if self.peer.ready:
                        self._meet()
                        self._feed(events.RoundDue())
                    if self.peer.state != "training" and self._job is None and not evaluated:
                        evaluated = True
                        self._start(self._evaluate, lambda result: None)
                    self._step()
                    self._totals["seconds"] = spent_before + self._clock() - started
                    yield
            except BaseException:
                self._outcome.reason = "failed"
                raise
            finally:
                self._stop_reason = self._outcome.reason  # ends a running fine-tune
                if not self.peer.finished:
                    self._feed(events.Leave())
                self._send_answers()
                self._log.write("end", reason=self._outcome.reason, **self._totals)
        self._saver.finish()
        if self._aggregated is not None:
            self._outcome.aggregated = self._aggregated.result()
        self._outcome.weights = self._snapshot
        self._outcome.version, self._outcome.samples = self.peer.version, self.peer.samples

    @property
    def deadline(self) -> float | None:
        """When the next step has something to do, even if nothing happens."""
        due = self._clock() if self._answers else self.peer.deadline
        again_at = self._saver.again_at
        return again_at if due is None or (again_at is not None and again_at < due) else due

    # One step of the loop ---------------------------------------------------------------------
    def _step(self) -> None:
        if self._job is not None and self._job.done():
            job, self._job = self._job, None
            self._job_done(job.result())
        if self._saver.pending and (seconds := self._saver.done(self._pool)) is not None:
            self._log.write("persist", version=str(self.peer.version), seconds=seconds)
            self._feed(events.Persisted(self._put_on_shelf()))
        waiting = len(self._answers)
        if (received := self._transport.recv(self._timeout_s())) is not None:
            self._receive(received)
        if not waiting < len(self._answers) < _TOGETHER:  # no further ping, or enough of them
            self._send_answers()
        if self.peer.deadline is not None and self._clock() >= self.peer.deadline:
            self._meet()
            self._feed(events.Tick())

    def _meet(self) -> None:
        """Take in those that the transport knows of by now."""
        for name in sorted({*self._transport.peers} - self._met):
            self._met.add(name)
            self._feed(events.Met(name))

    def _timeout_s(self) -> float:
        busy = self._job is not None or self._saver.pending
        timeout_s = _JOB_POLL_S if busy else _IDLE_POLL_S
        now, deadline = self._clock(), self.peer.deadline
        if now < self._began_at + _SHORT_JOB_S:
            timeout_s = _JOB_POLL_S / 10
        if deadline is not None:
            timeout_s = min(timeout_s, max(0.0, deadline - now))
        return 0.0 if self.peer.ready or self._answers else timeout_s

    def _receive(self, received: Received) -> None:
        sender = received.sender
        if sender not in self._met:
            self._meet()
        self._totals["bytes_in"] += sum([len(frame) for frame in received.frames])
        if received.reply_to is not None:
            self._totals["bytes_out"] += self._desk.answer(received, self._clock())
            return
        try:
            message = self._gate.take(received, self._clock())
        except messages.MessageError as exc:
            self._feed(events.Rejected(sender, str(exc)))
            return
        if message is None:
            return
        if isinstance(message, messages.Version):
            self._pinged.discard(sender)
            told = message.version, message.state, message.digest
            if self._told.get(sender) != told:
                self._told[sender] = told
                version = str(Version(*message.version))
                self._log.write("version", from_=sender, version=version, state=message.state)
        self._feed(events.Received(message, received.published))

    def _feed(self, event: events.Event) -> None:
        """Handle `event`, and those that carrying out its instructions brings about, in order."""
        self._events.append(event)
        if len(self._events) > 1:
            return  # called from below, by an instruction
        try:
            while self._events:
                for instruction in self.peer.handle(self._events[0], self._clock()):
                    self._carry_out(instruction)
                self._events.popleft()
            self._leaver.update(self.peer.announcement(), self._clock())
        finally:
            self._events.clear()  # after an error too: leaving has to be said

    # Instructions -----------------------------------------------------------------------------
    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Send(to, message):
                self._send(to, message)
            case events.Serve(pull):
                self._serve(pull)
            case events.Publish(message):
                self._send_answers()
                frames = messages.encode(message)
                self._transport.publish(frames)
                self._totals["bytes_out"] += sum(len(frame) for frame in frames)
            case events.Merge():
                self._send_answers()  # a difference takes a while
                self._merge(instruction)
            case events.StartOver():
                self._intake = None
            case events.Train(update, peers):
                self._totals["merged"] += len(peers)
                self._train(self._merged(), update, peers)
            case events.Persist():
                self._persist()
            case events.Aggregate(merged):
                versions = {self.peer.me: self.peer.version, **merged}
                self._aggregated = self._pool.submit(self._merged() or (lambda: self._snapshot))
                self._outcome.aggregated_of = {name: str(v) for name, v in versions.items()}
            case events.Note(event, peer, reason):
                self._log.write(event, peer=peer, reason=reason)

    def _send(self, to: str, message: messages.Message) -> bool:
        if isinstance(message, messages.Version):
            self._answers.append((to, message))
            return True
        self._send_answers()
        return self._send_now(to, message)

    def _send_answers(self) -> None:
        while self._answers:
            self._send_now(*self._answers.popleft())

    def _send_now(self, to: str, message: messages.Message) -> bool:
        frames = messages.encode(message)
        try:
            self._transport.send(to, frames)
        except PeerGone as exc:
            self._feed(events.PeerGone(to, exc.reason, isinstance(exc, Unwelcome)))
            return False
        self._totals["bytes_out"] += sum(map(len, frames))
        match message:
            case messages.Ping() if to not in self._pinged:  # once, however often it is repeated
                self._pinged.add(to)
                self._log.write("ping", peer=to)
            case messages.Pull(offset=0):
                self._pulled_at[to] = self._clock()
                self._log.write("pull", peer=to)
        return True

    def _serve(self, pull: messages.Pull) -> None:
        answer = self._shelf.read(pull, self.peer.me, self._clock())
        if not answer.size:
            self._send(pull.sender, self.peer.answer(pull.sender))  # what there is instead
        sent = self._send(pull.sender, answer)
        if answer.size and self._readers.get(pull.sender) != pull.digest:
            self._readers[pull.sender] = pull.digest
            version = str(Version(*self._shelf.version_of(pull.digest)))
            self._log.write("pull", from_=pull.sender, version=version)
        if sent and answer.data and answer.offset + answer.data.nbytes == answer.size:
            version = str(Version(*self._shelf.version_of(pull.digest)))
            self._log.write("weights", peer=pull.sender, version=version, bytes=answer.size)

    def _merge(self, merge: events.Merge) -> None:
        if self._intake is None:
            own, weight = self._snapshot, merge.own_weight
            self._intake = Intake(self._new_rule, own, weight, self._bases)
        announced, sender = merge.announced, merge.weights.sender
        try:
            merged = self._intake.take(merge)
        except Refused as exc:
            self._bases.keep(sender, "", None)
            self._feed(events.Merged(sender, refused=str(exc), late=isinstance(exc, Late)))
            return
        if merged is None:
            return
        seconds = round(self._clock() - self._pulled_at.pop(sender, self._clock()), 4)
        self._log.write("weights", from_=sender, bytes=merge.weights.size, seconds=seconds)
        version = str(Version(*announced.version))
        self._log.write("merge", from_=sender, version=version, samples=announced.samples)
        self._feed(merged)

    def _merged(self) -> _Start:
        """What makes the round's merged model, in a thread of its own; None if there is none."""
        intake, self._intake = self._intake, None
        return None if intake is None else intake.finish

    def _persist(self) -> None:
        """Write the snapshot to disk, then serve it; others are answered meanwhile."""
        peer = self.peer
        now = self._snapshot, peer.version, dict(peer.vector), dict(self._totals)
        state = Checkpoint(*now, self._description, peer.me, peer.joined_at)
        self._saver.save(state, self._pool)
        self._began_at = self._clock()

    def _put_on_shelf(self) -> str:
        """Serve the snapshot under the version it has now. Returns its digest."""
        if self._served is self._snapshot:  # under another version: readers may be at it
            self._snapshot = self._snapshot.copy()
        self._served = self._snapshot
        model = image.Model(self.peer.me, self.peer.version, self.peer.samples)
        return self._shelf.put(model, self._snapshot)

    def _resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        checkpoint = self._checkpoints.load_of(self.peer.me, self._snapshot.schema)
        if (damage := self._checkpoints.damage) is not None:
            self._log.write("damaged", reason=damage)
        if checkpoint is not None:
            self._totals.update(checkpoint.totals)
            self._snapshot = checkpoint.weights
            self._trainer.load(self._snapshot)
            self.peer.resume(checkpoint.version, checkpoint.vector, checkpoint.joined_at)
            if self.peer.version.count:
                self.peer.digest = self._put_on_shelf()
        self._log.write("start", version=str(self.peer.version), samples=self.peer.samples)

    # Jobs of the training thread --------------------------------------------------------------
    def _start(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        self._job = self._pool.submit(work)
        self._job_done = done
        self._began_at = self._clock()

    def _train(self, start: _Start, update: int, merged: tuple[str, ...]) -> None:
        """Fine-tune from `start`, made with the models of `merged`; None: from where it is."""
        self._start(
            lambda: self._fine_tune(start, update),
            lambda result: self._keep_fit(result, update, merged),
        )

    def _fine_tune(self, start: _Start, update: int) -> Any:
        if start is not None:
            self._trainer.load(start())
        try:
            metrics = self._trainer.fit(
                self._epochs, update, lambda: self._stop_reason is not None
            )
        except Stopped:
            return None
        return self._trainer.weights(), metrics

    def _keep_fit(self, result: _Fit | None, update: int, merged: tuple[str, ...]) -> None:
        if result is None:
            return
        weights, metrics = result
        if not weights.is_finite():
            if not merged:
                raise Diverged(
                    "training diverged: the model is no longer finite; lower --learning-rate, "
                    "and look at this peer's scans"
                )
            # A model of another peer may be finite and still ruin this one.
            self._log.write("diverged", peers=merged)
            self._train(lambda: self._snapshot, update, ())
            return
        self._snapshot = weights
        self._totals["seconds_training"] += metrics.seconds
        version, seconds = str(self.peer.version.next()), round(metrics.seconds, 3)
        loss, dice = metrics.loss, metrics.dice
        self._log.write("fit", version=version, loss=loss, dice=dice, seconds=seconds)
        self._feed(events.Trained())

    def _evaluate(self) -> None:
        with suppress(Stopped):
            self._outcome.evaluation = self._trainer.evaluate(
                lambda: self._stop_reason is not None
            )
