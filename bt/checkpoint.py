"""Everything a peer must not lose: weights, version, vector and counters, in one file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bt.modelfile import BadModelFile, read_model, write_model
from bt.versions import Version, VersionVector
from bt.weights import FlatWeights


@dataclass(frozen=True)
class Checkpoint:
    """The state after a finished fine-tune.

    The optimiser starts afresh with every fine-tune and the order of batches follows from seed
    and update number, so neither needs to be kept for a run to go on as if never interrupted.
    """

    weights: FlatWeights
    version: Version
    vector: VersionVector
    totals: dict[str, float] = field(default_factory=dict)  # counters of the whole run
    description: dict[str, Any] = field(default_factory=dict)  # of the model
    peer: str = ""  # whose state this is


class CheckpointFile:
    """`checkpoint.safetensors` of one peer."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the file atomically."""
        state = {
            "name": checkpoint.peer,
            "version": checkpoint.version,
            "vector": checkpoint.vector,
            "totals": checkpoint.totals,
        }
        write_model(self.path, checkpoint.weights, checkpoint.description | {"peer": state})

    def load(self) -> Checkpoint | None:
        """The last saved state; None if there is none. Raises BadModelFile."""
        if not self.path.exists():
            return None
        weights, description = read_model(self.path)
        try:
            state = description.pop("peer")
            return Checkpoint(
                weights,
                _version(state["version"]),
                {str(name): _version(stored) for name, stored in state["vector"].items()},
                {str(name): float(value) for name, value in state["totals"].items()},
                description,
                str(state.get("name", "")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as exc:
            raise BadModelFile(
                f"{self.path} is not a peer's checkpoint; move it away to start afresh"
            ) from exc


def _version(stored: Any) -> Version:
    incarnation, count = stored
    return Version(int(incarnation), int(count))
