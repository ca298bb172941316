"""The network's part of a round: nine peers, nine processes, all pulled from and merged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from benchmarks import harness, model, peaks
from benchmarks.results import Found
from benchmarks.transports import NAIVE, RAW_TCP, TCP

PEERS = 9
RAW = replace(RAW_TCP, name="raw-tcp9", peers=PEERS)
ROUND = replace(TCP, name="round9", peers=PEERS, ceiling="raw-tcp9", rivals=("round9-zmq-naive",))
WAYS = (RAW, ROUND, replace(NAIVE, name="round9-zmq-naive", peers=PEERS, ceiling="raw-tcp9"))


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases what/size."""
    nbytes = model.SIZES["14MB"]
    progress(f"A round with {PEERS} peers, 14MB")
    found = harness.measure(WAYS, nbytes, rounds=10, budget_s=20)
    for way in (ROUND,) if quick else WAYS[1:]:
        progress(f"Memory of {way.name}")
        peaks.add(found, way.name, way, nbytes)
    return found.of("/14MB")
