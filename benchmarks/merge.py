"""Merge nine models, and make one ready to be served; beside memcpy.

`merge9` pulls them over tcp from nine processes. `local9` has no transport: each model is where
the last one was, as in a buffer that is received into.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from benchmarks import harness, model, peaks
from benchmarks.harness import Pull, Way
from benchmarks.results import Found
from benchmarks.transports import COPIES, NAIVE, RAW_TCP, TCP

PEERS = 9
_HERE, _OURS = "benchmarks.merge:", "benchmarks.product:"
WAYS = (
    Way("memcpy9", _HERE + "copy_nine", peers=PEERS),
    Way("local9", _OURS + "merge", peers=PEERS, ceiling="memcpy9", rivals=("local9-tensorwise",)),
    Way("local9-tensorwise", _HERE + "merge_tensorwise", peers=PEERS, ceiling="memcpy9"),
    *COPIES,
    Way("publish", _OURS + "publish", ceiling="memcpy", rivals=("publish-safetensors",)),
    Way("publish-safetensors", _HERE + "save", ceiling="memcpy"),
)

RAW = replace(RAW_TCP, name="raw-tcp9", peers=PEERS)
OVER_TCP = (
    RAW,
    replace(TCP, name="merge9", peers=PEERS, ceiling=RAW.name, rivals=("zmq-naive9",)),
    replace(NAIVE, name="zmq-naive9", peers=PEERS, ceiling=RAW.name),
)


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases what/size."""
    found = Found()
    for size, rounds in {"14MB": 20, "100MB": 10}.items():
        if quick and size != "14MB":
            continue
        progress(f"Merge {size}")
        nbytes = model.SIZES[size]
        measured = harness.measure(OVER_TCP, nbytes, rounds=rounds // 2, budget_s=20)
        measured.add(harness.measure(WAYS, nbytes, rounds=rounds, budget_s=20))
        for way in (*OVER_TCP, *WAYS):
            if way.peers == PEERS and way.ceiling:
                peaks.add(measured, way.name, way, nbytes)
        found.add(measured.of(f"/{size}"))
    return found


@contextmanager
def copy_nine(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """memcpy of as many models as are merged."""
    source = model.values(nbytes, model.THEIRS)
    into = source.copy()

    def copy() -> None:
        for _ in range(PEERS):
            np.copyto(into, source)

    yield copy


@contextmanager
def merge_tensorwise(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """The mean of state dicts as one writes it first."""
    own = model.tensors(model.tensor(model.values(nbytes, model.OWN)))
    theirs = [model.tensors(model.tensor(model.values(nbytes, model.THEIRS)))] * PEERS

    def merge() -> list[model.Floats]:
        share = 1 / (1 + PEERS)
        merged = {
            name: share * sum((weights[name] for weights in theirs), start=mine)
            for name, mine in own.items()
        }
        return [part.numpy() for part in merged.values()]

    yield merge


@contextmanager
def save(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    import safetensors.torch

    own = model.tensors(model.tensor(model.values(nbytes, model.OWN)))

    def publish() -> None:
        safetensors.torch.save(own)

    yield publish
