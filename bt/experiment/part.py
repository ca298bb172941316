"""One part of an experiment: one method trained once, scored, and written to its folder."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bt.data.cache import load_volumes
from bt.data.labels import LabelTable
from bt.data.layouts import find_scans
from bt.data.scan import DataError
from bt.data.volumes import Volume
from bt.evaluation import Metrics, evaluate
from bt.eventlog import EventLog
from bt.experiment.clients import Clients, make_trainers
from bt.experiment.plan import RESULT, Part
from bt.experiment.strategies import STRATEGIES, Round
from bt.metrics import mean_of
from bt.modelfile import write_model
from bt.models import build, describe
from bt.node import write_json
from bt.precision import Precision
from bt.trainer import FitMetrics
from bt.weights import FlatWeights
from launchers import lifeline

EVENTS = "events.jsonl"


def run_part(folder: Path, threads: int) -> None:
    """Train and score the part in `folder`; leaves result.json and aggregated.safetensors."""
    lifeline.watch(lambda: os._exit(1))  # what is written is whole or not there
    if threading.current_thread() is threading.main_thread():
        torch.set_num_threads(threads)
    part = Part.read(folder)
    labels, volumes = load(part)
    log = EventLog(folder / EVENTS)
    try:
        write_json(folder / RESULT, _run(part, labels, volumes, folder, log))
    finally:
        log.close()


def load(part: Part) -> tuple[LabelTable, dict[str, Volume]]:
    """The label table and all volumes of a part, by id. Raises DataError."""
    data = part.config.data
    cohort = find_scans(Path(data.path or "."))
    wanted = {*part.test, *(scan for client in part.clients for scan in client)}
    scans = [scan for scan in cohort.scans if scan.id in wanted]
    loaded = load_volumes(scans, cohort.labels, data.spacing_mm)
    volumes = {volume.id: volume for volume in loaded.volumes}
    missing = wanted - volumes.keys()
    if missing:
        raise DataError(f"{data.path}: {sorted(missing)[0]} can't be used any more")
    return cohort.labels, volumes


def _run(
    part: Part, labels: LabelTable, volumes: Mapping[str, Volume], folder: Path, log: EventLog
) -> dict[str, Any]:
    def told(name: str, metrics: FitMetrics) -> None:
        seconds = round(metrics.seconds, 3)
        log.write("fit", client=name, steps=metrics.steps, loss=metrics.loss, seconds=seconds)

    trainers = make_trainers(part, labels, volumes)
    precision = next(iter(trainers.values())).precision
    judge = Judge(part, labels, [volumes[scan] for scan in part.test], precision, log)
    clients = Clients(
        trainers,
        rounds=part.config.federation.rounds,
        epochs=part.config.train.epochs,
        merge=part.config.federation.merge,
        stale_weight=part.config.federation.stale_weight,
        told=told,
    )
    method = STRATEGIES[part.method]
    curve = []
    seconds, last, began = 0.0, Round(None), time.perf_counter()
    for number, last in enumerate(method(clients, part.config.seed, part.choices.fanout), start=1):
        seconds += time.perf_counter() - began
        aggregated = None if last.aggregated is None else judge.score(last.aggregated)
        of_clients: list[float | None] = []
        if part.choices.evaluate_clients and number < clients.rounds:
            of_clients = [judge.score(model).dice for model in last.clients.values()]
        point = {
            "round": number,
            "aggregated": aggregated and aggregated.dice,
            "clients": mean_of(of_clients),
            "bytes": last.nbytes,
        }
        log.write("round", **point)
        curve.append(point)
        began = time.perf_counter()
    # A client's own batch-norm layers are in its own model.
    scores = {name: judge.score(model) for name, model in last.clients.items()}
    curve[-1]["clients"] = mean_of(metrics.dice for metrics in scores.values())
    if last.aggregated is not None:
        about = describe(part.config, labels) | {"experiment": part.name}
        write_model(folder / "aggregated.safetensors", last.aggregated, about)
    return {
        "part": part.to_json(),
        "structures": list(labels.structures[1:]),
        "aggregated": aggregated and aggregated.dice,
        "aggregated_structures": aggregated and aggregated.by_structure(),
        "aggregated_scans": aggregated and aggregated.by_scan(),
        "clients": {name: metrics.dice for name, metrics in scores.items()},
        "client_structures": {name: metrics.by_structure() for name, metrics in scores.items()},
        "client_scans": {name: metrics.by_scan() for name, metrics in scores.items()},
        "bytes": last.nbytes,
        "seconds": round(seconds, 2),
        "curve": curve,
    }


@dataclass
class Judge:
    """Scores models on the test scans, in the arithmetic they were trained in."""

    part: Part
    labels: LabelTable
    test: list[Volume]
    precision: Precision
    log: EventLog

    def __post_init__(self) -> None:
        network = build(self.part.config.model, self.labels.classes, seed=0)
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._network = network.to(self.precision.device)

    def score(self, weights: FlatWeights) -> Metrics:
        weights.load_into(self._network)
        data, structures = self.part.config.data, self.labels.structures[1:]
        metrics = Metrics(tuple(structures), ())
        for volume in self.test:
            of_one = evaluate(self._network, [volume], data.view, structures, self.precision)
            metrics = replace(metrics, scans=metrics.scans + of_one.scans)
            self.log.write("score", scan=volume.id)
        return metrics
