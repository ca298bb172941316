"""Everything a peer must not lose: weights, version, vector and counters, in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bt.files import DISK, Disk
from bt.modelfile import BadModelFile, read_model, write_model
from bt.versions import Version, VersionVector
from bt.weights import FlatWeights
from transports.base import valid_name
from transports.messages import MAX_VERSION
from transports.schema import Schema

TOTALS = ("merged", "bytes_in", "bytes_out", "seconds_training", "seconds")


@dataclass(frozen=True)
class Checkpoint:
    """The state after a finished fine-tune.

    The optimiser starts afresh with every fine-tune and the order of batches follows from seed
    and update number, so neither needs to be kept for a run to go on as if never interrupted.
    """

    weights: FlatWeights
    version: Version
    vector: VersionVector
    totals: dict[str, float] = field(default_factory=dict)  # of TOTALS; absent: 0
    description: dict[str, Any] = field(default_factory=dict)  # of the model
    peer: str = ""  # whose state this is
    joined_at: int = 0  # updates the others had when it came


class CheckpointFile:
    """`checkpoint.safetensors` of one peer."""

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self._disk = disk

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the file atomically."""
        state = {
            "name": checkpoint.peer,
            "version": checkpoint.version,
            "vector": checkpoint.vector,
            "totals": checkpoint.totals,
            "joined_at": checkpoint.joined_at,
        }
        description = checkpoint.description | {"peer": state}
        write_model(self.path, checkpoint.weights, description, self._disk)

    def load(self) -> Checkpoint | None:
        """The last saved state; None if there is none. Raises BadModelFile."""
        if not self.path.exists():
            return None
        try:
            return self._load()
        except BadModelFile as exc:
            raise BadModelFile(f"{exc}; move it away to start afresh") from exc

    def load_of(self, peer: str, schema: Schema) -> Checkpoint | None:
        """The same; another peer's state or another network's is refused, too."""
        found = self.load()
        if found is None:
            return None
        if found.peer not in ("", peer):
            raise BadModelFile(f"{self.path} is of peer {found.peer}; choose another --out")
        if (differing := schema.difference(found.weights.schema)) is not None:
            raise BadModelFile(
                f"{self.path} holds another network ({differing}); choose another --out"
            )
        return found

    def _load(self) -> Checkpoint:
        weights, description = read_model(self.path)
        try:
            state = description.pop("peer")
            return Checkpoint(
                weights,
                _version(state["version"]),
                {_name(name): _version(stored) for name, stored in state["vector"].items()},
                {_total(name): _amount(value) for name, value in state["totals"].items()},
                description,
                _name(state["name"]) if state.get("name") else "",
                _version((0, state.get("joined_at", 0))).count,
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
            raise BadModelFile(f"{self.path} is not a peer's checkpoint") from exc


# What a file says of itself may be anything; a peer would act on it, and tell others.


def _version(stored: Any) -> Version:
    incarnation, count = stored
    for part in (incarnation, count):
        if type(part) is not int or not 0 <= part <= MAX_VERSION:
            raise ValueError(f"version {stored}")
    return Version(incarnation, count)


def _name(stored: Any) -> str:
    if not valid_name(stored):
        raise ValueError(f"peer {stored}")
    return stored


def _total(stored: Any) -> str:
    if stored not in TOTALS:
        raise ValueError(f"counter {stored}")
    return str(stored)


def _amount(stored: Any) -> float:
    if type(stored) not in (int, float) or not 0 <= stored < 2**63:
        raise ValueError(f"counted {stored}")
    amount: float = stored
    return amount
