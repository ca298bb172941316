"""Made-up experiments for tests of the report: plausible to look at, measured by nobody."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

# Dice after the last round: of the aggregated model, and the mean of the clients' own.
LEVELS: dict[str, tuple[float | None, float | None]] = {
    "braintorrent": (0.79, 0.76),
    "braintorrent-async": (0.785, 0.755),
    "fedavg": (0.765, 0.72),
    "pooled": (0.81, None),
    "only-client": (None, 0.64),
    "cyclic": (0.74, 0.69),
}
STRUCTURES = ("Anterior", "Posterior")


def experiment(
    *,
    kind: str = "uniform",
    clients: int = 5,
    each: int = 4,
    seeds: int = 3,
    structures: tuple[str, ...] = STRUCTURES,
    names: tuple[str, ...] | None = None,
    rounds: int = 8,
    scans: int = 40,
) -> dict[str, Any]:
    """The content of an experiment.json."""
    random = np.random.default_rng(clients)
    sizes = [each] * clients
    names = names or tuple(f"peer-{i + 1}" for i in range(clients))
    settings: dict[str, Any] = {
        "experiment": kind,
        "data": "made-up",
        "clients": clients,
        "client_names": list(names),
        "scans_per_client": sizes,
        "test_scans": scans,
        "rounds": rounds,
        "epochs": 2,
        "seeds": list(range(seeds)),
        "filters": 16,
        "structures": list(structures),
        "machine": "made up",
    }
    if kind == "bands":
        settings["scans_per_client"] = [5, 9, 2, 1, 3][:clients]
        settings |= {"by": "age", "bands": [[10 * i + 15, 10 * i + 24] for i in range(clients)]}
    methods = {name: _method(random, name, levels, settings) for name, levels in LEVELS.items()}
    return {"settings": settings, "methods": methods, "comparisons": _comparisons(), "also": []}


def _method(
    random: np.random.Generator,
    name: str,
    levels: tuple[float | None, float | None],
    settings: dict[str, Any],
) -> dict[str, Any]:
    aggregated, of_clients = levels
    structures, rounds = settings["structures"], settings["rounds"]
    moves = name.startswith(("braintorrent", "fedavg", "cyclic"))
    found: dict[str, Any] = {key: [] for key in (
        "aggregated", "clients", "client_structures", "scans", "bytes", "seconds", "curve"
    )}  # fmt: skip
    found["structures"] = {structure: [] for structure in structures if aggregated}
    for _ in settings["seeds"]:
        shift = random.normal(0, 0.012)

        def around(level: float, spread: float, shift: float = shift) -> float:
            return float(np.clip(level + shift + random.normal(0, spread), 0, 1))

        end = None if aggregated is None else around(aggregated, 0)
        own = [around(of_clients, 0.02) for _ in settings["client_names"]] if of_clients else []
        found["aggregated"].append(end)
        found["clients"].append(own)
        found["bytes"].append(rounds * settings["clients"] * 4e6 if moves else 0)
        found["seconds"].append(float(random.normal(1800, 200)))
        for i, structure in enumerate(found["structures"]):
            level = (aggregated or 0) + 0.1 * np.cos(i * 1.7)
            found["structures"][structure].append(around(level, 0.01))
        found["client_structures"].append({
            client: {s: around(dice, 0.02) for s in structures}
            for client, dice in zip(settings["client_names"], own, strict=False)
        })  # fmt: skip
        found["scans"].append({
            f"scan-{i:03}": around(end, 0.04) for i in range(settings["test_scans"])
        } if end is not None else {})  # fmt: skip
        found["curve"].append(
            _curve(random, end, float(np.mean(own)) if own else None, rounds,
                   found["bytes"][-1] / rounds)
        )  # fmt: skip
    return found


def _curve(
    random: np.random.Generator, end: float | None, own: float | None, rounds: int, each: float
) -> list[dict[str, Any]]:
    grown = 1 - np.exp(-0.6 * np.arange(1, rounds + 1))
    return [
        {
            "round": i + 1,
            "aggregated": None if end is None else float(end * share + random.normal(0, 0.006)),
            "clients": own if i == rounds - 1 or (end is None and own is not None) else None,
            "bytes": (i + 1) * each,
        }
        for i, share in enumerate(grown)
    ]


def _comparisons() -> list[dict[str, Any]]:
    test = {"test": "Wilcoxon signed-rank over test scans", "scans": 40}
    return [
        {"a": "braintorrent", "b": "fedavg", "what": "aggregated", "difference": 0.025,
         "p": 0.00004} | test,
        {"a": "braintorrent", "b": "fedavg", "what": "clients", "difference": 0.04, "p": 0.01}
        | test,
        {"a": "braintorrent", "b": "pooled", "what": "aggregated", "difference": -0.02, "p": 0.21}
        | test,
    ]  # fmt: skip


def write_experiment(folder: Path, content: dict[str, Any]) -> Path:
    """The folder of an experiment with this experiment.json; no models, no scans."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "experiment.json").write_text(json.dumps(content))
    return folder


def write_events(path: Path, events: list[dict[str, Any]]) -> None:
    """An events.jsonl."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(event) + "\n" for event in events))
