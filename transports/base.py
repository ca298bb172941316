"""The seam every transport fills: framed messages between named peers, nothing else."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

Frame = bytes | bytearray | memoryview

OUTSIDER = "observer"  # how who asks from outside is called where there are no keys
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def valid_name(name: object) -> TypeGuard[str]:
    """Whether this can name a peer: 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def flat(frame: Frame) -> memoryview:
    """The frame as a flat view of its bytes, not copied."""
    view = memoryview(frame)
    if view.nbytes == 0:
        return memoryview(b"")  # an empty view can't be cast
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


class TransportError(Exception):
    """The transport cannot do what was asked; the message says what to do."""


class PeerGone(TransportError):
    """`peer` cannot be reached now: nothing was queued for it."""

    def __init__(self, peer: str, reason: str = "not reachable") -> None:
        super().__init__(f"peer {peer}: {reason}")
        self.peer = peer
        self.reason = reason


class Unwelcome(PeerGone):
    """`peer` is there, but lets us not in; waiting won't help, `reason` says what may."""


@dataclass(frozen=True, slots=True)
class Received:
    """One whole message: who sent it (as the transport authenticated it) and its frames.

    `reply_to` is set if the sender is no peer at this moment, but asks from outside: an observer,
    or somebody with a peer's key beside the peer itself. Answers are sent there.
    `published`: it came on a way of its own, that nothing can be asked on.
    """

    sender: str
    frames: tuple[memoryview, ...]
    reply_to: str | None = None
    published: bool = False


class Transport(Protocol):
    """Carries framed messages between named peers; knows nothing of models. Owned by one thread.

    Frames given to `send` and `publish` must not be changed afterwards: they may be sent without
    a copy. Delivery is best effort: a message arrives whole or not at all, and may be lost when
    a link or a peer dies; whoever needs an answer sets a deadline. While a connection lasts, what
    is sent over it arrives in the order sent; announcements may overtake and be overtaken.
    """

    me: str

    @property
    def peers(self) -> tuple[str, ...]:
        """Names of the other peers, sorted. There may be more of them later."""

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        """Queue a message for `to`; never wait for it. Raises PeerGone if it can't be reached."""

    def publish(self, frames: Sequence[Frame]) -> None:
        """Queue a small message for every peer and every watcher. Never raises PeerGone."""

    def recv(self, timeout_s: float) -> Received | None:
        """Next message, or None after `timeout_s` seconds (0: only look)."""

    def close(self, linger_s: float = 5.0) -> None:
        """Give queued messages up to `linger_s` seconds to leave, then free everything."""


@runtime_checkable
class Leaving(Protocol):
    """A Transport that answers for a peer that is not there, from what it left."""

    def leave(self, announcement: Sequence[Frame], digest: str | None, image: Frame) -> None:
        """Leave the newest Version, and the image that its digest names, if it has one.

        Neither may be changed afterwards. Raises TransportError; what was left before stays.
        """
