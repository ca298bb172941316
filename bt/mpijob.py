"""bt train under mpirun: every rank is a peer; rank 0 prepares, prints and gathers.

The run's folder must be one that all ranks see, as home folders on clusters are. Losing a rank
ends an MPI job; the checkpoints stay, and the same command goes on from them.
"""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rich.console import Console

from bt import config as configs
from bt import peer, rundir
from bt.config import Config, ConfigError, check_together
from bt.console import make_console
from bt.contacts import Contacts
from bt.errors import USER_ERRORS, in_one_line
from bt.federation import Prepared, gather, prepare
from bt.node import Node
from bt.peer import STOPPING, build_trainer, following, own_scans, stopping
from bt.threads import threads_each
from bt.train import finish, run_name
from bt.wording import peer_names
from transports.base import TransportError, valid_name
from transports.mpi import MPITransport, world

if TYPE_CHECKING:
    from mpi4py import MPI

_LONGEST_NAME = 64
_POLL_S = 0.02  # waiting for the other ranks must leave the processors to them
_LOST_S = 3600.0  # a rank that has not come by then, with all others at the end, never will
LOST = (
    "Under MPI a lost rank ends the job. Every peer keeps its checkpoints: then give the same "
    "command again, and it goes on from them."
)


def train_under_mpi(settings: Callable[[], Config], out: Path | None, *, as_json: bool) -> int:
    """This rank's share of the run. Returns the exit code.

    Where the settings can't be used or the run not be prepared, rank 0 raises why and the others
    return 0: one line, not N.
    """
    comm = world()
    first = comm.rank == 0
    # plain: mpirun gives its ranks a terminal even where its own output goes to a file
    console = (
        make_console(to_stderr=as_json, plain=True) if first else Console(quiet=True, markup=False)
    )
    started = time.monotonic()
    run: Prepared | None = None
    told: dict[str, Any] = {}
    failure: Exception | None = None
    if first:
        try:
            run, folder = _prepare(settings(), out, comm.size, console)
            told = {"out": str(folder), "config": configs.to_toml(run.config)}
        except USER_ERRORS as exc:
            failure = exc
    told = _share(comm, told)
    if failure is not None:
        raise failure
    if not told:
        return 0
    try:
        ended = _take_part(comm, configs.parse(told["config"]), Path(told["out"]), console)
        if ended == "interrupted":
            console.print(STOPPING)  # now: a rank that was lost never comes to the barrier
        _wait(comm.Ibarrier(), _LOST_S)  # all have written their results
        code = 0
        if run is not None:
            with console.status("Evaluating the aggregated model"):
                results = gather(run, Path(told["out"]), ended, time.monotonic() - started)
            network = run.config.model.name
            code = finish(results, Path(told["out"]), network, console, as_json=as_json)
        _wait(comm.Ibarrier())
        return code
    except Exception as exc:
        _end_all(comm, exc)
        raise


def _end_all(comm: MPI.Intracomm, exc: Exception) -> None:
    """The others would wait for this rank for ever."""
    if (line := in_one_line(exc)) is None:
        traceback.print_exc()
        line = "failed, see above"
    Console(stderr=True, markup=False).print(
        f"bt: rank {comm.rank}: {line}", style="red", soft_wrap=True
    )
    comm.Abort(1)


def _prepare(
    config: Config, out: Path | None, ranks: int, console: Console
) -> tuple[Prepared, Path]:
    asked = config.federation
    if ranks < 2:
        raise ConfigError(
            "transport mpi: every rank is a peer, and there is only one; start it as "
            f"mpirun -n {max(2, asked.peers)} bt train"
        )
    if asked.transport != "mpi":
        raise ConfigError(
            f"transport {asked.transport} under mpirun: every rank would start all peers; "
            "use --transport mpi, or leave out mpirun"
        )
    if asked.peers != ranks:
        raise ConfigError(
            f"{asked.peers} peers, as --peers or the config file says, but mpirun started {ranks} "
            f"ranks: use mpirun -n {asked.peers}, or --peers {ranks}"
        )
    check_together(asked)
    run = prepare(config, console)
    folder = rundir.choose(out, run_name(config)).resolve()
    if rundir.enter(folder, run.config):
        console.print(f"Going on with the unfinished run in {folder}", soft_wrap=True)
    console.print(LOST, style="dim", soft_wrap=True)
    return run, folder


def _take_part(comm: MPI.Intracomm, config: Config, out: Path, console: Console) -> str:
    """Run this rank's peer; how it ended, as in `gather`."""
    names = peer_names(comm.size)
    name = names[comm.rank]
    others = [other for other in names if other != name]
    torch.set_num_threads(threads_each(_ranks_here(comm)))
    own = own_scans(config, f"{comm.rank + 1}/{comm.size}")
    trainer = build_trainer(config, name, own, console)
    node = Node(name, others, out / name, config, own.labels)
    folders = {each: out / each for each in names} if comm.rank == 0 else {}
    with stopping(node), following(console, folders, config.federation.rounds):
        outcome = node.run(
            trainer, lambda max_bytes: MPITransport(comm, names, max_message_bytes=max_bytes)
        )
    return "finished" if outcome.reason == "finished" else "interrupted"


class _Ranks(Contacts):
    """The other ranks of the job, in place of addresses."""

    comm: MPI.Intracomm
    names: tuple[str, ...]

    @property
    def neighbours(self) -> int:
        return _ranks_here(self.comm) - 1

    def connect(self, max_message_bytes: int) -> MPITransport:
        return MPITransport(self.comm, self.names, max_message_bytes=max_message_bytes)


def peer_of_job(config: Config, options: Mapping[str, Any]) -> int:
    """bt peer, with these of its options, as a rank: its others are the other ranks.

    Its name defaults to peer-1, peer-2, ... by rank. Returns the exit code.
    """
    for name in ("roster", "keys", "listen", "peer", "announce"):
        if options[name]:
            raise ConfigError(f"--{name} with transport mpi: the others are the other ranks")
    comm = world()
    if comm.size < 2:
        raise ConfigError("transport mpi: the others are the other ranks, and there are none")
    try:
        names = _names(comm, options["name"] or peer_names(comm.size)[comm.rank])
        ranks = _Ranks(names[comm.rank], "", dict.fromkeys({*names} - {names[comm.rank]}))
        ranks.comm, ranks.names = comm, names
        console = make_console(plain=True)
        part, out, by = options["part"], options["out"], options["launched_by"]
        code = peer.run(config, ranks, part, out, console, by)
        _wait(comm.Ibarrier())  # who is done must not spin in MPI's end until all are
        # mpirun would take it for a failure of the whole job; the launcher reads the results
        return 0 if by == "launch" and code == peer.MERGED_NOBODY else code
    except Exception as exc:
        _end_all(comm, exc)
        raise


def _names(comm: MPI.Intracomm, name: str) -> tuple[str, ...]:
    """What every rank calls itself, by rank. Raises ConfigError where that can't be."""
    mine = np.zeros(_LONGEST_NAME + 1, np.uint8)
    text = name.encode()[: mine.size]
    mine[: len(text)] = np.frombuffer(text, np.uint8)
    found = np.empty((comm.size, mine.size), np.uint8)
    _wait(comm.Iallgather(mine, found))
    names = tuple(row.tobytes().rstrip(b"\0").decode(errors="replace") for row in found)
    for each in names:
        if not valid_name(each):
            raise ConfigError(f"--name {each!a:.80}: can't name a peer")
        if names.count(each) > 1:
            raise ConfigError(f"--name {each}: two ranks have it")
    return names


def _ranks_here(comm: MPI.Intracomm) -> int:
    """How many ranks share this rank's machine."""
    from mpi4py import MPI

    here = comm.Split_type(MPI.COMM_TYPE_SHARED)
    ranks = int(here.size)
    here.Free()
    return ranks


def _share(comm: MPI.Intracomm, told: dict[str, Any]) -> dict[str, Any]:
    """Rank 0's `told`, at every rank."""
    text = np.frombuffer(json.dumps(told).encode(), np.uint8)
    size = np.array([text.size], np.int64)
    _wait(comm.Ibcast(size))
    content = text.copy() if comm.rank == 0 else np.empty(int(size[0]), np.uint8)
    _wait(comm.Ibcast(content))
    shared: dict[str, Any] = json.loads(content.tobytes())
    return shared


def _wait(request: MPI.Request, most_s: float = float("inf")) -> None:
    until = time.monotonic() + most_s
    while not request.Test():
        if time.monotonic() > until:
            raise TransportError("a rank is lost, and MPI has not ended the job; start it again")
        time.sleep(_POLL_S)
