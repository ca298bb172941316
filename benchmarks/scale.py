"""What a round costs, and how fast an update spreads, among up to a thousand simulated peers.

    python -m benchmarks.scale [--all] [PEERS ...]

The real peers in virtual time (bt/simulation), without faults: messages and bytes are counted, not
timed. A round that asks all should cost O(N) messages, one with --fanout k O(k); an update should
reach everybody within about log N / log(k + 1) rounds.
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import tempfile
import time
from pathlib import Path

from bt.checkpoint import Checkpoint, CheckpointFile
from bt.simulation.world import Setup, World
from bt.versions import Version

FANOUT = 4
MOST_THAT_ASK_ALL = 100  # with more, N^2 messages take long; --all takes the time


class Gossip(World):
    """Everybody has a model; then the update of the first peer goes round."""

    def __init__(self, peers: int, fanout: int | None, scratch: Path) -> None:
        self.rounds: dict[str, int] = {}
        self.carriers: set[str] = set()  # digests of models that the update is in
        self.reached: dict[str, int] = {}  # peer -> rounds it took
        super().__init__(1, scratch, Setup(peers=peers, fanout=fanout), ())
        self.setup.rounds, self.setup.large, self.setup.encoding = 1000, False, "none"
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


def measure(peers: int, fanout: int | None) -> dict[str, float]:
    """One federation, until everybody has the update."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        world = Gossip(peers, fanout, Path(scratch))
        world.spread()
        violations = len(world.violations)
        # Messages go at a round's beginning, and everybody is training in one that is not over.
        traffic, rounds = world.network.traffic, sum(world.rounds.values()) + peers
        took = sorted(world.reached.values())
        world.close()
    k = peers - 1 if fanout is None else fanout
    return {
        "peers": peers,
        "asked": k,
        "messages_per_round": round(traffic.messages / rounds, 1),
        "messages_by_the_law": 4 * k + (k if fanout is None else 0),
        "bytes_per_round": round(traffic.bytes / rounds),
        "rounds_to_spread": max(took),
        "rounds_to_spread_median": statistics.median(took),
        "rounds_by_the_law": round(math.log(peers) / math.log(k + 1), 2),
        "rounds": rounds,
        "violations": violations,
        "seconds": round(time.perf_counter() - began, 1),
    }


def main() -> None:
    everything = "--all" in sys.argv
    sizes = [int(size) for size in sys.argv[1:] if size != "--all"] or [10, 30, 100, 300, 1000]
    found = []
    print(f"{'peers':>6} {'asked':>6} {'messages/round':>15} {'law':>6} {'kB/round':>9} "
          f"{'rounds to spread':>17} {'law':>5} {'s':>6}")  # fmt: skip
    for fanout in (None, FANOUT):
        for size in sizes:
            if fanout is None and size > MOST_THAT_ASK_ALL and not everything:
                continue
            one = measure(size, fanout)
            found.append(one)
            print(
                f"{one['peers']:6} {one['asked']:6} {one['messages_per_round']:15.1f} "
                f"{one['messages_by_the_law']:6} {one['bytes_per_round'] / 1000:9.1f} "
                f"{one['rounds_to_spread']:17} {one['rounds_by_the_law']:5.2f} "
                f"{one['seconds']:6.1f}",
                flush=True,
            )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
