"""A member that never ends a message: libzmq would keep all of it."""

from __future__ import annotations

from contextlib import closing, suppress

import pytest

from tests.transports.sockets import deliver, zmtp_null
from tests.transports.test_strangers import rss_bytes, until

PART_BYTES = 1 << 19
PART = b"\x03" + PART_BYTES.to_bytes(8, "big") + b"z" * PART_BYTES  # large, and more to come
MOST = 32 << 20  # what the transport below lets lie


@pytest.fixture
def wire():
    return "tcp"


def test_who_never_ends_a_message_is_hung_up_on(join, addresses, caplog):
    a, c = join("a", max_message_bytes=1 << 20), join("c", {"a": addresses["a"]})
    deliver(c, a, [b"before"])
    with closing(zmtp_null(addresses["a"], b"b")) as raw:
        raw.sendall(b"\x01\x01m\x00\x02hi")
        heard = []
        until(lambda: heard.append(a.recv(0.05)) or heard[-1] is not None, c)
        assert heard[-1].sender == "b"
        before = rss_bytes()
        raw.settimeout(0.2)
        raw.sendall(b"\x01\x01m")
        with suppress(OSError):
            for _ in range(1000):
                raw.sendall(PART)
                a.recv(0.01)  # some 50 MB a second
        until(lambda: "hung up on b" in caplog.text, a)
        assert rss_bytes() - before < 3 * MOST, "of 500 MB"
    assert deliver(c, a, [b"after"]).sender == "c"
    assert "hung up on c" not in caplog.text


def test_honest_traffic_is_no_hoard(join):
    """As much as it likes, in messages that end; also over a connection of the other's making."""
    a, b = join("a", max_message_bytes=1 << 16), join("b", max_message_bytes=1 << 16)
    frames = [b"x" * 60_000, b"", b"y" * 300]
    for _ in range(100):  # 6 MB each way, of which 2 MB may lie about
        deliver(a, b, frames)
        deliver(b, a, frames)
        for one in (a, b):
            one._door.hoard._look_at = 0.0
            one._door.look(2)
    hoard = a._door.hoard
    assert any(known.taken > 5 << 20 for known in hoard._connections.values())
    assert not hoard._told


def test_other_connections_of_this_process_are_left_alone(join, addresses):
    a, b = join("a", max_message_bytes=1 << 10), join("b", {"a": addresses["a"]})
    with closing(zmtp_null(addresses["a"], b"c")) as raw:
        deliver(b, a, [b"here"])
        a._door.hoard._look_at = 0.0
        a._door.look(2)
        known = a._door.hoard._connections
        assert known
        assert raw.fileno() not in known
