"""Addresses of peers, as they tell them to each other: hints, of members known by key alone.

A "contacts" message is a safetensors header like those of messages.py:

    {"addresses": [["b", PUBLIC KEY, "tcp://b.example:7301"], ...], "kind": "contacts", ...}

Keys are trust, addresses are not: a hint never makes anybody a member, and at a wrong address
nobody has the right key. Tried is a hint only where a peer can't be reached, by turns with the
address of the roster and the words of all others: a lie costs time, and hides no truth. Pure: no
clock, no sockets.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from transports import header
from transports.base import Frame, TransportError, flat, valid_name
from transports.endpoints import Ipc, Tcp, parse
from transports.header import Malformed
from transports.keys import valid_key
from transports.schema import shown

MOST_CONTACTS = 128  # in a message
MOST_ADDRESS_BYTES = 255
_MOST_HEADER_BYTES = 1 << 16
TRY_S = 10.0  # at one address, before the next one is tried


class Contact(NamedTuple):
    """Where the holder of a public key listens. Raises Malformed."""

    name: str
    key: str
    address: str


def encode(sender: str, contacts: Sequence[Contact]) -> bytes:
    """At most MOST_CONTACTS of them."""
    return header.write({"kind": "contacts", "sender": sender, "addresses": [*contacts]})


def decode(frames: Sequence[Frame], sender: str) -> list[Contact]:
    """What `sender` passes on. Raises MessageError and nothing else."""
    head, rest = header.split([flat(frame) for frame in frames], _MOST_HEADER_BYTES)
    about, table = header.read(head)
    kind, claimed, entries = header.fields(about, "kind", "sender", "addresses")
    if kind != "contacts" or table or any(frame.nbytes for frame in rest):
        raise Malformed("expected contacts, and nothing else")
    if claimed != sender:
        raise Malformed(f"claims to be {shown(claimed)}")
    if not isinstance(entries, list) or len(entries) > MOST_CONTACTS:
        raise Malformed(f"expected a list of at most {MOST_CONTACTS} contacts")
    return [_contact(entry) for entry in entries]


def _contact(entry: object) -> Contact:
    if not isinstance(entry, list) or len(entry) != 3:
        raise Malformed(f"contact {shown(entry)}: expected name, key and address")
    name, key, address = entry
    if not valid_name(name) or not valid_key(key):
        raise Malformed(f"contact {shown(name)}: no name, or no key")
    if place(address) is None:
        raise Malformed(f"the address of {name}, {shown(address)}: expected one host and port")
    return Contact(name, key, address)


def place(address: object) -> Tcp | None:
    """tcp://HOST:PORT, where others may connect to; None if it is something else."""
    if not isinstance(address, str) or len(address) > MOST_ADDRESS_BYTES:
        return None
    if not address.isascii() or not address.isprintable() or set(" \"'\\;") & set(address):
        return None  # libzmq takes "source;destination"
    try:
        found = parse(address)
    except TransportError:
        return None
    return found if isinstance(found, Tcp) and found.port and found.host != "*" else None


def is_local(where: Tcp | Ipc | None) -> bool:
    """Whether it is written as an address of this machine; nobody is asked what a name means."""
    if not isinstance(where, Tcp):
        return where is not None
    host = where.host.lower().removesuffix(".").partition("%")[0]
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with suppress(OSError):
        host = socket.inet_ntoa(socket.inet_aton(host))  # 127.1, 0x7f000001: also taken by libc
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    return found.is_loopback or found.is_unspecified or found.is_link_local


@dataclass
class Hints:
    """Where each peer is, as others have said: one place for everyone who has said something.

    `local`: whether hints may lead to this machine itself.
    """

    local: bool
    _said: dict[str, dict[str, Tcp]] = field(default_factory=dict)  # of each peer: by whom
    _tried_at: dict[str, float] = field(default_factory=dict)
    _last: dict[str, str] = field(default_factory=dict)  # of each peer: whose word was taken

    def hear(self, told: Iterable[Contact], sender: str, known: Callable[[Contact], bool]) -> None:
        """Keep the last word of `sender` about each that is `known` by that key."""
        for contact in told:
            where = place(contact.address)
            if where is not None and known(contact) and (self.local or not is_local(where)):
                self._said.setdefault(contact.name, {})[sender] = where

    def turn(
        self, name: str, current: Tcp | Ipc | None, home: Tcp | Ipc | None, now: float
    ) -> Tcp | Ipc | None:
        """Where to try `name` instead of at `current`, where it is not; None: go on there.

        By turns at `home`, where the roster has it, and wherever it was said to be. The turns are
        those of who says so, not of places: who says another one every time gets no more of them.
        """
        known = {"": home} | self._said.get(name, {})
        others = sorted(who for who, where in known.items() if where not in (None, current))
        if not others:
            return None
        if current is not None and now < self._tried_at.setdefault(name, now) + TRY_S:
            return None
        self._tried_at[name] = now
        last = self._last.get(name, "")
        who = next((other for other in others if other > last), others[0])
        self._last[name] = who
        return known[who]

    def settle(self, name: str) -> None:
        """It was reached."""
        self._tried_at.pop(name, None)

    def forget(self, name: str) -> None:
        """It is no peer: what it said, and what was said of it, does not count."""
        self._said.pop(name, None)
        self._tried_at.pop(name, None)
        self._last.pop(name, None)
        for said in self._said.values():
            said.pop(name, None)
