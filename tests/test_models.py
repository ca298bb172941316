"""Networks by name; a model file restores itself, but never decides which code runs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from bt.config import Config, ConfigError, ModelConfig, change
from bt.data.labels import table_of_names
from bt.modelfile import BadModelFile
from bt.models import build, describe, restore, seen_as, task_hash
from bt.quicknat import QuickNAT
from bt.weights import FlatWeights
from transports.schema import Schema

LABELS = table_of_names("toy", {0: "background", 1: "blob", 7: "core"})
CONFIG = change(Config(), {"filters": 2, "view": "axial", "spacing_mm": 1.5})


class Pixelwise(nn.Conv2d):
    def __init__(self, classes: int, filters: int) -> None:
        super().__init__(1, classes, 1)


def not_a_module(classes: int, filters: int) -> str:
    return "nothing"


def test_the_seed_decides_the_initial_weights_and_nothing_else_changes() -> None:
    state = torch.get_rng_state()
    one, same, other = (build(ModelConfig(filters=2), 3, seed) for seed in (1, 1, 2))
    assert isinstance(one, QuickNAT)
    assert FlatWeights.of(one).buffer.equal(FlatWeights.of(same).buffer)
    assert not FlatWeights.of(one).buffer.equal(FlatWeights.of(other).buffer)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_factory_of_ones_own() -> None:
    network = build(ModelConfig(f"{__name__}:Pixelwise", 4), 3, seed=0)
    assert isinstance(network, Pixelwise)
    assert network(torch.rand(1, 1, 4, 4)).shape == (1, 3, 4, 4)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("unet", "expected quicknat or package.module:factory"),
        (":unet", "expected quicknat or package.module:factory"),
        (".nets:unet", "expected quicknat or package.module:factory"),
        (f"{__name__}:", "attribute"),
        ("torch.nn:Linear", r"torch\.nn:Linear: no factory\(classes=.., filters=..\): missing"),
        ("math:pi", "not a callable"),
        ("no_such_package.nets:unet", "no_such_package"),
        (f"{__name__}:missing", "missing"),
        (f"{__name__}:not_a_module", "made a str, not a Module"),
    ],
)
def test_a_network_that_isnt_there_is_named(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        build(ModelConfig(name), 3, seed=0)


def test_a_description_restores_network_and_labels() -> None:
    network = build(CONFIG.model, LABELS.classes, seed=5)
    description = describe(CONFIG, LABELS)
    assert (description["view"], description["spacing_mm"]) == ("axial", 1.5)
    restored, labels = restore(FlatWeights.of(network), description)
    assert labels == LABELS
    images = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), network.eval()(images))


def test_a_file_never_decides_which_code_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sneaky.py").write_text("raise SystemExit('ran')\n")
    monkeypatch.syspath_prepend(tmp_path)
    mine = build(ModelConfig(f"{__name__}:Pixelwise", 2), LABELS.classes, seed=0)
    weights, description = FlatWeights.of(mine), describe(CONFIG, LABELS)
    description["model"] = {"name": "sneaky:factory", "filters": 2}
    with pytest.raises(BadModelFile, match=r"sneaky:factory.*--model"):
        restore(weights, description)
    restore(weights, description, factory=f"{__name__}:Pixelwise")  # the user's word counts
    assert "sneaky" not in sys.modules


@pytest.mark.parametrize(
    "change_of",
    [
        {"model": None},
        {"model": {"name": "quicknat", "layers": 2}},
        {"model": {"name": "quicknat", "filters": "2"}},
        {"model": {"name": "quicknat", "filters": -2}},
        {"labels": {"name": "toy"}},
        {"labels": {"name": "toy", "structures": ["a", "b"], "ranges": [[1, 2]]}},
        {"labels": LABELS.as_json() | {"ranges": [[1, float("inf"), 1], [7, 7, 2]]}},
        {"labels": LABELS.as_json() | {"name": ["\n" * 999]}},
        {"labels": None},
        {"model": {"name": "quicknat", "filters": 10**9}},
        {"model": {"name": "quicknat", "filters": 1e400}},
        {"model": {"name": "quicknat", "filters": ["\n" * 9999]}},
        {"model": {"name": "a\nb", "filters": 2}},
        {"model": [2]},
    ],
)
def test_a_broken_description_is_refused(change_of: dict[str, object]) -> None:
    weights = FlatWeights.of(build(CONFIG.model, LABELS.classes, seed=0))
    with pytest.raises(BadModelFile, match="description can't be read") as caught:
        restore(weights, describe(CONFIG, LABELS) | change_of)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_description_without_labels_is_refused() -> None:
    description = describe(CONFIG, LABELS)
    del description["labels"]
    with pytest.raises(BadModelFile, match="description can't be read: no 'labels'"):
        restore(FlatWeights.of({"w": torch.zeros(1)}), description)


def test_the_size_that_a_file_claims_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[torch.device] = []

    def watched(self: QuickNAT, *args: object, **more: object) -> None:
        made.append(torch.empty(0).device)
        init(self, *args, **more)  # type: ignore[arg-type]

    init = QuickNAT.__init__
    monkeypatch.setattr(QuickNAT, "__init__", watched)
    description = describe(change(Config(), {"filters": 1024}), LABELS)  # 3.6 GB
    with pytest.raises(BadModelFile, match="don't fit the network"):
        restore(FlatWeights.of({"w": torch.zeros(1)}), description)
    assert made == [torch.device("meta")]


def test_how_scans_were_seen() -> None:
    description = describe(CONFIG, LABELS)
    assert seen_as(description) == ("axial", 1.5)
    assert seen_as(description | {"spacing_mm": None}) == ("axial", None)


@pytest.mark.parametrize(
    "wrong",
    [{"view": None}, {"view": ["axial"]}, {"spacing_mm": 10**400}, {"spacing_mm": 1e400},
     {"spacing_mm": float("nan")}, {"spacing_mm": True}, {"spacing_mm": [2]}],
)  # fmt: skip
def test_how_scans_were_seen_must_make_sense(wrong: dict[str, object]) -> None:
    with pytest.raises(BadModelFile, match="description can't be read"):
        seen_as(describe(CONFIG, LABELS) | wrong)


def test_the_task_is_the_tensors_the_structures_in_order_and_how_all_begin() -> None:
    schema = FlatWeights.of({"w": torch.zeros(1)}).schema
    other = FlatWeights.of({"w": torch.zeros(2)}).schema

    def task(*structures: str, of: Schema = schema, **settings: object) -> str:
        table = table_of_names("t", dict(enumerate(structures, start=1)))
        return task_hash(of, describe(change(Config(), settings), table))

    hashes = {
        task("a", "b"), task("b", "a"), task("ab"), task("a", "c"), task("é", "b"),
        task("a", "b", of=other), task("a", "b", seed=1), task("a", "b", view="axial"),
        task("a", "b", spacing_mm=2),
    }  # fmt: skip
    assert len(hashes) == 9
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes)
    assert task("a", "b", spacing_mm=2) == task("a", "b", spacing_mm=2.0)
    assert task("a", "b") == task("a", "b", rounds=3, learning_rate=0.1, path="elsewhere")


def test_weights_of_another_network_are_refused() -> None:
    weights = FlatWeights.of(build(ModelConfig(filters=4), LABELS.classes, seed=0))
    with pytest.raises(BadModelFile, match=r"don't fit the network: tensor '.*' is F32"):
        restore(weights, describe(CONFIG, LABELS))
