"""When a peer's next round may start.

`async`: whenever the peer is ready, all peers in parallel. `sequential`: the paper's schedule,
one random initiator at a time after everybody trained locally once (section 2.2). The order is
drawn from the shared seed, so no peer needs to be told whose turn it is: versions show it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bt.protocol import Peer


class Schedule(Protocol):
    """Decides from what `peer` knows; asked again after every event."""

    def ready(self, peer: Peer) -> bool:
        """Whether the next round of `peer` may start."""

    def merges(self, peer: Peer) -> bool:
        """Whether that round asks the others, or is local training only."""


class Async:
    """Always ready, always asks."""

    def ready(self, peer: Peer) -> bool:
        return True

    def merges(self, peer: Peer) -> bool:
        return True


class Sequential:
    """`rounds` updates for each of `peers`: the first local, the others one at a time."""

    def __init__(self, peers: Sequence[str], rounds: int, seed: int) -> None:
        self.turns = sorted(peers) * (rounds - 1)
        random.Random(seed).shuffle(self.turns)

    def ready(self, peer: Peer) -> bool:
        count = peer.version.count
        if count == 0:
            return True
        mine = [turn for turn, name in enumerate(self.turns) if name == peer.me]
        if count > len(mine):
            return True
        before = Counter(self.turns[: mine[count - 1]])
        for name in peer.others:
            known = peer.known_version(name)
            if peer.in_play(name) and (known is None or known.count < 1 + before[name]):
                return False
        return True

    def merges(self, peer: Peer) -> bool:
        return peer.version.count > 0
