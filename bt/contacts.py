"""Whom a peer meets, and how it knows them: by a roster and keys, by addresses, or in a folder.

The roster can be read again while the peer runs (SIGHUP): a key that is gone from it is out at
once, established connections included; a new key of a known peer is in, and so is a new peer. Who
has another address there is looked for at that one.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bt import roster as rosters
from bt.config import ConfigError
from bt.roster import Member, Observer, Roster
from transports.base import Received, Transport, TransportError, valid_name
from transports.endpoints import Ipc, Tcp, parse
from transports.folder import FolderTransport, check_folder
from transports.keys import KeyPair
from transports.live import LiveTransport
from transports.zeromq import ZeroMQTransport


@dataclass
class Contacts:
    """A peer's own place and the others'."""

    name: str
    listen: str | None  # None: it only connects to others
    others: Mapping[str, str | None]  # addresses; None: it connects to us
    announce: str | None = None
    address: str | None = None  # where others reach it; told to those it meets
    insecure: bool = False
    keys: KeyPair | None = None
    roster_file: Path | None = None
    roster: Roster | None = None
    folder: str | None = None  # that all share, in place of addresses
    samples_of: dict[str, int] = field(default_factory=dict)  # at most; changes with the roster
    tell: Callable[[str], None] = lambda line: None  # what a person should know
    _again: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if self.roster is not None:
            self.samples_of |= {m.name: m.max_samples for m in self.roster.members.values()}

    @property
    def neighbours(self) -> int:
        """How many of the others are on this machine, and share its processors."""
        return sum(parse(where).is_loopback for where in self.others.values() if where)

    def apart(self) -> list[str]:
        """Whom this peer can't meet: neither of the two has an address."""
        if self.roster is None or self.address is not None:
            return []
        members = self.roster.members.values()
        return sorted(m.name for m in members if m.address is None and m.name != self.name)

    def connect(self, max_message_bytes: int) -> Transport:
        """Listen, and connect to the others."""
        if apart := self.apart():
            self.tell(rosters.cant_meet(self.name, apart))
        if self.folder is not None:
            return FolderTransport(
                self.name,
                self.folder,
                sorted(self.others),
                max_message_bytes=max_message_bytes,
                insecure=self.insecure,
            )
        transport = _Rostered(
            self.name,
            self.listen,
            self.others,
            address=self.address,
            announce=self.announce,
            max_message_bytes=max_message_bytes,
            insecure=self.insecure,
            keys=self.keys,
            peer_keys=None if self.roster is None else _keys_by_name(self.roster),
        )
        transport.contacts = self
        return transport

    def answering(self, max_message_bytes: int) -> ZeroMQTransport:
        """Listen in this peer's place, for those who ask from outside alone."""
        return ZeroMQTransport(
            self.name,
            self.listen,
            {},
            max_message_bytes=max_message_bytes,
            insecure=self.insecure,
            keys=self.keys,
            peer_keys=None if self.roster is None else _keys_by_name(self.roster),
        )

    def serves(self, name: str) -> bool:
        """Whether `name`, who asks from outside, may have models."""
        if self.roster is None or name in self.roster.members:
            return True
        observer = self.roster.observers.get(name)
        return observer is not None and observer.models

    def check_samples(self, samples: int) -> None:
        """Raise ConfigError if the others' rosters won't accept that many scans of this peer."""
        if samples > (most := self.samples_of.get(self.name, samples)):
            raise ConfigError(
                f"{self.name} trains on {samples} scans, but the roster allows it {most}: raise "
                "its max_samples, at every site, or take fewer scans"
            )

    @contextmanager
    def rereading(self) -> Iterator[None]:
        """SIGHUP makes the roster be read again, as long as this lasts."""
        if self.roster_file is None:
            yield
            return
        before = signal.signal(signal.SIGHUP, lambda number, frame: self._again.set())
        try:
            yield
        finally:
            signal.signal(signal.SIGHUP, before)

    def reread(self, transport: LiveTransport) -> None:
        """Apply what has changed in the roster, if that was asked for."""
        if not self._again.is_set() or self.roster_file is None or self.roster is None:
            return
        self._again.clear()
        try:
            found = rosters.read(self.roster_file)
        except ConfigError as exc:
            self.tell(f"The roster stays as it was: {exc}")
            return
        if (other := self._other_holder(found)) is not None:
            self.tell(
                f"The roster stays as it was: this peer's own key is {other}'s there. A peer "
                "that is to have another name is started again, in a new folder."
            )
            return
        for line in rosters.differences(self.roster, found) or ["no change"]:
            self.tell(f"roster: {line}")
        if self.keys is not None and found.holder(self.keys.public) is None:
            self.tell("This peer's own key is not in it any more: others won't know this peer.")
        before, after = _keys_by_name(self.roster), _keys_by_name(found)
        observers = {**self.roster.observers, **found.observers}
        # its own key: to ask from outside
        known = [*self.others, *found.members, self.name, *observers]
        for name in known:  # out first: a key may go from one to another
            transport.admit(name, before.get(name, set()) & after.get(name, set()))
        for name in {*transport.peers} - found.members.keys():  # out, or an observer now
            transport.dismiss(name)
        for name in known:
            transport.admit(name, after.get(name, set()))
        self._meet(found, transport)
        self.samples_of |= {m.name: m.max_samples for m in found.members.values()}
        could_not, self.roster = self.apart(), found
        if self.apart() not in (could_not, []):
            self.tell(rosters.cant_meet(self.name, self.apart()))

    def _other_holder(self, found: Roster) -> str | None:
        """Who has this peer's own key there, under another name."""
        if self.keys is None:
            return None
        holder = found.holder(self.keys.public) or found.observer(self.keys.public)
        return None if holder is None or holder.name == self.name else holder.name

    def _meet(self, found: Roster, transport: LiveTransport) -> None:
        """Those who are new in the roster, or have another address there."""
        places = {name: where for name, where in found.addresses().items() if name != self.name}
        for name, where in places.items():
            if self.others.get(name, "") != where:
                try:
                    transport.meet(name, where)
                except TransportError as exc:
                    self.tell(f"{name} can't be met: {exc}")
        self.others = places


def _keys_by_name(roster: Roster) -> dict[str, set[str]]:
    """Of peers and observers."""
    everybody: dict[str, Member | Observer] = {**roster.members, **roster.observers}
    return {name: set(each.keys) for name, each in everybody.items()}


class _Rostered(LiveTransport):
    """Looks at the roster again when told to: between two messages, in the thread that owns it."""

    contacts: Contacts

    def recv(self, timeout_s: float) -> Received | None:
        self.contacts.reread(self)
        return super().recv(timeout_s)


def of(
    roster: Path | None,
    keys: Path | None,
    name: str | None,
    listen: str | None,
    peers: list[str],
    announce: str | None,
    *,
    insecure: bool,
    folder: str | None = None,
) -> Contacts:
    """As the options of bt peer say. Raises ConfigError, BadKey."""
    if folder is not None:
        given = {"--roster": roster, "--keys": keys, "--listen": listen, "--announce": announce}
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} is of no use in a folder: who can write there is in")
        return in_folder(folder, name, peers, insecure=insecure)
    if roster is None and keys is None:
        return from_addresses(name, listen, peers, announce, insecure=insecure)
    if roster is None or keys is None:
        raise ConfigError(
            "--roster and --keys go together: who takes part, and which of them this peer is"
        )
    if peers or insecure:
        option = "--peer" if peers else "--insecure"
        raise ConfigError(f"{option} is for peers without keys; who takes part is in {roster}")
    return from_roster(roster, keys, name, listen, announce)


def from_roster(
    roster_file: Path,
    key_file: Path,
    name: str | None = None,
    listen: str | None = None,
    announce: str | None = None,
) -> Contacts:
    """This peer is the one in the roster that has the key. Raises ConfigError, BadKey."""
    keys, roster = KeyPair.read(key_file), rosters.read(roster_file)
    own = roster.holder(keys.public)
    if own is None and (observer := roster.observer(keys.public)) is not None:
        raise ConfigError(
            f"{key_file} is the key of {observer.name}, an observer: it may ask, not take part"
        )
    if own is None:
        raise ConfigError(
            f"no peer of {roster_file} has the key of {key_file}: {keys.public}; add it there, "
            "at every site"
        )
    if name not in (None, own.name):
        raise ConfigError(f"--name {name}: in {roster_file} the key of {key_file} is {own.name}'s")
    if listen is None:
        listen = own.address  # without one nobody calls it
    _check_places(listen, announce, secure=True)
    others = {name: where for name, where in roster.addresses().items() if name != own.name}
    if not others:
        raise ConfigError(f"{own.name} is alone in {roster_file}: join the others' rosters to it")
    if own.address is None and not any(others.values()):
        raise ConfigError(f"nobody in {roster_file} has an address: nobody can reach anybody")
    return Contacts(
        own.name,
        listen,
        others,
        announce,
        own.address,
        keys=keys,
        roster_file=roster_file,
        roster=roster,
    )


def in_folder(
    folder: str, name: str | None, peers: list[str] | None = None, *, insecure: bool = False
) -> Contacts:
    """Peers that share a folder; `peers` are awaited, others may come. Raises ConfigError."""
    if name is None:
        raise ConfigError("who is this peer? --name NAME, which no other one in the folder has")
    for each in (name, *(peers or ())):
        _check_name(each)
    if name in (peers or ()):
        raise ConfigError(f"--peer {name}: that is this peer itself, name the others only")
    check_folder(folder, insecure=insecure)
    return Contacts(name, None, dict.fromkeys(peers or ()), insecure=insecure, folder=folder)


def from_addresses(
    name: str | None,
    listen: str | None,
    peers: list[str],
    announce: str | None = None,
    *,
    insecure: bool = False,
) -> Contacts:
    """Peers that are who they say they are. Raises ConfigError."""
    if name is None or not peers:
        raise ConfigError(
            "who are the others? --roster FILE and --keys FILE; or on one machine --name, "
            "--listen and --peer NAME=ADDRESS for each of them; or --name and --transport "
            "folder:DIR"
        )
    others = addresses_of(name, listen, announce, peers, insecure=insecure)
    return Contacts(name, listen, others, announce, insecure=insecure)


_KEYS_FIRST = (
    "make keys and a roster (bt keys new, bt roster make) and start with --roster and --keys; or "
    "stay on 127.0.0.1; or add --insecure if a VPN or a tunnel protects it"
)


def addresses_of(
    name: str, listen: str | None, announce: str | None, peers: list[str], *, insecure: bool
) -> dict[str, str | None]:
    """["B=tcp://...", "C"] -> {"B": "tcp://...", "C": None}: C connects to this peer.

    It is `name`, and listens at `listen`, or nowhere. What can be checked of names and addresses
    is, before scans are read. Raises ConfigError.
    """
    found: dict[str, str | None] = {}
    for entry in peers:
        other, equals, address = entry.partition("=")
        if equals and not (other and address):
            raise ConfigError(
                f"--peer {entry}: expected NAME=ADDRESS, for example B=tcp://127.0.0.1:7302"
            )
        if not equals and listen is None:
            raise ConfigError(
                f"--peer {entry}: where is it? --peer {entry}=ADDRESS; the name alone is for one"
                " that connects to this one, at its --listen"
            )
        if other in found:
            raise ConfigError(f"--peer {other} is given twice")
        found[other] = address if equals else None
    if name in found:
        raise ConfigError(f"--peer {name}: that is this peer itself, name the others only")
    for each in (name, *found):
        _check_name(each)
    own = _check_places(listen, announce, secure=insecure)
    taken: dict[Tcp | Ipc | None, str] = {own: "this peer itself"}
    for other, address in ((name, where) for name, where in found.items() if where is not None):
        place = _endpoint("--peer", address)
        if isinstance(place, Tcp) and not place.is_one_place:
            raise ConfigError(f"--peer {other}={address}: expected one host and port")
        if isinstance(place, Tcp) and not insecure and not place.is_loopback:
            raise ConfigError(
                f"--peer {other}={address}: that is another machine, and nothing is encrypted: "
                f"{_KEYS_FIRST}"
            )
        if place in taken:
            raise ConfigError(f"--peer {other}={address}: {taken[place]} listens there")
        taken[place] = other
    return found


def _check_name(name: str) -> None:
    if not valid_name(name):
        raise ConfigError(
            f"{name!r} can't name a peer: expected up to 64 of A-Z a-z 0-9 . _ -, the first a "
            "letter or digit"
        )


def _check_places(listen: str | None, announce: str | None, *, secure: bool) -> Tcp | Ipc | None:
    """Where a peer listens, parsed. Raises ConfigError, unless `secure` also off loopback."""
    if listen is None:
        if announce is not None:
            raise ConfigError("--announce goes with --listen: without it no port is opened")
        return None
    own = _to_listen("--listen", listen, secure=secure)
    if announce is not None:
        place = _to_listen("--announce", announce, secure=secure)
        if isinstance(own, Ipc) or isinstance(place, Ipc):
            raise ConfigError("--announce goes with --listen tcp://, and takes tcp:// too")
    return own


def _to_listen(option: str, address: str, *, secure: bool) -> Tcp | Ipc:
    place = _endpoint(option, address)
    if isinstance(place, Tcp) and not secure and not place.is_loopback:
        raise ConfigError(
            f"{option} {address}: other machines can reach that, and nothing is encrypted: "
            f"{_KEYS_FIRST}"
        )
    return place


def _endpoint(option: str, address: str) -> Tcp | Ipc:
    try:
        return parse(address)
    except TransportError as exc:
        raise ConfigError(f"{option}: {exc}") from exc
