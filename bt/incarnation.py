"""A peer that lost its disk starts a new incarnation: others know models that it does not.

Whoever merged or heard of such a model says so. That is believed a few times per peer, and by
small steps: a liar must not drive versions up.
"""

from __future__ import annotations

from collections import Counter

from bt.versions import Version
from transports.messages import MAX_VERSION

MOST_LOSSES = 16  # that a peer is told of by one other, and incarnations it may be behind


class Losses:
    """What others told of models that this peer does not know any more."""

    def __init__(self) -> None:
        self._told: Counter[str] = Counter()

    def start_after(self, seen: Version, own: Version, sender: str) -> Version | None:
        """The version to go on from, newer than any that was seen; None: not to be believed."""
        incarnation = seen.incarnation + 1
        if incarnation - own.incarnation > MOST_LOSSES or incarnation > MAX_VERSION:
            return None
        if self._told[sender] >= MOST_LOSSES:
            return None
        self._told[sender] += 1
        return Version(incarnation, own.count)
