"""torch.distributed with gloo: a blocking send and receive of the flat model, then one lerp."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore  # torch.distributed's, but not for type checkers

from benchmarks import model
from benchmarks.harness import Pull, Say

TIMEOUT = timedelta(seconds=60)
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo"}  # else it looks up the host's name, which may be slow


def serve(place: str, nbytes: int, say: Say) -> None:
    host = place.partition("://")[2].rpartition(":")[0]
    store = TCPStore(
        host, 0, world_size=2, is_master=True, wait_for_workers=False, timeout=TIMEOUT
    )
    say(f"tcp://{host}:{store.port}")
    own = model.tensor(model.values(nbytes, model.THEIRS))
    os.environ |= _LOOPBACK
    dist.init_process_group("gloo", store=store, rank=0, world_size=2, timeout=TIMEOUT)
    question = torch.empty(1)
    while True:
        dist.recv(question, src=1)
        dist.send(own, dst=1)


@contextmanager
def pull(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    (place,) = places
    host, _, port = place.partition("://")[2].rpartition(":")
    store = TCPStore(host, int(port), world_size=2, is_master=False, timeout=TIMEOUT)
    own = model.tensor(model.values(nbytes, model.OWN))
    theirs, merged = torch.empty_like(own), torch.empty_like(own)
    os.environ |= _LOOPBACK
    dist.init_process_group("gloo", store=store, rank=1, world_size=2, timeout=TIMEOUT)
    question = torch.zeros(1)

    def ask() -> list[model.Floats]:
        dist.send(question, dst=0)
        dist.recv(theirs, src=0)
        torch.lerp(own, theirs, 0.5, out=merged)
        return [merged.numpy()]

    try:
        yield ask
    finally:
        dist.destroy_process_group()
