"""What the parts of an experiment add up to: experiment.json."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import wilcoxon

from bt.experiment import plan
from bt.experiment.plan import Part
from bt.metrics import mean_of
from bt.wording import counted

WILCOXON = "Wilcoxon signed-rank over test scans"
_COMPARED = {  # with whom each of BrainTorrent's schedules is compared, on what
    plan.FEDAVG: ("aggregated", "clients"),
    plan.POOLED: ("aggregated",),
    plan.ONLY_CLIENT: ("clients",),
    plan.CYCLIC: ("aggregated",),
}

Results = Mapping[str, Sequence[Mapping[str, Any]]]  # method -> result.json of each seed


def gather(
    experiment: str,
    parts: Sequence[Part],
    results: Sequence[Mapping[str, Any]],
    bands: Sequence[Sequence[float]] | None,
) -> dict[str, Any]:
    """Settings, methods and comparisons of all parts on one division of the scans."""
    first = parts[0]
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for part, result in zip(parts, results, strict=True):
        by_method.setdefault(part.method, []).append(result)
    config = first.config
    settings: dict[str, Any] = {
        "experiment": experiment,
        "data": Path(config.data.path or "").name,
        "clients": len(first.clients),
        "client_names": list(first.names),
        "scans_per_client": [len(client) for client in first.clients],
        "test_scans": len(first.test),
        "rounds": config.federation.rounds,
        "epochs": config.train.epochs,
        "seeds": sorted({part.config.seed for part in parts}),
        "filters": config.model.filters,
        "model": config.model.name,
        "batch_size": config.train.batch_size,
        "learning_rate": config.train.learning_rate,
        "halve_every": config.train.halve_every,
        "crop": config.train.crop,
        "precision": config.train.precision,
        "view": config.data.view,
        "slice_step": config.data.slice_step,
        "spacing_mm": config.data.spacing_mm,
        "margin_mm": config.data.margin_mm,
        "adam": first.choices.adam,
        "batch_norm": first.choices.batch_norm,
        "start": first.choices.start,
        "fanout": first.choices.fanout,
        "merge": config.federation.merge,
        "stale_weight": config.federation.stale_weight,
        "structures": list(results[0]["structures"]),
        "machine": machine(),
    }
    if bands is not None:
        settings |= {"by": config.data.bands_by, "bands": [list(band) for band in bands]}
    return {
        "settings": settings,
        "methods": {method: _method(of_seeds) for method, of_seeds in by_method.items()},
        "comparisons": compare(by_method),
    }


def _method(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    structures = results[0]["aggregated_structures"] or {}
    return {
        "aggregated": [result["aggregated"] for result in results],
        "clients": [list(result["clients"].values()) for result in results],
        "structures": {
            name: [result["aggregated_structures"][name] for result in results]
            for name in structures
        },
        "client_structures": [result["client_structures"] for result in results],
        "scans": [result["aggregated_scans"] or {} for result in results],
        "client_scans": [result["client_scans"] for result in results],
        "bytes": [result["bytes"] for result in results],
        "seconds": [result["seconds"] for result in results],
        "curve": [result["curve"] for result in results],
    }


def compare(results: Results) -> list[dict[str, Any]]:
    """BrainTorrent, on both schedules, with every other method it was run beside."""
    found = []
    for mine in (plan.BRAINTORRENT, plan.ASYNC):
        for other, kinds in _COMPARED.items():
            for what in kinds if mine in results and other in results else ():
                test = paired_test(_by_scan(results[mine], what), _by_scan(results[other], what))
                found.append({"a": mine, "b": other, "what": what} | test)
    return found


def paired_test(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, Any]:
    """Mean difference of two methods over the test scans, and how probable it is by chance.

    The scans are the sample, not the seeds: each has its mean over seeds. Two-sided; `p` is None
    where there is no scan.
    """
    scans = sorted(one.keys() & other.keys())
    differences = np.array([one[scan] - other[scan] for scan in scans])
    if not scans:
        difference = p = None
    else:
        difference = float(differences.mean())
        p = float(wilcoxon(differences).pvalue) if differences.any() else 1.0
    return {"difference": difference, "p": p, "scans": len(scans), "test": WILCOXON}


def _by_scan(results: Sequence[Mapping[str, Any]], what: str) -> dict[str, float]:
    """Dice of every test scan, mean over seeds; of clients, their mean."""
    scores: dict[str, list[float]] = {}
    for result in results:
        of_models = [result["aggregated_scans"]]
        if what == "clients":
            of_models = list(result["client_scans"].values())
        for scan in of_models[0] or {}:
            mean = mean_of(of_model[scan] for of_model in of_models)
            if mean is not None:
                scores.setdefault(scan, []).append(mean)
    return {scan: float(np.mean(values)) for scan, values in scores.items()}


def machine() -> str:
    """What it ran on: "2 cores, Intel(R) Xeon(R) Processor, torch 2.13.0"."""
    words = [counted(len(os.sched_getaffinity(0)), "core")]
    try:
        info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        words += [line.partition(":")[2].strip() for line in info.splitlines()
                  if line.startswith("model name")][:1]  # fmt: skip
    except OSError:
        pass
    if torch.cuda.is_available():
        words.append(torch.cuda.get_device_name())
    return ", ".join([*words, f"torch {torch.__version__}"])
