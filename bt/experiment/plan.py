"""What an experiment runs: parts, each one method with one seed on one division of the scans.

A part names its scans and settings in full, so that it can be run by a process of its own, and
so that a result found in its folder is used again only if it is of exactly this part.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from bt import config as configs
from bt.config import Config, ConfigError
from bt.data.splits import Split
from bt.node import write_json
from bt.rundir import RunFolderError, read_results
from bt.wording import peer_names

BRAINTORRENT, ASYNC = "braintorrent", "braintorrent-async"
FEDAVG, POOLED, ONLY_CLIENT, CYCLIC = "fedavg", "pooled", "only-client", "cyclic"
METHODS = (BRAINTORRENT, ASYNC, FEDAVG, POOLED, ONLY_CLIENT, CYCLIC)
RESULT = "result.json"


@dataclass(frozen=True)
class Choices:
    """What the paper leaves open, the same for every method; the defaults are the product's."""

    adam: str = "fresh"  # for every fine-tune; kept: moments survive merges
    batch_norm: str = "averaged"  # local: these layers stay each client's own
    start: str = "common"  # initial weights; own: different ones for every client
    fanout: int | None = None  # BrainTorrent: a round asks so many random peers
    evaluate_clients: bool = False  # after every round, not only at the end


_CHOICES = {
    "adam": ("fresh", "kept"),
    "batch_norm": ("averaged", "local"),
    "start": ("common", "own"),
}


def checked(choices: Choices) -> Choices:
    """`choices` themselves. Raises ConfigError."""
    for name, allowed in _CHOICES.items():
        if getattr(choices, name) not in allowed:
            option = name.replace("_", "-")
            given = getattr(choices, name)
            raise ConfigError(f"--{option} {given!a:.80}: expected {' or '.join(allowed)}")
    if choices.fanout is not None and choices.fanout < 1:
        raise ConfigError(f"--fanout {choices.fanout}: expected at least 1")
    return choices


def check_methods(methods: Sequence[str]) -> None:
    """Raise ConfigError for an unknown method, or one given twice."""
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"--methods {method!a:.80}: expected some of {', '.join(METHODS)}")
    if len(set(methods)) < len(methods):
        raise ConfigError("--methods: each at most once")


@dataclass(frozen=True)
class Part:
    """One method, once. `config.seed` decides initial weights and batches; not who has what."""

    method: str
    config: Config
    choices: Choices
    test: tuple[str, ...]  # ids of scans
    clients: tuple[tuple[str, ...], ...]
    division: str  # "5x4"

    @property
    def name(self) -> str:
        """Also its place in the experiment's folder: "5x4/braintorrent/seed-0"."""
        return f"{self.division}/{self.method}/seed-{self.config.seed}"

    @property
    def names(self) -> tuple[str, ...]:
        """Of the clients."""
        return peer_names(len(self.clients))

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"config": configs.to_toml(self.config)}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Part:
        return cls(
            content["method"],
            configs.parse(content["config"]),
            Choices(**content["choices"]),
            tuple(content["test"]),
            tuple(tuple(client) for client in content["clients"]),
            content["division"],
        )

    def write(self, folder: Path) -> None:
        """For the process that runs it."""
        write_json(folder / "part.json", self.to_json())

    @classmethod
    def read(cls, folder: Path) -> Part:
        return cls.from_json(json.loads((folder / "part.json").read_text(encoding="utf-8")))


def parts_of(
    config: Config, split: Split, methods: Sequence[str], seeds: int, choices: Choices
) -> list[Part]:
    """All methods with all seeds on one division; of a seed, one method after the other."""
    test = tuple(scan.id for scan in split.test)
    clients = tuple(tuple(scan.id for scan in part) for part in split.peers)
    return [
        Part(method, replace(config, seed=seed), choices, test, clients, division(split))
        for seed in range(seeds)
        for method in methods
    ]


def division(split: Split) -> str:
    """ "5x4": five clients with four scans each; "5x1-4" if they have one to four."""
    sizes = [len(part) for part in split.peers]
    most = f"-{max(sizes)}" if max(sizes) > min(sizes) else ""
    return f"{len(sizes)}x{min(sizes)}{most}"


def share_pooled(parts: Sequence[Part]) -> list[Part]:
    """`parts`, but of the same scans one pooled model is trained, however they are divided."""
    seen: dict[tuple[int, tuple[str, ...]], Part] = {}
    shared = []
    for part in parts:
        if part.method == POOLED:
            scans = tuple(sorted(scan for client in part.clients for scan in client))
            part = seen.setdefault((part.config.seed, scans), part)
        shared.append(part)
    return shared


def result_of(part: Part, out: Path) -> dict[str, Any] | None:
    """What is in the part's folder already; None if it has to be run.

    Raises RunFolderError if that is of other settings.
    """
    folder = out / "parts" / part.name
    result = read_results(folder / RESULT)
    if result is None:
        return None
    try:
        stored = Part.from_json(result["part"])
    except (KeyError, TypeError, ValueError) as exc:
        raise RunFolderError(f"{folder / RESULT} can't be read ({exc}); remove it") from exc
    differing = configs.differences(stored.config, part.config)
    for name in ("test", "clients"):
        if getattr(stored, name) != getattr(part, name):
            differing.append(f"{name} scans")
    mine, theirs = asdict(part.choices), asdict(stored.choices)
    differing += [name for name in mine if mine[name] != theirs[name]]
    if differing:
        raise RunFolderError(
            f"{folder} was run with other settings ({', '.join(differing)}): repeat its command "
            "to go on with it, or choose another --out"
        )
    return result
