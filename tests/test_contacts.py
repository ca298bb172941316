"""Whom a peer meets: by addresses alone, or by a roster that may change while it runs."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from benchmarks.peers import free_port
from bt import contacts, roster
from bt.config import ConfigError
from bt.contacts import Contacts
from bt.roster import Member, Observer
from tests.transports.sockets import deliver, heard_before
from transports.base import PeerGone
from transports.keys import KeyPair
from transports.zeromq import ZeroMQTransport

LISTEN = "tcp://127.0.0.1:7301"
B = "B=tcp://127.0.0.1:7302"


def addresses(
    *peers: str, name: str = "A", listen: str | None = LISTEN, announce: str | None = None
) -> dict[str, str | None]:
    return contacts.addresses_of(name, listen, announce, list(peers), insecure=False)


def test_addresses_of_the_others_by_name() -> None:
    assert addresses(B, "C=ipc:///tmp/c") == {"B": B[2:], "C": "ipc:///tmp/c"}
    assert addresses(B, listen="tcp://127.0.0.1:*", announce="tcp://localhost:0") == {"B": B[2:]}
    assert addresses(B, "C") == {"B": B[2:], "C": None}
    assert addresses(B, listen=None) == {"B": B[2:]}
    far = {"listen": "tcp://0.0.0.0:7301", "announce": "tcp://*:7303", "peers": [B]}
    assert contacts.addresses_of("A", **far, insecure=True) == {"B": B[2:]}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"peers": ["B"], "listen": None}, "--peer B: where is it?"),
        ({"listen": None, "announce": LISTEN}, "--announce goes with --listen"),
        ({"peers": ["B="]}, "expected NAME=ADDRESS"),
        ({"peers": [B, B]}, "--peer B is given twice"),
        ({"peers": ["a b=tcp://127.0.0.1:7302"]}, "'a b' can't name a peer"),
        ({"name": "Zürich"}, "'Zürich' can't name a peer"),
        ({"name": "B"}, "--peer B: that is this peer itself"),
        ({"peers": ["B=127.0.0.1:7302"]}, "--peer: '127.0.0.1:7302' is no address"),
        ({"peers": ["B=tcp://127.0.0.1:*"]}, "expected one host and port"),
        ({"peers": ["B=tcp://*:7302"]}, "expected one host and port"),
        ({"peers": [f"B={LISTEN}"]}, "this peer itself listens there"),
        ({"peers": [B, f"C={B[2:]}"]}, "--peer C=tcp://127.0.0.1:7302: B listens there"),
        ({"listen": "tcp://127.0.0.1"}, "--listen: 'tcp://127.0.0.1' is no address"),
        ({"listen": "tcp://*:7301"}, "--listen tcp://*:7301: other machines can reach that"),
        (
            {"peers": ["B=tcp://10.0.0.2:7302"]},
            "that is another machine, and nothing is encrypted",
        ),
        ({"announce": "tcp://0.0.0.0:7303"}, "--announce tcp://0.0.0.0:7303: other machines"),
        ({"announce": "ipc:///tmp/a"}, "--announce goes with --listen tcp://"),
        ({"listen": "ipc:///tmp/a", "announce": LISTEN}, "--announce goes with --listen tcp://"),
    ],
)
def test_addresses_that_cant_work(asked: dict[str, object], says: str) -> None:
    peers = asked.pop("peers", [B])
    with pytest.raises(ConfigError) as caught:
        addresses(*peers, **asked)  # type: ignore[arg-type, misc]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


# With a roster ----------------------------------------------------------------------------------
class Sites:
    """Three sites with a key file and a roster each, all in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.members: dict[str, Member] = {}
        for name in "ABC":
            keys = KeyPair.new()
            keys.write(folder / f"{name}.key")
            place = f"tcp://127.0.0.1:{free_port()}"
            self.members[name] = Member(name, place, (keys.public,), 9)
        for name in "ABC":
            self.write(name)

    def write(self, of: str, **changed: Member | None) -> None:
        """The roster of one site, with these members otherwise, or out."""
        members = {**self.members, **changed}
        whole = roster.roster_of(member for member in members.values() if member is not None)
        (self.folder / f"{of}.toml").write_text(whole.to_toml())

    def contacts(self, name: str, key: str | None = None) -> Contacts:
        return contacts.from_roster(
            self.folder / f"{name}.toml", self.folder / f"{key or name}.key"
        )


class Joined(NamedTuple):
    """A site's peer, and the lines it told."""

    contacts: Contacts
    transport: ZeroMQTransport
    lines: list[str]

    def reread(self) -> list[str]:
        """Send this process a SIGHUP; what the peer tells of it."""
        self.lines.clear()
        os.kill(os.getpid(), signal.SIGHUP)
        self.transport.recv(0)
        return self.lines


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


@pytest.fixture
def joined(sites: Sites) -> Iterator[dict[str, Joined]]:
    """A, whom SIGHUP reaches, and B and C, all three connected."""
    with ExitStack() as stack:
        found = {}
        for name in "ABC":
            own = sites.contacts(name)
            transport = stack.enter_context(closing(own.connect(1 << 20)))
            own.tell = (lines := list[str]()).append
            found[name] = Joined(own, transport, lines)
        stack.enter_context(found["A"].contacts.rereading())
        a, b, c = (each.transport for each in found.values())
        for one, other in ((a, b), (b, a), (a, c), (c, a), (b, c)):
            deliver(one, other, [b"hello"])
        yield found


def test_the_roster_says_who_one_is_and_where_the_others_are(sites: Sites) -> None:
    own = sites.contacts("B")
    assert (own.name, own.listen) == ("B", sites.members["B"].address)
    assert own.others == {name: sites.members[name].address for name in "AC"}
    own.check_samples(9)
    with pytest.raises(ConfigError, match="trains on 10 scans, but the roster allows it 9"):
        own.check_samples(10)


def test_who_is_taken_out_is_out_at_once(joined: dict[str, Joined], sites: Sites) -> None:
    a, b, c = (joined[name].transport for name in "ABC")
    sites.write("A", B=None)
    assert joined["A"].reread() == ["roster: B is out"]
    with pytest.raises(PeerGone):
        a.send("B", [b"x"])
    for _ in range(5):
        b.send("A", [b"over the connection that still stands"])
    assert heard_before(b"end", a, c) == []
    deliver(b, c, [b"C has not heard of it"])
    sites.write("A")
    assert joined["A"].reread()[0].startswith("roster: B is new")
    deliver(b, a, [b"back"])


def test_a_key_is_changed_without_a_restart_of_the_others(
    joined: dict[str, Joined], sites: Sites
) -> None:
    a = joined["A"].transport
    old, new = sites.members["B"], KeyPair.new()
    new.write(sites.folder / "B2.key")
    both = old.keys[0], new.public
    sites.write("A", B=Member("B", old.address, both, 9))
    assert joined["A"].reread() == [f"roster: B: key {new.public} is new"]
    deliver(joined["B"].transport, a, [b"with the old one"])
    joined["B"].transport.close()
    sites.write("B", B=Member("B", old.address, both, 9))
    with closing(sites.contacts("B", "B2").connect(1 << 20)) as b:
        deliver(b, a, [b"with the new one"])
        sites.write("A", B=Member("B", old.address, (new.public,), 7))
        assert joined["A"].reread() == [
            f"roster: B: key {old.keys[0]} is out",
            "roster: B: max_samples 9 → 7",
        ]
        assert joined["A"].contacts.samples_of["B"] == 7
        deliver(b, a, [b"still"])
        deliver(a, b, [b"still"])


def test_who_is_an_observer_now_takes_no_part(joined: dict[str, Joined], sites: Sites) -> None:
    a, b, c = (joined[name].transport for name in "ABC")
    own, keys = sites.members["A"], sites.members["B"].keys
    whole = roster.roster_of([own, sites.members["C"]], [Observer("B", keys)])
    (sites.folder / "A.toml").write_text(whole.to_toml())
    assert joined["A"].reread()[0] == "roster: B is out"
    with pytest.raises(PeerGone):
        a.send("B", [b"x"])
    for _ in range(5):
        b.send("A", [b"as if it was a peer"])
    assert heard_before(b"end", a, c) == []
    place, key = {"A": own.address}, {"A": own.keys}
    pair = KeyPair.read(sites.folder / "B.key")
    with closing(ZeroMQTransport("B", None, place, outside=True, keys=pair, peer_keys=key)) as out:
        assert deliver(out, a, [b"a question"]).reply_to is not None
    sites.write("A")
    joined["A"].reread()
    deliver(b, a, [b"a peer again"])
    deliver(a, b, [b"a peer again"])


@pytest.mark.parametrize("kind", ["peer", "observer"])
def test_a_roster_with_this_peer_under_another_name_changes_nothing(
    kind: str, joined: dict[str, Joined], sites: Sites
) -> None:
    others = [sites.members["B"], sites.members["C"]]
    renamed = replace(sites.members["A"], name="D")
    whole = roster.roster_of([renamed, *others])
    if kind == "observer":
        whole = roster.roster_of(others, [Observer("D", renamed.keys)])
    (sites.folder / "A.toml").write_text(whole.to_toml())
    (line,) = joined["A"].reread()
    assert line.startswith("The roster stays as it was: this peer's own key is D's there.")
    deliver(joined["B"].transport, joined["A"].transport, [b"as before"])


def test_a_roster_that_is_none_changes_nothing(joined: dict[str, Joined], sites: Sites) -> None:
    (sites.folder / "A.toml").write_text("[[peer]")
    (line,) = joined["A"].reread()
    assert line.startswith("The roster stays as it was: ")
    deliver(joined["B"].transport, joined["A"].transport, [b"as before"])


def test_who_is_new_or_has_moved_is_met_without_a_restart(
    joined: dict[str, Joined], sites: Sites
) -> None:
    a, keys = joined["A"].transport, KeyPair.new()
    keys.write(sites.folder / "D.key")
    new = Member("D", f"tcp://127.0.0.1:{free_port()}", (keys.public,), 5)
    moved = Member("C", f"tcp://127.0.0.1:{free_port()}", sites.members["C"].keys, 9)
    for name in "ACD":
        sites.write(name, C=moved, D=new)
    joined["C"].transport.close()
    with closing(sites.contacts("C").connect(1 << 20)) as c:
        with closing(sites.contacts("D").connect(1 << 20)) as d:
            lines = joined["A"].reread()
            assert lines[0].startswith("roster: C: address tcp://127.0.0.1:")
            assert lines[1].startswith("roster: D is new")
            assert a.peers == ("B", "C", "D")
            for one, other in ((a, c), (c, a), (a, d), (d, a)):
                deliver(one, other, [b"hello"])
            assert joined["A"].contacts.samples_of["D"] == 5
    sites.write("A", D=None)
    joined["A"].reread()
    with pytest.raises(PeerGone):
        a.send("D", [b"x"])


def test_who_can_not_meet_is_told(joined: dict[str, Joined], sites: Sites) -> None:
    """Of two without an address, when it starts and when the roster brings another one."""
    hidden = {name: Member(name, None, sites.members[name].keys, 9) for name in "AC"}
    sites.write("A", **hidden)
    own = sites.contacts("A")
    own.tell = (lines := list[str]()).append
    with closing(own.connect(1 << 20)):
        assert own.apart() == ["C"]
        assert lines[0].startswith("neither A nor C has an address: they can't meet")
    sites.write("A", C=hidden["C"])
    assert not any("meet" in line for line in joined["A"].reread()), "C can call A"
    sites.write("B", A=hidden["A"], D=Member("D", None, (KeyPair.new().public,), 9))
    assert sites.contacts("B").apart() == []


def test_who_comes_and_can_not_be_met_is_told(sites: Sites) -> None:
    hidden = {name: Member(name, None, sites.members[name].keys, 9) for name in "AC"}
    sites.write("A", A=hidden["A"])
    own = sites.contacts("A")
    own.tell = (lines := list[str]()).append
    with closing(own.connect(1 << 20)) as transport, own.rereading():
        assert lines == []
        sites.write("A", **hidden)
        os.kill(os.getpid(), signal.SIGHUP)
        transport.recv(0)
    assert lines[-1].startswith("neither A nor C has an address: they can't meet")


def test_a_roster_without_this_peer_is_told(joined: dict[str, Joined], sites: Sites) -> None:
    sites.write("A", A=None)
    assert joined["A"].reread()[-1].startswith("This peer's own key is not in it any more")


def test_who_is_refused_is_told_why(joined: dict[str, Joined], sites: Sites) -> None:
    stranger = KeyPair.new()
    stranger.write(sites.folder / "D.key")
    own = Member("D", f"tcp://127.0.0.1:{free_port()}", (stranger.public,), 9)
    wrong = Member("C", sites.members["C"].address, (KeyPair.new().public,), 9)
    sites.write("D", C=wrong, D=own)
    with closing(sites.contacts("D").connect(1 << 20)) as d:
        wait_for_reason(d, "A", "refused by A: is the key of this peer in A's roster?")
        wait_for_reason(
            d, "C", "C running there, and is its key in the roster here the one it uses?"
        )
        plain = ZeroMQTransport("E", f"tcp://127.0.0.1:{free_port()}", {"A": own_address(joined)})
        with closing(plain):
            wait_for_reason(plain, "A", "is A running there, and does it take peers without keys?")
            joined["A"].transport.close()
            wait_for_reason(plain, "A", "not connected, or not reading")


def own_address(joined: dict[str, Joined]) -> str:
    return joined["A"].contacts.listen


def wait_for_reason(transport: ZeroMQTransport, name: str, says: str) -> None:
    """Until `name` can't be sent to, for this reason."""
    reason = ""
    for _ in range(2000):
        try:
            transport.send(name, [b"x"])
        except PeerGone as exc:
            reason = exc.reason
            if says in reason:
                return
        transport.recv(0.01)
    raise AssertionError(f"said only: {reason}")
