"""bt train: prepare the scans, run the peers one way or another, gather and show the results."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from bt import rundir
from bt.config import Config, ConfigError, change, check_together, folder_of
from bt.console import print_paths, print_results
from bt.data.cache import load_volumes
from bt.federation import Prepared, gather, prepare
from bt.localrun import run_processes, run_threads
from bt.node import make_trainer
from bt.precision import Precision
from bt.report.cli import report_of_run
from bt.robust import check_enough
from bt.threads import threads_each
from transports.folder import check_folder

EXIT_CODES = {"finished": 0, "failed": 1, "merged nobody": 3, "interrupted": 130}


def train(config: Config, out: Path | None, console: Console, *, as_json: bool) -> int:
    """A whole run on this machine. Returns the exit code."""
    if config.federation.peers < 2:
        raise ConfigError("a federation needs at least 2 peers")
    check_enough(config.federation.merge, config.federation.peers - 1, config.federation.fanout)
    check_together(config.federation)
    rundir.refuse_finished(out)
    _check_shared(config, out)
    rundir.refuse_unwritable(rundir.choose(out, run_name(config)))
    started = time.monotonic()
    run = prepare(config, console)
    precision = settle_precision(run, console)  # a network or device that there is not ends here
    folder = rundir.choose(out, run_name(config))
    _check_shared(config, folder)
    if rundir.enter(folder, run.config):
        console.print(f"Going on with the unfinished run in {folder}", soft_wrap=True)
    run = replace(run, config=change(run.config, {"precision": precision.name}))
    start = run_threads if config.federation.transport == "inproc" else run_processes
    with interruptible():
        ended = start(run, folder, console)
    with console.status("Evaluating the aggregated model"):
        results = gather(run, folder, ended, time.monotonic() - started)
    return finish(results, folder, config.model.name, console, as_json=as_json)


def _check_shared(config: Config, out: Path | None) -> None:
    """A new run needs a folder of its own to share: peers of another one would join in."""
    if (shared := folder_of(config.federation.transport)) is None:
        return
    check_folder(shared)
    new = out is not None and not (out / "config.toml").exists()
    if new and next(Path(shared).iterdir(), None) is not None:
        raise ConfigError(f"{shared} is not empty: a new run needs a folder of its own")


def settle_precision(run: Prepared, console: Console) -> Precision:
    """Time a few steps while the machine is still quiet, for all peers; say what was chosen."""
    torch.set_num_threads(threads_each(run.config.federation.peers))  # as the peers will have
    labels, data = run.cohort.labels, run.config.data
    volumes = load_volumes(run.split.peers[0][:1], labels, data.spacing_mm).volumes
    with console.status("Making the network"):
        precision = make_trainer(run.config, "", labels, volumes, ()).precision
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    console.print(f"{precision.name} on {precision.device} ({precision.reason})", soft_wrap=True)
    return precision


def finish(
    results: dict[str, Any], folder: Path, network: str, console: Console, *, as_json: bool
) -> int:
    """Show the results and where they are, and write the report. Returns the exit code."""
    print_results(console, results)
    paths = [("results", folder / "results.json"), ("config as run", folder / "config.toml")]
    if results["aggregated"] is not None:
        paths.insert(0, ("aggregated model", folder / "aggregated.safetensors"))
    if results["peers"] and (page := report_of_run(folder, network, console)) is not None:
        paths.append(("report", page))
    print_paths(console, paths)
    ended = results["ended"]
    if ended == "finished" and not any(peer["merged"] for peer in results["peers"].values()):
        ended = "merged nobody"
        console.print(
            "No peer merged another's model: this was no federation; try more --rounds.",
            style="red",
        )
    if as_json:
        typer.echo(json.dumps(results, indent=2))
    return EXIT_CODES[ended]


@contextmanager
def interruptible() -> Iterator[None]:
    """SIGTERM, like Ctrl-C, raises KeyboardInterrupt, even if the parent ignored SIGINT."""
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run_name(config: Config) -> str:
    """The run's folder in runs/, after its data."""
    if config.data.path is None:
        return "demo"
    path = Path(config.data.path)
    return path.stem if path.is_file() else path.name
