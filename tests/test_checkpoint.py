"""What a peer must not lose comes back exactly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bt.checkpoint import Checkpoint, CheckpointFile
from bt.modelfile import BadModelFile, read_model, write_model
from bt.versions import Version
from bt.weights import FlatWeights

WEIGHTS = FlatWeights.of({"w": torch.tensor([0.1, -0.0])})
CHECKPOINT = Checkpoint(
    WEIGHTS,
    Version(1, 7),
    {"b": Version(0, 3), "c": Version(2, 0)},
    {"merged": 12.0, "seconds": 0.1 + 0.2},
    {"view": "axial"},
    joined_at=2,
)
NO_COUNTS = (-1, 2**31, 10**400, True, 1.0, float("nan"), "1", None)
NO_NAMES = ("", "a b", "b\n", "x" * 65, "../b")
NO_AMOUNTS = (-1, float("nan"), float("inf"), 10**400, True, "1", None)


def test_everything_comes_back(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "peer-1" / "checkpoint.safetensors")
    assert file.load() is None
    file.save(CHECKPOINT)
    found = file.load()
    assert found is not None
    assert found.weights.buffer.equal(WEIGHTS.buffer)
    assert isinstance(found.version, Version)
    assert all(isinstance(version, Version) for version in found.vector.values())
    assert replace(found, weights=WEIGHTS) == CHECKPOINT


def test_a_checkpoint_is_a_model_file(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(CHECKPOINT)
    weights, description = read_model(file.path)
    assert weights.buffer.equal(WEIGHTS.buffer)
    assert description["view"] == "axial"


@pytest.mark.parametrize(
    "peer",
    [
        None,
        {"version": [1], "vector": {}, "totals": {}},
        {"version": [0, 1], "vector": [], "totals": {}},
        {"version": [0, "x"], "vector": {}, "totals": {}},
        {"version": [0, 1], "vector": {"b": 3}, "totals": {}},
        *({"version": [0, odd], "vector": {}, "totals": {}} for odd in NO_COUNTS),
        *({"version": [odd, 1], "vector": {}, "totals": {}} for odd in NO_COUNTS),
        *({"version": [0, 1], "vector": {"b": [0, odd]}, "totals": {}} for odd in NO_COUNTS),
        *({"version": [0, 1], "vector": {odd: [0, 1]}, "totals": {}} for odd in NO_NAMES),
        *({"version": [0, 1], "vector": {}, "totals": {}, "name": odd} for odd in NO_NAMES if odd),
        *({"version": [0, 1], "vector": {}, "totals": {"merged": odd}} for odd in NO_AMOUNTS),
        {"version": [0, 1], "vector": {}, "totals": {"reason": 1}},
        {"version": [0, 1], "vector": {}, "totals": {}, "name": ["b"]},
        *({"version": [0, 1], "vector": {}, "totals": {}, "joined_at": odd} for odd in NO_COUNTS),
        {"version": [0, 1], "vector": {}},
        [],
    ],
)
def test_another_file_in_its_place_is_refused_in_one_line(tmp_path: Path, peer: object) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    write_model(
        file.path, WEIGHTS, {"view": "axial"} | ({"peer": peer} if peer is not None else {})
    )
    with pytest.raises(BadModelFile, match="not a peer's checkpoint; move it away") as caught:
        file.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_gone_on_with(tmp_path: Path, value: float) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(replace(CHECKPOINT, weights=FlatWeights.of({"w": torch.tensor([0.1, value])})))
    with pytest.raises(BadModelFile, match=r"checkpoint\.safetensors is damaged.*move it away"):
        file.load()


def test_a_truncated_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(CHECKPOINT)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(BadModelFile, match=r"not a readable safetensors file.*move it away"):
        file.load()
