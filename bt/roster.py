"""The roster: who takes part in a federation, under which keys. A TOML file that sites exchange.

    [[peer]]
    name = "hospital-a"
    address = "tcp://bt.hospital-a.example:7301"  # none: it connects to the others, they can't
    keys = ["..."]                                # public ones; two while one replaces the other
    max_samples = 200                             # scans it may say that it trains on

    [[observer]]                                  # may ask from outside, and takes no part
    name = "trial-office"
    keys = ["..."]
    models = true                                 # may also fetch models; none: it may not

The order of the peers does not matter. The fingerprint of a roster is what people compare.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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
_OBSERVER_FIELDS = ("name", "keys", "models")


@dataclass(frozen=True)
class Member:
    """One peer of the roster."""

    name: str
    address: str | None
    keys: tuple[str, ...]
    max_samples: int


@dataclass(frozen=True)
class Observer:
    """Who may ask how the federation is doing, and, with `models`, fetch what was trained."""

    name: str
    keys: tuple[str, ...]
    models: bool = False


@dataclass(frozen=True)
class Roster:
    """All peers and observers, by name."""

    members: Mapping[str, Member]
    observers: Mapping[str, Observer] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """160 bits of the SHA-256 of all that it says, in groups to read aloud.

        Who carries rosters may make two that collide: with 96 bits in 2**48 tries.
        """
        digest = hashlib.sha256(self.to_toml().encode()).hexdigest()
        return " ".join(digest[at : at + 4] for at in range(0, 40, 4))

    def holder(self, key: str) -> Member | None:
        """The peer whose public key this is."""
        return next((each for each in self.members.values() if key in each.keys), None)

    def observer(self, key: str) -> Observer | None:
        """The observer whose public key this is."""
        return next((each for each in self.observers.values() if key in each.keys), None)

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
        for _, observer in sorted(self.observers.items()):
            lines = [
                f'name = "{observer.name}"',
                f"keys = {json.dumps(sorted(observer.keys))}",
                f"models = {json.dumps(observer.models)}",
            ]
            entries.append("\n".join(["[[observer]]", *lines]) + "\n")
        return "\n".join(entries)

    def to_json(self) -> dict[str, Any]:
        """What bt roster check --json prints: its tables, its fingerprint, and its doubts."""
        told = {"fingerprint": self.fingerprint, "doubts": doubts(self)}
        return tomllib.loads(self.to_toml()) | told


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
    peers, observers = content.pop("peer", []), content.pop("observer", [])
    if content:
        raise ConfigError(
            f"unknown {next(iter(content))!a:.80}; it has [[peer]] and [[observer]] tables alone"
        )
    if not isinstance(peers, list) or not (peers or observers):
        raise ConfigError("no [[peer]] in it")
    if not isinstance(observers, list):
        raise ConfigError("observer is a list of tables, write [[observer]]")
    return roster_of(
        (_member(entry, number) for number, entry in enumerate(peers, start=1)),
        (_observer(entry, number) for number, entry in enumerate(observers, start=1)),
    )


def roster_of(members: Iterable[Member], observers: Iterable[Observer] = ()) -> Roster:
    """A roster of these. Raises ConfigError where two have a name, address or key in common."""
    found: dict[str, Member] = {}
    watching: dict[str, Observer] = {}
    taken: dict[object, str] = {}
    everybody: list[Member | Observer] = [*members, *observers]
    for each in everybody:
        if each.name in found or each.name in watching:
            raise ConfigError(f"two peers are called {each.name}")
        address = None
        if isinstance(each, Member):
            found[each.name], address = each, each.address
        else:
            watching[each.name] = each
        places = [] if address is None else [parse(address)]
        for thing in (*places, *each.keys):
            if thing in taken:
                what = "key" if isinstance(thing, str) else "address"
                raise ConfigError(f"{taken[thing]} and {each.name} have the same {what}")
            taken[thing] = each.name
    return Roster(dict(sorted(found.items())), dict(sorted(watching.items())))


def checked(own: Member | Observer) -> Roster:
    """A roster of this one, held to the rules of the file. Raises ConfigError."""
    names = _FIELDS if isinstance(own, Member) else _OBSERVER_FIELDS
    entry = {name: getattr(own, name) for name in names} | {"keys": [*own.keys]}
    if isinstance(own, Member):
        return roster_of([_member(entry, 1)])
    return roster_of([], [_observer(entry, 1)])


def _member(entry: Any, number: int) -> Member:
    name, keys = _who(entry, "peer", number, _FIELDS)
    cap = entry.get("max_samples")
    if type(cap) is not int or not 1 <= cap <= MOST_SAMPLES:
        raise ConfigError(f"max_samples of {name}: expected 1 to {MOST_SAMPLES}")
    where = entry.get("address")
    return Member(name, None if where is None else address_of(name, where), keys, cap)


def _observer(entry: Any, number: int) -> Observer:
    name, keys = _who(entry, "observer", number, _OBSERVER_FIELDS)
    models = entry.get("models", False)
    if type(models) is not bool:
        raise ConfigError(f"models of {name}: expected true or false")
    return Observer(name, keys, models)


def _who(
    entry: Any, what: str, number: int, known: tuple[str, ...]
) -> tuple[str, tuple[str, ...]]:
    """Name and keys of an entry, whose fields are the `known` ones."""
    if not isinstance(entry, dict):
        raise ConfigError(f"{what} is a list of tables, write [[{what}]]")
    name = entry.get("name")
    if not valid_name(name):
        raise ConfigError(
            f"{what} {number} has no valid name: up to 64 of A-Z a-z 0-9 . _ -, the first a "
            "letter or digit"
        )
    for unknown in entry.keys() - set(known):
        raise ConfigError(f"{name} has an unknown {unknown!a:.80}; known: {', '.join(known)}")
    keys = entry.get("keys")
    if not isinstance(keys, list) or not all(map(valid_key, keys)) or not keys:
        raise ConfigError(
            f"the keys of {name}: expected a list of public keys, 40 characters each, as "
            "bt keys show prints them"
        )
    if len(keys) > MOST_KEYS or len(set(keys)) < len(keys):
        raise ConfigError(f"{name} may have one key, or two different ones while it changes")
    return name, tuple(sorted(keys))  # they have no order


def address_of(name: str, address: str) -> str:
    """The address that others reach `name` at, if it can be one. Raises ConfigError."""
    try:
        place = parse(address if isinstance(address, str) else "")
    except TransportError as exc:
        raise ConfigError(f"the address of {name}: {exc}") from exc
    if isinstance(place, Tcp) and not place.is_one_place:
        raise ConfigError(f"the address of {name}, {address}: expected one host and port")
    if not address.isascii() or not address.isprintable() or set('"\\') & set(address):
        raise ConfigError(f"the address of {name} has characters that no address has")
    return str(address)


_APART = (
    "they can't meet, and nobody relays between them: what one learns reaches the other only "
    "through those that both meet. Give one of any two an address, or let all share a folder "
    "(--transport folder:DIR)"
)


def cant_meet(name: str, others: Iterable[str]) -> str:
    """The same, of `name` and each of `others`."""
    return f"neither {name} nor {' nor '.join(others)} has an address: {_APART}"


def doubts(roster: Roster) -> list[str]:
    """What a person should look at though it is valid, a line each."""
    lines = []
    members = roster.members.values()
    if len(members) < 2:
        lines.append("a federation needs at least two peers")
    hidden = [member.name for member in members if member.address is None]
    if len(hidden) > 1:
        lines.append(f"{' and '.join(hidden)} have no address: {_APART}")
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
    lines += [f"observer {name} is out" for name in old.observers if name not in new.observers]
    for name, observer in new.observers.items():
        if observer != old.observers.get(name):
            may = "may fetch models" if observer.models else "may not fetch models"
            lines.append(f"observer {name}: {', '.join(observer.keys)}, {may}")
    return lines
