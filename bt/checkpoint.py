"""Everything a peer must not lose: weights, version, vector and counters, in one file."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    """`checkpoint.safetensors` of one peer, and beside it the one before, should it get damaged.

    `damage`, after loading: what is wrong with the newest file if the one before it was taken.
    """

    def __init__(self, path: Path, disk: Disk = DISK) -> None:
        self.path = path
        self.damage: str | None = None
        self._disk = disk

    @property
    def previous(self) -> Path:
        """Where the state before the last one is."""
        return self.path.with_name(f"{self.path.stem}.previous{self.path.suffix}")

    @property
    def damaged(self) -> Path:
        """Where a damaged file goes once there is a good one in its place."""
        return self.path.with_name(f"{self.path.stem}.damaged{self.path.suffix}")

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the file atomically, keeping the one before. Raises OSError."""
        state = {
            "name": checkpoint.peer,
            "version": checkpoint.version,
            "vector": checkpoint.vector,
            "totals": checkpoint.totals,
            "joined_at": checkpoint.joined_at,
        }
        description = checkpoint.description | {"peer": state}
        keep = self.previous if self.damage is None else self.damaged
        write_model(self.path, checkpoint.weights, description, self._disk, keep=keep)
        self.damage = None

    def load(self) -> Checkpoint | None:
        """The last saved state; None if there is none. Raises BadModelFile.

        Where its file is damaged or missing it is the state before, as a new incarnation: others
        may have the lost model under its number.
        """
        self.damage = None
        found, wrong = _try(self.path)
        before, wrong_too = (None, None) if found is not None else _try(self.previous)
        if found is not None or before is not None:
            self._disk.sync_folder(self.path.parent)  # who renamed it may have died before that
        if found is not None:
            return found
        if before is not None:
            self.damage = wrong or f"{self.path} is missing"
            incarnation, count = before.version
            return replace(before, version=Version(incarnation + 1, count))
        if wrong or wrong_too:
            reasons = "; ".join(filter(None, (wrong, wrong_too)))
            raise BadModelFile(f"{reasons}; move it away to start afresh")
        return None

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


def _try(path: Path) -> tuple[Checkpoint | None, str | None]:
    """What is in this file, or what is wrong with it; neither if there is none."""
    try:
        return (_read(path), None) if path.exists() else (None, None)
    except BadModelFile as exc:
        return None, str(exc)


def _read(path: Path) -> Checkpoint:
    weights, description = read_model(path, checked=True)
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
        raise BadModelFile(f"{path} is not a peer's checkpoint") from exc


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
