"""Whom a round asks: everybody, or a few random peers, so that it costs the same however many.

News then spreads as gossip does: among N peers that ask k each, in about log N / log(k + 1)
rounds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from bt.others import Other


@dataclass
class Fanout:
    """`most` peers a round, drawn by `chance`; None: all."""

    most: int | None = None
    chance: Random = field(default_factory=Random)

    def asked(self, others: Mapping[str, Other], now: float) -> list[str]:
        """Some of those within reach, and of those that are not: they may be back."""
        able = [peer for peer, other in others.items() if not other.trust.withheld(now)]
        gone = [peer for peer in able if others[peer].gone]
        here = [peer for peer in able if not others[peer].gone]
        return sorted([*self.some(here), *self.some(gone)])

    def some(self, peers: list[str]) -> list[str]:
        """At most `most` of them."""
        if self.most is None or len(peers) <= self.most:
            return peers
        return sorted(self.chance.sample(peers, self.most))
