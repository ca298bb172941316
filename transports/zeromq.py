"""Peers joined by ZeroMQ, over tcp:// or ipc://; between machines or on one.

Every peer binds a ROUTER and connects a DEALER, whose routing id is its name, to every other
peer it has an address of. Each of these connections carries messages both ways, so one of two
peers needs no reachable address. Version announcements go out over PUB/SUB: at the ipc path plus
".pub", or at a tcp port each peer tells the others in a "hello" when they meet. An announcement
is a hint; who can't get them still learns everything by asking.

On the wire a message is one multipart message: a tag, then the frames. Its sender is the name
bound to the connection it came over, never one it claims.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

from transports.base import Frame, PeerGone, Received, TransportError, valid_name
from transports.endpoints import Ipc, Tcp, parse

_MESSAGE, _HELLO = b"m", b"h"
_MAX_ANNOUNCEMENT_BYTES = 1 << 20


@dataclass
class _Dealer:
    """Our connection to one peer, and the socket that tells of its ups and downs."""

    dealer: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    connected: bool = False


class ZeroMQTransport:
    """A Transport over ZeroMQ sockets.

    `listen` is this peer's own address, `peers` the others' by name (None: that peer connects to
    us); messages of anyone else are dropped. `announce` is where to publish when `listen` is a
    tcp address: same host and any free port if not given. A message part larger than
    `max_message_bytes` ends the connection it comes over. Raises TransportError if an address is
    not usable, and for one that other machines can reach unless `insecure` is set.
    """

    def __init__(
        self,
        me: str,
        listen: str,
        peers: Mapping[str, str | None],
        *,
        announce: str | None = None,
        max_message_bytes: int = 1 << 30,
        insecure: bool = False,
    ) -> None:
        for name in (me, *peers):
            if not valid_name(name):
                raise TransportError(f"{name!r} can't name a peer")
        if me in peers:
            raise TransportError(f"peer {me} is among its own peers")
        self.me = me
        self.peers = tuple(sorted(peers))
        self._insecure = insecure
        self._max_message_bytes = max_message_bytes
        self._addresses = {
            name: parse(address) for name, address in peers.items() if address is not None
        }
        own = parse(listen)
        self._context = zmq.Context()
        self._closed = False
        self._dealers: dict[str, _Dealer] = {}
        self._subscribers: dict[str, zmq.Socket[bytes]] = {}
        try:
            self._open(own, announce)
        except BaseException:
            self.close(linger_s=0)
            raise

    def _open(self, own: Tcp | Ipc, announce: str | None) -> None:
        self._poller = zmq.Poller()
        self._ready: deque[zmq.Socket[bytes]] = deque()
        self._senders: dict[zmq.Socket[bytes], str] = {}  # of a DEALER or a SUB: the other end
        self._monitors: dict[zmq.Socket[bytes], str] = {}
        self._published_at: dict[str, str] = {}  # what each SUB is connected to
        self._greeted: set[str] = set()  # who got our hello over the ROUTER

        self._router = self._socket(zmq.ROUTER)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.ROUTER_HANDOVER, 1)  # a restarted peer takes its name over
        self.endpoint = self._bind(self._router, own)  # with the port, if any free one was asked
        self._poller.register(self._router, zmq.POLLIN)

        self._publisher = self._socket(zmq.PUB)
        if isinstance(own, Ipc):
            self._bind(self._publisher, own.pub)
            port = b""
        else:
            place = parse(announce) if announce else Tcp(own.host, 0)
            port = self._bind(self._publisher, place).rpartition(":")[2].encode()
        self._hello = [_HELLO, port]

        self._ways = {name: [self._router] for name in self.peers}  # to each peer, best first
        for name, address in self._addresses.items():
            self._connect(name, address)

    def _socket(self, kind: int) -> zmq.Socket[bytes]:
        made = self._context.socket(kind)
        made.setsockopt(zmq.MAXMSGSIZE, self._max_message_bytes)
        made.setsockopt(zmq.RCVHWM, 32)  # messages per connection; the rest waits at the sender
        made.setsockopt(zmq.RECONNECT_IVL, 100)  # ms, doubling up to
        made.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        made.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
        # Half-open connections end. A frame has to cross within the timeout: nothing that could
        # answer a heartbeat passes it on its connection.
        made.setsockopt(zmq.HEARTBEAT_IVL, 5000)
        made.setsockopt(zmq.HEARTBEAT_TIMEOUT, 30_000)
        return made

    def _bind(self, made: zmq.Socket[bytes], where: Tcp | Ipc) -> str:
        if isinstance(where, Ipc):
            if where.is_served():
                raise TransportError(f"{where} is in use: is this peer already running?")
        else:
            if not self._insecure and not where.is_loopback:
                raise TransportError(
                    f"{where} can be reached from other machines and nothing here is encrypted: "
                    "listen on 127.0.0.1, or allow it explicitly (--insecure)"
                )
            where = where.to_bind()
            made.setsockopt(zmq.IPV6, ":" in where.host)
        try:
            made.bind(str(where))
        except zmq.ZMQError as exc:
            if exc.errno == zmq.EADDRINUSE:
                raise TransportError(
                    f"{where} is in use: choose another port, or is this peer already running?"
                ) from exc
            raise TransportError(f"can't listen at {where}: {exc.strerror}") from exc
        return made.getsockopt_string(zmq.LAST_ENDPOINT)

    def _connect(self, name: str, address: Tcp | Ipc) -> None:
        dealer = self._socket(zmq.DEALER)
        dealer.setsockopt_string(zmq.ROUTING_ID, self.me)
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED)
        self._monitors[monitor] = name
        self._dealers[name] = _Dealer(dealer, monitor)
        self._senders[dealer] = name
        self._ways[name].insert(0, dealer)
        self._poller.register(dealer, zmq.POLLIN)
        self._poller.register(monitor, zmq.POLLIN)
        self._link(dealer, address)
        if isinstance(address, Ipc):
            self._subscribe(name, address.pub)

    def _link(self, made: zmq.Socket[bytes], address: Tcp | Ipc) -> None:
        if isinstance(address, Tcp):
            made.setsockopt(zmq.IPV6, ":" in address.host)
        try:
            made.connect(str(address))
        except zmq.ZMQError as exc:
            raise TransportError(f"can't connect to {address}: {exc.strerror}") from exc

    def _subscribe(self, name: str, address: Tcp | Ipc) -> None:
        """Hear the announcements of `name`; a restarted peer may publish elsewhere."""
        if self._published_at.get(name) == str(address):
            return
        if (old := self._subscribers.pop(name, None)) is not None:
            self._poller.unregister(old)
            del self._senders[old]
            old.close(linger=0)
        subscriber = self._subscribers[name] = self._socket(zmq.SUB)
        subscriber.setsockopt(zmq.MAXMSGSIZE, _MAX_ANNOUNCEMENT_BYTES)
        subscriber.setsockopt(zmq.SUBSCRIBE, b"")
        self._senders[subscriber] = name
        self._published_at[name] = str(address)
        self._link(subscriber, address)
        self._poller.register(subscriber, zmq.POLLIN)

    # --- Transport

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        self._check_open()
        if to not in self.peers:
            raise PeerGone(to, "not a peer of this federation")
        ways = self._ways[to]
        for way in ways:
            if way is self._router:  # if it has connected to us
                parts = [to.encode(), _MESSAGE, *frames]
            elif self._is_connected(to):
                parts = [_MESSAGE, *frames]
            else:
                continue
            try:
                way.send_multipart(parts, zmq.NOBLOCK, copy=False)
            except zmq.ZMQError as exc:
                if exc.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                    raise
                continue
            if way is not ways[0]:
                ways.reverse()  # stay on one connection: only there messages keep their order
            return
        raise PeerGone(to, "not connected, or not reading")

    def publish(self, frames: Sequence[Frame]) -> None:
        self._check_open()
        self._publisher.send_multipart([_MESSAGE, *frames], zmq.NOBLOCK, copy=False)

    def recv(self, timeout_s: float) -> Received | None:
        self._check_open()
        deadline = time.monotonic() + timeout_s
        looked = False
        while True:
            # One message of every socket that has some before a second one of any.
            while self._ready:
                if (message := self._read(self._ready.popleft())) is not None:
                    return message
            left_s = max(0.0, deadline - time.monotonic())
            if looked and not left_s:
                return None  # even if strangers keep the sockets busy
            looked = True
            events = self._poller.poll(math.ceil(left_s * 1000))
            for ready, _ in events:
                if (name := self._monitors.get(ready)) is not None:
                    self._is_connected(name)
                else:
                    self._ready.append(ready)

    def close(self, linger_s: float = 5.0) -> None:
        if not self._closed:
            self._closed = True
            # Sockets with nobody at the other end would use up the linger for nothing.
            for name, link in self._dealers.items():
                connected = self._is_connected(name)
                link.dealer.disable_monitor()
                if not connected:
                    link.dealer.close(linger=0)
            for subscriber in self._subscribers.values():
                subscriber.close(linger=0)
            # Sends what is queued within the linger. In a thread, because once in some thousand
            # times libzmq does not come back from it, and leaving must not take for ever.
            leave = {"linger": round(linger_s * 1000)}
            ending = threading.Thread(target=self._context.destroy, kwargs=leave, daemon=True)
            ending.start()
            ending.join(linger_s + 1.0)

    # ---

    def _is_connected(self, name: str) -> bool:
        """Whether our connection to `name` stands, by what its monitor has seen until now.

        ZMQ_IMMEDIATE would say so too, but drops what has arrived unread when a peer leaves.
        """
        link = self._dealers[name]
        while int(link.monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            event = recv_monitor_message(link.monitor)["event"]
            link.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
            if link.connected and isinstance(self._addresses[name], Tcp):
                self._greet(link.dealer)
        return link.connected

    def _read(self, ready: zmq.Socket[bytes]) -> Received | None:
        """One message of this socket, or None if it has none for the user."""
        if ready.closed:
            return None
        try:
            part = ready.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        parts = [part.buffer]
        while part.more:  # all parts come at once
            part = ready.recv(zmq.NOBLOCK, copy=False)
            parts.append(part.buffer)
        if ready is self._router:
            sender = bytes(parts.pop(0)).decode("ascii", errors="replace")
            if sender not in self.peers:
                return None
        else:
            sender = self._senders[ready]
        tag = bytes(parts[0]) if parts else b""
        if ready is self._router and (tag == _HELLO or sender not in self._greeted):
            self._greeted.add(sender)
            self._greet(ready, sender.encode())
        if tag == _HELLO and len(parts) == 2:
            self._hear(sender, bytes(parts[1]))
        return Received(sender, tuple(parts[1:])) if tag == _MESSAGE else None

    def _greet(self, over: zmq.Socket[bytes], *routing_id: bytes) -> None:
        with suppress(zmq.ZMQError):  # it has gone again: the next meeting is another chance
            over.send_multipart([*routing_id, *self._hello], zmq.NOBLOCK)

    def _hear(self, sender: str, port: bytes) -> None:
        """A hello: `sender` publishes at this port of the host we know it by."""
        address = self._addresses.get(sender)
        short = len(port) <= 5  # int() refuses thousands of digits
        if isinstance(address, Tcp) and short and port.isdigit() and 0 < int(port) < 65536:
            self._subscribe(sender, Tcp(address.host, int(port)))

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport of {self.me} is closed")
