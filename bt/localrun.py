"""How the peers of `bt train` run on one machine: as processes (zmq), or as threads (inproc)."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

import bt
from bt.config import Config, folder_of
from bt.console import Progress
from bt.data.cache import load_volumes
from bt.federation import Prepared
from bt.node import Node, make_trainer
from bt.peer import MERGED_NOBODY, STOPPING
from bt.threads import threads_each
from bt.wording import peer_names
from launchers.base import Command
from launchers.local import LocalLauncher
from transports.inproc import Network

_FOLLOW_S = 0.5  # between two looks at the peers' logs
_GRACE_S = 4.0  # for peers to leave after Ctrl-C


def run_processes(run: Prepared, out: Path, console: Console) -> str:
    """One `bt peer` process per peer, over ipc:// or a folder; how it ended, as in `gather`."""
    names = peer_names(run.config.federation.peers)
    sockets = Path(tempfile.mkdtemp(prefix="bt-"))  # not in `out`: socket paths must be short
    launcher = LocalLauncher()
    plan = launcher.plan(
        tuple(
            _peer_command(number, names, out, sockets, run.config) for number in range(len(names))
        )
    )
    try:
        children = launcher.start(plan)
        try:
            with Progress(console, _folders(names, out), run.config.federation.rounds) as progress:
                while None in (codes := children.wait(_FOLLOW_S)).values():
                    progress.update()
        except KeyboardInterrupt:
            console.print(STOPPING)
            return "interrupted"
        finally:
            children.stop(_GRACE_S)
    finally:
        shutil.rmtree(sockets, ignore_errors=True)
    failed = [name for name, code in codes.items() if code not in (0, MERGED_NOBODY)]
    for name in failed:
        last = last_line(out / name / "log.txt")
        line = f"{name} failed (exit code {codes[name]}): {last}"
        console.print(line, style="red", soft_wrap=True)
    return "failed" if failed else "finished"


def _peer_command(
    number: int, names: tuple[str, ...], out: Path, sockets: Path, config: Config
) -> Command:
    name, folder = names[number], folder_of(config.federation.transport)
    argv = ["peer", "--config", str(out / "config.toml")]
    argv += ["--name", name, "--part", f"{number + 1}/{len(names)}", "--out", str(out / name)]
    argv += ["--precision", config.train.precision, "--launched-by", "train"]
    if folder is None:
        argv += ["--listen", f"ipc://{sockets / name}"]
    for other in names:
        if other != name:
            argv += ["--peer", other if folder is not None else f"{other}=ipc://{sockets / other}"]
    return bt_command(name, argv, out / name / "log.txt", threads_each(len(names)))


def bt_command(name: str, arguments: Sequence[str], log: Path, threads: int) -> Command:
    """`bt` with these arguments, from this source, as a process on `threads` processors."""
    # -P: a file called torch.py in the folder one happens to be in must not be imported
    argv = (sys.executable, "-P", "-m", "bt", *arguments)
    source = str(Path(bt.__file__).parents[1])  # a bare checkout runs too
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    return Command(name, argv, {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": path}, log)


def _folders(names: tuple[str, ...], out: Path) -> dict[str, Path]:
    return {name: out / name for name in names}


def last_line(log: Path) -> str:
    """What a process said last."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def run_threads(run: Prepared, out: Path, console: Console) -> str:
    """All peers in this process over in-process queues; how it ended, as in `gather`."""
    names = peer_names(run.config.federation.peers)
    torch.set_num_threads(threads_each(len(names)))
    labels, data = run.cohort.labels, run.config.data
    test = load_volumes(run.split.test, labels, data.spacing_mm).volumes
    network = Network(names)
    nodes, threads, failures = [], [], []
    for name, scans in zip(names, run.split.peers, strict=True):
        volumes = load_volumes(scans, labels, data.spacing_mm).volumes
        trainer = make_trainer(run.config, name, labels, volumes, test)
        others = [other for other in names if other != name]
        node = Node(name, others, out / name, run.config, labels)

        def work(node: Node = node, trainer=trainer) -> None:  # type: ignore[no-untyped-def]
            try:
                node.run(trainer, lambda max_bytes: network.join(node.name))
            except Exception as exc:
                failures.append(f"{node.name} failed: {exc}")

        nodes.append(node)
        threads.append(threading.Thread(target=work, name=name))
    with Progress(console, _folders(names, out), run.config.federation.rounds) as progress:
        for thread in threads:
            thread.start()
        interrupted = False
        while any(thread.is_alive() for thread in threads):
            try:
                progress.update()
                threading.Event().wait(_FOLLOW_S)
            except KeyboardInterrupt:
                interrupted = True
                for node in nodes:
                    node.stop("interrupted")
    for line in failures:
        console.print(line, style="red", soft_wrap=True)
    if interrupted:
        console.print(STOPPING)
        return "interrupted"
    return "failed" if failures else "finished"
