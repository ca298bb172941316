"""When a peer's next round may start, and what the models count that it merges.

`async`: whenever the peer is ready, all peers in parallel. `sequential`: the paper's schedule,
one random initiator at a time after everybody trained locally once (section 2.2). The order is
drawn from the shared seed, so no peer needs to be told whose turn it is: versions show it. They
show as well how many turns ago a model was trained, and so what it has not learned of since.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from bt.protocol import Peer
    from transports import messages

_LEAST_FRESH = 1e-9  # however old a model, a weight of 0 would leave its values out


class Schedule(Protocol):
    """Decides from what `peer` knows; asked again after every event."""

    def ready(self, peer: Peer) -> bool:
        """Whether the next round of `peer` may start."""

    def merges(self, peer: Peer) -> bool:
        """Whether that round asks the others, or is local training only."""

    def weight(self, peer: Peer, model: messages.Version) -> float:
        """What the model announced so counts in a merge of `peer` (above 0): by rights its
        number of scans, the paper's a_i."""


class Async:
    """Always ready, always asks."""

    def ready(self, peer: Peer) -> bool:
        return True

    def merges(self, peer: Peer) -> bool:
        return True

    def weight(self, peer: Peer, model: messages.Version) -> float:
        return model.samples


class Sequential:
    """`rounds` updates for each of `peers`: the first local, the others one at a time.

    A model that is a round old, as many turns as there are peers, counts `stale_weight` times
    what a new one does, one of two rounds that squared, and so on: it knows nothing of what came
    after it. 1, as in the paper: all count alike. Of a peer that the schedule does not know, or
    that has lost its disk, nobody knows which turn it had: its models count as new.
    """

    def __init__(
        self, peers: Sequence[str], rounds: int, seed: int, stale_weight: float = 1.0
    ) -> None:
        self.turns = sorted(peers) * (rounds - 1)
        random.Random(seed).shuffle(self.turns)
        self._peers, self._stale_weight = len(peers), stale_weight
        self._turns_of: dict[str, list[int]] = {name: [] for name in peers}
        for turn, name in enumerate(self.turns):
            self._turns_of[name].append(turn)

    def ready(self, peer: Peer) -> bool:
        count = peer.version.count
        if count == 0:
            return True
        mine = self._turns_of.get(peer.me, [])
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

    def weight(self, peer: Peer, model: messages.Version) -> float:
        """Whatever count a model claims, none is newer than of the turn before."""
        incarnation, count = model.version
        if peer.state != "training" or incarnation or model.sender not in self._turns_of:
            return model.samples  # the first: the aggregated model is not a step on the way
        now = self._turn(peer.me, peer.version.count + 1)
        then = self._turn(model.sender, count)
        age = max(now - 1 - then, 0) / self._peers
        return model.samples * max(math.pow(self._stale_weight, age), _LEAST_FRESH)

    def _turn(self, name: str, count: int) -> int:
        """In which turn `name` trains its update number `count`; the first is before all."""
        turns = self._turns_of.get(name, [])
        return turns[min(count - 1, len(turns)) - 1] if count > 1 and turns else -1
