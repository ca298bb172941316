"""Strangers at an open port with keys: they get nothing but a greeting, and hold nobody up.

Real sockets, from outside. That a wrong key, no key, or another's name is of no use is in
test_zeromq_curve.py.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from contextlib import ExitStack, closing, suppress

import pytest

from benchmarks.peers import free_port
from tests.transports.sockets import PATIENCE_S, connected, deliver, heard_before
from transports.zeromq import ZeroMQTransport

GREETING_BYTES = 64  # of ZMTP 3; libzmq sends it to everybody
ZMTP = b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE" + bytes(48)
NOISE = {
    "nothing": b"",
    "a line": b"hello\r\n\r\n",
    "http": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "tls": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "random": random.Random(0).randbytes(1 << 16),
    "an old protocol": b"\xff" + bytes(8) + b"\x7f\x01" + b"\x05" * 200,
    "a greeting and no handshake": ZMTP + random.Random(1).randbytes(4096),
    "an endless command": ZMTP + b"\x06" + b"\x7f" * 8 + bytes(1 << 16),
    "no mechanism": ZMTP.replace(b"CURVE", b"NULL\0") + b"\x04\x19\x05READY" + bytes(200),
}


@pytest.fixture
def wire():
    return "tcp-curve"


def rss_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def answer(raw):
    """All that comes back until the other end hangs up or says nothing more."""
    raw.settimeout(0.05)
    got = b""
    with suppress(OSError):
        while data := raw.recv(4096):
            got += data
    return got


def test_noise_gets_a_greeting_and_no_more(join, addresses):
    a, b = join("a"), join("b")
    deliver(b, a, [b"before"])
    for noise in NOISE.values():
        with closing(connected(addresses["a"])) as raw:
            with suppress(OSError):
                raw.sendall(noise)
            assert len(answer(raw)) <= GREETING_BYTES
    assert heard_before(b"end", a, b) == []
    assert deliver(a, b, [b"after"]).sender == "a"


class Recorder:
    """Stands between b and a, and keeps what b says."""

    def __init__(self, to):
        self.said = b""
        self._to = to
        self._server = socket.create_server(("127.0.0.1", free_port()))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self._ends = [self._server]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        with suppress(OSError):
            near, _ = self._server.accept()
            far = connected(self._to)
            self._ends += [near, far]
            threading.Thread(target=self._carry, args=(far, near, False), daemon=True).start()
            self._carry(near, far, True)

    def _carry(self, from_, to, keep):
        with suppress(OSError):
            while data := from_.recv(4096):
                if keep:
                    self.said += data
                to.sendall(data)

    def close(self):
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def test_a_recorded_conversation_is_of_no_use(join, addresses):
    a = join("a", {"b": None, "c": None})
    with closing(Recorder(addresses["a"])) as recorder:
        b = join("b", {"a": recorder.address})
        deliver(b, a, [b"pull"])
        whole = recorder.said
        b.close()
    c = join("c", {"a": addresses["a"]})
    assert len(whole) > GREETING_BYTES + 200, "the handshake and a message were recorded"
    for part in (whole, whole[: len(whole) // 2]):
        with closing(connected(addresses["a"])) as raw:
            with suppress(OSError):
                raw.sendall(part)
            # a greeting and the WELCOME that answers a HELLO; the INITIATE is of another day
            assert len(answer(raw)) <= GREETING_BYTES + 200
    assert heard_before(b"end", a, c) == []


def test_many_that_never_finish_a_handshake(join, addresses):
    """Hundreds of connections that stop at every place of a handshake, and then byte by byte."""
    a, b = join("a"), join("b")
    deliver(b, a, [b"before"])
    before = rss_bytes()
    with ExitStack() as stack:
        held = [stack.enter_context(closing(connected(addresses["a"]))) for _ in range(500)]
        for number, raw in enumerate(held):
            with suppress(OSError):
                raw.sendall(ZMTP[: number % len(ZMTP)])
        for raw in held[::10]:
            with suppress(OSError):
                raw.sendall(b"\0")
        for number in range(10):
            assert deliver(a, b, [b"to b", b"%d" % number]).sender == "a"
            assert deliver(b, a, [b"to a", b"%d" % number]).sender == "b"
        grown = rss_bytes() - before
        assert all(len(answer(raw)) <= GREETING_BYTES for raw in held[::50])
    assert grown < 16 << 20
    assert heard_before(b"end", a, b) == []


def test_a_crowd_leaves_descriptors_for_others(addresses, keys):
    """Beyond a number, none is let near; who is in stays in, and later others come in."""
    address = addresses["a"]
    peers = {"b": {keys["b"].public}, "c": {keys["c"].public}}

    def caller(name):
        theirs = {"a": {keys["a"].public}}
        return ZeroMQTransport(
            name, addresses[name], {"a": address}, keys=keys[name], peer_keys=theirs
        )

    with ExitStack() as stack:
        own = {"b": None, "c": None}
        a = stack.enter_context(
            closing(ZeroMQTransport("a", address, own, keys=keys["a"], peer_keys=peers))
        )
        b = stack.enter_context(closing(caller("b")))
        deliver(b, a, [b"before"])
        a._door.most = len(os.listdir("/proc/self/fd")) + 40
        strangers = [stack.enter_context(closing(connected(address))) for _ in range(100)]
        until(lambda: a._door.shut, a)
        with socket.socket() as late:
            late.settimeout(0.3)
            with pytest.raises(TimeoutError):
                late.connect(("127.0.0.1", int(address.rpartition(":")[2])))
        deliver(b, a, [b"meanwhile"])
        deliver(a, b, [b"meanwhile"])
        for stranger in strangers:
            stranger.close()
        a._door.most *= 2
        until(lambda: not a._door.shut, a)
        c = stack.enter_context(closing(caller("c")))
        deliver(c, a, [b"after"])


def until(so, transport):
    deadline = time.monotonic() + PATIENCE_S
    while not so():
        assert time.monotonic() < deadline
        transport.recv(0.05)
