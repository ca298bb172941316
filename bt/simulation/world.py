"""One schedule: a federation in virtual time, from one seed to its end or to a violation."""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from bt.merge import MergeRule, WeightedMean
from bt.others import Timing
from bt.schedule import Async, Schedule, Sequential
from bt.simulation import faults
from bt.simulation.invariants import Truth
from bt.simulation.network import Network, Traffic
from bt.simulation.process import Process
from bt.simulation.transcript import Transcript
from bt.simulation.workers import Mould
from bt.transfer import GRAIN
from bt.wording import peer_names
from transports import messages

_TIMING = Timing(
    ping_s=2.0,
    retry_s=0.5,
    stall_s=2.0,
    pull_s=8.0,
    heartbeat_s=6.0,
    patience_s=200.0,
    set_aside_s=4.0,
)
_SETTLING_S = 6.0  # after the last fault, until all are in touch again,
_QUIET_S = 30.0  # and until nobody has a reason to think ill of another
_LONGEST_S = 2000.0  # after the last fault
_SMALL, _LARGE = Mould(24), Mould(GRAIN // 4 + 8)  # a message each, or two


@dataclass
class Setup:
    """What a federation is like; None: drawn from the seed."""

    peers: int | None = None
    rounds: int = 3
    fanout: int | None = None
    schedule: Schedule = field(default_factory=Async)
    timing: Timing = _TIMING
    pulls_at_once: int = 2
    encoding: str = messages.PLAIN
    training_s: float = 2.0
    saving_s: float = 0.05
    large: bool = False
    most_events: int = 100_000

    @property
    def precision(self) -> float:
        """Of the values of merged models, relative to the largest."""
        return 1e-6 if self.encoding == messages.PLAIN else 2e-2


class Ended(NamedTuple):
    """How a schedule went."""

    seed: int
    events: int
    violations: tuple[str, ...]
    seconds: float  # virtual
    traffic: Traffic


class World:
    """`kinds` of faults befall a federation of `peers` peers (None: 2 to 4)."""

    rule: Callable[[], MergeRule] = WeightedMean

    def __init__(
        self,
        seed: int,
        scratch: Path,
        setup: Setup,
        kinds: tuple[str, ...],
        transcript: Transcript | None = None,
    ) -> None:
        self.seed = seed
        self.scratch = scratch
        self.transcript = transcript
        self.chance = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.lies = False
        self.violations: list[str] = []
        self.truth = Truth()
        self._future: list[tuple[float, int, Callable[[Any], None], Any]] = []
        self._count = 0
        self._values = 0
        self.setup = drawn(setup, self.chance, seed)
        assert self.setup.peers is not None
        self.mould = _LARGE if self.setup.large else _SMALL
        self.names = peer_names(self.setup.peers)
        self.network = Network(self)
        self.processes = {
            name: Process(self, name, self.chance.randint(1, 5)) for name in self.names
        }
        self._calm_from = self.chance.uniform(0.5, 15.0) if kinds else 0.0
        faults.plan(self, kinds, self._calm_from)

    def run(self) -> Ended:
        """Until all have ended, or something has gone wrong that must not."""
        limit = self._calm_from + _LONGEST_S
        while not self.violations and self.next_at < limit:
            self.one()
        if not self.violations:
            for process in self.processes.values():
                if process.up and not process.liar:
                    self.violated(process.name, f"has not ended after {self.now:.0f} s")
        self.close()
        violations = tuple(self.violations)
        return Ended(self.seed, self.events, violations, self.now, self.network.traffic)

    @property
    def next_at(self) -> float:
        """When the next thing happens; never: infinity."""
        return self._future[0][0] if self._future else math.inf

    def one(self) -> None:
        """Let the next thing happen."""
        self.now, _, happens, to_what = heapq.heappop(self._future)
        happens(to_what)
        if self.events > self.setup.most_events:
            self.violated("federation", f"had {self.events} events and has not ended")

    def close(self) -> None:
        """End those that still live."""
        for process in self.processes.values():
            process.revive = None
            process.kill()

    def at(self, when: float, happens: Callable[[Any], None], to_what: Any) -> None:
        """Have something happen."""
        self._count += 1
        heapq.heappush(self._future, (when, self._count, happens, to_what))

    @property
    def calm(self) -> bool:
        """Whether faults are over: from now on a round gets all there is."""
        return self.now >= self._calm_from + _SETTLING_S or not self._calm_from

    @property
    def quiet(self) -> bool:
        """Whether honest peers have no excuse left for setting each other aside."""
        return self.now >= self._calm_from + _QUIET_S or not self._calm_from

    def others(self, name: str) -> tuple[str, ...]:
        return tuple(other for other in self.names if other != name)

    def new_value(self, *, liar: bool) -> float:
        """Of a model that was just trained: exact in float32, and like no other."""
        exact = self.setup.encoding == messages.PLAIN  # differences from such models are not
        if liar and exact and self.lies and self.chance.random() < 0.5:
            return self.chance.choice((1e9, 1e30))
        self._values += 1
        return (self._values * 40503 % 65521) / 8

    def finished(self, who: str, digest: str, merged: dict[str, str]) -> None:
        """A model is served that was made of these, by their digests; for those who count."""

    def violated(self, who: str, what: str) -> None:
        self.violations.append(f"{who} {what}")
        self.note(who, f"VIOLATION: {what}")

    def note(self, who: str, what: str, *details: Any) -> None:
        if self.transcript is not None:
            self.transcript.note(self.now, who, what, *details)


def drawn(setup: Setup, chance: random.Random, seed: int) -> Setup:
    """`setup` with what is left to the seed."""
    peers = setup.peers or chance.choice((2, 3, 3, 4))
    names, rounds = peer_names(peers), chance.choice((1, 1, 2, 2, 3, 5))
    schedule: Schedule = Async()
    if chance.random() < 0.1 and setup.fanout is None:
        schedule = Sequential(names, rounds, seed)
    return replace(
        setup,
        peers=peers,
        rounds=rounds,
        schedule=schedule,
        pulls_at_once=chance.randint(1, 3),
        encoding=chance.choice(("fp16", "int8+zstd")) if chance.random() < 0.1 else "none",
        training_s=chance.choice((0.3, 2.0, 5.0)),
        saving_s=chance.choice((0.01, 0.5)),
        large=chance.random() < 0.3,
    )
