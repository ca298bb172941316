"""What no transport can beat: memcpy, and the same bytes over a bare socket.

A socket's bytes go into one buffer that is used again and again, and nobody looks at them.
"""

from __future__ import annotations

import mmap
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np

from benchmarks import model
from benchmarks.apart import Prepared
from benchmarks.harness import Pull, Say

TIMEOUT_S = 60.0


@contextmanager
def copy_warm(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """memcpy into memory that has been written before."""
    source = model.values(nbytes, model.OWN)
    into = source.copy()

    def pull() -> None:
        np.copyto(into, source)

    yield pull


@contextmanager
def copy_fresh(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """memcpy into pages the kernel has yet to hand out, as any large new buffer is."""
    source = model.values(nbytes, model.OWN)

    def pull() -> None:
        # not numpy's own memory: malloc keeps what is below 32 MB
        pages = mmap.mmap(-1, nbytes)
        np.copyto(np.frombuffer(pages, np.float32), source)

    yield pull


def serve_bytes(place: str, nbytes: int, say: Say) -> None:
    """A bare socket: the whole model for every byte that comes in, a byte for every dot."""
    scheme, _, address = place.partition("://")
    if scheme == "ipc":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
        say(place)
    else:
        host = address.rpartition(":")[0]
        listener = socket.create_server((host, 0))
        say(f"tcp://{host}:{listener.getsockname()[1]}")
    served = model.image(nbytes, model.THEIRS)
    while True:
        connection, _ = listener.accept()
        with connection:
            while asked := connection.recv(1):
                connection.sendall(asked if asked == b"." else served)


@contextmanager
def pull_bytes(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """From each place in turn, into one buffer."""
    with ExitStack() as stack:
        connections = [stack.enter_context(_connected(place)) for place in places]
        into = memoryview(bytearray(nbytes))

        def pull() -> None:
            for connection in connections:
                connection.sendall(b"?")
                receive(connection, into)

        yield Prepared(pull, lambda: greet(*connections))


def greet(*connections: socket.socket) -> None:
    """A byte there and back."""
    for connection in connections:
        connection.sendall(b".")
        connection.recv(1)


def receive(connection: socket.socket, into: memoryview) -> None:
    """Fill `into`."""
    got = 0
    while got < len(into):  # once, unless a signal comes between
        read = connection.recv_into(into[got:], len(into) - got, socket.MSG_WAITALL)
        if not read:
            raise ConnectionError("the server is gone")
        got += read


def _connected(place: str) -> socket.socket:
    scheme, _, address = place.partition("://")
    if scheme == "ipc":
        made = socket.socket(socket.AF_UNIX)
        made.connect(address)
    else:
        host, _, port = address.rpartition(":")
        made = socket.create_connection((host, int(port)), TIMEOUT_S)
    made.settimeout(None)  # a timeout would make the socket non-blocking, and MSG_WAITALL moot
    # the kernel's own does bound it
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", int(TIMEOUT_S), 0))
    return made
