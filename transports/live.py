"""A ZeroMQ transport whose peers, their keys and addresses change while it runs.

Whoever runs it changes them; and with keys the peers tell each other where those are whom they
have reached, and where they are themselves (introductions.py). So a site that knows one living
peer finds the others, and one that has moved is found.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import zmq

from transports import introductions
from transports.base import Frame, PeerGone, TransportError
from transports.curve import Origin
from transports.endpoints import Ipc, Tcp, parse
from transports.header import MessageError
from transports.introductions import MOST_CONTACTS, Contact, Hints
from transports.keys import KeyPair
from transports.zeromq import CONTACTS, ZeroMQTransport

_KEEP_UP_S = 1.0
_TELL_AGAIN_S = 60.0
_HEARD_PER_S = 4  # contacts messages of one peer that are read


class LiveTransport(ZeroMQTransport):
    """A ZeroMQTransport, with its arguments; `address` is where others reach this peer."""

    def __init__(
        self,
        me: str,
        listen: str | None,
        peers: Mapping[str, str | None],
        *,
        address: str | None = None,
        announce: str | None = None,
        max_message_bytes: int = 1 << 30,
        insecure: bool = False,
        keys: KeyPair | None = None,
        peer_keys: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._told: dict[str, tuple[float, list[Contact]]] = {}  # to each, and when
        self._heard: dict[str, tuple[float, int]] = {}  # of each: in which second, how often
        self._keep_up_at = 0.0
        super().__init__(
            me,
            listen,
            peers,
            announce=announce,
            max_message_bytes=max_message_bytes,
            insecure=insecure,
            keys=keys,
            peer_keys=peer_keys,
        )
        self._own: list[Contact] = []
        if keys is not None and address is not None and introductions.place(address):
            self._own = [Contact(me, keys.public, address)]
        self._homes: dict[str, Tcp | Ipc | None] = dict(self._addresses)  # as the roster says
        self._hints = Hints(local=any(map(introductions.is_local, self._addresses.values())))

    def admit(self, name: str, keys: Collection[str]) -> None:
        """From now on the peer `name` is who holds one of `keys`; nobody, if there are none.

        Whoever held another one is not heard any more. Raises TransportError, changing nothing.
        """
        self._check_open()
        before = self._ends.keys(name)
        self._ends.admit(name, keys)
        self._forget_strangers()
        valid = self._ends.keys(name)
        if not valid:
            self._hints.forget(name)
        if name in self._ways:
            self._connect(name)
        if name in self._routes and self._routes[name][0].key not in valid:
            del self._routes[name]
        if name in self._published_at and self._published_at[name][0].key not in valid:
            self._unsubscribe(name)
        if name in self._publishes and self._publishes[name][0].key not in valid:
            del self._publishes[name]
        if before - valid and not self._publisher.closed:
            # libzmq can't end one of the subscriptions, so all end. From now on announcements
            # go to each of the others by itself.
            self._publisher.close(linger=0)
            self._hello = [self._hello[0], b""]

    def meet(self, name: str, address: str | None) -> None:
        """From now on `name` is a peer, and there; None: it connects to us, or others say where.

        Raises TransportError.
        """
        self._check_open()
        where = None if address is None else parse(address)
        self._homes[name] = where
        self._hints.local |= introductions.is_local(where)
        self._move(name, where)

    def dismiss(self, name: str) -> None:
        """From now on `name` is no peer: whatever keys it has, it may ask from outside alone."""
        self._check_open()
        if name in self._ways:
            self._move(name, None)
            self._hints.forget(name)
            for known in (self._ways, self._routes, self._homes, self._told, self._heard):
                known.pop(name, None)
            self.peers = tuple(sorted(self._ways))
            self._forget_strangers()

    def _forget_strangers(self) -> None:
        """What was read ahead of them is not heard any more."""
        self._ahead = deque(
            (origin, message)
            for origin, message in self._ahead
            if origin.key in self._ends.keys(origin.name)
            and (message.reply_to is not None or origin.name in self._ways)
        )

    def _move(self, name: str, where: Tcp | Ipc | None) -> None:
        """Look for it there, and nowhere else."""
        for link in [link for link in self._ways.setdefault(name, [None]) if link is not None]:
            self._ways[name].remove(link)
            self._disconnect(link)
        self._unsubscribe(name)
        self._addresses.pop(name, None)
        if where is not None:
            self._addresses[name] = where
        self.peers = tuple(sorted(self._ways))
        self._connect(name)

    # --- passing on addresses

    def _look_after_links(self) -> None:
        super()._look_after_links()
        if self._ends.secure and time.monotonic() >= self._keep_up_at:
            self._keep_up_at = time.monotonic() + _KEEP_UP_S
            self._try_hints()
            self._tell_all()

    def reached(self, name: str) -> str | None:
        """The key that `name` has proved at the other end of our connection, while that stands."""
        for link in self._ways.get(name, []):
            if link is not None and link.connected:
                return link.peer.key
        return None

    def _try_hints(self) -> None:
        for name in self.peers:
            if self.reached(name) is not None:
                self._hints.settle(name)
                continue
            current, home = self._addresses.get(name), self._homes.get(name)
            where = self._hints.turn(name, current, home, time.monotonic())
            if where is not None:
                with suppress(TransportError, zmq.ZMQError):  # it will be another one's turn
                    self._move(name, where)

    def _tell_all(self) -> None:
        found = list(self._own)
        for name in self.peers:
            key, where = self.reached(name), str(self._addresses.get(name))
            if key is not None and introductions.place(where):
                found.append(Contact(name, key, where))
        now = time.monotonic()
        for name in self.peers:
            told_at, told = self._told.get(name, (float("-inf"), []))
            told_now = [contact for contact in found if contact.name != name]
            if told_now and (told_now != told or now >= told_at + _TELL_AGAIN_S):
                with suppress(PeerGone):
                    for begin in range(0, len(told_now), MOST_CONTACTS):
                        some = told_now[begin : begin + MOST_CONTACTS]
                        self.send(name, [introductions.encode(self.me, some)], CONTACTS)
                    self._told[name] = now, told_now

    def _hear(self, sender: Origin, port: bytes) -> None:
        super()._hear(sender, port)
        self._told.pop(sender.name, None)  # it was started anew, perhaps

    def _hear_contacts(self, sender: Origin, frames: Sequence[Frame]) -> None:
        if not self._ends.secure or sender.name not in self._ways:
            return
        now = time.monotonic()
        since, count = self._heard.get(sender.name, (now, 0))
        if now >= since + 1.0:
            since, count = now, 0
        self._heard[sender.name] = since, count + 1
        if count >= _HEARD_PER_S:
            return
        with suppress(MessageError, zmq.ZMQError):
            self._hints.hear(
                introductions.decode(frames, sender.name),
                sender.name,
                lambda c: c.name in self._ways and c.key in self._ends.keys(c.name),
            )
