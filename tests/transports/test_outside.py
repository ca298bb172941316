"""Who asks from outside gets answers, and nothing that is meant for the peer whose key it has."""

from __future__ import annotations

import time
from contextlib import ExitStack

import pytest
import zmq

from tests.transports.sockets import (
    PATIENCE_S,
    deliver,
    equipped,
    free_port,
    heard_before,
    until_gone,
)
from transports.base import OUTSIDER, PeerGone
from transports.keys import KeyPair
from transports.live import LiveTransport
from transports.zeromq import ZeroMQTransport


@pytest.fixture
def place():
    return f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture
def stack():
    with ExitStack() as stack:
        yield stack


KEYS = {name: KeyPair.new() for name in ("a", "c", "office")}
PUBLIC = {name: {pair.public} for name, pair in KEYS.items()}


def opened(stack, me, listen, peers, *, outside=False, keys=True):
    options = {"keys": KEYS[me], "peer_keys": PUBLIC} if keys else {}
    if outside:
        made = ZeroMQTransport(me, listen, peers, outside=True, **options)
    else:
        made = LiveTransport(me, listen, peers, **options)
    stack.callback(made.close, linger_s=0)
    return made


def asks(outsider, peer, name="a", answer=b"answer"):
    """Have the outsider ask `name` until it gets its answer; what it heard, and who asked."""
    deadline = time.monotonic() + PATIENCE_S
    who, heard = None, []
    while time.monotonic() < deadline:
        try:
            outsider.send(name, [b"question"])
        except PeerGone:
            outsider.recv(0.01)
            continue
        while (got := peer.recv(0.2)) is not None:
            if got.reply_to is not None:
                who = got
                peer.send(got.reply_to, [answer])
        while (got := outsider.recv(0.2)) is not None:
            heard.append((got.sender, [bytes(frame) for frame in got.frames]))
        if (name, [answer]) in heard:
            return who, heard
    raise AssertionError(f"{name} did not answer")


@pytest.mark.parametrize("who", ["office", "c", "a"])
def test_it_is_answered_under_its_own_name(stack, place, who):
    a = opened(stack, "a", place, {"c": None})
    outsider = opened(stack, who, "tcp://127.0.0.1:*", {"a": place}, outside=True)
    got, _ = asks(outsider, a)
    assert got.sender == who


def test_without_keys_everybody_may_ask(stack, place):
    a = opened(stack, "a", place, {"c": None}, keys=False)
    outsider = opened(stack, "c", "tcp://127.0.0.1:*", {"a": place}, outside=True, keys=False)
    got, _ = asks(outsider, a)
    assert got.sender == OUTSIDER
    with pytest.raises(PeerGone):  # c itself has never come
        a.send("c", [b"for c"])


@pytest.mark.parametrize("keys", [True, False])
def test_what_is_for_a_peer_does_not_go_to_who_asks_with_its_key(stack, place, keys):
    """c has no address: a's only way to it is the connection that c has made."""
    a = opened(stack, "a", place, {"c": None}, keys=keys)
    c = opened(stack, "c", "tcp://127.0.0.1:*", {"a": place}, keys=keys)
    deliver(c, a, [b"here I am"])
    outsider = opened(stack, "c", "tcp://127.0.0.1:*", {"a": place}, outside=True, keys=keys)
    asks(outsider, a)
    deliver(a, c, [b"for c"])
    _, heard = asks(outsider, a)
    assert [b"for c"] not in [frames for _, frames in heard]
    deliver(c, a, [b"still here"])


def test_an_observer_can_do_nothing_but_ask(stack, place):
    """Its key lets it in; as a peer nothing of it is heard."""
    a = opened(stack, "a", place, {"c": None})
    c = opened(stack, "c", "tcp://127.0.0.1:*", {"a": place})
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        equipped(dealer, "r", KEYS["office"], KEYS["a"].public).connect(place)
        dealer.send_multipart([b"m", b"as if I was a peer"])
        assert heard_before(b"end", a, c) == []


def test_a_key_that_is_out_is_not_heard_from_outside(stack, place):
    a = opened(stack, "a", place, {"c": None})
    c = opened(stack, "c", "tcp://127.0.0.1:*", {"a": place})
    outsider = opened(stack, "office", "tcp://127.0.0.1:*", {"a": place}, outside=True)
    asks(outsider, a)
    a.admit("office", set())
    outsider.send("a", [b"question"])
    assert heard_before(b"end", a, c) == []
    a.admit("office", PUBLIC["office"])
    asks(outsider, a)


def test_an_answer_to_who_has_gone_is_told(stack, place):
    a = opened(stack, "a", place, {"c": None})
    outsider = opened(stack, "office", "tcp://127.0.0.1:*", {"a": place}, outside=True)
    got, _ = asks(outsider, a)
    outsider.close(linger_s=0)
    until_gone(a, got.reply_to)
