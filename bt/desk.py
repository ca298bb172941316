"""Answers for whoever asks from outside: observers, and people with a peer's key (bt/outside.py).

They are told what there is and how this peer is doing, and served models; nothing they send
changes anything here: the protocol never hears of them.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from bt.gate import Gate
from bt.protocol import Peer
from bt.reporting import Reporter
from bt.shelf import Shelf
from bt.versions import Version
from transports import messages
from transports.base import Frame, PeerGone, Received, Transport


class Desk:
    """Answers from `peer` and its `shelf`. `serves(name)`: whether they may have models."""

    def __init__(
        self,
        peer: Peer,
        shelf: Shelf,
        transport: Transport,
        limits: messages.Limits,
        log: Reporter,
        serves: Callable[[str], bool],
    ) -> None:
        self._peer = peer
        self._shelf = shelf
        self._transport = transport
        self._gate = Gate(limits, lambda name, why: log.write("limit", peer=name, reason=why))
        self._log = log
        self._serves = serves
        self._readers: dict[str, str] = {}  # name -> digest of what it last asked for

    def answer(self, received: Received, now: float) -> int:
        """Answer it, if it is a question. Returns how many bytes were sent."""
        try:
            message = self._gate.take(received, now)
        except messages.MessageError:
            return 0  # its own business
        match message:
            case messages.Ping():
                return self._send(received, messages.encode(self._peer.announcement()))
            case messages.Ask():
                return self._send(received, self._log.frames())
            case messages.Pull():
                return self._send(received, messages.encode(self._range(message, now)))
        return 0

    def _range(self, pull: messages.Pull, now: float) -> messages.Weights:
        """Plain, for no base is kept for them."""
        sender = pull.sender
        if not self._serves(sender):
            none = memoryview(b"")
            return messages.Weights(self._peer.me, pull.digest, 0, pull.offset, none)
        # The peer of this name may be reading at the same time.
        reader = f"outside.{sender}"[:64]
        plain = replace(pull, sender=reader, encoding=messages.PLAIN, base=None)
        found = self._shelf.read(plain, self._peer.me, now)
        if found.size and self._readers.get(sender) != pull.digest:
            self._readers[sender] = pull.digest
            version = str(Version(*self._shelf.version_of(pull.digest)))
            self._log.write("outside", from_=sender, version=version)
        return found

    def _send(self, received: Received, frames: tuple[Frame, ...]) -> int:
        assert received.reply_to is not None
        with suppress(PeerGone):
            self._transport.send(received.reply_to, frames)
            return sum(len(frame) for frame in frames)
        return 0
