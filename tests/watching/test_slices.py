"""Predictions to look at, from the checkpoints of a run's peers."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest

from bt.checkpoint import Checkpoint, CheckpointFile
from bt.config import Config, DataConfig, FederationConfig, ModelConfig, to_toml
from bt.data.labels import LabelTable
from bt.data.layouts import find_scans
from bt.models import build, describe
from bt.versions import Version
from bt.watching.slices import Slices
from bt.weights import FlatWeights
from tests.conftest import SHAPE
from tests.waiting import wait_until


@pytest.fixture
def run(tmp_path: Path, cohort: Path) -> Path:
    """A run of two peers: what they hold out, and their checkpoints, b's the newer one."""
    config = Config(
        data=DataConfig(path=str(cohort), test_scans=2),
        model=ModelConfig(filters=2),
        federation=FederationConfig(peers=2),
    )
    (tmp_path / "config.toml").write_text(to_toml(config))
    labels = find_scans(cohort).labels
    for number, name in enumerate("ab", start=1):
        save(tmp_path / name, name, number, config, labels)
    return tmp_path


def save(folder: Path, name: str, count: int, config: Config, labels: LabelTable) -> None:
    folder.mkdir(exist_ok=True)
    weights = FlatWeights.of(build(config.model, labels.classes, seed=count))
    state = Checkpoint(weights, Version(0, count), {}, {}, describe(config, labels), name)
    CheckpointFile(folder / "checkpoint.safetensors").save(state)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setattr("bt.watching.slices._EVERY_S", 0.05)
    made: list[Slices] = []

    def open_(folder: Path, data: Path | None = None) -> Slices:
        made.append(Slices(folder, data))
        return made[-1]

    yield open_
    for each in made:
        each.close()


def test_the_newest_model_on_a_test_scan_and_again_when_there_is_a_newer(
    run: Path, cohort: Path, opened: Any
) -> None:
    slices = opened(run)
    assert slices.png(1, "axial", 0, "prediction") is None
    wait_until(lambda: slices.about()["number"] == 1)
    about = slices.about()
    assert "by the model of b, version 2, Dice 0." in about["about"]
    assert about["about"].startswith("blob_")
    assert [(p["name"], p["slices"]) for p in about["planes"]] == [
        ("axial", SHAPE[2]), ("coronal", SHAPE[1]), ("sagittal", SHAPE[0]),
    ]  # fmt: skip
    axial = about["planes"][0]
    pictures = {
        overlay: picture(slices.png(1, "axial", axial["at"], overlay))
        for overlay in ("scan", "truth", "prediction")
    }
    assert pictures["scan"].shape[:2] == (SHAPE[1], SHAPE[0])
    grey = np.ptp(pictures["scan"][..., :3], axis=2)
    coloured = np.ptp(pictures["truth"][..., :3], axis=2)
    assert grey.max() < 0.01
    assert 0.05 < (coloured > 0.05).mean() < 0.6, "the blob, and not all of it"
    config = Config(data=DataConfig(path=str(cohort)), model=ModelConfig(filters=2))
    save(run / "a", "a", 3, config, find_scans(cohort).labels)
    wait_until(lambda: slices.about()["number"] == 2)
    assert "by the model of a, version 3" in slices.about()["about"]


def picture(png: bytes | None) -> np.ndarray[Any, Any]:
    assert png is not None
    return matplotlib.image.imread(io.BytesIO(png), format="png")


def test_what_is_no_picture(run: Path, opened: Any) -> None:
    slices = opened(run)
    wait_until(lambda: slices.about()["number"] == 1)
    assert slices.png(1, "nowhere", 0, "scan") is None
    assert slices.png(1, "axial", 99, "scan") is None


def test_what_is_wrong_is_told(run: Path, tmp_path: Path, opened: Any) -> None:
    text = (run / "config.toml").read_text()
    gone = replace(Config().data, path=str(tmp_path / "gone"))
    (run / "config.toml").write_text(to_toml(replace(Config(), data=gone)))
    slices = opened(run)
    wait_until(lambda: slices.about()["about"].startswith("no predictions: "))
    assert "gone" in slices.about()["about"]
    (run / "config.toml").write_text(text)
    wait_until(lambda: slices.about()["number"] == 1)
