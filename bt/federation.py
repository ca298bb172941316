"""bt train: a whole federation from one command, on this machine or under mpirun.

The scans are looked at before anything starts; then N peers train, each from its own part of the
split, over one of the transports; at the end their files are gathered into the run's folder.
"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from bt import rundir
from bt.config import Config, change
from bt.data.cache import cache_folder, load_volumes
from bt.data.checks import BadScan
from bt.data.demo import write_demo_cohort
from bt.data.layouts import Cohort, find_scans
from bt.data.scan import DataError, Scan
from bt.data.splits import Split, split
from bt.evaluation import evaluate
from bt.modelfile import read_model
from bt.models import restore
from bt.node import write_json
from bt.wording import counted, peer_names, the_first, unnamed_labels

DEMO_SUBJECTS = 25


@dataclass(frozen=True)
class Prepared:
    """Scans that were looked at, and who gets which."""

    config: Config
    cohort: Cohort
    split: Split


def prepare(config: Config, console: Console) -> Prepared:
    """Find the scans (or make the demo cohort), split them, read every one that is needed.

    Every preprocessed volume is in the cache afterwards. Raises DataError if a scan can't be
    used, after naming each, unless such scans are to be skipped.
    """
    if config.data.path is None:
        config = change(config, {"path": str(_demo_cohort(console))})
    cohort = find_scans(Path(config.data.path or "."))
    while True:
        cohort = _without(cohort, config.data.exclude)
        parts = split_of(config, cohort)
        unlabelled = [scan for scan in cohort.scans if scan.label_map is None]
        needed = [*unlabelled, *parts.test, *(scan for part in parts.peers for scan in part)]
        started = time.monotonic()
        bad, unnamed = _read_all(needed, cohort, config, console)
        if not bad:
            break
        if not config.data.skip_bad:
            raise DataError(
                f"{len(bad)} of {len(needed)} scans can't be used, see above; mend or remove "
                "them, or go on without them with --skip-bad"
            )
        config = change(config, {"exclude": (*config.data.exclude, *bad)})
    console.print(
        f"{counted(len(needed), 'scan')} ({cohort.layout} layout, "
        f"{counted(cohort.labels.classes - 1, 'structure')}) "
        f"read in {time.monotonic() - started:.1f} s"
    )
    for line in unnamed_labels(unnamed, config.data.path):
        console.print(line, style="yellow", soft_wrap=True)
    console.print(parts.describe(), style="dim", soft_wrap=True)
    return Prepared(config, cohort, parts)


def split_of(config: Config, cohort: Cohort) -> Split:
    """The configured split of a cohort: the same wherever it is asked for."""
    data = config.data
    return split(
        cohort,
        peers=config.federation.peers,
        test_scans=data.test_scans,
        scans_per_peer=data.scans_per_peer,
        how=data.split,
        bands_by=data.bands_by,
        seed=config.seed,
    )


def _demo_cohort(console: Console) -> Path:
    folder = cache_folder() / f"demo-{DEMO_SUBJECTS}"
    with console.status("Making the demo cohort") as status:

        def show(done: int) -> None:
            status.update(f"Making the demo cohort: {done} of {DEMO_SUBJECTS} subjects")

        write_demo_cohort(folder, subjects=DEMO_SUBJECTS, progress=show)
    console.print(f"Demo cohort of {DEMO_SUBJECTS} simulated subjects in {folder}", soft_wrap=True)
    return folder


def _without(cohort: Cohort, ids: tuple[str, ...]) -> Cohort:
    return replace(cohort, scans=tuple(scan for scan in cohort.scans if scan.id not in ids))


def _read_all(
    scans: list[Scan], cohort: Cohort, config: Config, console: Console
) -> tuple[tuple[str, ...], set[int]]:
    """Fill the cache; say what is wrong with scans that can't be used, and return their ids.

    And the label numbers of the others that no table names.
    """
    bad: list[BadScan] = []
    unnamed: set[int] = set()
    with console.status("Reading scans") as status:
        for number, scan in enumerate(scans, start=1):
            status.update(f"Reading scans: {number} of {len(scans)}")
            loaded = load_volumes([scan], cohort.labels, config.data.spacing_mm)
            bad += loaded.bad
            unnamed.update(loaded.unknown_ids)
    lines = [f"unusable: {scan_and_reason}" for scan_and_reason in bad]
    for line in the_first(lines, f"bt data show {config.data.path}"):
        console.print(line, style="red", soft_wrap=True)
    return tuple(one.id for one in bad), unnamed


def gather(run: Prepared, out: Path, ended: str, seconds: float) -> dict[str, Any]:
    """Collect the peers' files into results.json of the run, and evaluate the aggregated model.

    `ended` is "finished", "interrupted" or "failed". Returns the content of results.json.
    """
    names = peer_names(run.config.federation.peers)
    found = {name: rundir.read_results(out / name / "results.json") for name in names}
    peers = {name: results for name, results in found.items() if results is not None}
    results: dict[str, Any] = {
        "complete": ended == "finished",
        "ended": ended,
        "aggregated": _aggregated(run, out, peers),
        "peers": peers,
        "data": {
            "path": run.config.data.path,
            "layout": run.cohort.layout,
            "structures": list(run.cohort.labels.structures[1:]),
            "test": [scan.id for scan in run.split.test],
            "peers": {
                name: [scan.id for scan in part]
                for name, part in zip(names, run.split.peers, strict=True)
            },
        },
        "seconds": round(seconds, 1),
    }
    write_json(out / "results.json", results)
    return results


def _aggregated(run: Prepared, out: Path, peers: dict[str, Any]) -> dict[str, Any] | None:
    """Keep the aggregated model of most peers as the run's, and evaluate it."""
    candidates = [
        (len(results["aggregated_of"]), name)
        for name, results in peers.items()
        if (out / name / "aggregated.safetensors").exists()
    ]
    if not candidates:
        return None
    _, best = max(candidates)
    path = out / "aggregated.safetensors"
    shutil.copyfile(out / best / path.name, path)
    for _, name in candidates:
        (out / name / path.name).unlink()
    data = run.config.data
    network, labels = restore(*read_model(path), factory=run.config.model.name)
    volumes = load_volumes(run.split.test, labels, data.spacing_mm).volumes
    metrics = evaluate(network, volumes, data.view, labels.structures[1:])
    return {
        "dice": metrics.dice,
        "structures": metrics.by_structure(),
        "scans": metrics.by_scan(),
        "peers": peers[best]["aggregated_of"],
    }
