"""A wide-area network between network namespaces on one machine, for examples and tests.

    python wan.py --delay-ms 25 --closed bt3-c bt3-a=10.77.0.1 bt3-b=10.77.0.2 bt3-c=10.77.0.3

Each namespace, which must exist, gets an interface with its address; this process carries the
packets from one to another, each so many milliseconds late. To those that are closed nobody can
open a TCP connection, as behind a firewall without an open port; theirs to others work. Prints
"ready" and runs until it is killed. Needs root and /dev/net/tun.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import select
import socket
import struct
import subprocess
import time
from collections import deque
from contextlib import suppress

_TUNSETIFF, _TUN, _NO_HEADER = 0x400454CA, 0x0001, 0x1000
_MTU = 9000
_TCP, _SYN, _ACK = 6, 0x02, 0x10


def interface(namespace: str, address: str) -> int:
    """Give the namespace an interface; the descriptor of our end of it."""
    ours = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"{namespace}-wan"
    fcntl.ioctl(ours, _TUNSETIFF, struct.pack("16sH", name.encode(), _TUN | _NO_HEADER))
    inside = ["ip", "-n", namespace]
    for command in (
        ["ip", "link", "set", name, "netns", namespace],
        [*inside, "address", "add", f"{address}/24", "dev", name],
        [*inside, "link", "set", name, "mtu", str(_MTU), "up"],
        [*inside, "link", "set", "lo", "up"],
    ):
        subprocess.run(command, check=True)
    return ours


def opens_connection(packet: bytes) -> bool:
    """Whether this is the first packet of a TCP connection."""
    flags = packet[(packet[0] & 15) * 4 + 13]
    return packet[9] == _TCP and flags & (_SYN | _ACK) == _SYN


def carry(ends: dict[bytes, int], closed: set[bytes], delay_s: float) -> None:
    """For ever. `ends`: by IPv4 address."""
    under_way: deque[tuple[float, int, bytes]] = deque()  # due, where to, packet; in order
    while True:
        wait_s = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        for end in select.select([*ends.values()], [], [], wait_s)[0]:
            packet = os.read(end, _MTU + 100)
            to = packet[16:20]
            if packet[0] >> 4 != 4 or to not in ends:
                continue
            if to in closed and opens_connection(packet):
                continue
            under_way.append((time.monotonic() + delay_s, ends[to], packet))
        while under_way and under_way[0][0] <= time.monotonic():
            _, end, packet = under_way.popleft()
            with suppress(BlockingIOError):  # full: lost, as on any network
                os.write(end, packet)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--delay-ms", type=float, default=25.0, help="one way")
    parser.add_argument("--closed", action="append", default=[], metavar="NAMESPACE")
    parser.add_argument("namespaces", nargs="+", metavar="NAMESPACE=ADDRESS")
    given = parser.parse_args()
    places = dict(each.split("=") for each in given.namespaces)
    ends = {socket.inet_aton(where): interface(name, where) for name, where in places.items()}
    closed = {socket.inet_aton(places[name]) for name in given.closed}
    print("ready", flush=True)
    carry(ends, closed, given.delay_ms / 1000)


if __name__ == "__main__":
    main()
