"""One simulated process: a runner stepped in virtual time, that can die between any two steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from bt.checkpoint import CheckpointFile
from bt.events import Event, Instruction
from bt.fanout import Fanout
from bt.outcome import Outcome
from bt.protocol import Peer
from bt.runner import Runner
from bt.simulation.disk import VirtualDisk
from bt.simulation.invariants import Watch
from bt.simulation.liars import LyingTransport
from bt.simulation.network import VirtualTransport
from bt.simulation.workers import Job, VirtualTrainer, VirtualWorkers
from bt.transfer import Transfer
from bt.versions import VersionVector
from transports import image, messages
from transports.base import Received

if TYPE_CHECKING:
    from bt.simulation.world import World

_LIMITS = messages.Limits(max_message_bytes=1 << 20)
_MOST_STEPS = 10_000  # at one moment
_ROUNDING_S = 1e-6


class Crash(BaseException):
    """The process dies here; nothing it still tries has any effect."""


class WatchedPeer(Peer):
    """The protocol, with somebody looking after every event."""

    watch: Watch

    def handle(self, event: Event, now: float) -> list[Instruction]:
        out = super().handle(event, now)
        self.watch.after(event, out, now)
        return out

    @property
    def pulling(self) -> dict[str, Transfer]:
        return self._pulls.running

    def distrusts(self, name: str) -> bool:
        """Whether it has set that peer aside."""
        return self._others[name].trust.withheld(self._now)

    @property
    def merged(self) -> VersionVector:
        return self._pulls.merged


class _Runner(Runner):
    @property
    def outcome(self) -> Outcome:
        return self._outcome


class _Log:
    """events.jsonl, for the transcript."""

    def __init__(self, process: Process) -> None:
        self._process = process

    def write(self, event: str, **fields: Any) -> bool:
        self._process.step("log")
        if event == "unsaved":
            self._process.world.note(self._process.name, f"can't save {fields['version']}")
        return True


class Process:
    """`name`, through all its lives."""

    def __init__(self, world: World, name: str, samples: int) -> None:
        self.world = world
        self.name = name
        self.samples = samples
        self.up = False
        self.ended = False  # it has finished, or left for good
        self.liar = False
        self.fuse: int | None = None  # steps to live; below 0: dead
        self.slowness = 1.0
        self.rate = 1.0  # of its clock
        self.paused_until = 0.0
        self.revive: Callable[[], None] | None = None  # what happens after it has died
        self.disk = VirtualDisk(self.step)
        self._life = 0
        self._clock_at = (0.0, 0.0)  # world's, own
        self._wake_at = math.inf

    # A life -----------------------------------------------------------------------------------
    def start(self) -> None:
        """Start it with what is on its disk."""
        if self.up or self.ended:
            return
        world = self.world
        self._life += 1
        self._clock_at = world.now, world.chance.random() * 1e6
        self._wake_at = math.inf
        self.up, self.fuse = True, None
        world.note(self.name, "starts")
        path = world.scratch / f"{self.name}.safetensors"
        self.disk.put_out(path)
        self.disk.put_out(CheckpointFile(path).previous)
        others = world.others(self.name)
        setup = world.setup
        self.peer = WatchedPeer(
            self.name,
            others,
            self.samples,
            world.mould.schema.hash,
            setup.rounds,
            image.nbytes(world.mould.schema),
            image.header_bytes(world.mould.schema),
            schedule=setup.schedule,
            timing=setup.timing,
            pulls_at_once=setup.pulls_at_once,
            choose=lambda link: setup.encoding,
            fanout=Fanout(setup.fanout, world.chance),
        )
        self.peer.watch = Watch(world, self, self.peer)
        transport = LyingTransport if self.liar else VirtualTransport
        self.transport = transport(self.name, others, world.network, self.step)
        self.trainer = VirtualTrainer(self)
        self.workers = VirtualWorkers(self)
        self.runner = _Runner(
            self.peer,
            self.transport,
            self.trainer,
            CheckpointFile(path, self.disk),
            _Log(self),
            epochs=1,
            limits=_LIMITS,
            differences=setup.encoding != messages.PLAIN,
            rule=world.rule,
            clock=self.clock,
            workers=lambda: self.workers,
        )
        self._steps: Iterator[None] = self.runner.steps()
        self._guarded(lambda: next(self._steps))

    def kill(self) -> None:
        """It dies now."""
        if self.up:
            self.fuse = -1
            self._died()

    def leave(self) -> None:
        """As at SIGTERM."""
        if self.up:
            self.runner.stop("left")
            self.wake()

    def pause(self, seconds: float) -> None:
        """It gets no processor time."""
        self.paused_until = self.world.now + seconds
        self.world.at(self.paused_until, lambda _: self.wake(), None)

    def jump(self, seconds: float) -> None:
        """Its clock goes forward at once."""
        self._clock_at = self.world.now, self.clock() + seconds
        if self.up:
            self.wake()

    def _died(self) -> None:
        self.world.note(self.name, "dies")
        self.up = False
        try:
            self._steps.close()  # type: ignore[attr-defined]
        except (Crash, RuntimeError, ValueError):
            pass  # nobody is left to hear of it
        if self.revive is not None:
            self.revive()

    # Time -------------------------------------------------------------------------------------
    def clock(self) -> float:
        at, own = self._clock_at
        return own + (self.world.now - at) * self.rate

    @property
    def dead(self) -> bool:
        return self.fuse is not None and self.fuse < 0

    def step(self, what: str) -> None:
        """Before everything the process does that others, or its disk, could notice."""
        if self.fuse is not None:
            self.fuse -= 1
            if self.dead:
                raise Crash(what)

    def arrived(self, received: Received) -> None:
        if self.up:
            self.transport.inbox.append(received)
            self.wake()

    def begin(self, job: Job, *, saves: bool) -> None:
        """A job of the workers: saving is short, training long."""
        chance, setup = self.world.chance.random, self.world.setup
        seconds = (setup.saving_s if saves else setup.training_s) * self.slowness
        self.world.at(
            self.world.now + seconds * (0.5 + chance()), self._job_done, (job, self._life)
        )

    def _job_done(self, job_and_life: tuple[Job, int]) -> None:
        job, life = job_and_life
        if self.up and life == self._life:
            if self.world.now < self.paused_until:
                self.world.at(self.paused_until, self._job_done, job_and_life)
            else:
                self._guarded(lambda: self._run(job))

    def _timer(self, life: int) -> None:
        if self.up and life == self._life:
            self._wake_at = math.inf
            if self._is_due():
                self.wake()
            else:
                self._set_timer()

    def wake(self) -> None:
        """Let it go as far as it can at this moment."""
        if self.up and self.world.now >= self.paused_until:
            self._guarded(self._run)

    def _run(self, job: Job | None = None) -> None:
        if job is not None:
            job.finish()
        for _ in range(_MOST_STEPS):
            next(self._steps)
            if not self._has_work():
                return
        self.world.violated(self.name, "goes round and round at one moment")

    def _has_work(self) -> bool:
        peer = self.peer
        if self.transport.inbox or peer.ready:
            return True
        if peer.finished and self.workers.idle:
            return True
        return self._is_due()

    def _is_due(self) -> bool:
        deadline = self.runner.deadline
        return deadline is not None and self.clock() >= deadline

    def _guarded(self, work: Callable[[], object]) -> None:
        try:
            work()
        except StopIteration:
            self._end()
        except Crash:
            self._died()
        except OSError as exc:
            if not self.disk.full:
                raise
            self.world.note(self.name, f"fails: {exc}")
            self.disk.full = False
            self.fuse = -1
            self._died()
        except Exception as exc:
            if not self.liar:
                self.world.violated(self.name, f"fails with {type(exc).__name__}: {exc}")
            self.up, self.ended = False, True
        else:
            self._set_timer()

    def _set_timer(self) -> None:
        deadline = self.runner.deadline
        if deadline is None:
            return
        world = self.world
        at = world.now + max((deadline - self.clock()) / self.rate, 0.0) + _ROUNDING_S
        at = max(at, self.paused_until)
        if at < self._wake_at:
            self._wake_at = at
            world.at(at, self._timer, self._life)

    def _end(self) -> None:
        self.up = False
        outcome = self.runner.outcome
        self.world.note(self.name, f"ends: {outcome.reason}")
        if outcome.reason == "finished":
            self.ended = True
            self.peer.watch.ends(outcome.aggregated)
        elif self.revive is not None:
            self.revive()

    # What training makes ----------------------------------------------------------------------
    def fits(self, least: float, greatest: float) -> None:
        self.peer.watch.fits(least, greatest)

    def new_value(self) -> float:
        return self.world.new_value(liar=self.liar)
