"""From a folder to a Study. Whatever is missing or unreadable in it is named, and left out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bt import config as configs
from bt.config import Config, ConfigError
from bt.report.history import number, read_history
from bt.report.study import (
    BRAINTORRENT,
    Comparison,
    Division,
    Method,
    Point,
    ReportError,
    Scores,
    Study,
)
from bt.rundir import read_results

EXPERIMENT, RESULTS, CONFIG, EVENTS = (
    "experiment.json",
    "results.json",
    "config.toml",
    "events.jsonl",
)
_DEFAULT_RATE = "0.001 at 64 filters; of a narrower QuickNAT more, as 64 / filters"
_SETTINGS = {  # of experiment.json, for people
    "rounds": "rounds",
    "epochs": "epochs per fine-tune",
    "model": "network",
    "filters": "filters",
    "view": "slices",
    "slice_step": "trained on every n-th slice",
    "spacing_mm": "resampled to, mm",
    "batch_size": "batch size",
    "learning_rate": "learning rate",
    "halve_every": "learning rate halved every, updates",
    "precision": "precision",
    "adam": "Adam's moments",
    "batch_norm": "batch norm",
    "start": "initial weights",
    "fanout": "peers merged at most",
    "stale_weight": "weight of a model a round old",
    "machine": "machine",
}


def read_study(folder: Path) -> Study:
    """Of an experiment, a run of `bt train`, or a peer's folder. Raises ReportError."""
    if not folder.is_dir():
        raise ReportError(f"{folder}: no such folder; name the folder of a run or an experiment")
    if (folder / EXPERIMENT).exists():
        return _experiment(folder)
    logs = sorted(folder.glob(f"*/{EVENTS}"))
    if (folder / EVENTS).exists():
        return _run(folder, {folder.resolve().name: folder}, "peer")
    if logs or (folder / CONFIG).exists() or (folder / RESULTS).exists():
        return _run(folder, {log.parent.name: log.parent for log in logs}, "run")
    raise ReportError(
        f"{folder} is neither a run nor an experiment: expected {CONFIG} and {RESULTS}, as "
        f"bt train leaves them, or {EXPERIMENT}"
    )


# --- runs ---------------------------------------------------------------------------------------


def _run(folder: Path, found: Mapping[str, Path], kind: str) -> Study:
    missing = []
    results = read_results(folder / RESULTS) or {}
    if not results:
        missing.append(f"No readable {RESULTS}: the run was not finished.")
    config = _config(folder, missing)
    about = _dict(results.get("data"))
    if kind == "peer":
        (name,) = found
        aggregated: dict[str, Any] = {}
        peers = {name: results} if results else {}
        missing.append("One peer's folder: Dice of its own model; of the others, what it saw.")
    else:
        aggregated = _dict(results.get("aggregated"))
        peers = {name: _dict(peer) for name, peer in _dict(results.get("peers")).items()}
        silent = [name for name in found if name not in peers]
        if results and silent:
            missing.append(f"No results of {', '.join(silent)}.")
        if results and not aggregated:
            missing.append("No aggregated model, so no Dice of it.")
    names = tuple(sorted({*found, *peers}))
    histories = {name: read_history(path / EVENTS) for name, path in found.items()}
    data_path = _text(about.get("path")) or (config.data.path if config else None)
    test = _list(about.get("test"))
    division = Division(
        names,
        _sizes(about, peers, names),
        {BRAINTORRENT: _run_method(aggregated, peers, results)},
        bands=(),
    )
    return Study(
        folder,
        kind,
        Path(data_path).name if data_path else "unknown data",
        Path(data_path) if data_path else None,
        _structures(about.get("structures"), aggregated.get("structures"), peers),
        len(test) if "test" in about else None,
        (division,),
        (config.seed,) if config else (),
        _run_settings(config, about),
        peers,
        histories,
        _text(results.get("ended")),
        _simulated(data_path, config),
        tuple(missing),
    )


def _run_method(
    aggregated: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
    results: Mapping[str, Any],
) -> Method:
    moved = [number(peer.get("bytes_in")) for peer in peers.values()]
    return Method(
        BRAINTORRENT,
        (number(aggregated.get("dice")),),
        ({name: number(peer.get("dice")) for name, peer in peers.items()},),
        {name: (dice,) for name, dice in _numbers(aggregated.get("structures")).items()},
        ({name: _numbers(peer.get("structures")) for name, peer in peers.items()},),
        (_numbers(aggregated.get("scans")),),
        (sum(n for n in moved if n is not None) if moved else None,),
        (number(results.get("seconds")),),
    )


def _sizes(
    about: Mapping[str, Any], peers: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> tuple[int, ...]:
    """Training scans of each, as far as it is known."""
    dealt = _dict(about.get("peers"))
    sizes = []
    for name in names:
        samples = number(peers.get(name, {}).get("samples"))
        size = len(_list(dealt[name])) if name in dealt else samples
        if size is None:
            return ()
        sizes.append(int(size))
    return tuple(sizes)


def _run_settings(config: Config | None, about: Mapping[str, Any]) -> dict[str, Any]:
    if config is None:
        return {}
    data, train, federation = config.data, config.train, config.federation
    how = {
        "zmq": "ZeroMQ, a process per peer",
        "mpi": "MPI, a rank per peer",
        "inproc": "queues, all peers threads of one process (simulated network)",
    }
    return {
        "layout": about.get("layout"),
        "split": data.split + (f" of {data.bands_by}" if data.bands_by else ""),
        "rounds": federation.rounds,
        "epochs per fine-tune": train.epochs,
        "network": config.model.name,
        "filters": config.model.filters,
        "slices": data.view,
        "trained on every n-th slice": data.slice_step,
        "resampled to, mm": data.spacing_mm,
        "batch size": train.batch_size,
        "learning rate": train.learning_rate or _DEFAULT_RATE,
        "learning rate halved every, updates": train.halve_every,
        "precision": train.precision,
        "schedule": federation.schedule,
        _SETTINGS["stale_weight"]: federation.stale_weight,
        "transport": how.get(federation.transport, federation.transport),
        "compression": federation.compression,
        "seed": config.seed,
    }


def _config(folder: Path, missing: list[str]) -> Config | None:
    try:
        return configs.read(folder / CONFIG)
    except ConfigError as exc:
        missing.append(f"Settings unknown: {exc}.")
        return None


# --- experiments --------------------------------------------------------------------------------


def _experiment(folder: Path) -> Study:
    content = read_results(folder / EXPERIMENT)
    if content is None:
        raise ReportError(f"{folder / EXPERIMENT} is not readable JSON; run the experiment again")
    settings = _dict(content.get("settings"))
    if settings.get("learning_rate", "unsaid") is None:
        settings = settings | {"learning_rate": _DEFAULT_RATE}
    kind = "bands" if settings.get("experiment") == "bands" else "uniform"
    missing: list[str] = []
    divisions = [_division(content)]
    divisions += [_division(_dict(also)) for also in _list(content.get("also"))]
    if not any(division.methods for division in divisions):
        raise ReportError(f"{folder / EXPERIMENT} holds no method's results")
    config = _config_of_a_part(folder)
    seeds = tuple(int(s) for s in map(number, _list(settings.get("seeds"))) if s is not None)
    simulated = [
        "The clients were simulated: trained one after another on one machine, each on its own "
        "scans alone; bytes are those that would have moved."
    ]
    stated = settings.get("simulated")
    simulated += [_text(one) or "" for one in (stated if isinstance(stated, list) else [stated])]
    return Study(
        folder,
        kind,
        _text(settings.get("data")) or "unknown data",
        Path(config.data.path) if config and config.data.path else None,
        _structures(settings.get("structures"), {}, {}),
        _whole(settings.get("test_scans")),
        tuple(division for division in divisions if division.methods),
        seeds,
        {label: settings.get(key) for key, label in _SETTINGS.items()},
        simulated=tuple(
            sentence
            for sentence in (*simulated, *_simulated(config.data.path if config else None, None))
            if sentence
        ),
        missing=tuple(missing),
    )


def _config_of_a_part(folder: Path) -> Config | None:
    """The settings that a part was started with: where the scans are."""
    for path in sorted(folder.glob("parts/*/*/*/part.json")):
        try:
            return configs.parse(str((read_results(path) or {}).get("config", "")))
        except ConfigError:
            continue
    return None


def _division(content: Mapping[str, Any]) -> Division:
    settings = _dict(content.get("settings"))
    found = _dict(content.get("methods"))
    names = [str(name) for name in _list(settings.get("client_names"))]
    if not names:
        longest = [_longest(_dict(method).get("clients")) for method in found.values()]
        count = _whole(settings.get("clients")) or max(longest, default=0)
        names = [f"client {i}" for i in range(1, min(count, 10_000) + 1)]
    sizes = [_whole(size) for size in _list(settings.get("scans_per_client"))]
    bands = [[number(end) for end in _list(band)] for band in _list(settings.get("bands"))]
    return Division(
        tuple(names),
        tuple(size for size in sizes if size is not None),
        {str(name): _method(str(name), _dict(method), names) for name, method in found.items()},
        tuple(_comparisons(content.get("comparisons"))),
        tuple(
            (b[0], b[1]) for b in bands if len(b) == 2 and b[0] is not None and b[1] is not None
        ),
        _text(settings.get("by")),
    )


def _method(name: str, found: Mapping[str, Any], clients: list[str]) -> Method:
    return Method(
        name,
        _scores(found.get("aggregated")),
        tuple(
            dict(zip(clients, _scores(of_seed), strict=False))
            for of_seed in _list(found.get("clients"))
        ),
        {s: _scores(dice) for s, dice in _dict(found.get("structures")).items()},
        tuple(
            {client: _numbers(of_client) for client, of_client in _dict(of_seed).items()}
            for of_seed in _list(found.get("client_structures"))
        ),
        tuple(_numbers(of_seed) for of_seed in _list(found.get("scans"))),
        _scores(found.get("bytes")),
        _scores(found.get("seconds")),
        tuple(tuple(_points(of_seed)) for of_seed in _list(found.get("curve"))),
    )


def _points(found: Any) -> Iterable[Point]:
    for point in map(_dict, _list(found)):
        if (at := _whole(point.get("round"))) is not None:
            dice, clients = number(point.get("aggregated")), number(point.get("clients"))
            yield Point(at, dice, clients, number(point.get("bytes")))


def _comparisons(found: Any) -> Iterable[Comparison]:
    for one in map(_dict, _list(found)):
        difference = number(one.get("difference"))
        if difference is not None:
            yield Comparison(
                str(one.get("a")),
                str(one.get("b")),
                str(one.get("what")),
                difference,
                number(one.get("p")),
                _text(one.get("test")) or "test not named",
                _whole(one.get("scans")),
            )


# --- pieces -------------------------------------------------------------------------------------


def _simulated(data_path: str | None, config: Config | None) -> tuple[str, ...]:
    """What of the scans was simulated, as far as their folder tells."""
    found = []
    if data_path is not None:
        about = read_results(Path(data_path) / "dataset_description.json") or {}
        stated = [str(about.get("Name", "")), json.dumps(about.get("GeneratedBy", ""))]
        if any("simulated" in text.lower() or "bt data demo" in text for text in stated):
            found.append(f"The scans are simulated ({about.get('Name')}): no person was scanned.")
    if config is not None and config.federation.transport == "inproc":
        found.append("The network was simulated: all peers were threads of one process.")
    return tuple(found)


def _structures(
    stated: Any, aggregated: Any, peers: Mapping[str, Mapping[str, Any]]
) -> tuple[str, ...]:
    if names := _list(stated):
        return tuple(map(str, names))
    for scores in (aggregated, *(peer.get("structures") for peer in peers.values())):
        if names := [*_dict(scores)]:
            return tuple(names)
    return ()


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def _scores(value: Any) -> Scores:
    return tuple(map(number, _list(value)))


def _numbers(value: Any) -> dict[str, float | None]:
    return {name: number(score) for name, score in _dict(value).items()}


def _longest(value: Any) -> int:
    return max((len(_list(of_seed)) for of_seed in _list(value)), default=0)
