"""Programs for one rank; test_mpi starts them under mpirun: python mpi_member.py PROGRAM."""

from __future__ import annotations

import sys
import time

from transports import mpi
from transports.base import PeerGone
from transports.mpi import MPITransport
from transports.testing import check_transport


def conformance() -> None:
    check_transport(MPITransport())


def unread() -> None:
    """Everyone sends everyone a big model nobody reads, and leaves at once."""
    transport = MPITransport()
    for name in transport.peers:
        transport.send(name, [bytes(20_000_000)])
    began = time.monotonic()
    transport.close(linger_s=1.0)
    assert time.monotonic() - began < 3.0


def reaches(transport: MPITransport, name: str) -> bool:
    try:
        transport.send(name, [b"still there?"])
    except PeerGone as exc:
        return exc.peer != name
    return True


def early_leaver() -> None:
    """The first rank leaves while a model is on its way to it; the others find out and go on."""
    transport = MPITransport(names=["a", "b", "c"])
    if transport.me == "a":
        for name in transport.peers:
            transport.send(name, [b"bye"])
        return transport.close()
    transport.send("a", [bytes(20_000_000)])
    deadline = time.monotonic() + 20
    heard = []
    while reaches(transport, "a") and time.monotonic() < deadline:
        heard.append(transport.recv(0.01))
    assert not reaches(transport, "a")
    transport.publish([b"end"])
    while not any(m is not None and bytes(m.frames[0]) == b"end" for m in heard):
        assert time.monotonic() < deadline
        heard.append(transport.recv(1))
    return transport.close()


def too_large() -> None:
    """In pieces: a message above the limit is dropped whole, and the next one comes through."""
    mpi.PIECE_BYTES = 100_000
    transport = MPITransport(max_message_bytes=1_000_000)
    pattern = bytes(range(251)) * 2400  # 602 400 bytes, no two pieces alike
    for name in transport.peers:
        transport.send(name, [b"head", pattern, pattern, b"tail"])
        transport.send(name, [b"next", pattern, b"", b"tail"])
    for _ in transport.peers:
        received = transport.recv(20)
        assert received is not None
        assert [bytes(frame) for frame in received.frames] == [b"next", pattern, b"", b"tail"]
    transport.close()


if __name__ == "__main__":
    {f.__name__: f for f in (conformance, unread, early_leaver, too_large)}[sys.argv[1]]()
