"""The open ports, held shut to new connections while there are too many.

Whoever reaches a port can open connections and leave them there. Each takes a file descriptor,
and a process without any left can't even write its checkpoint. libzmq accepts as many as come
and can't stop without hanging up on everybody; so the kernel is told to drop what asks for a new
connection until most of them are gone, which libzmq sees to where no handshake is completed.
Established connections go on meanwhile.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
from contextlib import closing, suppress

import zmq
from zmq.utils.monitor import recv_monitor_message

from transports.hoard import Hoard
from transports.sockets import DESCRIPTORS, WAITING, unpaced

HANDSHAKE_MS = 10_000  # a connection that has not proved its key by then is closed
_MOST_OPEN = 2048  # file descriptors beside those, if half of this process's limit is not less
_SO_ATTACH_FILTER, _SO_DETACH_FILTER = 26, 27
_DROP_ALL = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: return 0


class Door:
    """The listening sockets of one process's transport; `look` now and then."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes`: of a message."""
        self.hoard = Hoard(WAITING * (most_bytes + 1))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        want = 16 * _MOST_OPEN if hard < 0 else min(hard, 16 * _MOST_OPEN)  # between two looks
        if 0 <= soft < want:
            resource.setrlimit(resource.RLIMIT_NOFILE, (want, hard))
            soft = want
        self.most = _MOST_OPEN if soft < 0 else min(_MOST_OPEN, soft // 2)
        self._spare = max(0, soft - 2 * self.most) if soft >= 0 else 1 << 30  # that peers may have
        self.shut = False
        self._listening: list[socket.socket] = []

    def bind(self, made: zmq.Socket[bytes], address: str) -> None:
        """As made.bind(address); raises zmq.ZMQError."""
        made.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        with closing(made.get_monitor_socket(zmq.EVENT_LISTENING)) as monitor:
            try:
                made.bind(address)
                if address.startswith("tcp:"):
                    descriptor = recv_monitor_message(monitor)["value"]
                    self._listening.append(socket.socket(fileno=os.dup(descriptor)))
                    unpaced(descriptor)
            finally:
                made.disable_monitor()

    def look(self, peers: int) -> None:
        """Shut or open, as it is crowded or not: descriptors are numbered from the lowest free.

        That many peers are no crowd. Also looks at what they hoard.
        """
        self.hoard.look({listening.getsockname()[1] for listening in self._listening})
        try:
            with open(os.devnull, "rb", buffering=0) as next_one:
                expected = min(DESCRIPTORS * peers, self._spare)
                crowd = next_one.fileno() - expected
                crowded = crowd >= (self.most // 2 if self.shut else self.most)
        except OSError:
            crowded = True  # there is none left
        if crowded == self.shut:
            return
        self.shut = crowded
        program = struct.pack("HP", 1, ctypes.addressof(_DROP_ALL))
        for listening in self._listening:
            with suppress(OSError):  # a kernel that can't: as if there was no door
                if crowded:
                    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
                else:
                    listening.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def close(self) -> None:
        for listening in self._listening:
            listening.close()
