"""A running federation, asked from outside: which versions it has, and for its models.

Whoever asks is no peer: it has the key of an observer of the roster, or of a peer that may well be
running at the same time, or none where the peers have none. Nobody waits for it, trains with it,
or merges anything of it. Peers without an address can't be asked: they only connect to others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from bt import roster as rosters
from bt.config import ConfigError
from bt.contacts import addresses_of
from bt.gate import Gate
from bt.roster import Roster
from transports import messages
from transports.base import OUTSIDER, PeerGone, Transport, Unwelcome
from transports.keys import KeyPair
from transports.zeromq import ZeroMQTransport

NO_ADDRESS = "has no address: it can't be asked from outside"
_AGAIN_S = 0.5  # between two questions to a peer that has not answered
_LARGEST_ANSWER_BYTES = 1 << 24

Answer = TypeVar("Answer", bound=messages.Message)


class NoAnswer(NamedTuple):
    """Why a peer did not answer, in words."""

    reason: str


@dataclass(frozen=True)
class Outside:
    """Whom one may ask, and as whom. Make one with `of`."""

    name: str
    peers: Mapping[str, str | None]  # addresses; None: can't be asked
    keys: KeyPair | None = None
    roster: Roster | None = None
    insecure: bool = False
    limits: messages.Limits = field(
        default_factory=lambda: messages.Limits(max_message_bytes=_LARGEST_ANSWER_BYTES)
    )

    @property
    def askable(self) -> tuple[str, ...]:
        """The peers with an address, sorted."""
        return tuple(sorted(name for name, where in self.peers.items() if where is not None))

    @property
    def may_have_models(self) -> bool:
        """As the roster here says; the others' may say otherwise."""
        observers = {} if self.roster is None else self.roster.observers
        return self.name not in observers or observers[self.name].models

    @property
    def samples_of(self) -> dict[str, int]:
        """How many scans each peer may claim."""
        members = {} if self.roster is None else self.roster.members
        return {name: member.max_samples for name, member in members.items()}

    @contextmanager
    def connected(self, limits: messages.Limits | None = None) -> Iterator[Transport]:
        """A transport to all of them."""
        members = {} if self.roster is None else self.roster.members
        transport = ZeroMQTransport(
            self.name,
            None,
            {name: self.peers[name] for name in self.askable},
            outside=True,
            max_message_bytes=(limits or self.limits).max_message_bytes,
            insecure=self.insecure,
            keys=self.keys,
            peer_keys={n: members[n].keys for n in self.askable} if members else None,
        )
        try:
            yield transport
        finally:
            transport.close(linger_s=0)

    def versions(self, timeout_s: float) -> dict[str, messages.Version | NoAnswer]:
        """What each peer has, or why it did not answer within `timeout_s`."""
        with self.connected() as transport:
            ping = messages.Ping(self.name)
            return ask(self, transport, self.peers, ping, messages.Version, timeout_s)


def ask(
    outside: Outside,
    transport: Transport,
    peers: Iterable[str],
    question: messages.Small,
    kind: type[Answer],
    timeout_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Answer | NoAnswer]:
    """Send `question` to all of `peers`; the first answer of this `kind` from each, by name.

    It is asked again until the answer is there; not longer than `timeout_s` seconds in all.
    """
    found: dict[str, Answer | NoAnswer] = {}
    reasons: dict[str, str] = {}
    gate = Gate(outside.limits, lambda name, why: None)
    waiting = {name for name in peers if outside.peers[name] is not None}
    end, again = clock() + timeout_s, clock()
    frames = messages.encode(question)
    while waiting and clock() < end:
        if clock() >= again:
            again = clock() + _AGAIN_S
            for name in sorted(waiting):
                try:
                    transport.send(name, frames)
                    reasons.pop(name, None)
                except Unwelcome as exc:  # waiting won't help
                    found[name] = NoAnswer(exc.reason)
                    waiting.discard(name)
                except PeerGone:
                    reasons[name] = f"not reachable at {outside.peers[name]}"
                    again = min(again, clock() + _AGAIN_S / 5)  # it may be connecting
        received = transport.recv(max(0.0, min(again, end) - clock()))
        if received is None or received.sender not in waiting:
            continue
        try:
            message = gate.take(received, clock())
        except messages.MessageError as exc:
            found[received.sender] = NoAnswer(f"sent what can't be accepted: {exc}")
        else:
            if not isinstance(message, kind):
                continue
            found[received.sender] = message
        waiting.discard(received.sender)
    for name in peers:
        if outside.peers[name] is None:
            found[name] = NoAnswer(NO_ADDRESS)
        elif name not in found:
            found[name] = NoAnswer(reasons.get(name, f"silent for {timeout_s:g} s"))
    return dict(sorted(found.items()))


def of(
    roster: Path | None, keys: Path | None, peers: Iterable[str] = (), *, insecure: bool = False
) -> Outside:
    """As options say: a roster and the key of a peer or an observer in it, or addresses of peers
    without keys, each NAME=ADDRESS. Raises ConfigError, BadKey."""
    entries = list(peers)
    if roster is None and keys is None:
        if not entries:
            raise ConfigError(
                "whom to ask? --roster FILE and --keys FILE, or --peer NAME=ADDRESS for peers "
                "without keys"
            )
        others = addresses_of(OUTSIDER, None, None, entries, insecure=insecure)
        return Outside(OUTSIDER, others, insecure=insecure)
    if roster is None or keys is None:
        raise ConfigError("--roster and --keys go together: whom to ask, and who is asking")
    if entries or insecure:
        option = "--peer" if entries else "--insecure"
        raise ConfigError(f"{option} is for peers without keys; who takes part is in {roster}")
    own, found = KeyPair.read(keys), rosters.read(roster)
    holder = found.holder(own.public) or found.observer(own.public)
    if holder is None:
        raise ConfigError(
            f"neither a peer nor an observer of {roster} has the key of {keys}: {own.public}"
        )
    if not any(found.addresses().values()):
        raise ConfigError(f"no peer of {roster} has an address: there is nobody to ask")
    return Outside(holder.name, found.addresses(), own, found)
