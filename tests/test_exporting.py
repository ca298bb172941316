"""bt export: the same network, for software that knows nothing of BrainTorrent."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from bt.config import Config, change
from bt.data.scan import DataError
from bt.exporting import export
from bt.inference import load_model
from bt.modelfile import write_model
from bt.models import build, describe
from bt.weights import FlatWeights
from tests.test_inference import LABELS

SETTINGS = change(Config(), {"filters": 2})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    network = build(SETTINGS.model, LABELS.classes, seed=1)
    write_model(
        tmp_path / "model.safetensors", FlatWeights.of(network), describe(SETTINGS, LABELS)
    )
    return tmp_path / "model.safetensors"


def test_a_plain_state_dict(tmp_path: Path, model: Path) -> None:
    export(model, tmp_path / "plain.safetensors")
    network = build(SETTINGS.model, LABELS.classes, seed=2)
    network.load_state_dict(safetensors.torch.load_file(tmp_path / "plain.safetensors"))
    slices = torch.rand(1, 1, 16, 32)
    with torch.no_grad():
        found, expected = network.eval()(slices), load_model(model, device="cpu").network(slices)
    torch.testing.assert_close(found, expected)
    with safetensors.safe_open(tmp_path / "plain.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.slow  # to import what exports takes longer than to export
def test_onnx_answers_alike_at_any_size(
    tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    export(model, tmp_path / "model.onnx")
    shown = [each for each in caplog.records if each.levelno >= logging.WARNING]
    assert not shown, "libraries talk on the user's terminal"
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for shape in ((1, 1, 32, 16), (3, 1, 48, 64)):
        slices = torch.rand(shape)
        (logits,) = session.run(["logits"], {"slices": slices.numpy()})
        with torch.no_grad():
            expected = load_model(model, device="cpu").network(slices).numpy()
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["structures"]) == list(LABELS.structures)
    assert json.loads(about["label_numbers"]) == LABELS.numbers.tolist()
    assert about["view"] == "coronal"


def test_other_endings_are_refused(tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match=r"ending in \.safetensors or \.onnx"):
        export(model, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
