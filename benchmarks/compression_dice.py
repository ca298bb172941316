"""What compression costs in Dice: whole federations that differ in nothing but how weights travel.

Peers take turns (the sequential schedule), so a run repeats exactly; a seed decides split, initial
weights and batches. Real training: on two cores, and the hippocampus scans of the Medical
Segmentation Decathlon, a quarter of an hour and more for each seed and each way.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.children import ROOT, Failed
from benchmarks.results import Dice, Found

WAYS = ("none", "int8", "int8+zstd")
JOB = (
    *("--peers", "5", "--scans-per-peer", "4", "--test-scans", "40", "--filters", "16"),
    *("--rounds", "8", "--schedule", "sequential"),
)
QUICK = (
    *("--peers", "2", "--scans-per-peer", "2", "--test-scans", "6", "--filters", "8"),
    *("--rounds", "2", "--epochs", "1", "--schedule", "sequential"),
)


def run(
    quick: bool, progress: Callable[[str], None], data: Path, seeds: int, options: Sequence[str]
) -> Found:
    """Cases dice/compression; `options` of `bt train` win over those here."""
    found = Found()
    scores: dict[str, list[float]] = {way: [] for way in WAYS}
    sizes: dict[str, list[float]] = {way: [] for way in WAYS}
    job = [*(QUICK if quick else JOB), *options]
    for seed in range(seeds):
        for way in WAYS:
            progress(f"Dice with compression {way}, seed {seed}")
            try:
                results = _train(data, [*job, "--compression", way, "--seed", str(seed)])
            except Failed as exc:
                found.trouble(f"dice/{way}", exc)
                return found
            scores[way].append(results["aggregated"]["dice"])
            sizes[way].append(sum(peer["bytes_in"] for peer in results["peers"].values()) / 1e6)
    for way in WAYS:
        mean = statistics.fmean(scores[way])
        against = None if way == WAYS[0] else mean - statistics.fmean(scores[WAYS[0]])
        found.cases[f"dice/{way}"] = Dice(mean, scores[way], statistics.fmean(sizes[way]), against)
    return found


def _train(data: Path, options: Sequence[str]) -> Any:
    """The results of one `bt train`."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "bt", "train", "--data", str(data.resolve())),
                *("--out", f"{folder}/run", "--json", *options),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise Failed(f"bt train ended with {done.returncode}: {lines[-1]}")
    return json.loads(done.stdout)
