"""bt train under mpirun: every rank is a peer; rank 0 prepares, prints and gathers.

The run's folder must be one that all ranks see, as home folders on clusters are. Losing a rank
ends an MPI job; the checkpoints stay, and the same command goes on from them.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from bt import config as configs
from bt import rundir
from bt.config import Config, ConfigError
from bt.console import make_console
from bt.errors import USER_ERRORS
from bt.federation import Prepared, gather, prepare
from bt.localrun import STOPPING
from bt.node import Node, peer_names
from bt.peer import build_trainer, following, stopping
from bt.train import finish, run_name
from transports.mpi import MPITransport, launched_size, world

if TYPE_CHECKING:
    from mpi4py import MPI

_POLL_S = 0.02  # waiting for the other ranks must leave the processors to them


def launched_by_mpi() -> bool:
    """Whether mpirun or srun started this process as one of several."""
    return (launched_size() or 0) > 1


def train_under_mpi(
    config: Config, out: Path | None, *, as_json: bool, peers_given: int | None
) -> int:
    """This rank's share of the run. Returns the exit code."""
    comm = world()
    first = comm.rank == 0
    # plain: mpirun gives its ranks a terminal even where its own output goes to a file
    console = (
        make_console(to_stderr=as_json, plain=True) if first else Console(quiet=True, markup=False)
    )
    started = time.monotonic()
    try:
        run: Prepared | None = None
        told: dict[str, Any] = {}
        if first:
            try:
                run, folder = _prepare(config, out, comm.size, peers_given, console)
                told = {"out": str(folder), "config": configs.to_toml(run.config)}
            except USER_ERRORS as exc:
                told = {"error": str(exc)}
        told = _share(comm, told)
        if "error" in told:
            if first:
                console.print(f"bt: {told['error']}", style="red", soft_wrap=True)
            _wait(comm.Ibarrier())
            return 1
        ended = _take_part(comm, configs.parse(told["config"]), Path(told["out"]), console)
        _wait(comm.Ibarrier())  # all have written their results
        code = 0
        if run is not None:
            if ended == "interrupted":
                console.print(STOPPING)
            with console.status("Evaluating the aggregated model"):
                results = gather(run, Path(told["out"]), ended, time.monotonic() - started)
            code = finish(results, Path(told["out"]), console, as_json=as_json)
        _wait(comm.Ibarrier())
        return code
    except USER_ERRORS as exc:
        Console(stderr=True, markup=False).print(f"bt: rank {comm.rank}: {exc}", style="red")
        comm.Abort(1)  # the others would wait for this rank for ever
        raise


def _prepare(
    config: Config, out: Path | None, ranks: int, peers_given: int | None, console: Console
) -> tuple[Prepared, Path]:
    if peers_given is not None and peers_given != ranks:
        raise ConfigError(
            f"--peers {peers_given}, but mpirun started {ranks} ranks: one is a peer"
        )
    if ranks < 2:
        raise ConfigError("a federation needs at least 2 ranks: mpirun -n 5 bt train")
    federation = replace(config.federation, peers=ranks, transport="mpi")
    run = prepare(replace(config, federation=federation), console)
    folder = rundir.choose(out, run_name(config)).resolve()
    if rundir.enter(folder, run.config):
        console.print(f"Going on with the unfinished run in {folder}")
    return run, folder


def _take_part(comm: MPI.Intracomm, config: Config, out: Path, console: Console) -> str:
    """Run this rank's peer; how it ended, as in `gather`."""
    names = peer_names(comm.size)
    name = names[comm.rank]
    others = [other for other in names if other != name]
    torch.set_num_threads(_threads(comm))
    trainer, labels = build_trainer(config, name, f"{comm.rank + 1}/{comm.size}", console)
    node = Node(name, others, out / name, config, labels)
    folders = {each: out / each for each in names} if comm.rank == 0 else {}
    with stopping(node), following(console, folders, config.federation.rounds):
        outcome = node.run(
            trainer, lambda max_bytes: MPITransport(comm, names, max_message_bytes=max_bytes)
        )
    return "finished" if outcome.reason == "finished" else "interrupted"


def _threads(comm: MPI.Intracomm) -> int:
    """This rank's share of its machine's processors, or what OMP_NUM_THREADS says."""
    if (stated := os.environ.get("OMP_NUM_THREADS", "")).isdecimal():
        return max(1, int(stated))
    from mpi4py import MPI

    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = here.size
    here.Free()
    return max(1, min(len(os.sched_getaffinity(0)), (os.cpu_count() or 1) // ranks))


def _share(comm: MPI.Intracomm, told: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's `told`, at every rank."""
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    size = np.array([text.size], np.int64)
    _wait(comm.Ibcast(size))
    content = text.copy() if comm.rank == 0 else np.empty(int(size[0]), np.uint8)
    _wait(comm.Ibcast(content))
    shared: dict[str, Any] = json.loads(content.tobytes())
    return shared


def _wait(request: MPI.Request) -> None:
    while not request.Test():
        time.sleep(_POLL_S)
