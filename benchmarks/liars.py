"""What one liar among five does to the aggregated model, by merge rule: real scans, real training.

The federation is simulated as in `bt experiment`: the product's protocol, merge and trainer in one
process. Only what the liar serves is changed: noise, or its update turned round. The aggregated
model is formed as an honest peer would, by the same rule, the liar's model included.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks.results import Found, Lied
from bt.config import Config, change
from bt.eventlog import EventLog
from bt.experiment.clients import Clients, make_trainers
from bt.experiment.part import Judge, load
from bt.experiment.plan import ASYNC, Choices, Part, parts_of
from bt.experiment.simulation import Federation
from bt.federation import prepare
from bt.outcome import Diverged
from bt.schedule import Async
from bt.weights import FlatWeights

RULES = ("mean", "clipped", "median", "trimmed")
NOBODY = "nobody"
STRENGTH = 10.0  # of a lie, in what would be honest
LIES = (NOBODY, "noise", "flipped")
JOB = {
    "peers": 5, "scans_per_peer": 2, "test_scans": 12, "filters": 8, "rounds": 5,
    "view": "sagittal", "precision": "float32",
}  # fmt: skip
QUICK = JOB | {"scans_per_peer": 1, "test_scans": 2, "filters": 2, "rounds": 2, "epochs": 1}


def run(quick: bool, progress: Callable[[str], None], data: Path, seeds: int, jobs: int) -> Found:
    """Cases liars/LIE/RULE, `jobs` trainings at a time."""
    found = Found()
    config = change(Config(), {"path": str(data.resolve()), **(QUICK if quick else JOB)})
    prepared = prepare(config, Console(quiet=True))
    parts = parts_of(prepared.config, prepared.split, [ASYNC], seeds, Choices())
    cases = [(lie, rule) for lie in LIES for rule in RULES]
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        asked = {
            case: [pool.submit(_aggregated_dice, part, *case) for part in parts] for case in cases
        }
        scores: dict[tuple[str, str], list[float]] = {}
        for lie, rule in cases:
            progress(f"{len(scores)} of {len(cases)} federations: {rule}, {lie} lies")
            scores[lie, rule] = [each.result() for each in asked[lie, rule]]
    honest = statistics.fmean(scores[NOBODY, RULES[0]])
    for (lie, rule), by_seed in scores.items():
        mean = statistics.fmean(by_seed)
        found.cases[f"liars/{lie}/{rule}"] = Lied(mean, by_seed, mean - honest)
    return found


def _aggregated_dice(part: Part, lie: str, rule: str) -> float:
    """Of a federation whose last client lies."""
    labels, volumes = load(part)
    trainers = make_trainers(part, labels, volumes)
    precision = next(iter(trainers.values())).precision
    train = part.config.train
    clients = _Clients(
        trainers, rounds=part.config.federation.rounds, epochs=train.epochs, merge=rule
    )
    federation = _Federation(clients, lie, part.config.seed)
    try:
        for _ in federation.updates():
            pass
    except Diverged:
        return 0.0  # of nothing that could be used
    with tempfile.TemporaryDirectory() as folder:
        log = EventLog(Path(folder) / "events.jsonl")
        judge = Judge(part, labels, [volumes[scan] for scan in part.test], precision, log)
        dice = judge.score(clients.average(federation.told, rule)).dice
        log.close()
    return dice or 0.0


class _Clients(Clients):
    """`began` has what the last fine-tune of each began with."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.began: dict[str, FlatWeights] = {}

    def fit(self, name: str, start: FlatWeights | None) -> FlatWeights:
        self.began[name] = start or self.initial(name)
        return super().fit(name, start)


class _Federation(Federation):
    """`told` has what each client serves."""

    def __init__(self, clients: _Clients, lie: str, seed: int) -> None:
        super().__init__(clients, Async(), seed)
        self._clients = clients
        self._lie = lie
        self._chance = torch.Generator().manual_seed(seed)
        self.told: dict[str, FlatWeights] = {}

    def published(self, name: str) -> FlatWeights:
        told = super().published(name)
        if name == self.clients.names[-1] and self._lie != NOBODY:
            told = self._lied(told, self._clients.began[name])
        self.told[name] = told
        return told

    def _lied(self, model: FlatWeights, began: FlatWeights) -> FlatWeights:
        lied = model.copy()
        for name, values in lied.tensors().items():
            if not values.is_floating_point():
                continue
            if self._lie == "noise":
                noise = torch.empty_like(values).normal_(generator=self._chance)
                values.copy_(STRENGTH * values.square().mean().sqrt() * noise)
            else:
                start = began.tensors()[name]
                values.copy_(start - STRENGTH * (values - start))
        return lied
