"""Addresses that peers pass on: what is believed of them, and when they are tried."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from transports import header, introductions
from transports.endpoints import Tcp
from transports.header import MessageError
from transports.introductions import MOST_CONTACTS, TRY_S, Contact, Hints
from transports.keys import KeyPair

KEY = KeyPair.new().public
HERE, THERE, ELSEWHERE = (f"tcp://10.0.0.{number}:7301" for number in (1, 2, 3))
B = Contact("b", KEY, THERE)


def written(**changed: object) -> bytes:
    about = {"kind": "contacts", "sender": "a", "addresses": [list(B)]} | changed
    return header.write(about)


def test_what_is_written_is_read() -> None:
    contacts = [Contact(f"peer-{n}", KEY, f"tcp://host-{n}.example:7301") for n in range(128)]
    frame = introductions.encode("a", contacts)
    assert introductions.decode([frame], "a") == contacts
    longest = Contact("n" * 64, KEY, "tcp://" + "h" * 244 + ":7301")
    assert len(introductions.encode("a", [longest] * MOST_CONTACTS)) < 1 << 16
    assert introductions.decode([frame[:9], frame[9:]], "a") == contacts


@pytest.mark.parametrize(
    "address",
    [
        "", "tcp://", "tcp://h", "tcp://h:0", "tcp://h:*", "tcp://*:1", "ipc:///tmp/x", "inproc://x",
        "udp://h:1", "tcp://h:99999", "tcp://h;tcp://i:1", "tcp://h\n:1", "tcp://h\x1b[2J:1",
        "tcp://zürich:1", "tcp://" + "h" * 250 + ":1", 7, None, ["tcp://h:1"], "tcp://h :1",
    ],
)  # fmt: skip
def test_addresses_that_are_none(address: object) -> None:
    assert introductions.place(address) is None
    with pytest.raises(MessageError) as caught:
        introductions.decode([written(addresses=[["b", KEY, address]])], "a")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "frame",
    [
        b"", b"\xff" * 20, written(sender="b"), written(kind="ping"), written(addresses="b"),
        written(more=1), written(addresses=[list(B)] * (MOST_CONTACTS + 1)),
        written(addresses=[["b", KEY]]), written(addresses=[["b", "no key", THERE]]),
        written(addresses=[["../b", KEY, THERE]]), written(addresses=[None]), written() + b"tail",
        b"\xff\xff\xff\xff\0\0\0\0" + b" " * 100,
    ],
)  # fmt: skip
def test_what_is_no_contacts_message(frame: bytes) -> None:
    with pytest.raises(MessageError):
        introductions.decode([frame], "a")


def test_what_is_almost_right_is_refused_or_read() -> None:
    good, dice = introductions.encode("a", [B, B]), random.Random(1)
    for _ in range(2000):
        frame = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            frame[dice.randrange(len(frame))] = dice.choice(b'\x00\xff[]{}",:\\09aA;')
        with suppress(MessageError):
            for contact in introductions.decode([frame], "a"):
                assert contact.address.isprintable()


class Peer:
    """One that hears hints of b, whom it knows by its key and, perhaps, an address."""

    def __init__(self, home: str | None = None, *, local: bool = False) -> None:
        self.hints = Hints(local)
        self.home = self.current = introductions.place(home)

    def hears(self, address: str, sender: str = "c", name: str = "b", key: str = KEY) -> None:
        self.hints.hear(
            [Contact(name, key, address)],
            sender,
            lambda contact: (contact.name, contact.key) == ("b", KEY),
        )

    def turns(self, now: float = 0.0) -> str | None:
        """Where it looks for b from now on."""
        self.current = self.hints.turn("b", self.current, self.home, now) or self.current
        return None if self.current is None else str(self.current)

    def looks(self, turns: int) -> list[str | None]:
        return [self.turns(number * TRY_S) for number in range(turns)]


def test_an_address_that_was_missing_is_tried_at_once() -> None:
    peer = Peer()
    assert peer.turns() is None
    peer.hears(THERE)
    assert peer.turns() == peer.turns() == THERE


def test_addresses_are_tried_by_turns() -> None:
    peer = Peer(HERE)
    peer.hears(THERE)
    assert peer.looks(4) == [HERE, THERE, HERE, THERE]
    assert peer.turns(3 * TRY_S + 1) == THERE, "each has its time"
    peer.hints.settle("b")
    assert peer.turns(4 * TRY_S) == THERE, "it has just been lost: first the same again"
    peer.hears(HERE)
    assert peer.looks(12)[10:] == [HERE, HERE], "nobody says anything else any more"


@pytest.mark.parametrize("liar", ["a", "z"])
def test_a_liar_hides_nothing_however_often_it_lies(liar: str) -> None:
    """Not the address of the roster, nor what b says itself, nor what an honest peer says."""
    peer = Peer(HERE)
    peer.hears(ELSEWHERE, sender=liar)  # first
    peer.hears(THERE, sender="b")
    peer.hears(ELSEWHERE, sender="honest")
    seen = []
    for number in range(12):
        peer.hears(f"tcp://10.66.0.{number + 1}:7301", sender=liar)
        seen.append(peer.turns(number * TRY_S))
    for some in (seen[:5], seen[-5:]):
        assert {HERE, THERE, ELSEWHERE} <= {*some}


def test_nobody_becomes_a_member_by_a_hint() -> None:
    peer = Peer()
    peer.hears(THERE, name="stranger")
    peer.hears(THERE, key=KeyPair.new().public)
    assert peer.turns() is None
    assert peer.hints.turn("stranger", None, None, 0.0) is None


def test_who_is_shut_out_has_said_nothing() -> None:
    peer = Peer()
    peer.hears(THERE, sender="c")
    peer.hints.forget("c")
    assert peer.turns() is None
    peer.hears(THERE, sender="b")
    peer.hints.forget("b")
    assert peer.turns() is None


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]", "0.0.0.0", "[::]", "169.254.169.254",
             "[fe80::1%lo]", "127.1", "0x7f000001", "2130706433", "0", "[::ffff:127.0.0.1]",
             "b.localhost", "LOCALHOST", "localhost."],
)  # fmt: skip
def test_nobody_is_led_to_its_own_machine(host: str) -> None:
    peer = Peer()
    peer.hears(f"tcp://{host}:22")
    assert peer.turns() is None
    peer = Peer(local=True)  # a federation on one machine
    peer.hears(f"tcp://{host}:22")
    assert peer.turns() is not None


def test_local_addresses() -> None:
    assert introductions.is_local(Tcp("127.0.0.1", 1))
    assert not introductions.is_local(Tcp("127.0.0.1.example", 1))
    assert not introductions.is_local(None)
