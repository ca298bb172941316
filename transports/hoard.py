"""What has come in over each connection and never came out as a message.

libzmq keeps the parts of a message until the last one is there, and nothing limits how many: who
never ends a message would fill the memory. The kernel counts the bytes of a connection; what is
read from it is counted here. Beyond `most_bytes` the largest hoard's connection is ended, and
libzmq forgets what it had kept of it. Over tcp alone: ipc is of this machine.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
import time
from collections.abc import Collection, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass

import zmq
from zmq.utils.monitor import recv_monitor_message

_PART_BYTES = 64  # on the wire, beside its content: at most 42. Counting too much does no harm
_BYTES_RECEIVED = 128  # where struct tcp_info has them
_SHARE = 0.02  # of the time, for looking
_log = logging.getLogger("bt")


@dataclass
class _Connection:
    made: int  # inode: the same descriptor may become another connection
    taken: int = 0  # bytes that came out as messages
    name: str | None = None


class Hoard:
    """Of one transport: `took` every message, `look` now and then."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self._connections: dict[int, _Connection] = {}  # by descriptor
        self._taken: dict[int, int] = {}  # since the last look
        self._names: dict[int, str] = {}
        self.called: set[int] = set()  # descriptors of connections that we made
        self._monitors: dict[zmq.Socket[bytes], zmq.Socket[bytes]] = {}
        self._told: set[str | None] = set()
        self._look_at = 0.0

    def took(self, name: str, frames: Sequence[zmq.Frame]) -> None:
        """A message of the peer `name`, as it came in over the network."""
        if not frames:
            return
        descriptor = int(frames[0].get(zmq.SRCFD))
        nbytes = sum(map(len, frames)) + _PART_BYTES * len(frames)
        self._taken[descriptor] = self._taken.get(descriptor, 0) + nbytes
        self._names[descriptor] = name

    def watch(self, made: zmq.Socket[bytes]) -> None:
        """A socket that nobody else watches, and that makes connections."""
        self._monitors[made] = made.get_monitor_socket(zmq.EVENT_CONNECTED)

    def forget(self, made: zmq.Socket[bytes]) -> None:
        """It is about to be closed."""
        made.disable_monitor()
        if (monitor := self._monitors.pop(made, None)) is not None:
            monitor.close(linger=0)

    def look(self, ports: Collection[int]) -> None:
        """End the connections with the largest hoards, as long as all together are too large."""
        began = time.monotonic()
        if began < self._look_at:
            return
        for monitor in self._monitors.values():
            while int(monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self.called.add(recv_monitor_message(monitor)["value"])
        hoards: dict[int, int] = {}
        with suppress(OSError):  # no descriptor is left
            for descriptor in map(int, os.listdir("/proc/self/fd")):
                with suppress(OSError):
                    hoards[descriptor] = self._of(descriptor, ports)
        self._taken.clear()
        self._connections = {fd: c for fd, c in self._connections.items() if fd in hoards}
        total = sum(hoards.values())
        for descriptor, nbytes in sorted(hoards.items(), key=lambda item: -item[1]):
            if total <= self.most_bytes:
                break
            total -= nbytes
            self._hang_up(descriptor, nbytes)
        now = time.monotonic()
        self._look_at = now + (now - began) / _SHARE

    def _of(self, descriptor: int, ports: Collection[int]) -> int:
        """Bytes. Raises OSError where it is no connection."""
        status = os.fstat(descriptor)
        if not stat.S_ISSOCK(status.st_mode):
            return 0
        with closing(socket.socket(fileno=os.dup(descriptor))) as raw:
            info = raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _BYTES_RECEIVED + 8)
            ours = descriptor in self.called or raw.getsockname()[1] in ports
        taken = self._taken.get(descriptor, 0)
        if len(info) < _BYTES_RECEIVED + 8 or not (ours or taken):
            return 0
        (received,) = struct.unpack_from("Q", info, _BYTES_RECEIVED)
        known = self._connections.get(descriptor)
        if known is None or known.made != status.st_ino:
            known = self._connections[descriptor] = _Connection(status.st_ino)
        known.taken = min(received, known.taken + taken)
        if taken:
            known.name = self._names[descriptor]
        return int(received - known.taken)

    def _hang_up(self, descriptor: int, nbytes: int) -> None:
        known = self._connections[descriptor]
        with suppress(OSError), closing(socket.socket(fileno=os.dup(descriptor))) as raw:
            raw.shutdown(socket.SHUT_RDWR)
        if known.name not in self._told:
            self._told.add(known.name)
            who = known.name or "a connection that never sent a whole message"
            _log.warning("hung up on %s: %d MB and no end of a message", who, nbytes >> 20)
