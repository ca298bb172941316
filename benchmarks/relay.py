"""A slow link in user space, for kernels without netem: two TUN devices and a clock.

A packet read from one device is written to the other when a wire of the given rate would have
sent it and the delay has passed, or never, if it is lost. Queues have no limit: what is lost is
lost by chance alone, from a seed.

Packets of a link without loss may be up to 64 KB, as a network card with segmentation offload
takes them, so that Python keeps up with 1 Gbit/s; their headers then count once, not 44 times.
With loss each packet is at most 1500 bytes, because losing 64 KB at once is another thing than
losing a packet: good for about 200 Mbit/s.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import select
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress

from benchmarks.harness import Say

_TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = 0x400454CA, 0x400454D0, 0x400454D8
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_HEADER_BYTES = 10  # struct virtio_net_hdr: what is left to segment and to checksum; goes along
_LARGEST = _HEADER_BYTES + (1 << 16)
_AT_ONCE = 64  # packets of one device before looking at the other and at the clock


def relay(
    devices: Sequence[str], rate_mbit: float, delay_ms: float, loss: float, say: Say
) -> None:
    """Make both devices, say so, and carry packets between them until killed."""
    with suppress(PermissionError):  # a wire waits for no processor
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    ends = [_open(name, offload=loss == 0) for name in devices]
    say("ready")
    chance = random.Random(0)
    s_per_byte, delay_s = 8e-6 / rate_mbit, delay_ms / 1e3
    free_at = [0.0, 0.0]  # when the wire away from each end has sent all it has
    on_the_way: list[deque[tuple[float, bytes]]] = [deque(), deque()]  # to each end
    while True:
        due = min((packets[0][0] for packets in on_the_way if packets), default=None)
        wait_s = None if due is None else max(0.0, due - time.monotonic())
        readable, _, _ = select.select(ends, [], [], wait_s)
        for end in readable:
            i = ends.index(end)
            for packet in _read(end):
                sent = max(free_at[i], time.monotonic())
                free_at[i] = sent + (len(packet) - _HEADER_BYTES) * s_per_byte
                if chance.random() >= loss:
                    on_the_way[1 - i].append((free_at[i] + delay_s, packet))
        now = time.monotonic()
        for end, packets in zip(ends, on_the_way, strict=True):
            while packets and packets[0][0] <= now:
                _write(end, packets.popleft()[1])


def _open(device: str, *, offload: bool) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    wanted = struct.pack("16sH", device.encode(), _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR)
    fcntl.ioctl(end, _TUNSETIFF, wanted)
    fcntl.ioctl(end, _TUNSETVNETHDRSZ, struct.pack("i", _HEADER_BYTES))
    fcntl.ioctl(end, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4 if offload else 0)
    return end


def _write(end: int, packet: bytes) -> None:
    try:
        os.write(end, packet)
    except OSError as exc:
        if exc.errno != errno.EIO:  # the device is not up (yet): as if nobody were there
            raise


def _read(end: int) -> list[bytes]:
    packets: list[bytes] = []
    try:
        while len(packets) < _AT_ONCE:
            packets.append(os.read(end, _LARGEST))
    except BlockingIOError:
        pass
    return packets
