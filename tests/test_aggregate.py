"""The aggregated model, formed from outside while the peers go on training."""

# ruff: noqa: F811, fixtures that are imported

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.peers import free_port
from bt.aggregate import Aggregate, Like, aggregate, like_file
from bt.config import Config, ConfigError, ModelConfig
from bt.data.labels import LabelTable
from bt.modelfile import BadModelFile, read_model, write_model
from bt.models import describe
from bt.weights import FlatWeights
from tests.test_cli import Bt, bt, refused  # noqa: F401
from tests.test_outside import Federation, federation  # noqa: F401
from tests.test_runner import SCHEMA
from tests.waiting import wait_until

LIKE = Like(FlatWeights.of({"w": torch.full((3,), 7.0)}), {"format": 1}, SCHEMA.hash)


def trained(federation: Federation) -> dict[str, torch.Tensor]:
    """What A and B have on disk, once both have trained; they train on for ever after."""
    files = {name: federation.folder / name / "checkpoint.safetensors" for name in "AB"}
    wait_until(lambda: all(file.exists() for file in files.values()))
    return {name: read_model(file)[0].tensors()["w"] for name, file in files.items()}


def formed(federation: Federation, who: str, like: Like = LIKE) -> Aggregate:
    return aggregate(federation.seen_by(who), like, ping_s=1.0, pull_s=20.0)


@pytest.mark.parametrize("who", ["office", "A"])
def test_it_is_the_mean_of_all_who_answer_by_their_scans(federation: Federation, who: str) -> None:
    models = trained(federation)
    made = formed(federation, who)
    assert made.weights is not None
    expected = (models["A"] + 3 * models["B"]) / 4
    assert torch.allclose(made.weights.tensors()["w"], expected)
    assert {name: (part.version, part.samples) for name, part in made.of.items()} == {
        "A": ("1", 1),
        "B": ("1", 3),
    }
    assert made.description == {"format": 1, "aggregated_of": {"A": "1", "B": "1"}}
    assert made.missing.keys() == {"C", "D"}
    assert "address" in made.missing["D"]
    assert made.to_json()["aggregated_of"]["B"]["share"] == 0.75
    if who == "office":
        asked = [json.loads(line) for line in federation.logs["A"].read_text().splitlines()]
        assert {"event": "outside", "from": "office", "version": "1"}.items() <= next(
            line for line in asked if line["event"] == "outside"
        ).items()


def test_an_observer_without_models_gets_none(federation: Federation, tmp_path: Path) -> None:
    trained(federation)
    with pytest.raises(ConfigError, match="screen is an observer that may not have models"):
        formed(federation, "screen")
    text = federation.roster.read_text().replace("models = false", "models = true")
    (federation.folder / "mine.toml").write_text(text)  # as its own roster says; not the others'
    federation.roster, before = federation.folder / "mine.toml", federation.roster
    try:
        made = formed(federation, "screen")
    finally:
        federation.roster = before
    assert made.weights is None
    assert made.missing["A"] == "sent no model: does its roster let screen have models?"


def test_another_network_is_not_merged(federation: Federation) -> None:
    trained(federation)
    made = formed(federation, "office", Like(LIKE.weights, {}, "0" * 64))
    assert made.weights is None
    assert "trains another model" in made.missing["A"]


def described(folder: Path) -> Path:
    labels = LabelTable.from_json(
        {"name": "x", "structures": ["background", "x"], "ranges": [[1, 1, 1]]}
    )
    path = folder / "checkpoint.safetensors"
    about = describe(Config(model=ModelConfig(filters=1)), labels) | {"peer": {"name": "A"}}
    write_model(path, LIKE.weights, about)
    return path


def test_what_a_model_file_tells_of_the_others(tmp_path: Path) -> None:
    like = like_file(described(tmp_path))
    assert like.description["view"] == "coronal"
    assert "peer" not in like.description
    assert like_file(tmp_path).schema == like.schema
    write_model(tmp_path / "bare.safetensors", LIKE.weights, {})
    with pytest.raises(BadModelFile, match="does not say what its structures are"):
        like_file(tmp_path / "bare.safetensors")


def test_what_the_command_refuses(bt: Bt, tmp_path: Path) -> None:
    model = described(tmp_path)
    address = f"A=tcp://127.0.0.1:{free_port()}"
    quick = ("--peer", address, "--ping-timeout", 0.2)
    refused(bt("aggregate", "-o", model, *quick), "exists already")
    refused(bt("aggregate"), "whom to ask?")
    refused(bt("aggregate", *quick), "what are the models of this federation like?")
    nobody = bt("aggregate", *quick, "--like", model, "--json")
    assert nobody.code == 3
    told = json.loads(nobody.out)
    assert told["model"] is None
    assert list(told["missing"]) == ["A"]
    assert not Path("aggregated.safetensors").exists()
    shown = bt("aggregate", *quick, "--like", model)
    assert "not in it: A, " in shown.out
