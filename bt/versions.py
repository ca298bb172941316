"""Versions of a peer's model, and the vector of what a peer has merged (paper, section 2.2)."""

from __future__ import annotations

from statistics import median_low
from typing import NamedTuple


class Version(NamedTuple):
    """(incarnation, count), ordered lexicographically.

    `count` is the paper's version: it grows by one with every fine-tune. `incarnation` grows only
    when a peer lost its state, so that its new models are not taken for old ones.
    """

    incarnation: int = 0
    count: int = 0  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    def next(self) -> Version:
        """The version after one more fine-tune."""
        return Version(self.incarnation, self.count + 1)

    def __str__(self) -> str:
        return f"{self.count}" if self.incarnation == 0 else f"{self.incarnation}.{self.count}"


NEVER_TRAINED = Version()
VersionVector = dict[str, Version]  # for every other peer the last version merged; absent: none


def typical_count(versions: VersionVector) -> int:
    """How often a peer of these has trained: no single one decides that."""
    return median_low(version.count for version in versions.values())
