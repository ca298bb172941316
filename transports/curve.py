"""Who is at the other end of a ZeroMQ connection: whoever it says, or the holder of a known key.

With keys every connection is encrypted and both ends prove theirs (CURVE): who connects knows
beforehand the one key it accepts, who is connected to admits exactly the keys of its peers. The
sender of a message is the peer whose key its connection proved. A connection's routing id says
nothing: it only leads answers back, and is drawn at random and sent encrypted so that nobody
else can claim it. libzmq's own numbers would not do: they are the same in every process.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from typing import NamedTuple

import zmq
from zmq.utils import z85

from transports.base import OUTSIDER, TransportError
from transports.keys import BadKey, KeyPair, valid_key

_DOOR = "inproc://zeromq.zap.01"  # where libzmq asks (ZeroMQ RFC 27)


OUTSIDE = b"~"  # a routing id that begins so: who asks from outside, and is no peer meanwhile


class Origin(NamedTuple):
    """A peer, and the key it proved; "" without keys."""

    name: str
    key: str


def _outsiders() -> bytes:
    """A new routing id; text, for it is also where answers are sent."""
    return OUTSIDE + secrets.token_hex(16).encode()


class Anyone:
    """Without keys: nothing is encrypted, and a peer's name is its routing id."""

    overhead_bytes = 0  # of a frame
    secure = False

    def __init__(self, me: str, peers: Collection[str], *, outside: bool) -> None:
        self._routing_id = _outsiders() if outside else me.encode()
        self._by_route = {name.encode(): Origin(name, "") for name in peers}

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        """Make this a socket others connect to."""

    def call(self, socket: zmq.Socket[bytes], key: str) -> None:
        """Make this a socket that connects to the holder of `key`."""
        socket.setsockopt(zmq.ROUTING_ID, self._routing_id)

    def who(self, routing_id: zmq.Frame) -> Origin | None:
        """Whom a message on a ROUTER is from, by its first frame. None: nobody we know."""
        route = routing_id.bytes
        outsider = Origin(OUTSIDER, "") if route.startswith(OUTSIDE) else None
        return self._by_route.get(route, outsider)

    def keys(self, name: str) -> frozenset[str]:
        """Each of which `name` may be connected to by."""
        return frozenset({""})

    def admit(self, name: str, keys: Collection[str]) -> None:
        raise TransportError("no keys here: everybody is who they say")


class Curve:
    """With keys: only the holders of `peer_keys`, by name, are let in and talked to."""

    overhead_bytes = 33  # of a frame: command, nonce, flags and MAC
    secure = True

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        me: str,
        own: KeyPair,
        peer_keys: Mapping[str, Collection[str]],
        *,
        outside: bool,
    ) -> None:
        if not zmq.has("curve"):
            raise TransportError("this libzmq can't do CURVE: install pyzmq from a wheel")
        self._me = me
        self._own = own
        self._outside = outside
        self._names: dict[str, str] = {}  # by key; replaced, not changed: a thread reads it
        for name, keys in peer_keys.items():
            self.admit(name, keys)
        # A thread, so that others can connect while nobody calls the transport. The ones of
        # pyzmq run asyncio to do the same. The context's own sockets are closed by whoever ends
        # it; this one, by its thread when that happens.
        shadow: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        door = shadow.socket(zmq.REP)
        door.bind(_DOOR)
        threading.Thread(target=self._admit, args=(door,), name="admission", daemon=True).start()

    def serve(self, socket: zmq.Socket[bytes]) -> None:
        socket.setsockopt(zmq.CURVE_SERVER, 1)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._own.secret)
        socket.setsockopt_string(zmq.ZAP_DOMAIN, "peers")
        socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)  # with nobody to ask, let nobody in

    def call(self, socket: zmq.Socket[bytes], key: str) -> None:
        socket.setsockopt_string(zmq.CURVE_SERVERKEY, key)
        socket.setsockopt_string(zmq.CURVE_PUBLICKEY, self._own.public)
        socket.setsockopt_string(zmq.CURVE_SECRETKEY, self._own.secret)
        drawn = _outsiders() if self._outside else b"r" + secrets.token_bytes(16)
        socket.setsockopt(zmq.ROUTING_ID, drawn)

    def who(self, routing_id: zmq.Frame) -> Origin | None:
        try:
            key = str(routing_id.get("User-Id"))  # as answered below, for this connection
        except zmq.ZMQError:
            return None
        name = self._names.get(key)
        return None if name is None else Origin(name, key)

    def keys(self, name: str) -> frozenset[str]:
        return frozenset(key for key, holder in self._names.items() if holder == name)

    def admit(self, name: str, keys: Collection[str]) -> None:
        """From now on `name` is whoever holds one of `keys`. Raises TransportError."""
        names = {key: holder for key, holder in self._names.items() if holder != name}
        for key in keys:
            if not valid_key(key):
                raise BadKey(f"a key of {name} is none: expected 40 characters of Z85")
            if key == self._own.public and name != self._me:
                raise BadKey(f"{name} has the same key as this peer")
            if names.setdefault(key, name) != name:
                raise BadKey(f"{name} and {names[key]} have the same key")
        self._names = names

    def _admit(self, door: zmq.Socket[bytes]) -> None:
        """Tell libzmq which keys may come in, until the context ends."""
        with suppress(zmq.ContextTerminated), door:
            while True:
                version, request, _domain, _address, _id, mechanism, *credentials = (
                    door.recv_multipart()
                )
                key = z85.encode(b"".join(credentials)) if mechanism == b"CURVE" else b""
                answer = [b"200", b"", key] if key.decode() in self._names else [b"400", b"", b""]
                door.send_multipart([version, request, *answer, b""])
