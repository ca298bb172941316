"""How far a peer trusts another one: who errs or lies is set aside, for pauses that double.

One good model proves little, for a liar may send good and bad ones in turn: only several in a
row take a strike away. So of every few models one may be bad at most, or the pauses grow. Pure,
as protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

MERITS = 4  # good models in a row that take a strike away
_MOST_DOUBLINGS = 7
_MOST_STALE = 4  # answers in a row


class Aside(NamedTuple):
    """A peer from which nothing is taken until `until` (seconds, the clock of the protocol)."""

    peer: str
    reason: str  # the latest; the peer may have chosen parts of it
    until: float
    strikes: int


@dataclass(slots=True)
class Trust:
    """In one peer."""

    strikes: int = 0
    until: float = float("-inf")  # set aside
    reason: str = ""
    _merits: int = field(default=0, init=False)
    _stale: int = field(default=0, init=False)
    _stale_since: float = field(default=0.0, init=False)

    def withheld(self, now: float) -> bool:
        """Whether it is set aside."""
        return now < self.until

    def strike(self, reason: str, now: float, pause_s: float) -> bool:
        """It has sent what can't be accepted: set it aside, first for `pause_s`.

        False if it is already: a flood of nonsense is one offence, and one line in the log.
        """
        self._merits = 0
        if self.withheld(now):
            return False
        self.until = now + pause_s * 2.0 ** min(self.strikes, _MOST_DOUBLINGS)
        self.strikes += 1
        self.reason = reason
        return True

    def merit(self) -> None:
        """A model of it was merged."""
        self._merits += 1
        if self._merits == MERITS:
            self._merits = 0
            self.strikes = max(self.strikes - 1, 0)

    def fresh(self) -> None:
        """It told of a version that is not older than one told before."""
        self._stale = 0

    def stale(self, now: float, patience_s: float) -> bool:
        """It answered with an older one; whether that is a lie by now.

        Messages may be late, and who lost its disk has to be told: neither takes that long.
        """
        if not self._stale:
            self._stale_since = now
        self._stale += 1
        return self._stale >= _MOST_STALE and now >= self._stale_since + patience_s


def another_model(theirs: str, ours: str) -> str:
    """Why a peer with the schema `theirs` is set aside."""
    return (
        f"trains another model (schema {theirs[:8]}, ours {ours[:8]}); network, filters, "
        "structures in order, view, spacing and seed must be the same everywhere"
    )
