"""The aggregated model of a running federation, formed by somebody outside.

It is what a new peer would start from (paper, section 2.2), and so it is made by the first half of
a new peer's first round: the same protocol, checks and merge, but whoever asks is no peer
(bt/outside.py), and goes when it would begin to train.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bt.checkpoint import CheckpointFile
from bt.config import Config, ConfigError
from bt.data.labels import LabelError
from bt.data.layouts import find_scans
from bt.modelfile import BadModelFile, read_model
from bt.models import build, describe, task_hash
from bt.node import message_limit
from bt.others import Timing
from bt.outside import Outside
from bt.protocol import Peer
from bt.runner import Runner
from bt.trainer import FitMetrics, Stopped
from bt.weights import FlatWeights
from transports import image
from transports.messages import Limits

_OF_A_PEER = ("peer", "aggregated_of")  # in a description: of one file, not of the federation


@dataclass(frozen=True)
class Like:
    """What every model of the federation has in common, and weights of that kind."""

    weights: FlatWeights
    description: dict[str, Any]  # network, structures, preprocessing: all that eval, predict need
    schema: str  # as peers announce it


def in_folder(folder: Path) -> Path | None:
    """A model file in the folder of a run or of a peer."""
    names = "aggregated.safetensors", "checkpoint.safetensors"
    return next((folder / name for name in names if (folder / name).is_file()), None)


def like_file(path: Path) -> Like:
    """As a model file of the federation says, or one in the folder of a run or of a peer.

    Raises BadModelFile, FileNotFoundError.
    """
    path = in_folder(path) or path
    weights, description = read_model(path)
    try:
        task = task_hash(weights.schema, description)
    except (KeyError, TypeError, AttributeError, LabelError) as exc:
        raise BadModelFile(f"{path} does not say what its structures are") from exc
    common = {name: value for name, value in description.items() if name not in _OF_A_PEER}
    return Like(weights, common, task)


def like_site(config: Config) -> Like:
    """As the settings and the label maps of one's own scans say. Raises DataError, ConfigError."""
    if config.data.path is None:
        raise ConfigError(
            "what are the models of this federation like? --like FILE, a model of it or a peer's "
            "folder, or a --config with the path of scans"
        )
    labels = find_scans(Path(config.data.path)).labels
    weights = FlatWeights.of(build(config.model, labels.classes, config.seed))
    description = describe(config, labels)
    return Like(weights, description, task_hash(weights.schema, description))


@dataclass(frozen=True)
class Part:
    """One peer's share in the aggregated model."""

    version: str
    samples: int
    bytes: int
    seconds: float


@dataclass
class Aggregate:
    """What came of it; `weights` is None if no peer had a model."""

    weights: FlatWeights | None = None
    description: dict[str, Any] = field(default_factory=dict)
    of: dict[str, Part] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)  # name -> why

    def to_json(self) -> dict[str, Any]:
        """What bt aggregate --json prints, but for the path."""
        samples = sum(part.samples for part in self.of.values())
        parts = {
            name: {**vars(part), "share": part.samples / samples} for name, part in self.of.items()
        }
        return {"aggregated_of": parts, "missing": self.missing}


class _Visitor:
    """A trainer that goes as soon as it should train."""

    samples = 1

    def __init__(self, like: FlatWeights) -> None:
        self._like = like
        self.given: FlatWeights | None = None
        self.leave: Callable[[], None] = lambda: None

    def weights(self) -> FlatWeights:
        return self._like

    def load(self, weights: FlatWeights) -> None:
        self.given = weights

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        self.leave()
        raise Stopped

    def evaluate(self, stop: Callable[[], bool]) -> None:
        """Nothing to score on."""


class _Told:
    """A log that becomes the parts of the aggregate, and why others are missing."""

    def __init__(self, made: Aggregate, tell: Callable[[str], None]) -> None:
        self._made = made
        self._tell = tell
        self._came: dict[str, tuple[int, float]] = {}

    def write(self, event: str, **about: Any) -> bool:
        name = str(about.get("from_", about.get("peer", "")))
        match event:
            case "pull":
                self._tell(f"fetching the model of {name}")
            case "weights" if "from_" in about:
                self._came[name] = about["bytes"], about["seconds"]
            case "merge":
                came = self._came[name]
                self._made.of[name] = Part(about["version"], about["samples"], *came)
            case "gone" | "reject":
                self._made.missing[name] = about["reason"]
            case "version":
                if about["version"] == "0":
                    self._made.missing[name] = "has not trained yet"
        return True


def aggregate(
    outside: Outside,
    like: Like,
    *,
    ping_s: float,
    pull_s: float,
    tell: Callable[[str], None] = lambda line: None,
) -> Aggregate:
    """The average, by samples, of the models of all who answer within `ping_s` seconds.

    Whose weights don't come for `pull_s` seconds is left out. Raises ConfigError if the roster
    lets this observer have no models.
    """
    if not outside.may_have_models:
        raise ConfigError(
            f"{outside.name} is an observer that may not have models: set models = true in its "
            "entry of the rosters, at every site"
        )
    made, visitor = Aggregate(), _Visitor(like.weights)
    for name in outside.peers.keys() - {*outside.askable}:
        made.missing[name] = "has no address: it can't be asked from outside"
    limits = Limits(message_limit(like.weights), samples_of=outside.samples_of)
    schema = like.weights.schema
    sizes = image.nbytes(schema), image.header_bytes(schema)
    timing = Timing(ping_s=ping_s, pull_s=pull_s)
    peer = Peer(outside.name, outside.askable, 1, like.schema, 1, *sizes, timing=timing)
    with tempfile.TemporaryDirectory() as folder, outside.connected(limits) as transport:
        nowhere = CheckpointFile(Path(folder) / "checkpoint.safetensors")
        log = _Told(made, tell)
        runner = Runner(peer, transport, visitor, nowhere, log, epochs=1, limits=limits)
        visitor.leave = lambda: runner.stop("it has what it came for")
        runner.run()
    for name in outside.askable:
        if name in made.of:
            made.missing.pop(name, None)
        else:
            made.missing.setdefault(name, _unsent(outside))
    made.of, made.missing = dict(sorted(made.of.items())), dict(sorted(made.missing.items()))
    made.weights = visitor.given if made.of else None
    versions = {name: part.version for name, part in made.of.items()}
    made.description = like.description | {"aggregated_of": versions}
    return made


def _unsent(outside: Outside) -> str:
    if outside.roster is not None and outside.name in outside.roster.observers:
        return f"sent no model: does its roster let {outside.name} have models?"
    return "sent no model"
