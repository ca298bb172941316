"""Peers that find each other through one that knows both, and those that have moved."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest

from benchmarks.peers import free_port
from tests.transports.sockets import deliver, tcp_addresses
from tests.waiting import wait_until
from transports import introductions, live
from transports.base import PeerGone
from transports.introductions import Contact
from transports.keys import KeyPair
from transports.live import LiveTransport
from transports.zeromq import CONTACTS

PAIRS = {name: KeyPair.new() for name in ("a", "b", "c", "d")}
PUBLIC = {name: {pair.public} for name, pair in PAIRS.items()}


@pytest.fixture
def places(monkeypatch):
    monkeypatch.setattr(live, "_KEEP_UP_S", 0.05)
    monkeypatch.setattr(introductions, "TRY_S", 0.5)
    return {**tcp_addresses(), "d": f"tcp://127.0.0.1:{free_port()}"}


@pytest.fixture
def start(places):
    started = []

    def make(me, peers, *, at=None, **options):
        """`peers`: whose address it knows; of the others the key alone."""
        addresses = {n: places[n] if n in peers else None for n in PAIRS if n != me}
        at = at or places[me]
        keys = {n: k for n, k in PUBLIC.items() if n != me}
        given = {"address": at, "keys": PAIRS[me], "peer_keys": keys, **options}
        started.append(LiveTransport(me, at, addresses, **given))
        return started[-1]

    yield make
    for each in started:
        each.close(linger_s=0)


def until_reached(one, name, *others):
    def reached():
        for each in (one, *others):
            each.recv(0)
        return one.reached(name) is not None

    wait_until(reached, 20)


def test_one_address_of_a_living_peer_is_enough(start):
    a, b, c = start("a", "bc"), start("b", "ac"), start("c", "ab")
    d = start("d", "b")
    for name in "abc":
        until_reached(d, name, a, b, c)
    for other in (a, b, c):
        until_reached(other, "d", a, b, c, d)
        deliver(d, other, [b"new here"])
        deliver(other, d, [b"welcome"])


def test_who_opens_no_port_finds_the_others_too(start, places):
    a, b = start("a", "b"), start("b", "a")
    d = start("d", "b", at="tcp://127.0.0.1:*", address=None)
    until_reached(d, "a", a, b)
    deliver(a, d, [b"hello"])


def test_who_has_moved_is_found_and_the_news_go_round(start, places):
    a, b, c = start("a", "b"), start("b", "a"), start("c", "ab", address=None)
    for name in "ab":
        until_reached(c, name, a, b)
    b.close()
    b = start("b", "a", at=f"tcp://127.0.0.1:{free_port()}")  # and a tells c, who was told nothing
    until_reached(a, "b", b, c)
    until_reached(c, "b", a, b)
    deliver(c, b, [b"found"])


def test_a_lie_cuts_off_nobody(start, places):
    """c says that b is elsewhere; at c itself, even. It is not believed for want of the key."""
    a, b, c = start("a", "b"), start("b", "a"), start("c", "a")
    until_reached(a, "b", b, c)
    until_reached(c, "a", a, b)

    def lie():
        lies = [Contact("b", PAIRS["b"].public, places["c"])]
        with suppress(PeerGone):
            c.send("a", [introductions.encode("c", lies)], CONTACTS)
        for each in (a, c):
            each.recv(0.01)

    for _ in range(50):
        lie()
        assert a.reached("b") is not None, "a connection that stands is left alone"
    b.close()
    wait_until(lambda: bool(lie()) or a.reached("b") is None, 20)
    for _ in range(50):
        lie()
    assert a.reached("b") is None, "who has not its key is not it"
    b = start("b", "a")
    wait_until(lambda: bool(lie() or b.recv(0)) or a.reached("b") is not None, 20)
    deliver(a, b, [b"still"])


def test_noise_is_no_contact(start):
    a, b = start("a", "b"), start("b", "a")
    until_reached(a, "b", b)
    until_reached(b, "a", a)
    for frames in ([], [b""], [b"\xff" * 99], [b"x"] * 5, [introductions.encode("d", [])]):
        b.send("a", frames, CONTACTS)
    assert deliver(b, a, [b"end"]).sender == "b"
    assert a.recv(0.1) is None
    assert a.peers == ("b", "c", "d")


def test_hellos_without_end_use_up_no_sockets(start, places):
    """Each of b's names another port to hear its announcements at; and libzmq has 1023 sockets."""
    a, b = start("a", "b"), start("b", "a")
    until_reached(a, "b", b)
    until_reached(b, "a", a)
    before, most = open_files(), 0
    for port in range(10_000, 12_000):
        b.send("a", [b"%d" % port], b"h")
        a.recv(0)
        most = max(most, open_files())
    deliver(b, a, [b"end"])
    assert most < before + 100


def open_files():
    return len(os.listdir("/proc/self/fd"))


def test_nothing_is_passed_on_without_keys(places):
    one = LiveTransport("a", places["a"], {"b": places["b"]}, address=places["a"])
    other = LiveTransport("b", places["b"], {"a": places["a"]}, address=places["b"])
    try:
        deliver(one, other, [b"hello"])
        for _ in range(20):
            assert one.recv(0.01) is other.recv(0.01) is None
        assert one._told == other._told == {}
    finally:
        one.close(linger_s=0)
        other.close(linger_s=0)


def test_a_new_peer_is_met_and_one_that_left_is_none(start, places):
    a = LiveTransport("a", places["a"], {}, keys=PAIRS["a"], peer_keys={})
    b = start("b", "a")
    try:
        assert a.peers == ()
        a.admit("b", PUBLIC["b"])
        a.meet("b", None)
        assert a.peers == ("b",)
        deliver(b, a, [b"hello"])
        deliver(a, b, [b"hello"])
        a.meet("b", places["b"])
        until_reached(a, "b", b)
        a.admit("b", set())
        with pytest.raises(PeerGone):
            a.send("b", [b"x"])
    finally:
        a.close(linger_s=0)
