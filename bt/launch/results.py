"""From what the peers left to the results of a run, as bt train has them.

A peer's results come from another machine: they are looked at before they are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from bt import rundir
from bt.config import Config
from bt.node import write_json
from transports.base import valid_name

MODEL = "aggregated.safetensors"
FILES = ("results.json", "events.jsonl", "config.toml")
_COUNTS = ("version", "samples", "merged", "bytes_in", "bytes_out")
_SECONDS = ("seconds_training", "seconds_waiting")
_LONGEST_NAME = 200


def gather(
    names: Sequence[str],
    folder: Path,
    ended: str,
    seconds: float,
    config: Config,
    fetch_model: Callable[[str], bool],
) -> dict[str, Any]:
    """Write results.json of the run, and get the aggregated model of most peers.

    `fetch_model(name)` brings a peer's into the run's folder, if it can. Dice of the aggregated
    model is the mean over the peers that have this very one, each on its own test scans.
    """
    peers = {}
    for name in names:
        found = checked(rundir.read_results(folder / name / "results.json"))
        if found is not None:
            peers[name] = found
    if ended == "finished" and any(peer["ended"] != "finished" for peer in peers.values()):
        ended = "failed"
    if ended == "finished" and len(peers) < len(names):
        ended = "failed"
    results: dict[str, Any] = {
        "complete": ended == "finished",
        "ended": ended,
        "aggregated": _aggregated(peers, fetch_model),
        "peers": peers,
        "data": {"path": config.data.path},
        "seconds": round(seconds, 1),
    }
    write_json(folder / "results.json", results)
    return results


def _aggregated(
    peers: Mapping[str, Mapping[str, Any]], fetch_model: Callable[[str], bool]
) -> dict[str, Any] | None:
    ranked = sorted(peers, key=lambda name: -len(peers[name]["aggregated_of"]))
    best = next((n for n in ranked if peers[n]["aggregated_of"] and fetch_model(n)), None)
    if best is None:
        return None
    members = peers[best]["aggregated_of"]
    scores = [
        peer["aggregated"]
        for peer in peers.values()
        if peer["aggregated"] is not None and peer["aggregated_of"] == members
    ]
    dice = [score["dice"] for score in scores if score["dice"] is not None]
    structures: dict[str, list[float]] = {}
    for score in scores:
        for name, value in score["structures"].items():
            if value is not None:
                structures.setdefault(name, []).append(value)
    return {
        "dice": fmean(dice) if dice else None,
        "structures": {name: fmean(values) for name, values in structures.items()},
        "peers": members,
    }


def checked(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """A peer's results with what is known of them alone; None if they are none."""
    if found is None or not all(_is_count(found.get(key)) for key in _COUNTS):
        return None
    if not all(_is_number(found.get(key)) for key in _SECONDS):
        return None
    members = found.get("aggregated_of")
    if not isinstance(members, dict) or not all(
        valid_name(name) and isinstance(version, str) and len(version) < _LONGEST_NAME
        for name, version in members.items()
    ):
        return None
    aggregated = found.get("aggregated")
    ended = found.get("ended")
    return {
        **_scores(found),
        **{key: found[key] for key in (*_COUNTS, *_SECONDS, "aggregated_of")},
        "ended": ended if _is_label(ended) else "unknown",
        "aggregated": _scores(aggregated) if isinstance(aggregated, dict) else None,
    }


def _scores(found: Mapping[str, Any]) -> dict[str, Any]:
    dice, structures = found.get("dice"), found.get("structures")
    return {
        "dice": dice if _is_number(dice) else None,
        "structures": {
            name: value if _is_number(value) else None
            for name, value in (structures if isinstance(structures, dict) else {}).items()
            if _is_label(name)
        },
    }


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and 0 <= value < 1e15  # type: ignore[operator]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 62


def _is_label(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= _LONGEST_NAME
