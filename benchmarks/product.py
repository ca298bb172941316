"""BrainTorrent's own ways: the functions that every other file here measures.

Servers run in processes of their own, one for each peer; clients run where the clock is.
`place` is tcp://HOST:0, ipc://PATH or curve://HOST:0 (tcp with CURVE); what a server says is the
place a client gets, so it may add what the client needs: a port, a key after a #.
A server's model is `model.values(nbytes, model.THEIRS)` in `model.tensors`, one's own is
`model.OWN`; all peers have as many scans, so k pulled models weigh 1 / (k + 1) each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from benchmarks import model
from benchmarks.harness import Pull, Say
from benchmarks.latency import Pinger
from bt.merge import WeightedMean
from bt.weights import FlatWeights, schema_of

if TYPE_CHECKING:
    from mpi4py import MPI


def serve(place: str, nbytes: int, say: Say) -> None:
    """A peer: answers pings and pulls of one published model, until killed.

    Calls `say(place)` once, with the place it listens at, when it does.
    """
    raise NotImplementedError("not built yet")


def pull_and_merge(places: Sequence[str], nbytes: int) -> AbstractContextManager[Pull]:
    """A peer connected to those at `places`: each call pulls from all and merges into own.

    Own weights stay as they are, so that every call does the same. Returns the merged values in
    pieces, in order: [flat float32 array].
    """
    raise NotImplementedError("not built yet")


def ping(places: Sequence[str], nbytes: int) -> AbstractContextManager[Pinger]:
    """A peer connected to the one at `places`: asks which version it has, hears the answer."""
    raise NotImplementedError("not built yet")


@contextmanager
def merge(places: Sequence[str], nbytes: int, peers: int = 9) -> Iterator[Pull]:
    """Merge `peers` models, each of them in the same buffer; no server, `places` is empty."""
    own, theirs = _weights(nbytes, model.OWN), _weights(nbytes, model.THEIRS)
    rule = WeightedMean()

    def once() -> list[model.Floats]:
        rule.start(own, 1)
        for _ in range(peers):
            rule.add(theirs, 1)
        return [run.numpy() for run in rule.finish().float_runs()]

    yield once


@contextmanager
def publish(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """Make a state dict ready to be served; no server, `places` is empty."""
    own = model.tensors(model.tensor(model.values(nbytes, model.OWN)))

    def once() -> None:
        FlatWeights.of(own)

    yield once


def _weights(nbytes: int, seed: int) -> FlatWeights:
    """The model as the product holds it, without a copy."""
    schema = schema_of(model.tensors(model.tensor(model.values(nbytes, seed))))
    return FlatWeights.from_body(schema, model.image(nbytes, seed))


def mpi_serve(comm: MPI.Intracomm, nbytes: int) -> AbstractContextManager[Callable[[], None]]:
    """Rank 1, a peer of rank 0: each call answers one pull."""
    raise NotImplementedError("not built yet")


def mpi_pull_and_merge(comm: MPI.Intracomm, nbytes: int) -> AbstractContextManager[Pull]:
    """Rank 0, as `pull_and_merge`."""
    raise NotImplementedError("not built yet")
