"""A ZeroMQ socket as all of ours are: bounded, reconnecting, noticing dead lines."""

from __future__ import annotations

import zmq

WAITING = 32  # messages per connection; the rest waits at the sender


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
