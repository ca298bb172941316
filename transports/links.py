"""Our connection to one peer under one of its keys, and what its monitor tells of it.

Who connects sees a refusal only there: libzmq goes on trying without a word.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import zmq

from transports.curve import Origin
from transports.sockets import unpaced

_REFUSED = zmq.EVENT_HANDSHAKE_FAILED_AUTH
_HUNG_UP = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
_NO_CURVE = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
_FAILED = _REFUSED | _HUNG_UP | _NO_CURVE
_CAME_OR_WENT = zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CONNECT_RETRIED
EVENTS = _FAILED | zmq.EVENT_HANDSHAKE_SUCCEEDED | _CAME_OR_WENT


@dataclass
class Link:
    """A DEALER that is connected to a peer, or tries to be."""

    peer: Origin
    dealer: zmq.Socket[bytes]
    monitor: zmq.Socket[bytes]
    called: set[int]  # the descriptor of every connection made is added to these
    connected: bool = False
    reached: bool = False  # somebody listened there, at the last attempt
    failed: int = 0  # how the last handshake did, until one succeeds or nobody is there
    lost_at: float | None = None  # and libzmq has not said that it tries again

    def saw(self, message: Mapping[str, Any]) -> bool:
        """Take a message of the monitor; whether the peer has just become reachable."""
        event = int(message["event"])
        if event == zmq.EVENT_CONNECTED:
            self.reached = True
            self.called.add(message["value"])
            unpaced(message["value"])
        elif event == zmq.EVENT_CONNECT_RETRIED:
            if not self.reached:
                self.failed = 0
            self.reached = False
        self.connected = event == zmq.EVENT_HANDSHAKE_SUCCEEDED
        # A failure is told of in place of the end of the connection, also long after it was made.
        ended = event & (_FAILED | zmq.EVENT_DISCONNECTED)
        self.lost_at = time.monotonic() if ended else None
        if self.connected:
            self.failed = 0
        elif event & _FAILED:
            self.failed = event
        return self.connected

    def why(self) -> str | None:
        """What its last handshake failed of, if it did, and what to do, for a person here."""
        name = self.peer.name
        if not self.failed:
            return None
        if self.failed == _REFUSED:
            return f"refused by {name}: is the key of this peer in {name}'s roster?"
        # It ends this way too if a tunnel or a relay answers there, and nobody is behind it.
        hung_up = f"hung up on at {name}'s address: is {name} running there, and"
        if not self.peer.key:
            return f"{hung_up} does it take peers without keys?"
        if self.failed == _HUNG_UP:
            return f"{hung_up} is its key in the roster here the one it uses?"
        return f"{name} does not talk as a peer with keys does: was it started without?"
