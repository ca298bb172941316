"""What somebody between the peers can learn and do with CURVE, and noise at their ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from contextlib import closing, suppress

import pytest
from zmq.utils import z85

from benchmarks.peers import free_port
from tests.transports.sockets import announce, connected, deliver, heard_before

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)


@pytest.fixture
def wire():
    return "tcp-curve"


class Wiretap:
    """Sits between a client and a server, writes down what each says, and may garble it."""

    def __init__(self, server):
        self.server = server
        self.said = {"client": bytearray(), "server": bytearray()}
        self.garble = set()  # whose next bytes get a bit flipped
        self._open = [socket.create_server(("127.0.0.1", 0))]
        self.address = f"tcp://127.0.0.1:{self._open[0].getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                client = self._open[0].accept()[0]
                server = connected(self.server)
                self._open += [client, server]
                for pair in ((client, server, "client"), (server, client, "server")):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source, sink, who):
        with suppress(OSError):
            while data := bytearray(source.recv(1 << 16)):
                self.said[who] += data
                if who in self.garble:
                    self.garble.discard(who)
                    data[20] ^= 1  # in the first frame
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self):
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture
def tapped(join, addresses):
    """a and b, whose only connection is tapped."""
    a = join("a", {"b": None})
    with closing(Wiretap(addresses["a"])) as wiretap:
        b = join("b", {"a": wiretap.address})
        yield a, b, wiretap
        b.close(linger_s=0)


def test_who_listens_in_learns_nothing(tapped, keys):
    a, b, wiretap = tapped
    deliver(b, a, [b"weights of b" * 10])
    deliver(a, b, [b"weights of a" * 10])
    for said in wiretap.said.values():
        assert len(said) > 300
        assert b"weights" not in said
        for pair in keys.values():
            for key in (pair.public, pair.secret):
                assert key.encode() not in said
                assert z85.decode(key) not in said


def test_what_was_said_once_can_not_be_said_again(tapped, addresses):
    a, b, wiretap = tapped
    deliver(b, a, [b"once"])
    record = bytes(wiretap.said["client"])
    hello_ends = 64 + 2 + 200
    assert record[66:72] == b"\x05HELLO"
    for pieces in ([record], [record[:hello_ends], record[hello_ends:]]):
        with connected(addresses["a"]) as raw:
            answer = b""
            with suppress(ConnectionError):
                for piece in pieces:
                    raw.sendall(piece)
                while data := raw.recv(4096):  # until hung up on
                    answer += data
            assert len(answer) <= 64 + 2 + 168  # its greeting and its half of the key exchange
    assert heard_before(b"end", a, b) == []


@pytest.mark.parametrize("who", ["client", "server"])
def test_what_was_changed_on_the_way_is_not_heard_and_they_go_on(tapped, who):
    a, b, wiretap = tapped
    deliver(b, a, [b"hello"])
    deliver(a, b, [b"hello"])
    speaker, listener = (b, a) if who == "client" else (a, b)
    wiretap.garble.add(who)
    speaker.send(listener.me, [b"changed on the way"])
    assert heard_before(b"end", listener, speaker) == []
    deliver(listener, speaker, [b"and back"])


def test_noise_disturbs_nobody(join, keys):
    port = free_port()
    a, b = join("a", announce=f"tcp://127.0.0.1:{port}"), join("b")
    deliver(a, b, [b"hello"])
    noises = [
        b"",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(100),
        os.urandom(10_000),
        GREETING[:11],
        GREETING,
        GREETING + b"\x04\xc8\x05HELLO" + os.urandom(194),
        GREETING + b"\x04\xc8\x05HELLO\x01\x00" + bytes(192),
        GREETING + b"\x06" + (2**40).to_bytes(8, "big") + b"\x05HELLO" + bytes(100),
        GREETING + b"\x00\x05hello",
        GREETING.replace(b"CURVE", b"NULL\0") + b"\x04\x05\x05READY",
        GREETING.replace(b"CURVE", b"PLAIN") + b"\x04\x0a\x05HELLO\x01b\x01b",
    ]
    raws = []
    for address in (a.endpoint, f"tcp://127.0.0.1:{port}"):
        for noise in noises:
            raws.append(connected(address))  # and stay
            with suppress(ConnectionError):
                raws[-1].sendall(noise)
    assert heard_before(b"end", a, b) == []
    assert announce(a, b, [b"news"]).sender == "a"
    for raw in raws:
        raw.setblocking(False)
        answer = b""
        with suppress(ConnectionError, BlockingIOError):
            while data := raw.recv(4096):
                answer += data
        assert len(answer) <= 64  # its greeting
        raw.close()
    assert heard_before(b"end", a, b) == []


def test_nobody_can_claim_the_number_libzmq_gives_next(tmp_path):
    """It would end the process; and in every new process the first one is the same."""
    program = """
import sys, zmq
from transports.zeromq import ZeroMQTransport
t = ZeroMQTransport("a", sys.argv[1], {"b": None})
with zmq.Context() as context:
    for claim in (b"\\0k\\x8bEg", b"", b"b"):
        dealer = context.socket(zmq.DEALER)
        dealer.linger = 0
        if claim:
            dealer.routing_id = claim
        dealer.connect(sys.argv[1])
        dealer.send_multipart([b"m", b"hello"])
        assert (t.recv(10 if claim == b"b" else 0.2) is not None) == (claim == b"b")
    context.destroy()
t.close()
"""
    command = [sys.executable, "-c", program, f"ipc://{tmp_path}/a"]
    subprocess.run(command, check=True, timeout=60)
