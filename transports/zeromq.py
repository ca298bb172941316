"""Peers joined by ZeroMQ, over tcp:// or ipc://; between machines or on one.

Every peer binds a ROUTER and connects a DEALER to every other peer it has an address of. Each of
these connections carries messages both ways, so one of two peers needs no reachable address.
Announcements are hints, sent over PUB/SUB at a place that peers tell each other in a "hello".

On the wire a message is one multipart message: a tag, then the frames. Its sender is who
transports/curve.py finds at the other end of the connection, never one the message claims.
"""

from __future__ import annotations

import ctypes
import math
import secrets
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from transports import parts
from transports.base import Frame, PeerGone, Received, TransportError, Unwelcome, valid_name
from transports.curve import OUTSIDE, Anyone, Curve, Origin
from transports.door import Door
from transports.endpoints import Ipc, Tcp, parse
from transports.keys import KeyPair
from transports.links import EVENTS, Link
from transports.malloc import keep_freed_memory
from transports.sockets import new_context, new_socket, watched

_MESSAGE, _HELLO, CONTACTS = b"m", b"h", b"c"
_BESIDE = b".pub"  # in a hello, in place of a port: where Ipc.pub says
_MAX_ANNOUNCEMENT_BYTES = 1 << 20
_BETWEEN_POLLS_BYTES, _LEAST_BYTES = 1 << 21, 1 << 16  # each message counts for no less
_AT_ONCE, _SMALL_BYTES = 16, 1 << 12  # so many of a socket in its turn, if not larger
_GIVEN_UP_S = 1.0  # libzmq says much sooner that it tries again
_LOOK_S = 0.1  # between two looks after links, and at how many strangers are at the door


class ZeroMQTransport:
    """A Transport over ZeroMQ sockets.

    `listen` is this peer's own address (None: it only connects to others, and opens no port),
    `peers` the others' by name (None: that peer connects to us); messages of anyone else are
    dropped. `announce` is where to publish when `listen` is a
    tcp address: same host and any free port if not given. A message part larger than
    `max_message_bytes` ends the connection it comes over.

    With `keys`, this peer's own, everything is encrypted, and a peer is who holds one of the
    public keys `peer_keys` has for it; `admit` changes them. A peer has several while it changes
    from one to another: a connection is tried with each. One without any is shut out.

    Who asks from `outside` takes no calls, and is no peer, whosever name and key it has. What it
    sends has a `reply_to`. Who has keys in `peer_keys` but is no peer may ask so alone.

    Raises TransportError if an address or a key is not usable, and for an address that other
    machines can reach unless there are keys or `insecure` is set.
    """

    def __init__(
        self,
        me: str,
        listen: str | None,
        peers: Mapping[str, str | None],
        *,
        outside: bool = False,
        announce: str | None = None,
        max_message_bytes: int = 1 << 30,
        insecure: bool = False,
        keys: KeyPair | None = None,
        peer_keys: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        for name in (me, *peers):
            if not valid_name(name):
                raise TransportError(f"{name!r} can't name a peer")
        if me in peers and not outside:
            raise TransportError(f"peer {me} is among its own peers")
        if peer_keys is not None and keys is None:
            raise TransportError("keys of the peers are of no use without one's own")
        self.me = me
        self.peers = tuple(sorted(peers))
        self._outside, self._insecure = outside, insecure
        self._addresses = {
            name: parse(address) for name, address in peers.items() if address is not None
        }
        own = None if listen is None else parse(listen)
        keep_freed_memory()
        self._context, self._closed = new_context(), False
        self._links: dict[zmq.Socket[bytes], Link] = {}  # by monitor
        self._subscribers: dict[str, zmq.Socket[bytes]] = {}
        self._max_message_bytes, self._door = max_message_bytes, Door(max_message_bytes)
        try:
            self._ends: Anyone | Curve = Anyone(me, self.peers, outside=outside)
            if keys is not None:
                self._ends = Curve(self._context, me, keys, peer_keys or {}, outside=outside)
            self._open(own, announce)
        except BaseException:
            self.close(linger_s=0)
            raise

    def _open(self, own: Tcp | Ipc | None, announce: str | None) -> None:
        self._poller = zmq.Poller()
        self._ready: deque[zmq.Socket[bytes]] = deque()
        self._ahead: deque[tuple[Origin, Received]] = deque()
        self._unpolled, self._look_at = 0, 0.0  # bytes; when to see to links
        self._senders: dict[zmq.Socket[bytes], Origin] = {}  # of a DEALER or a SUB: the other end
        self._published_at: dict[str, tuple[Origin, str]] = {}  # what each SUB is connected to
        self._publishes: dict[str, tuple[Origin, Tcp | Ipc]] = {}  # as peers have said since
        self._routes: dict[str, tuple[Origin, bytes]] = {}  # to who has connected to our ROUTER
        self._ways: dict[str, list[Link | None]] = {}  # to each peer, best first; None: a route

        # libzmq numbers connections without a routing id from rand(), and ends the process when
        # a client has claimed the next number: nobody must know it.
        ctypes.CDLL(None).srand(secrets.randbits(31))
        self._router = self._socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a new connection replaces a dead one
        self._poller.register(self._router, zmq.POLLIN)

        self._publisher = self._socket(zmq.PUB)
        self.endpoint, self._hello = "", [_HELLO, b""]
        if own is None or self._outside:
            self._publisher.close(linger=0)  # announcements go to each over its connection
        else:
            self.endpoint = self._bind(self._router, own)  # with the port, if any was asked
            place = own.pub if isinstance(own, Ipc) else Tcp(own.host, 0)
            where = self._bind(self._publisher, parse(announce) if announce else place)
            port = where.rpartition(":")[2].encode()
            self._hello = [_HELLO, _BESIDE if isinstance(own, Ipc) else port]

        for name in self.peers:
            self._ways[name] = [None]
            self._connect(name)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        return new_socket(self._context, kind, self._max_message_bytes + self._ends.overhead_bytes)

    def _bind(self, made: zmq.Socket[bytes], where: Tcp | Ipc) -> str:
        self._ends.serve(made)
        if isinstance(where, Ipc):
            if where.is_served():
                raise TransportError(f"{where} is in use: is this peer already running?")
        else:
            if not (self._ends.secure or self._insecure or where.is_loopback):
                raise TransportError(
                    f"{where} can be reached from other machines and nothing here is encrypted: "
                    "take keys and a roster, or listen on 127.0.0.1, or allow it (--insecure)"
                )
            where = where.to_bind()
            made.setsockopt(zmq.IPV6, ":" in where.host)
        try:
            self._door.bind(made, str(where))
        except zmq.ZMQError as exc:
            if exc.errno == zmq.EADDRINUSE:
                raise TransportError(
                    f"{where} is in use: choose another port, or is this peer already running?"
                ) from exc
            raise TransportError(f"can't listen at {where}: {exc.strerror}") from exc
        return made.getsockopt_string(zmq.LAST_ENDPOINT)

    def _connect(self, name: str) -> None:
        """Have one DEALER for each key of `name`, if we know its address, and none for others."""
        have = {link.peer.key: link for link in self._ways[name] if link is not None}
        valid = self._ends.keys(name)
        for key in have.keys() - valid:
            self._ways[name].remove(have[key])
            self._disconnect(have[key])
        if name in self._addresses:
            for key in sorted(valid - have.keys()):
                dealer, monitor = watched(lambda: self._socket(zmq.DEALER), EVENTS)
                self._senders[dealer] = peer = Origin(name, key)
                self._links[monitor] = link = Link(peer, dealer, monitor, self._door.hoard.called)
                self._ways[name].insert(0, link)
                self._poller.register(dealer, zmq.POLLIN)
                self._poller.register(monitor, zmq.POLLIN)
                self._ends.call(dealer, key)
                self._link(dealer, self._addresses[name])

    def _disconnect(self, link: Link) -> None:
        del self._links[link.monitor], self._senders[link.dealer]
        self._poller.unregister(link.dealer)
        self._poller.unregister(link.monitor)
        link.dealer.disable_monitor()
        link.monitor.close(linger=0)
        link.dealer.close(linger=0)

    def _link(self, made: zmq.Socket[bytes], address: Tcp | Ipc) -> None:
        if isinstance(address, Tcp):
            made.setsockopt(zmq.IPV6, ":" in address.host)
        try:
            made.connect(str(address))
        except zmq.ZMQError as exc:
            raise TransportError(f"can't connect to {address}: {exc.strerror}") from exc

    def _subscribe(self, peer: Origin, address: Tcp | Ipc) -> None:
        """Hear the announcements of `peer`; a restarted one may publish elsewhere."""
        if self._published_at.get(peer.name) == (peer, str(address)):
            return
        self._unsubscribe(peer.name)
        subscriber = self._subscribers[peer.name] = self._socket(zmq.SUB)
        subscriber.setsockopt(zmq.MAXMSGSIZE, _MAX_ANNOUNCEMENT_BYTES)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self._ends.call(subscriber, peer.key)
        self._senders[subscriber] = peer
        self._published_at[peer.name] = (peer, str(address))
        self._poller.register(subscriber, zmq.POLLIN)
        self._door.hoard.watch(subscriber)
        self._link(subscriber, address)

    def _unsubscribe(self, name: str) -> None:
        self._publishes.pop(name, None)
        if (old := self._subscribers.pop(name, None)) is not None:
            self._poller.unregister(old)
            del self._senders[old], self._published_at[name]
            self._door.hoard.forget(old)
            old.close(linger=0)

    # --- Transport

    def send(self, to: str, frames: Sequence[Frame], tag: bytes = _MESSAGE) -> None:
        self._check_open()
        route = self._routes[to][1] if to in self._routes else None
        if to.startswith("~"):
            route = to.encode("latin-1")  # a Received.reply_to
        elif to not in self._ways:
            raise PeerGone(to, "not a peer of this federation")
        ways = self._ways.get(to, [None])
        for way in ways:
            if way is not None and (way.connected or self._is_connected(way)):
                over, message = way.dealer, [tag, *frames]
            elif way is None and route is not None:
                over, message = self._router, [route, tag, *frames]
            else:
                continue
            try:
                parts.send(over, message)
            except zmq.ZMQError as exc:
                if exc.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                continue
            # Stay on one connection: only there messages keep their order.
            if ways[0] is not way:
                ways.sort(key=lambda other: other is not way)
            return
        for reason in filter(None, (way.why() for way in ways if way is not None)):
            raise Unwelcome(to, reason)
        raise PeerGone(to, "not connected, or not reading")

    def publish(self, frames: Sequence[Frame]) -> None:
        self._check_open()
        if not self._publisher.closed:
            parts.send(self._publisher, [_MESSAGE, *frames])
            return
        for name in self.peers:
            with suppress(PeerGone):
                self.send(name, frames)

    def recv(self, timeout_s: float) -> Received | None:
        self._check_open()
        deadline = time.monotonic() + timeout_s
        looked = False
        while True:
            # Sockets that have something take turns; now and then all are looked at.
            while self._ready and not self._ahead:
                self._read_some(self._ready.popleft())
            if self._ahead:
                return self._ahead.popleft()[1]
            left_s = max(0.0, deadline - time.monotonic())
            if looked and not left_s:
                return None  # even if strangers keep the sockets busy
            looked = True
            self._poll(left_s)

    def close(self, linger_s: float = 5.0) -> None:
        if not self._closed:
            self._closed = True
            self._door.close()
            # Sockets with nobody at the other end would use up the linger for nothing.
            for link in self._links.values():
                connected = self._is_connected(link)
                link.dealer.disable_monitor()
                if not connected:
                    link.dealer.close(linger=0)
            for name in [*self._subscribers]:
                self._unsubscribe(name)
            # In a thread: once in some thousand times libzmq does not come back from lingering.
            leave = {"linger": round(linger_s * 1000)}
            ending = threading.Thread(target=self._context.destroy, kwargs=leave, daemon=True)
            ending.start()
            ending.join(linger_s + 1.0)

    def _is_connected(self, link: Link) -> bool:
        """Whether this connection stands, by what its monitor has seen until now.

        ZMQ_IMMEDIATE would say so too, but drops what has arrived unread when a peer leaves.
        """
        while int(link.monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            if link.saw(recv_monitor_message(link.monitor)):
                self._greet(link.dealer)
        return link.connected

    def _poll(self, timeout_s: float) -> None:
        self._unpolled = 0
        if time.monotonic() >= self._look_at:
            self._look_after_links()
            self._look_at = time.monotonic() + _LOOK_S
        for ready, _ in self._poller.poll(math.ceil(min(timeout_s, _GIVEN_UP_S) * 1000)):
            if (link := self._links.get(ready)) is None:
                self._ready.append(ready)
            else:
                self._is_connected(link)

    def _look_after_links(self) -> None:
        """Greet who is new, and connect where libzmq gave up: refused, or answered with noise.

        Announcements are subscribed to here, not with every hello: each takes sockets, and there
        is an end to them.
        """
        self._door.look(len(self.peers))
        for name in [*self._publishes]:
            with suppress(zmq.ZMQError, TransportError):  # it is only a hint
                self._subscribe(*self._publishes.pop(name))
        for link in self._links.values():
            self._is_connected(link)
            if link.lost_at is not None and time.monotonic() - link.lost_at > _GIVEN_UP_S:
                link.lost_at = None
                address = self._addresses[link.peer.name]
                with suppress(zmq.ZMQError):
                    link.dealer.disconnect(str(address))
                self._link(link.dealer, address)

    def _read_some(self, ready: zmq.Socket[bytes]) -> None:
        """This socket's turn. Each small message by itself would cost half as much again."""
        for _ in range(_AT_ONCE):
            if (read := self._read(ready)) is None:
                return
            self._ahead.append(read)
            nbytes = sum(map(len, read[1].frames))
            self._unpolled += max(_LEAST_BYTES, nbytes)
            if nbytes > _SMALL_BYTES:
                break
        if self._unpolled < _BETWEEN_POLLS_BYTES:
            self._ready.append(ready)

    def _read(self, ready: zmq.Socket[bytes]) -> tuple[Origin, Received] | None:
        """One message of this socket, or None if it has none for the user."""
        if ready.closed or not (got := parts.receive(ready)):
            return None
        reply_to = None
        if ready is self._router:
            first = got.pop(0)
            sender, route = self._ends.who(first), first.bytes
            if sender is None:
                return None
            if route.startswith(OUTSIDE):
                reply_to = route.decode("latin-1")
            elif sender.name in self._ways:
                self._routes[sender.name] = (sender, route)
            else:
                return None
        else:
            sender = self._senders[ready]
        self._door.hoard.took(sender.name, got)
        tag = got[0].bytes if got and len(got[0]) == 1 else b""
        frames = tuple([part.buffer for part in got[1:]])
        if tag == _MESSAGE:
            published = self._subscribers.get(sender.name) is ready
            return sender, Received(sender.name, frames, reply_to, published)
        if tag == _HELLO and len(frames) == 1:
            if reply_to is None:
                self._hear(sender, bytes(frames[0]))
            if ready is self._router:
                self._greet(ready, route)
        if tag == CONTACTS and reply_to is None:
            self._hear_contacts(sender, frames)
        return None

    def _greet(self, over: zmq.Socket[bytes], *routing_id: bytes) -> None:
        with suppress(zmq.ZMQError):  # it has gone again: the next meeting is another chance
            over.send_multipart([*routing_id, *self._hello], zmq.NOBLOCK)

    def _hear(self, sender: Origin, port: bytes) -> None:
        """A hello: `sender` publishes at this port of the host we know it by."""
        address = self._addresses.get(sender.name)
        if isinstance(address, Ipc) and port == _BESIDE:
            self._publishes[sender.name] = sender, address.pub
        number = int(port) if len(port) <= 5 and port.isdigit() else 0
        if isinstance(address, Tcp) and 0 < number < 65536:
            self._publishes[sender.name] = sender, Tcp(address.host, number)

    def _hear_contacts(self, sender: Origin, frames: Sequence[Frame]) -> None:
        """Where other peers are: nothing to one whose peers don't change."""

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport of {self.me} is closed")
