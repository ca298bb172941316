"""How an update spreads among many peers, and what their rounds cost: counted, not timed.

Everybody has a model; then the first peer makes a new one, and who merges that, or a model it is
in, has it too. Without faults. What is expected: a round that asks all costs each peer O(N)
messages and the update is everywhere after one; a round that asks k costs O(k), however many they
are, and the update is everywhere after a number of rounds that grows as log N / log(k + 1).
"""

from __future__ import annotations

import math
import resource
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from bt.checkpoint import Checkpoint, CheckpointFile
from bt.schedule import Async
from bt.simulation.world import Setup, World
from bt.versions import Version


@dataclass(frozen=True)
class Spread:
    """Of one federation; a peer's rounds are counted from the update's making on."""

    peers: int
    asked: int  # by each round
    events: int
    messages_per_round: float
    messages_by_the_law: int  # ping, version, pull and weights of each; asking all: announcements
    bytes_per_round: int
    rounds_to_spread: int  # until the last had it
    rounds_to_spread_median: float
    rounds_by_the_law: float
    rounds: int  # of all peers, begun
    violations: int
    seconds: float
    peak_mb: int  # of this process so far

    def to_json(self) -> dict[str, float]:
        return asdict(self)


class Gossip(World):
    """Everybody has a model; then the update of the first peer goes round."""

    def __init__(self, peers: int, fanout: int | None, seed: int, scratch: Path) -> None:
        self.rounds: dict[str, int] = {}
        self.carriers: set[str] = set()  # digests of models that the update is in
        self.reached: dict[str, int] = {}  # peer -> rounds it took
        setup = Setup(peers=peers, fanout=fanout)
        super().__init__(seed, scratch, setup, ())
        self.setup.rounds, self.setup.large, self.setup.encoding = 1000, False, "none"
        self.setup.schedule = Async()
        self.setup.most_events = 10**9
        for name, process in self.processes.items():
            start = Checkpoint(self.mould.cast(self.new_value(liar=False)), Version(0, 1), {})
            CheckpointFile(scratch / f"{name}.safetensors", process.disk).save(start)

    def finished(self, who: str, digest: str, merged: dict[str, str]) -> None:
        began = who in self.rounds
        self.rounds[who] = self.rounds.get(who, -1) + 1
        first = not began and who == self.names[0]
        if who in self.reached or first or self.carriers.intersection(merged.values()):
            self.carriers.add(digest)
            self.reached.setdefault(who, self.rounds[who])

    def spread(self) -> None:
        """Until the update is everywhere."""
        while len(self.reached) < len(self.names) and not self.violations:
            self.one()


def measure(peers: int, fanout: int | None, seed: int) -> Spread:
    """One federation, until everybody has the update."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="bt-simulate-") as scratch:
        world = Gossip(peers, fanout, seed, Path(scratch))
        world.spread()
        violations = len(world.violations)
        # Messages go at a round's beginning, and everybody is training in one that is not over.
        traffic, rounds = world.network.traffic, sum(world.rounds.values()) + peers
        took = sorted(world.reached.values())
        world.close()
    k = peers - 1 if fanout is None else min(fanout, peers - 1)
    return Spread(
        peers,
        k,
        world.events,
        round(traffic.messages / rounds, 1),
        4 * k + (k if fanout is None else 0),
        round(traffic.bytes / rounds),
        max(took),
        statistics.median(took),
        round(math.log(peers) / math.log(k + 1), 2),
        rounds,
        violations,
        round(time.perf_counter() - began, 1),
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    )


def sizes(most: int) -> list[int]:
    """Of federations to compare: growth is what the laws are about."""
    return [size for size in (10, 30, 100, 300, 1000, 3000) if size < most] + [most]


def table(found: list[Spread]) -> Table:
    """For people."""
    shown = Table(box=box.SIMPLE_HEAD, header_style="dim")
    for title in ("peers", "a round asks", "messages a round", "expected", "kB a round",
                  "rounds until the last has it", "median", "expected", "s", "MB"):  # fmt: skip
        shown.add_column(title, justify="right")
    for one in found:
        shown.add_row(
            *(str(one.peers), str(one.asked)),
            *(f"{one.messages_per_round:.1f}", str(one.messages_by_the_law)),
            *(f"{one.bytes_per_round / 1000:.1f}", str(one.rounds_to_spread)),
            *(f"{one.rounds_to_spread_median:g}", f"{one.rounds_by_the_law:.2f}"),
            *(f"{one.seconds:.1f}", str(one.peak_mb)),
        )
    return shown
