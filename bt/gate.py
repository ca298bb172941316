"""What of a peer's messages comes in: the valid ones, in its own name, and not too many.

Too many pings or pulls are dropped unanswered: who floods gets as much as the limit allows, and
no penalty, for it may be a fault. Pure: no clock, no sockets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from transports import messages
from transports.base import Received


@dataclass
class Allowance:
    """So many a second, and `most` at once (a token bucket)."""

    per_s: float
    most: float
    left: float = field(init=False)
    since: float | None = None

    def __post_init__(self) -> None:
        self.left = self.most

    def take(self, now: float) -> bool:
        """Whether there may be one more at `now`, in seconds."""
        if self.since is not None:
            self.left = min(self.most, self.left + (now - self.since) * self.per_s)
        self.since = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class Gate:
    """Decodes what comes in. `tell(peer, reason)`: once for each peer that floods."""

    def __init__(self, limits: messages.Limits, tell: Callable[[str, str], object]) -> None:
        self._limits = limits
        self._tell = tell
        self._allowances: dict[tuple[str, type], Allowance] = {}
        self._told: set[tuple[str, type]] = set()

    def take(self, received: Received, now: float) -> messages.Message | None:
        """The message; None if it is one too many. Raises MessageError."""
        message = messages.decode(received.frames, limits=self._limits)
        sender = received.sender
        if message.sender != sender:
            raise messages.Malformed(f"claims to be {message.sender}")
        match message:
            case messages.Ping():
                return self._rationed(message, self._limits.pings_per_s, "pings", now)
            case messages.Pull():
                return self._rationed(message, self._limits.pulls_per_s, "pulls", now)
            case messages.Ask():
                return self._rationed(message, self._limits.asks_per_s, "questions", now)
            case messages.Version():
                self._check_samples(message)
        return message

    def _check_samples(self, version: messages.Version) -> None:
        most = self._limits.samples_of.get(version.sender, self._limits.max_samples)
        if version.samples > most:
            raise messages.TooLarge(
                f"claims {version.samples} samples, the roster allows it {most}: raise its "
                "max_samples there if it has as many scans"
            )

    def _rationed(
        self, message: messages.Message, per_s: int, what: str, now: float
    ) -> messages.Message | None:
        asked = message.sender, type(message)
        if (allowance := self._allowances.get(asked)) is None:
            allowance = self._allowances[asked] = Allowance(per_s, per_s)
        if allowance.take(now):
            return message
        if asked not in self._told:
            self._told.add(asked)
            self._tell(message.sender, f"more than {per_s} {what} a second")
        return None
