"""A peer that asks and never reads: what waits for it is bounded, and nothing of it is a copy."""

from __future__ import annotations

import weakref

import numpy as np
import pytest

from benchmarks import memory
from tests.transports.sockets import deliver
from transports.base import PeerGone

RANGE_BYTES = 1 << 20
MOST_RANGES = 3000  # 3 GB, if each were a copy


def flood(sender, image):
    for _ in range(MOST_RANGES):
        sender.send("b", [b"header", image])
        sender.recv(0)


def test_what_nobody_reads_is_bounded_and_not_copied(join):
    sender, reader = join("a", {"b": None}), join("b")
    deliver(reader, sender, [b"here"])
    image = np.ones(RANGE_BYTES, np.uint8)
    freed = weakref.ref(image)
    memory.reset_peak()
    before = memory.peak_bytes()
    with pytest.raises(PeerGone, match="not reading"):
        flood(sender, image)
    # RCVHWM messages at the reader, which is in this process, and libzmq's own buffers
    assert memory.peak_bytes() - before < 100 * RANGE_BYTES
    del image
    assert freed() is not None, "what waits is the image itself"
