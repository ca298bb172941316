"""How many threads torch takes: a peer's share of the processors of its machine.

Peers that each take all processors wait for each other's threads: five on two were slower by
three times.
"""

from __future__ import annotations

import os


def threads_each(peers_here: int) -> int:
    """Threads for one of `peers_here` peers on this machine, or what OMP_NUM_THREADS says."""
    if (stated := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(1, int(stated))
    return max(1, min(len(os.sched_getaffinity(0)), (os.cpu_count() or 1) // peers_here))
