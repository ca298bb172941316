"""Model files: safetensors any library opens, written whole or not at all."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bt.modelfile import BadModelFile, read_model, write_model
from bt.weights import FlatWeights

WEIGHTS = FlatWeights.of({"w": torch.tensor([[1.0, 2.0]]), "n": torch.tensor(3)})


def test_weights_and_description_come_back(tmp_path: Path) -> None:
    description = {"view": "axial", "structures": ["Häutchen"], "spacing_mm": None}
    path = tmp_path / "new" / "model.safetensors"
    write_model(path, WEIGHTS, description)
    found, about = read_model(path)
    assert found.schema == WEIGHTS.schema
    assert found.buffer.equal(WEIGHTS.buffer)
    assert about == description
    assert load_file(path)["w"].tolist() == [[1, 2]]  # plain safetensors reads it
    with safe_open(path, "pt") as file:
        stored = json.loads(file.metadata()["bt"])
        assert len(stored.pop("xxh3_128")) == 32
        assert stored == description


def truncated(path: Path) -> None:
    write_model(path, WEIGHTS, {})
    path.write_bytes(path.read_bytes()[:-1])


def quoted_by_the_reader(path: Path) -> None:
    head = rb'{"w":{"dtype":"\n\u001b[31m","shape":[1],"data_offsets":[0,4]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(4))


def foreign(path: Path) -> None:
    save_file({"w": torch.zeros(2)}, path)


def not_an_object(path: Path) -> None:
    save_file({"w": torch.zeros(2)}, path, {"bt": "[1]"})


def not_finite(path: Path) -> None:
    write_model(path, FlatWeights.of({"w": torch.tensor([1.0, float("nan")])}), {})


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (not_finite, "is damaged: a weight is NaN or infinite"),
        (truncated, "not a readable safetensors file"),
        (lambda path: path.write_bytes(b"PK\x03\x04 a pickle of old"), "not a readable"),
        (lambda path: path.write_bytes(b""), "not a readable"),
        (quoted_by_the_reader, "not a readable"),
        (foreign, "not written by BrainTorrent"),
        (not_an_object, "not a JSON object"),
        (lambda path: path.mkdir(), "is a folder"),
    ],
    ids=[
        "not finite",
        "truncated",
        "garbage",
        "empty",
        "quoted",
        "foreign",
        "not an object",
        "folder",
    ],
)
def test_what_is_no_model_is_refused_in_one_line(tmp_path: Path, make: object, why: str) -> None:
    path = tmp_path / "model.safetensors"
    make(path)  # type: ignore[operator]
    with pytest.raises(BadModelFile, match=why) as caught:
        read_model(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_missing_file_is_called_missing(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no model file"):
        read_model(tmp_path / "nothing.safetensors")


def test_a_description_of_any_depth_is_refused_in_one_line(tmp_path: Path) -> None:
    """Some are just deep enough to be read, and too deep to be summed up."""
    for depth in range(sys.getrecursionlimit() - 200, sys.getrecursionlimit()):
        deep = "[" * depth + "]" * depth
        bt = '{"xxh3_128": "0", "deep": ' + deep + "}"
        save_file({"w": torch.zeros(1)}, tmp_path / "m.safetensors", {"bt": bt})
        with pytest.raises(BadModelFile):
            read_model(tmp_path / "m.safetensors")
