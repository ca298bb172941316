"""CURVE: who has no key, or another's, is nobody; who has one is that peer and no other."""

from __future__ import annotations

import time
from contextlib import closing

import pytest
import zmq
from zmq.utils.monitor import recv_monitor_message

from tests.transports.sockets import (
    PATIENCE_S,
    announce,
    deliver,
    equipped,
    free_port,
    heard_before,
)
from transports.base import PeerGone, TransportError
from transports.keys import KeyPair
from transports.live import LiveTransport
from transports.zeromq import ZeroMQTransport

REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
NO_CURVE = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
HUNG_UP = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # and DISCONNECTED, on which it tries again
MISUNDERSTOOD = (NO_CURVE, HUNG_UP)  # whoever notices first hangs up
LET_IN = zmq.EVENT_HANDSHAKE_SUCCEEDED


@pytest.fixture
def wire():
    return "tcp-curve"


@pytest.fixture
def sockets():
    """Sockets of others, closed at the end."""
    made = []
    with zmq.Context() as context:

        def make(kind=zmq.DEALER):
            made.append(context.socket(kind))
            made[-1].linger = 0
            return made[-1]

        yield make
        for socket_ in made:
            socket_.close()


@pytest.fixture
def stranger(sockets):
    """Connect a socket, try to say something, and tell how its handshake ended."""

    def connect(address, *, kind=zmq.DEALER, me="b", keys=None, server_key="", say=()):
        made = equipped(sockets(kind), me, keys, server_key)
        if kind == zmq.SUB:
            made.subscribe(b"")
        fates = REFUSED | NO_CURVE | HUNG_UP | LET_IN
        with made.get_monitor_socket(fates) as monitor:
            made.connect(address)
            for parts in say:
                made.send_multipart(parts, zmq.NOBLOCK)
            assert monitor.poll(PATIENCE_S * 1000)
            fate = recv_monitor_message(monitor)["event"]
            made.disable_monitor()
        return made, fate

    return connect


def silent(socket_):
    """Whether nothing but our own greetings has come in."""
    while socket_.poll(50):
        if socket_.recv_multipart()[0] != b"h":
            return False
    return True


# --- who is let in


def test_plain_text_is_not_understood(join, addresses, stranger):
    a, b = join("a"), join("b")
    plain, fate = stranger(addresses["a"], say=[[b"m", b"give me your weights"]])
    assert fate in MISUNDERSTOOD
    assert heard_before(b"end", a, b) == []
    assert not plain.poll(0)


def test_a_peer_without_keys_reaches_nobody(join, addresses):
    a, b = join("a"), join("b")
    with closing(ZeroMQTransport("c", addresses["c"], {"a": addresses["a"]})) as c:
        assert heard_before(b"end", a, b) == []
        with pytest.raises(PeerGone):
            c.send("a", [b"x"])
        with pytest.raises(PeerGone):
            a.send("c", [b"x"])


def test_an_unknown_key_is_refused(join, addresses, keys, stranger):
    a, b = join("a"), join("b")
    unknown, fate = stranger(
        addresses["a"],
        keys=KeyPair.new(),
        server_key=keys["a"].public,
        say=[[b"m", b"give me your weights"]],
    )
    assert fate == REFUSED
    assert heard_before(b"end", a, b) == []
    assert not unknown.poll(0)


def test_who_does_not_know_the_servers_key_learns_nothing(join, addresses, keys, stranger):
    join("a")
    other = KeyPair.new().public
    _, fate = stranger(addresses["a"], keys=keys["b"], server_key=other)
    assert fate == HUNG_UP


def test_announcements_are_for_members(join, keys, stranger):
    port = free_port()
    a, b = join("a", announce=f"tcp://127.0.0.1:{port}"), join("b")
    strangers = [
        stranger(f"tcp://127.0.0.1:{port}", kind=zmq.SUB),
        stranger(
            f"tcp://127.0.0.1:{port}",
            kind=zmq.SUB,
            keys=KeyPair.new(),
            server_key=keys["a"].public,
        ),
    ]
    assert strangers[0][1] in MISUNDERSTOOD
    assert strangers[1][1] == REFUSED
    for _ in range(3):
        assert announce(a, b, [b"news"]).sender == "a"
    assert not any(subscriber.poll(0) for subscriber, _ in strangers)


# --- and as whom


def test_a_member_is_itself_whatever_it_says(join, addresses, keys, stranger):
    """c says that it is b: by the routing id libzmq would go by, and those it makes up itself."""
    a = join("a", {"b": None, "c": None})
    b = join("b", {"a": addresses["a"]})
    deliver(b, a, [b"hello"])
    claims = ["b", "a", *(f"\0k\x8b{c}" for c in "Efgh")]
    disguised = []
    for claim in claims:
        made, fate = stranger(
            addresses["a"],
            me=claim,
            keys=keys["c"],
            server_key=keys["a"].public,
            say=[[b"h", b"1"], [b"m", b"I am b"]],
        )
        assert fate == LET_IN
        disguised.append(made)
    heard = []
    deadline = time.monotonic() + PATIENCE_S
    while len(heard) < len(claims) and time.monotonic() < deadline:
        if (message := a.recv(1.0)) is not None:
            heard.append((message.sender, [bytes(frame) for frame in message.frames]))
    assert heard == [("c", [b"I am b"])] * len(claims)
    for number in range(20):
        assert deliver(a, b, [b"for b", b"%d" % number]).sender == "a"
    assert all(silent(made) for made in disguised)
    deliver(b, a, [b"still b"])
    a.send("c", [b"for c"])  # to the connection it spoke over last
    poller = zmq.Poller()
    for made in disguised:
        poller.register(made, zmq.POLLIN)
    [(made, _)] = poller.poll(PATIENCE_S * 1000)
    assert made.recv_multipart() == [b"m", b"for c"]


def test_nobody_can_know_the_routing_id_of_another(sockets, addresses, keys, join):
    """Two peers see different ones of the same peer, and it takes new ones when it restarts."""
    seen = []
    for _ in range(2):
        routers = {}
        for name in ("b", "c"):
            router = routers[name] = sockets(zmq.ROUTER)
            router.curve_server = True
            router.setsockopt_string(zmq.CURVE_SECRETKEY, keys[name].secret)
            port = router.bind_to_random_port("tcp://127.0.0.1")
            addresses[name] = f"tcp://127.0.0.1:{port}"
        with closing(join("a")) as a:
            for router in routers.values():
                deadline = time.monotonic() + PATIENCE_S
                while not router.poll(10) and time.monotonic() < deadline:
                    a.recv(0)
                seen.append(router.recv_multipart()[0])
    assert len(set(seen)) == 4
    assert all(len(routing_id) >= 16 for routing_id in seen)


def test_a_false_server_gets_nothing(sockets, join, addresses, keys):
    """Somebody listens at b's address who is not b; then b does."""
    a = join("a")
    for curve in (True, False):
        with sockets(zmq.ROUTER) as false:
            if curve:
                false.curve_server = True
                false.setsockopt_string(zmq.CURVE_SECRETKEY, KeyPair.new().secret)
            with false.get_monitor_socket(zmq.EVENT_DISCONNECTED | LET_IN) as monitor:
                persist(lambda: false.bind(addresses["b"]))
                deadline = time.monotonic() + PATIENCE_S
                while not monitor.poll(10) and time.monotonic() < deadline:
                    with pytest.raises(PeerGone):
                        a.send("b", [b"weights"])
                    a.recv(0)
                assert recv_monitor_message(monitor)["event"] == zmq.EVENT_DISCONNECTED
                false.disable_monitor()
            assert not false.poll(0)
            false.unbind(addresses["b"])
    b = persist(lambda: join("b"))
    assert deliver(a, b, [b"hello"]).sender == "a"
    assert deliver(b, a, [b"hello"]).sender == "b"


def persist(listen):
    """Listen as soon as whoever did before has gone."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return listen()
        except (zmq.ZMQError, TransportError):
            assert time.monotonic() < deadline


# --- keys that come and go


def test_who_loses_its_key_is_out_at_once(join, keys):
    a, b, c = (join(name) for name in "abc")
    for one, other in ((b, a), (c, a), (a, b), (a, c), (b, c)):
        deliver(one, other, [b"hello"])
        announce(one, other, [b"news"])
    b.send("a", [b"too late"])
    a.admit("b", ())
    with pytest.raises(PeerGone):
        a.send("b", [b"x"])
    for _ in range(10):
        b.send("a", [b"do you hear me?"])
        b.publish([b"do you hear me?"])
    assert heard_before(b"end", a, c) == []
    while b.recv(0) is not None:
        pass
    for number in range(5):
        assert announce(a, c, [b"secret", b"%d" % number]).sender == "a"
    assert b.recv(0.1) is None
    with pytest.raises(PeerGone):
        a.send("b", [b"x"])
    deliver(b, c, [b"c has not heard of it"])

    a.admit("b", {keys["b"].public})
    deliver(b, a, [b"back"])
    deliver(a, b, [b"again"])
    announce(a, b, [b"news"])


@pytest.mark.parametrize("forget", [lambda a: a.admit("b", ()), lambda a: a.dismiss("b")])
def test_who_loses_its_key_or_its_place_is_not_heard_from_what_was_read_ahead(join, forget):
    a, b, c = (join(name) for name in "abc")
    for other in (b, c):
        deliver(other, a, [b"hello"])
    deadline = time.monotonic() + PATIENCE_S
    while not {"b", "c"} <= {origin.name for origin, _ in a._ahead}:
        assert time.monotonic() < deadline
        for other in (b, b, c, c):
            other.send("a", [b"in a row"])
        a.recv(0.1)
    forget(a)
    assert {origin.name for origin, _ in a._ahead} == {"c"}
    while (message := a.recv(0.1)) is not None:
        assert message.sender == "c"


def test_a_restarted_peer_without_a_valid_key_stays_out(join, addresses, keys, stranger):
    a, b, c = (join(name) for name in "abc")
    deliver(b, a, [b"hello"])
    a.admit("b", ())
    b.close()
    _, fate = stranger(addresses["a"], keys=keys["b"], server_key=keys["a"].public)
    assert fate == REFUSED
    b = join("b")
    assert heard_before(b"end", a, c) == []
    with pytest.raises(PeerGone):
        b.send("a", [b"x"])


def test_a_key_admitted_later_is_let_in(join, addresses, keys):
    a = join("a", {"b": None, "c": None}, peer_keys={"c": {keys["c"].public}})
    b, c = join("b"), join("c")
    deliver(c, a, [b"hello"])
    with pytest.raises(PeerGone):
        b.send("a", [b"x"])
    a.admit("b", [keys["b"].public])
    deliver(b, a, [b"hello"])
    deliver(a, b, [b"hello"])


def test_a_peer_changes_its_key(join, keys, stranger, addresses):
    a, b = join("a"), join("b")
    deliver(a, b, [b"1"])
    old, new = keys["b"], KeyPair.new()
    a.admit("b", {old.public, new.public})
    for pair in (old, new, old, new):
        keys["b"] = pair
        b.close()
        b = join("b")
        assert deliver(b, a, [b"2"]).sender == "b"
        assert deliver(a, b, [b"3"]).sender == "a"
        assert announce(a, b, [b"4"]).sender == "a"
        assert announce(b, a, [b"5"]).sender == "b"
    a.admit("b", {new.public})
    deliver(a, b, [b"6"])
    deliver(b, a, [b"7"])
    _, fate = stranger(addresses["a"], keys=old, server_key=keys["a"].public)
    assert fate == REFUSED


@pytest.mark.parametrize("wire", ["ipc-curve"])
def test_leaving_while_others_knock(addresses, keys, sockets, wire):
    """Nobody hangs in close(), whatever stage the others' handshakes are at."""
    for count in range(10):
        a = ZeroMQTransport("a", addresses["a"], {}, keys=keys["a"])
        for _ in range(count):
            made = equipped(sockets(), "b", KeyPair.new(), keys["a"].public)
            made.connect(addresses["a"])
        began = time.monotonic()
        a.close()
        assert time.monotonic() - began < 2.0


# --- what can't be


def test_with_keys_others_may_reach_us():
    with closing(ZeroMQTransport("a", "tcp://0.0.0.0:*", {}, keys=KeyPair.new())) as transport:
        assert transport.endpoint.startswith("tcp://0.0.0.0:")


B, C = KeyPair.new(), KeyPair.new()


@pytest.mark.parametrize(
    ("name", "theirs", "line"),
    [
        ("b", ["x"], "a key of b is none"),
        ("b", B.public, "a key of b is none"),
        ("b", ["0" * 40], "a key of b is none"),
        ("b", [B.public, C.public], "(b and c|c and b) have the same key"),
        ("b", None, "b has the same key as this peer"),
    ],
    ids=["none", "a text", "zeros", "of another", "one's own"],
)
def test_keys_that_can_not_be(join, keys, name, theirs, line):
    theirs = [keys["a"].public] if theirs is None else theirs
    with pytest.raises(TransportError, match=line) as caught:
        join("a", peer_keys={name: theirs, "c": [C.public]})
    assert "\n" not in str(caught.value)
    a, b = join("a", peer_keys={"b": [keys["b"].public], "c": [C.public]}), join("b")
    deliver(a, b, [b"hello"])
    with pytest.raises(TransportError, match=line):
        a.admit(name, theirs)
    a.send("b", [b"as before"])


def test_keys_of_others_without_an_own_one():
    with pytest.raises(TransportError, match="of no use without one's own"):
        ZeroMQTransport("a", "tcp://127.0.0.1:*", {"b": None}, peer_keys={"b": {B.public}})
    with closing(LiveTransport("a", "tcp://127.0.0.1:*", {"b": None})) as a:
        with pytest.raises(TransportError, match="no keys here"):
            a.admit("b", {B.public})
