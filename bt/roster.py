"""The roster: who takes part in a federation, under which keys. A TOML file that sites exchange.

    [[peer]]
    name = "hospital-a"
    address = "tcp://bt.hospital-a.example:7301"  # none: it connects to the others, they can't
    keys = ["..."]                                # public ones; two while one replaces the other
    max_samples = 200                             # scans it may say that it trains on

The order of the peers does not matter. The fingerprint of a roster is what people compare.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bt.config import ConfigError
from transports.base import TransportError, valid_name
from transports.endpoints import Tcp, parse
from transports.keys import valid_key
from transports.messages import Limits

MOST_SAMPLES = Limits(0).max_samples
MOST_KEYS = 2  # of a peer
_MOST_BYTES = 1 << 20
_FIELDS = ("name", "address", "keys", "max_samples")


@dataclass(frozen=True)
class Member:
    """One peer of the roster."""

    name: str
    address: str | None
    keys: tuple[str, ...]
    max_samples: int


@dataclass(frozen=True)
class Roster:
    """All peers, by name. Raises ConfigError where two can't be told apart."""

    members: Mapping[str, Member]

    @property
    def fingerprint(self) -> str:
        """96 bits of the SHA-256 of all that it says, in groups to read aloud."""
        digest = hashlib.sha256(self.to_toml().encode()).hexdigest()
        return " ".join(digest[at : at + 4] for at in range(0, 24, 4))

    def holder(self, key: str) -> Member | None:
        """Whose public key this is."""
        return next((each for each in self.members.values() if key in each.keys), None)

    def addresses(self) -> dict[str, str | None]:
        """By name."""
        return {name: member.address for name, member in self.members.items()}

    def to_toml(self) -> str:
        """The same for the same peers, sorted by name."""
        entries = []
        for _, member in sorted(self.members.items()):
            address = [] if member.address is None else [f'address = "{member.address}"']
            lines = [
                f'name = "{member.name}"',
                *address,
                f"keys = {json.dumps(sorted(member.keys))}",
                f"max_samples = {member.max_samples}",
            ]
            entries.append("\n".join(["[[peer]]", *lines]) + "\n")
        return "\n".join(entries)


def read(path: Path) -> Roster:
    """The roster in a file. Raises ConfigError, which names the file."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"can't read the roster {path}: {exc.strerror}") from exc
    try:
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"more than {_MOST_BYTES} bytes")
        return parsed(content.decode())
    except (ConfigError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is no roster: {exc}") from exc


def parsed(text: str) -> Roster:
    """The roster in a TOML text. Raises ConfigError."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"not valid TOML: {exc}") from exc
    entries = content.pop("peer", None)
    if content:
        raise ConfigError(f"unknown {next(iter(content))!a:.80}; it has [[peer]] tables alone")
    if not isinstance(entries, list) or not entries:
        raise ConfigError("no [[peer]] in it")
    return roster_of(_member(entry, number) for number, entry in enumerate(entries, start=1))


def roster_of(members: Iterable[Member]) -> Roster:
    """A roster of these. Raises ConfigError where two have a name, address or key in common."""
    found: dict[str, Member] = {}
    taken: dict[object, str] = {}
    for member in members:
        if member.name in found:
            raise ConfigError(f"two peers are called {member.name}")
        found[member.name] = member
        places = [] if member.address is None else [parse(member.address)]
        for thing in (*places, *member.keys):
            if thing in taken:
                what = "key" if isinstance(thing, str) else "address"
                raise ConfigError(f"{taken[thing]} and {member.name} have the same {what}")
            taken[thing] = member.name
    return Roster(dict(sorted(found.items())))


def checked(member: Member) -> Roster:
    """A roster of this one, held to the rules of the file. Raises ConfigError."""
    entry = {name: getattr(member, name) for name in _FIELDS} | {"keys": [*member.keys]}
    return roster_of([_member(entry, 1)])


def _member(entry: Any, number: int) -> Member:
    if not isinstance(entry, dict):
        raise ConfigError("peer is a list of tables, write [[peer]]")
    if not valid_name(entry.get("name")):
        raise ConfigError(
            f"peer {number} has no valid name: up to 64 of A-Z a-z 0-9 . _ -, the first a letter "
            "or digit"
        )
    name, address = entry["name"], entry.get("address")
    for unknown in entry.keys() - set(_FIELDS):
        raise ConfigError(f"{name} has an unknown {unknown!a:.80}; known: {', '.join(_FIELDS)}")
    keys, cap = entry.get("keys"), entry.get("max_samples")
    if not isinstance(keys, list) or not all(map(valid_key, keys)) or not keys:
        raise ConfigError(
            f"the keys of {name}: expected a list of public keys, 40 characters each, as "
            "bt keys show prints them"
        )
    if len(keys) > MOST_KEYS or len(set(keys)) < len(keys):
        raise ConfigError(f"{name} may have one key, or two different ones while it changes")
    if type(cap) is not int or not 1 <= cap <= MOST_SAMPLES:
        raise ConfigError(f"max_samples of {name}: expected 1 to {MOST_SAMPLES}")
    return Member(name, _address(name, address), tuple(keys), cap)


def _address(name: str, address: Any) -> str | None:
    if address is None:
        return None
    try:
        place = parse(address if isinstance(address, str) else "")
    except TransportError as exc:
        raise ConfigError(f"the address of {name}: {exc}") from exc
    if isinstance(place, Tcp) and (place.host == "*" or not place.port):
        raise ConfigError(f"the address of {name}, {address}: expected one host and port")
    if not address.isascii() or not address.isprintable() or set('"\\') & set(address):
        raise ConfigError(f"the address of {name} has characters that no address has")
    return str(address)


def doubts(roster: Roster) -> list[str]:
    """What a person should look at though it is valid, a line each."""
    lines = []
    members = roster.members.values()
    if len(members) < 2:
        lines.append("a federation needs at least two peers")
    hidden = [member.name for member in members if member.address is None]
    if len(hidden) > 1:
        lines.append(f"{' and '.join(hidden)} have no address: they can't reach each other")
    local = [m.name for m in members if m.address and _is_loopback(m.address)]
    if local and len(local) < len(members):
        lines.append(f"{' and '.join(local)}: others can't reach a loopback address")
    lines += [
        f"{member.name} has two keys: take the old one out once it uses the new one"
        for member in members
        if len(member.keys) > 1
    ]
    return lines


def _is_loopback(address: str) -> bool:
    place = parse(address)
    return isinstance(place, Tcp) and place.is_loopback


def differences(old: Roster, new: Roster) -> list[str]:
    """What changes from one to the other, a line each."""
    lines = [f"{name} is out" for name in old.members if name not in new.members]
    for name, member in new.members.items():
        before = old.members.get(name)
        if before is None:
            lines.append(f"{name} is new: {member.address or 'no address'}, {member.keys[0]}")
            continue
        lines += [f"{name}: key {key} is out" for key in before.keys if key not in member.keys]
        lines += [f"{name}: key {key} is new" for key in member.keys if key not in before.keys]
        if before.address != member.address:
            was, now = before.address or "none", member.address or "none"
            lines.append(f"{name}: address {was} → {now}")
        if before.max_samples != member.max_samples:
            lines.append(f"{name}: max_samples {before.max_samples} → {member.max_samples}")
    return lines
