"""bt experiment from beginning to end: divide the scans, run what is missing, gather, show."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import typer
from rich.console import Console

from bt import rundir
from bt.config import Config, ConfigError, change
from bt.console import print_paths
from bt.data.cache import load_volumes
from bt.data.scan import DataError
from bt.experiment import plan, screen
from bt.experiment.costs import Costs, measure
from bt.experiment.jobs import run_all
from bt.experiment.plan import Choices, Part
from bt.experiment.results import gather
from bt.federation import Prepared, prepare
from bt.node import write_json
from bt.report.cli import report_of_run
from bt.robust import check_enough
from bt.train import interruptible, run_name

INTERRUPTED = 130
STOPPING = "Stopping. Finished parts are kept: the same command goes on from them."


@dataclass(frozen=True)
class Experiment:
    """What was asked for. `scans_per_client`: none (all, divided), one, or one per `clients`."""

    name: str  # uniform or bands
    config: Config
    clients: tuple[int, ...]
    scans_per_client: tuple[int, ...]
    methods: tuple[str, ...]
    seeds: int
    choices: Choices

    def __post_init__(self) -> None:
        plan.check_methods(self.methods)
        plan.checked(self.choices)
        if self.seeds < 1:
            raise ConfigError(f"--seeds {self.seeds}: expected at least 1")
        option = "bands" if self.name == "bands" else "clients"
        for count in self.clients:
            if count < 2:
                raise ConfigError(f"--{option} {count}: a federation needs at least 2 clients")
            check_enough(self.config.federation.merge, count - 1, self.choices.fanout)
        if len(set(self.clients)) < len(self.clients):
            raise ConfigError(f"--{option}: each number at most once")
        if len(self.scans_per_client) not in (0, 1, len(self.clients)):
            raise ConfigError(
                f"--scans-per-client: {len(self.scans_per_client)} numbers for "
                f"{len(self.clients)} of --{option}; give one for all, or one for each"
            )
        if self.config.data.test_scans < 1:
            raise ConfigError("--test-scans 0: an experiment needs scans to test on")

    def divisions(self) -> list[Config]:
        """A config per number of clients."""
        each: list[int | None] = [*self.scans_per_client] or [None]
        each = each if len(each) > 1 else each * len(self.clients)
        return [
            change(replace(self.config, seed=0), {"peers": count, "scans_per_peer": scans})
            for count, scans in zip(self.clients, each, strict=True)
        ]


def run(
    experiment: Experiment,
    out: Path | None,
    jobs: int,
    console: Console,
    *,
    dry_run: bool,
    as_json: bool = False,
) -> int:
    """Returns the exit code."""
    if jobs < 1:
        raise ConfigError(f"--jobs {jobs}: expected at least 1")
    out = out or Path("runs") / f"{run_name(experiment.config)}-{experiment.name}"
    with interruptible():
        try:
            divided = [prepare(config, console) for config in experiment.divisions()]
            if not dry_run:
                rundir.lock(out)
            costs = _measure(divided[0], out, console)
            divided = [_settle(one, costs) for one in divided]
            parts = [
                plan.parts_of(
                    one.config, one.split, experiment.methods, experiment.seeds, experiment.choices
                )
                for one in divided
            ]
            everything = plan.share_pooled([part for of_one in parts for part in of_one])
            known = {part: plan.result_of(part, out) for part in everything}
            todo = [part for part, result in known.items() if result is None]
            if dry_run:
                screen.print_plan(console, everything, todo, costs, jobs)
                return 0
            screen.print_estimate(console, todo, costs, jobs)
            if todo:
                run_all(todo, out, jobs, costs, console)
            content = _content(experiment, divided, parts, everything, out)
        except KeyboardInterrupt:
            console.print(STOPPING)
            return INTERRUPTED
    write_json(out / "experiment.json", content)
    screen.print_results(console, content)
    page = report_of_run(out, experiment.config.model.name, console)
    paths = [("results", out / "experiment.json"), ("models", out / "parts")]
    print_paths(console, [*paths, *([("report", page)] if page else [])])
    if as_json:
        typer.echo(json.dumps(content, indent=2))
    return 0


def _measure(run: Prepared, out: Path, console: Console) -> Costs:
    """With the precision of the parts that are done already, if any are."""
    config = run.config
    if config.train.precision == "auto" and (settled := _settled_precision(out)):
        config = change(config, {"precision": settled})
    torch.set_num_threads(1)  # as the parts will have
    labels, spacing_mm = run.cohort.labels, config.data.spacing_mm
    with console.status("Timing some steps"):
        train = load_volumes(run.split.peers[0], labels, spacing_mm).volumes
        (test,) = load_volumes(run.split.test[:1], labels, spacing_mm).volumes
        costs = measure(config, labels, train, test)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    return costs


def _settled_precision(out: Path) -> str | None:
    """All parts compute alike, also those of a later start."""
    for path in sorted(out.glob(f"parts/*/*/*/{plan.RESULT}")):
        result = rundir.read_results(path)
        if result is not None:
            return Part.from_json(result["part"]).config.train.precision
    return None


def _settle(run: Prepared, costs: Costs) -> Prepared:
    return replace(run, config=change(run.config, {"precision": costs.precision.name}))


def _content(
    experiment: Experiment,
    divided: Sequence[Prepared],
    parts: Sequence[Sequence[Part]],
    everything: Sequence[Part],
    out: Path,
) -> Mapping[str, Any]:
    """experiment.json: the first division, and the further ones in `also`."""
    results = iter([plan.result_of(part, out) for part in everything])
    found = []
    for run, of_one in zip(divided, parts, strict=True):
        own = []
        for part in of_one:
            result = next(results)
            if result is None:
                raise DataError(f"{out}: {part.name} has no result any more")
            own.append(result)
        found.append(gather(experiment.name, of_one, own, _bands(run)))
    return found[0] | {"also": found[1:]}


def _bands(run: Prepared) -> list[tuple[float, float]] | None:
    column = run.config.data.bands_by
    if column is None:
        return None
    values = [[float(scan.covariates[column]) for scan in part] for part in run.split.peers]
    return [(min(band), max(band)) for band in values]
