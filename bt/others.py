"""What a peer knows of another one, and how long it waits for it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache

from bt.transfer import Link
from bt.trust import Aside, Trust
from bt.versions import Version
from transports import messages

MOST_FAILURES = 3  # pulls of one peer tried in a round
LEFT = "left"  # why it is gone: it said so itself


@dataclass(frozen=True)
class Timing:
    """How long to wait, in seconds."""

    ping_s: float = 5.0  # a peer that is silent this long is gone
    retry_s: float = 0.5  # between two pings to a peer that has not answered
    stall_s: float = 5.0  # a range that takes longer is asked for again
    pull_s: float = 60.0  # a peer of whose model nothing comes this long is skipped
    heartbeat_s: float = 1.0  # between pings while waiting for the others
    patience_s: float = 3600.0  # at the end, for a peer that lives but makes no progress
    longest_s: float = 86_400.0  # at the end, for all others, whatever progress they make
    set_aside_s: float = 30.0  # first pause for a peer that sent something invalid; doubles

    def waits_until(self, moved_at: float, done_at: float) -> float:
        """At the end, when this one is done: for a peer that last made progress at `moved_at`."""
        return min(max(moved_at, done_at) + self.patience_s, done_at + self.longest_s)


@dataclass(slots=True)
class Other:
    """What a peer knows of another one."""

    known: messages.Version | None = None  # the newest version message heard
    heard_at: float = float("-inf")
    moved_at: float = float("-inf")  # when its version or state last changed
    gone: bool = False
    trust: Trust = field(default_factory=Trust)
    failures: int = 0  # of pulls in this round
    link: Link = field(default_factory=Link)
    base: str | None = None  # digest of a model of it that is kept, for differences from it

    def has_newer_than(self, merged: Version, now: float) -> bool:
        """Whether it has, and can send, a model newer than the one merged."""
        if self.gone or self.trust.withheld(now) or self.failures >= MOST_FAILURES:
            return False
        if self.known is None or self.known.digest is None:
            return False
        return self.known.version > merged

    def is_ahead_of(self, answer: messages.Version) -> bool:
        """Whether it told of a newer version before."""
        return self.known is not None and answer.version < self.known.version

    def outdated(self, answer: messages.Version, now: float, patience_s: float) -> str:
        """Why its answer to a ping is a lie; empty: it need not be one."""
        if self.known is None or not self.is_ahead_of(answer):
            self.trust.fresh()
        elif self.trust.stale(now, patience_s):
            told, known = Version(*answer.version), Version(*self.known.version)
            return f"still says that it is at version {told}, and was at {known} before"
        return ""


@lru_cache(maxsize=4096)  # who asks again is told the same
def knowing(told: messages.Version, seen: Version) -> messages.Version:
    """What a peer tells one of which it knows the version `seen`."""
    return replace(told, seen=seen)


class Others(dict[str, Other]):
    """All of them, by name."""

    def version_of(self, peer: str) -> Version | None:
        """The newest version heard of `peer`; None if it is gone or was never heard."""
        other = self[peer]
        if other.gone or other.known is None:
            return None
        return Version(*other.known.version)

    def in_play(self, peer: str, now: float) -> bool:
        """Whether `peer` may still be waited for: reachable, trusted, not done with its rounds."""
        other = self[peer]
        if other.gone or other.trust.withheld(now):
            return False
        return other.known is None or other.known.state == "training"

    def awaited(self, now: float, since: float, timing: Timing) -> list[str]:
        """The states of those within reach that made progress lately, or at least since then."""
        return [
            other.known.state if other.known else "training"
            for other in self.values()
            if not other.gone
            and not other.trust.withheld(now)
            and now < timing.waits_until(other.moved_at, since)
        ]

    def set_aside(self, now: float) -> tuple[Aside, ...]:
        """Those from whom nothing is taken at the moment."""
        return tuple(
            Aside(name, other.trust.reason, other.trust.until, other.trust.strikes)
            for name, other in self.items()
            if other.trust.withheld(now)
        )
