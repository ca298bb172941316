"""What a transport answers from while this peer is away, kept up to date; most have no such thing.

If it can't be left (a full disk, a file server that is away), what was left before stays, and it
is tried again: no reason to stop training.
"""

from __future__ import annotations

from bt.eventlog import Log
from bt.shelf import Shelf
from transports import messages
from transports.base import Leaving, Transport, TransportError

_AGAIN_S = 10.0


class Leaver:
    """Leaves what `transport` takes of the models on `shelf`."""

    def __init__(self, transport: Transport, shelf: Shelf, log: Log) -> None:
        self._leaving = transport if isinstance(transport, Leaving) else None
        self._shelf = shelf
        self._log = log
        self._left: messages.Version | None = None
        self._again_at = float("-inf")
        self._failed = False

    def update(self, told: messages.Version, now: float) -> None:
        """Leave what this peer says of itself now, and its model."""
        if self._leaving is None or told is self._left or now < self._again_at:
            return
        image = self._shelf.image(told.digest)
        try:
            self._leaving.leave(messages.encode(told), told.digest, image)
        except TransportError as exc:
            self._again_at = now + _AGAIN_S
            if not self._failed:
                self._log.write("unshared", reason=str(exc))
            self._failed = True
            return
        self._left, self._failed = told, False
