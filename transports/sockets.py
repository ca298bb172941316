"""A ZeroMQ socket as all of ours are: bounded, reconnecting, noticing dead lines."""

from __future__ import annotations

import ipaddress
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress

import zmq

from transports.base import TransportError

DESCRIPTORS = 10  # of a peer: two sockets and their monitors, and a connection each way of both
MOST_SOCKETS = 1 << 15  # six for a peer; libzmq's default is 1023
WAITING = 32  # messages per connection; the rest waits at the sender


def new_context() -> zmq.Context[zmq.Socket[bytes]]:
    """A context with room for the sockets of thousands of peers."""
    context = zmq.Context()
    context.set(zmq.MAX_SOCKETS, MOST_SOCKETS)
    return context


def new_socket(
    context: zmq.Context[zmq.Socket[bytes]], kind: int, most_bytes: int
) -> zmq.Socket[bytes]:
    """A new socket; a frame larger than `most_bytes` ends the connection it comes over."""
    new = context.socket(kind)
    new.setsockopt(zmq.MAXMSGSIZE, most_bytes)
    new.setsockopt(zmq.RCVHWM, WAITING)
    new.setsockopt(zmq.RECONNECT_IVL, 100)  # ms, doubling up to
    new.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
    new.setsockopt(zmq.CONNECT_TIMEOUT, 5000)
    # For half-open connections. Not libzmq's heartbeats: they end the process if the other end
    # hangs up while we have not read what it sent (4.3.5, "!_io_error").
    new.setsockopt(zmq.TCP_KEEPALIVE, 1)
    new.setsockopt(zmq.TCP_KEEPALIVE_IDLE, 10)  # s
    new.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 5)
    new.setsockopt(zmq.TCP_MAXRT, 60_000)  # ms, for what is on its way
    return new


def watched(
    make: Callable[[], zmq.Socket[bytes]], events: int
) -> tuple[zmq.Socket[bytes], zmq.Socket[bytes]]:
    """What `make` returns, and its monitor. Raises TransportError if this process has too many."""
    try:
        made = make()
        return made, made.get_monitor_socket(events)
    except zmq.ZMQError as exc:
        raise TransportError(
            f"no more sockets ({exc.strerror}): each peer takes {DESCRIPTORS} file descriptors, "
            "see ulimit -n"
        ) from exc


def unpaced(descriptor: int) -> None:
    """Have a TCP connection within this machine, or all that are accepted here, never hold back.

    BBR, the default of many a system, waits for a timer before it sends more: by it pulling 14 MB
    took a sixth longer. Every kernel has Reno, and here it has nothing to wait for.
    """
    with suppress(OSError):
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            return  # closed meanwhile, and a file's by now
        with socket.socket(fileno=os.dup(descriptor)) as raw:
            if raw.family in (socket.AF_INET, socket.AF_INET6):
                host = str(raw.getsockname()[0]).partition("%")[0]
                if ipaddress.ip_address(host).is_loopback:
                    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
