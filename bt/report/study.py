"""What a report is about, whether it comes from a run or from an experiment.

A run is a study of one division, one method and one seed; an experiment of several of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bt.metrics import mean_of
from bt.report.history import History

Scores = tuple[float | None, ...]  # one per seed; Dice in 0..1 unless a name says otherwise
BRAINTORRENT, FEDAVG, POOLED, ONLY_CLIENT = "braintorrent", "fedavg", "pooled", "only-client"


class ReportError(Exception):
    """No report can be made; the message says why, in one line."""


@dataclass(frozen=True)
class Point:
    """Of a learning curve, after a round: every client updated once."""

    round: int
    aggregated: float | None
    clients: float | None  # mean over the clients' own models
    bytes: float | None  # moved so far, by all together


@dataclass(frozen=True)
class Method:
    """How one way of training did. Whatever the folder doesn't tell is empty or None."""

    name: str
    aggregated: Scores = ()
    clients: tuple[Mapping[str, float | None], ...] = ()  # per seed: client -> Dice
    structures: Mapping[str, Scores] = field(default_factory=dict)  # of the aggregated model
    client_structures: tuple[Mapping[str, Mapping[str, float | None]], ...] = ()  # per seed
    scans: tuple[Mapping[str, float | None], ...] = ()  # per seed: scan -> Dice, aggregated
    bytes: Scores = ()
    seconds: Scores = ()
    curve: tuple[tuple[Point, ...], ...] = ()  # per seed

    @property
    def mean_of_clients(self) -> Scores:
        """Per seed, the mean over the clients' own models."""
        return tuple(mean_of(clients.values()) for clients in self.clients)

    def of_client(self, client: str) -> Scores:
        """Per seed."""
        return tuple(clients.get(client) for clients in self.clients)

    def of_structure(self, structure: str) -> Scores:
        """Per seed: of the aggregated model, or the clients' mean where there is none."""
        scores = self.structures.get(structure, ())
        if mean_of(scores) is not None:
            return scores
        return tuple(
            mean_of(scores.get(structure) for scores in of_clients.values())
            for of_clients in self.client_structures
        )


@dataclass(frozen=True)
class Comparison:
    """`a` less `b`, and how probable such a difference is by chance alone."""

    a: str
    b: str
    what: str  # aggregated or clients
    difference: float
    p: float | None
    test: str
    scans: int | None  # test scans compared


@dataclass(frozen=True)
class Division:
    """One way of dividing the scans among clients, and every method on it."""

    clients: tuple[str, ...]
    scans_per_client: tuple[int, ...]
    methods: Mapping[str, Method]
    comparisons: tuple[Comparison, ...] = ()
    bands: tuple[tuple[float, float], ...] = ()  # of each client, lowest and highest
    by: str | None = None  # the column the bands are of

    @property
    def scans_each(self) -> str:
        """ "4", or "1 to 9"."""
        sizes = self.scans_per_client
        if not sizes:
            return "unknown"
        least, most = min(sizes), max(sizes)
        return str(least) if least == most else f"{least} to {most}"

    @property
    def name(self) -> str:
        """As experiments call the folders of their parts: "5x4", "5x1-9"."""
        return f"{len(self.clients)}x{self.scans_each.replace(' to ', '-')}"


@dataclass(frozen=True)
class Study:
    """All that was found in a folder."""

    folder: Path
    kind: str  # run, peer, uniform or bands
    data: str  # name of the data set
    data_path: Path | None  # where it was
    structures: tuple[str, ...]
    test_scans: int | None
    divisions: tuple[Division, ...]  # the first is the main one
    seeds: tuple[int, ...]
    settings: Mapping[str, Any]  # for people
    peers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of a run: results.json
    histories: Mapping[str, History] = field(default_factory=dict)  # of a run
    ended: str | None = None  # of a run: finished, interrupted, failed, or None: unknown
    simulated: tuple[str, ...] = ()  # sentences
    missing: tuple[str, ...] = ()  # sentences: what the folder lacks, so the report does too

    @property
    def main(self) -> Division:
        return self.divisions[0]

    @property
    def is_experiment(self) -> bool:
        return self.kind in ("uniform", "bands")
