"""A trained model on labelled scans."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from bt import inference
from bt.cli import app
from bt.config import Config, change
from bt.data.labels import table_of_names
from bt.data.scan import DataError, Scan
from bt.data.volumes import prepare
from bt.modelfile import BadModelFile, write_model
from bt.models import describe
from bt.weights import FlatWeights
from tests.conftest import STRUCTURES, renumber, write_cohort

LABELS = table_of_names("blobs", {0: "background", 1: STRUCTURES[0], 2: STRUCTURES[1]})
FACTORY = f"{__name__}:Thresholds"


class Thresholds(nn.Conv2d):
    """Each class begins at an intensity of its own: it segments the blobs of the test cohort."""

    def __init__(self, classes: int, filters: int) -> None:
        super().__init__(1, classes, 1)


def write_thresholds(path: Path, scan: Path, label_map: Path, **settings: object) -> Path:
    volume = prepare(Scan("scan", scan, label_map), LABELS)
    assert volume.classes is not None
    means = [float(volume.image[volume.classes == c].mean()) for c in range(3)]
    one, two = (means[0] + means[1]) / 2, (means[1] + means[2]) / 2
    network = Thresholds(3, 0)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 1.0, 2.0]).reshape(3, 1, 1, 1))
        assert network.bias is not None
        network.bias.copy_(torch.tensor([0.0, -one, -one - two]))
    config = change(Config(), {"name": FACTORY, **settings})
    write_model(path, FlatWeights.of(network), describe(config, LABELS))
    return path


@pytest.fixture(name="model")
def model_file(cohort: Path, tmp_path: Path) -> Path:
    images, label_maps = cohort / "imagesTr", cohort / "labelsTr"
    return write_thresholds(
        tmp_path / "model.safetensors", images / "blob_0.nii.gz", label_maps / "blob_0.nii.gz"
    )


def test_scores_of_a_folder(cohort: Path, tmp_path: Path, model: Path) -> None:
    folder = write_cohort(tmp_path / "more", range(3))
    (folder / "imagesTr" / "blob_1.nii.gz").write_bytes(b"not an image")
    loaded = inference.load_model(model, FACTORY)
    metrics, bad = inference.evaluate_folder(loaded, folder, surface=True)
    assert [scan.id for scan in bad] == ["blob_1"]
    scores = inference.to_json(metrics)
    assert scores["dice"] > 0.98
    assert scores["scans"].keys() == {"blob_0", "blob_2"}
    assert scores["structures"].keys() == set(STRUCTURES)
    assert 0 <= scores["mean_surface_distance_mm"]["blob"] < 0.2
    inference.write_scores(tmp_path / "scores.csv", metrics)
    with (tmp_path / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4
    assert rows[0]["scan"] == "blob_0"
    assert float(rows[0]["dice"]) == metrics.scans[0].dice[0]


def test_only_scans_that_the_run_held_out(tmp_path: Path, model: Path) -> None:
    folder = write_cohort(tmp_path / "more", range(3))
    with pytest.raises(DataError, match=r"no results\.json beside it"):
        inference.held_out(model)
    (tmp_path / "results.json").write_text(json.dumps({"data": {"test": ["blob_2"]}}))
    only = inference.held_out(model)
    loaded = inference.load_model(model, FACTORY)
    metrics, _ = inference.evaluate_folder(loaded, folder, only=only)
    assert [scan.id for scan in metrics.scans] == ["blob_2"]
    with pytest.raises(DataError, match="none of the scans that were held out"):
        inference.evaluate_folder(loaded, folder, only={"another"})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "no results.json beside it"),
        ("{", "no results.json beside it"),
        ('{"data": 1}', "the results.json beside it names no held-out scans"),
        ('{"data": {"test": 3}}', "the results.json beside it names no held-out scans"),
        ('{"data": {"test": []}}', "the results.json beside it names no held-out scans"),
        ('{"dice": null}', "the results.json beside it names no held-out scans"),  # of bt peer
    ],
)
def test_results_that_name_no_scans(model: Path, content: str, says: str) -> None:
    (model.parent / "results.json").write_text(content)
    with pytest.raises(DataError, match=re.escape(says)):
        inference.held_out(model)


def test_label_numbers_in_no_table_are_named(tmp_path: Path, model: Path) -> None:
    folder = write_cohort(tmp_path / "more", range(2))
    loaded = inference.load_model(model, FACTORY)
    told: list[str] = []
    inference.evaluate_folder(loaded, folder, warn=told.append)
    assert told == []
    renumber(folder, 2, 7)
    ended = CliRunner().invoke(
        app, ["eval", str(model), "--data", str(folder), "--model", FACTORY]
    )
    line = f"label number 7 is not in the table and counts as background: bt data show {folder}"
    assert ended.output.splitlines().count(line) == 1


def test_what_cant_be_scored_is_named(tmp_path: Path, model: Path) -> None:
    loaded = inference.load_model(model, FACTORY)
    folder = write_cohort(tmp_path / "other", range(1))
    stated = folder / "dataset.json"
    stated.write_text(stated.read_text().replace('blob"', 'lump"'))
    says = r"structures \(lump, core \[bright\]\) than the model \(blob, core \[bright\]\)$"
    with pytest.raises(DataError, match=says):
        inference.evaluate_folder(loaded, folder)
    many = {str(number): f"s{number}" for number in range(5)}
    stated.write_text(json.dumps(json.loads(stated.read_text()) | {"labels": many}))
    with pytest.raises(DataError, match=r"other structures \(s1, s2, s3, \.\.\.\) than"):
        inference.evaluate_folder(loaded, folder)
    (write_cohort(folder, range(1)) / "imagesTr" / "blob_0.nii.gz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of 1 scans could be scored: blob_0: .*unreadable"):
        inference.evaluate_folder(loaded, folder)


@pytest.mark.parametrize(
    "wrong", [{"view": "top"}, {"spacing_mm": -1}, {"spacing_mm": "x"}, {"labels": {}}]
)
def test_a_description_that_makes_no_sense_is_refused(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    path = tmp_path / "model.safetensors"
    description = describe(Config(), LABELS) | wrong
    write_model(path, FlatWeights.of(Thresholds(3, 0)), description)
    with pytest.raises(BadModelFile, match=r"model\.safetensors: .*description can't be read"):
        inference.load_model(path, FACTORY)
