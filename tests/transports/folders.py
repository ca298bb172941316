"""What tests of transports that share a folder have in common."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.waiting import wait_until
from transports import mailbox
from transports.base import PeerGone, Received
from transports.folder import FolderTransport

JoinFolder = Callable[..., FolderTransport]


def meet(one: FolderTransport, other: FolderTransport) -> None:
    """Until each knows that the other is there."""
    for a, b in ((other, one), (one, other)):  # the second one found the first there
        deliver(a, b, [b"hello"])


def deliver(sender: FolderTransport, to: FolderTransport, frames: list[bytes]) -> Received:
    """Send until it can be sent, and receive it."""

    def sent() -> bool:
        sender.recv(0)
        try:
            sender.send(to.me, frames)
        except PeerGone:
            return False
        return True

    wait_until(sent, 20)
    return next_of(to, frames[0])


def next_of(transport: FolderTransport, first: bytes) -> Received:
    """The next message that begins with this frame."""
    while (message := transport.recv(20)) is not None:
        if bytes(message.frames[0]) == first:
            return message
    raise AssertionError("it never came")


def inbox(shared: Path, name: str) -> Path:
    return shared / name / mailbox.INBOX


def numbers(transport: FolderTransport) -> list[int]:
    found = []
    while (message := transport.recv(0.2)) is not None:
        found.append(int(bytes(message.frames[0])))
    return found
