"""Models and checkpoints on disk: safetensors files, written atomically.

A model file carries its description (network, structures, preprocessing) in the metadata, so
that `bt eval` and `bt predict` need nothing else. A checksum in there is of the description, the
tensors' names and shapes, and every weight: a flipped bit anywhere is found.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors
import xxhash

from bt.files import DISK, Disk, write_atomic
from bt.weights import FlatWeights, UnsupportedTensor
from transports import header
from transports.schema import SchemaError, shown

_KEY = "bt"  # one metadata key with sorted JSON, as on the wire
_CHECKSUM = "xxh3_128"  # in that JSON


class BadModelFile(ValueError):
    """A file that can't be used; the message says why and what to do."""


def write_model(
    path: Path,
    weights: FlatWeights,
    description: dict[str, Any],
    disk: Disk = DISK,
    *,
    keep: Path | None = None,
) -> None:
    """Write `weights` with `description` (anything JSON can hold) in the metadata.

    `keep` is what a file that is there is called from then on.
    """
    plain = json.loads(json.dumps(description))  # as it will be read
    text = json.dumps(plain | {_CHECKSUM: _checksum(weights, plain)}, sort_keys=True)
    whole = header.pack(text, weights.schema.table), weights.body()
    write_atomic(path, *whole, keep=keep, disk=disk)


def _checksum(weights: FlatWeights, description: dict[str, Any]) -> str:
    sum_of = xxhash.xxh3_128(json.dumps(description, sort_keys=True).encode())
    sum_of.update(weights.schema.table)
    sum_of.update(weights.body())
    return sum_of.hexdigest()


def read_model(path: Path, *, checked: bool = False) -> tuple[FlatWeights, dict[str, Any]]:
    """Weights and description. Raises BadModelFile, or FileNotFoundError.

    A file that was written by another program may have no checksum; `checked`: it must.
    """
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
        why = shown(str(exc))  # it may quote the file
        raise BadModelFile(f"{path} is not a readable safetensors file: {why}") from exc
    except (KeyError, ValueError, RecursionError) as exc:
        raise BadModelFile(f"{path} was not written by BrainTorrent: no description") from exc
    if not isinstance(description, dict):
        raise BadModelFile(f"{path}: its description is not a JSON object")
    try:
        weights = FlatWeights.of(tensors)
    except (SchemaError, UnsupportedTensor) as exc:
        raise BadModelFile(f"{path}: {exc}") from exc
    stated = description.pop(_CHECKSUM, None)
    try:
        if (checked or stated is not None) and stated != _checksum(weights, description):
            raise BadModelFile(f"{path} is damaged: its content does not have its checksum")
    except RecursionError as exc:  # what was just deep enough to be read
        raise BadModelFile(f"{path}: its description is nested too deeply") from exc
    if not weights.is_finite():
        raise BadModelFile(f"{path} is damaged: a weight is NaN or infinite")
    return weights, description
