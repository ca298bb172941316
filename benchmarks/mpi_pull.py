"""mpirun -n 2 python -m benchmarks.mpi_pull: rank 1 serves the model, rank 0 pulls it.

Beside the product: bare MPI Send and Recv, and a bare TCP socket between the same two ranks.
Both ranks take the same turns, so neither is busy with one way while another is measured.
"""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from mpi4py import MPI

from benchmarks import memory, model, product
from benchmarks.apart import Prepared
from benchmarks.ceilings import greet, receive
from benchmarks.harness import Pull, Way, interleave, summaries
from benchmarks.peaks import PULLS
from benchmarks.results import Found
from benchmarks.table import show
from bt.console import make_console
from bt.runner import Runner
from transports.base import Transport

_R = TypeVar("_R", bound=Runner)
Answer = Callable[[], object]  # serves one pull
_END = -1


@contextmanager
def serve_raw(comm: MPI.Intracomm, nbytes: int) -> Iterator[Answer]:
    served = model.values(nbytes, model.THEIRS).view(np.uint8)
    question = np.empty(1, np.uint8)

    def answer() -> None:
        comm.Recv(question, source=0)
        comm.Send(served, dest=0)

    yield answer


@contextmanager
def pull_raw(comm: MPI.Intracomm, nbytes: int) -> Iterator[Pull]:
    into = np.empty(nbytes, np.uint8)
    question = np.zeros(1, np.uint8)

    def pull() -> None:
        comm.Send(question, dest=1)
        comm.Recv(into, source=1)

    yield pull


@contextmanager
def serve_tcp(comm: MPI.Intracomm, nbytes: int) -> Iterator[Answer]:
    served = model.image(nbytes, model.THEIRS)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        comm.Send(np.array([listener.getsockname()[1]], np.int32), dest=0)
        connection, _ = listener.accept()
    with connection:

        def answer() -> None:
            while connection.recv(1) == b".":
                connection.sendall(b".")
            connection.sendall(served)

        yield answer


@contextmanager
def pull_tcp(comm: MPI.Intracomm, nbytes: int) -> Iterator[Pull]:
    port = np.empty(1, np.int32)
    comm.Recv(port, source=1)
    into = memoryview(bytearray(nbytes))
    with socket.create_connection(("127.0.0.1", int(port[0]))) as connection:

        def pull() -> None:
            connection.sendall(b"?")
            receive(connection, into)

        yield Prepared(pull, lambda: greet(connection))


@contextmanager
def _rank(comm: MPI.Intracomm) -> Iterator[Transport]:
    from transports.mpi import MPITransport

    with closing(MPITransport(comm, max_message_bytes=product.MOST_BYTES)) as transport:
        yield transport


def _serving(kind: type[_R], transport: Transport, nbytes: int) -> _R:
    theirs = product.Nothing(transport.me, product.weights(nbytes, model.THEIRS))
    peer = product.runner_of(kind, transport, theirs, rounds=1)
    peer._resume()
    return peer


@contextmanager
def serve_ours(comm: MPI.Intracomm, nbytes: int) -> Iterator[Answer]:
    """Rank 1, a peer of rank 0: each call answers one pull."""
    with _rank(comm) as transport:
        server = _serving(product.Puller, transport, nbytes)

        def answer() -> None:
            wanted = product.models_served(server) + 1
            while product.models_served(server) < wanted:
                server._step()

        yield answer


@contextmanager
def idle_ours(comm: MPI.Intracomm, nbytes: int) -> Iterator[Callable[[], None]]:
    """A rank that is done, and of whom nobody wants anything: each call waits once."""
    with _rank(comm) as transport:
        yield _serving(product.Server, transport, nbytes)._step


@contextmanager
def pull_ours(comm: MPI.Intracomm, nbytes: int) -> Iterator[Pull]:
    """Rank 0, as product.pull_and_merge."""
    with _rank(comm) as transport:
        yield product.pulling(transport, nbytes)


Server = Callable[[MPI.Intracomm, int], AbstractContextManager[Answer]]
Client = Callable[[MPI.Intracomm, int], AbstractContextManager[Pull]]
_WAYS: list[tuple[Way, Server, Client]] = [
    (Way("mpi-raw-tcp", ""), serve_tcp, pull_tcp),
    (Way("mpi-raw", "", ceiling="mpi-raw-tcp"), serve_raw, pull_raw),
    (Way("mpi", "", ceiling="mpi-raw-tcp"), serve_ours, pull_ours),
]


def measure(comm: MPI.Intracomm, nbytes: int, *, rounds: int, budget_s: float) -> Found:
    """What rank 0 found; nothing at rank 1."""
    found = Found()
    with ExitStack() as stack:
        pulls: dict[str, Pull] = {}
        answers: list[Answer] = []
        for way, server, client in _WAYS:
            opened = np.zeros(1, np.int32)
            try:
                if comm.rank == 0:
                    pulls[way.name] = stack.enter_context(client(comm, nbytes))
                else:
                    answers.append(stack.enter_context(server(comm, nbytes)))
                opened[0] = 1
            except (NotImplementedError, ImportError) as exc:
                found.trouble(way.name, exc)
                answers.append(lambda: None)
            both = np.empty_like(opened)
            comm.Allreduce(opened, both, MPI.MIN)
            if not both[0]:
                pulls.pop(way.name, None)
        if comm.rank == 1:
            while (turn := _shared(comm)) != _END:
                answers[turn]()
            return found
        names = [way.name for way, _, _ in _WAYS]
        samples = interleave(
            pulls,
            rounds=rounds,
            budget_s=budget_s,
            found=found,
            check={name: partial(model.verify, nbytes=nbytes, peers=1) for name in names},
            before=lambda name: _share(comm, names.index(name)),
        )
        _share(comm, _END)
    found.cases |= summaries([way for way, _, _ in _WAYS], samples, nbytes)
    return found


def peaks(comm: MPI.Intracomm, nbytes: int) -> list[int]:
    """Peak memory in bytes of the product's two ranks, with nothing else in them."""
    memory.reset_peak()
    with ExitStack() as stack:
        if comm.rank == 0:
            pull = stack.enter_context(pull_ours(comm, nbytes))
            for _ in range(PULLS):
                pull()
        else:
            answer = stack.enter_context(serve_ours(comm, nbytes))
            for _ in range(PULLS):
                answer()
        found = np.empty(2, np.int64)
        comm.Gather(np.array([memory.peak_bytes()], np.int64), found, root=0)
    return [int(peak) for peak in found]


def idle(comm: MPI.Intracomm, seconds: float) -> float:
    """Share of a core that a peer uses while nobody wants anything of it: of two, the larger."""
    used, most = np.zeros(1), np.zeros(1)
    with idle_ours(comm, model.TINY) as wait:
        began, until = time.process_time(), time.monotonic() + seconds
        while time.monotonic() < until:
            wait()
        used[0] = (time.process_time() - began) / seconds
        comm.Allreduce(used, most, MPI.MAX)
    return float(most[0])


def _share(comm: MPI.Intracomm, turn: int) -> None:
    comm.Bcast(np.array([turn], np.int32), root=0)


def _shared(comm: MPI.Intracomm) -> int:
    turn = np.empty(1, np.int32)
    comm.Bcast(turn, root=0)
    return int(turn[0])


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.mpi_pull", description=__doc__)
    parser.add_argument("--size", choices=[*model.SIZES, "tiny"], default="14MB")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--budget-s", type=float, default=30.0, help="begin no rounds after this")
    parser.add_argument("--memory", action="store_true", help="only the product's peak memory")
    parser.add_argument("--idle-s", type=float, help="only what an idle peer costs, in so long")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    comm = MPI.COMM_WORLD
    if comm.size != 2:
        raise SystemExit(f"needs 2 ranks, has {comm.size}: mpirun -n 2, of the MPI of mpi4py")
    torch.set_num_threads(1)
    nbytes = model.SIZES.get(options.size, model.TINY)
    if options.memory:
        found = peaks(comm, nbytes)
        if comm.rank == 0:
            print(json.dumps({"client": found[0], "server": found[1]}))
        return
    if options.idle_s:
        core = idle(comm, options.idle_s)
        if comm.rank == 0:
            print(json.dumps({"core": core}))
        return
    measured = measure(comm, nbytes, rounds=options.rounds, budget_s=options.budget_s)
    measured = measured.of(f"/{options.size}")
    if comm.rank == 0:
        if options.json:
            print(json.dumps(measured.as_json()))
        else:
            show(make_console(), "MPI", measured)


if __name__ == "__main__":
    main()
