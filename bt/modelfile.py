"""Models and checkpoints on disk: safetensors files, written atomically.

A model file carries its description (network, structures, preprocessing) in the metadata, so
that `bt eval` and `bt predict` need nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors

from bt.files import DISK, Disk, write_atomic
from bt.weights import FlatWeights, UnsupportedTensor
from transports import header
from transports.schema import SchemaError

_KEY = "bt"  # one metadata key with sorted JSON, as on the wire


class BadModelFile(ValueError):
    """A file that can't be used; the message says why and what to do."""


def write_model(
    path: Path, weights: FlatWeights, description: dict[str, Any], disk: Disk = DISK
) -> None:
    """Write `weights` with `description` (anything JSON can hold) in the metadata."""
    text = json.dumps(description, sort_keys=True)
    write_atomic(path, header.pack(text, weights.schema.table), weights.body(), disk=disk)


def read_model(path: Path) -> tuple[FlatWeights, dict[str, Any]]:
    """Weights and description. Raises BadModelFile, or FileNotFoundError."""
    if path.is_dir():
        raise BadModelFile(f"{path} is a folder; name the model file in it")
    if not path.is_file():
        raise FileNotFoundError(f"no model file {path}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        description = json.loads(metadata[_KEY])
    except (safetensors.SafetensorError, OSError) as exc:
        raise BadModelFile(f"{path} is not a readable safetensors file: {exc}") from exc
    except (KeyError, ValueError, RecursionError) as exc:
        raise BadModelFile(f"{path} was not written by BrainTorrent: no description") from exc
    if not isinstance(description, dict):
        raise BadModelFile(f"{path}: its description is not a JSON object")
    try:
        weights = FlatWeights.of(tensors)
    except (SchemaError, UnsupportedTensor) as exc:
        raise BadModelFile(f"{path}: {exc}") from exc
    if not weights.is_finite():
        raise BadModelFile(f"{path} is damaged: a weight is NaN or infinite")
    return weights, description
