"""Pull and merge one model of several GB, by the product's own loop, shelf, checks and merge.

The models hold zeros, which take no memory until they are written, and few other values: at both
ends, and where 31 and 32 bits end. So the mean is all that one process needs memory for.

As a program, under mpirun -n 2: python -m tests.large_models BYTES
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch

from benchmarks import memory, product
from bt.runner import Runner
from bt.trainer import FitMetrics, Stopped
from bt.weights import FlatWeights, schema_of
from transports import image
from transports.base import Transport
from transports.schema import Schema

SIZES = {"2GB": (1 << 31) + 100_000_000, "4GB": (1 << 32) + 100_000_000}
MESSAGE_BYTES = 1 << 24
OWN, THEIRS = 1.0, 4.0
ROOM = 1 << 29  # bytes, beside the mean: what is on its way, libraries


class Merger(product.Nothing):
    """A trainer that ends the run of its peer when it gets the merged model."""

    stop: Callable[[str], None]

    def load(self, weights: FlatWeights) -> None:
        self.loaded = weights

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        self.stop("merged")
        raise Stopped


def pull_and_merge(server: Transport, client: Transport, nbytes: int) -> None:
    """Between two peers in threads of this process. Raises AssertionError."""
    torch.set_num_threads(1)  # two loops are two cores busy
    memory.reset_peak()
    before = memory.peak_bytes()
    serving = threading.Thread(target=serve, args=(server, nbytes))
    serving.start()
    try:
        merge(client, nbytes)
    finally:
        serving.join()
    assert memory.peak_bytes() - before < nbytes + ROOM


def serve(transport: Transport, nbytes: int) -> None:
    """A peer that is done and stays until the other has left."""
    with closing(transport):
        theirs = product.Nothing(transport.me, sparse(nbytes, THEIRS))
        product.runner_of(Runner, transport, theirs, rounds=1).run()


def merge(transport: Transport, nbytes: int) -> None:
    """A peer that merges once and looks at every value."""
    with closing(transport):
        trainer = Merger(transport.me, sparse(nbytes, OWN))
        runner = product.runner_of(Runner, transport, trainer, rounds=2)
        trainer.stop = runner.stop
        assert runner.run().reason == "merged"
    assert trainer.loaded is not None
    ((_, values),) = trainer.loaded.floats()
    marked = marks(trainer.loaded.schema)
    assert values[marked].tolist() == [(OWN + THEIRS) / 2] * len(marked)
    assert int(torch.count_nonzero(values)) == len(marked)


def sparse(nbytes: int, value: float) -> FlatWeights:
    """`value` at the marks, zeros elsewhere."""
    count = nbytes // 4 - 1024
    sizes = {"first": (1024,), "large": (count // 1000, 1000), "steps": ()}
    tensors = {
        name: torch.empty(size, dtype=torch.float32 if size else torch.int64, device="meta")
        for name, size in sizes.items()
    }
    schema = schema_of(tensors)
    memory_ = torch.from_numpy(np.zeros(image.nbytes(schema), np.uint8))
    weights = FlatWeights(schema, memory_[image.header_bytes(schema) :])
    ((_, values),) = weights.floats()
    values[marks(schema)] = value
    return weights


def marks(schema: Schema) -> list[int]:
    """Which values are no zeros: the first, the last, and those around 2 and 4 GiB of the body."""
    ((_, begin, end),) = schema.float_runs
    edges = [edge + step for edge in (1 << 31, 1 << 32) for step in (-4, 0, 4)]
    return [(at - begin) // 4 for at in (begin, *edges, end - 4) if at < end]


def main() -> None:
    from transports.mpi import MPITransport

    transport = MPITransport(max_message_bytes=MESSAGE_BYTES)
    (other,) = transport.peers
    (serve if transport.me < other else merge)(transport, int(sys.argv[1]))


if __name__ == "__main__":
    main()
