"""bt export: a trained model for software that knows nothing of BrainTorrent."""

from __future__ import annotations

import json
import logging
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from bt.data.scan import DataError
from bt.files import write_atomic
from bt.inference import Model, load_model
from bt.modelfile import read_model

OPSET = 18
_SIDES = (48, 64)  # of the slices it is traced with: neither may become a constant


def export(model: Path, out: Path, factory: str | None = None) -> None:
    """Write the model file `model` to `out`, a .safetensors or an .onnx file.

    Raises BadModelFile, DataError.
    """
    match out.suffix:
        case ".safetensors":
            weights, _ = read_model(model)
            write_atomic(out, save(weights.tensors(), {"format": "pt"}))
        case ".onnx":
            write_atomic(out, to_onnx(load_model(model, factory, "cpu")))
        case _:
            raise DataError(f"{out}: expected a name ending in .safetensors or .onnx")


def to_onnx(model: Model) -> bytes:
    """The network as ONNX; batch, height and width are free (QuickNAT: multiples of 16)."""
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise DataError(f"ONNX needs {' and '.join(missing)}: pip install 'braintorrent[onnx]'")
    free = torch.export.Dim.DYNAMIC
    for chatty in ("torch.onnx", "onnx_ir"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"), torch.no_grad():
        program: Any = torch.onnx.export(
            _Plain(model.network).eval(),
            (torch.zeros(2, 1, *_SIDES),),
            input_names=["slices"],
            output_names=["logits"],
            dynamic_shapes={"slices": {0: free, 2: free, 3: free}},
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    proto = program.model_proto
    for key, value in _about(model).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = proto.SerializeToString()
    return content


class _Plain(nn.Module):
    """A network called by the one name that the exported graph's input has."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, slices: Tensor) -> Tensor:
        logits: Tensor = self.network(slices)
        return logits


def _about(model: Model) -> dict[str, str]:
    """What who calls it must know."""
    return {
        "structures": json.dumps(model.labels.structures),
        "label_numbers": json.dumps(model.labels.numbers.tolist()),
        "view": model.view,
        "spacing_mm": json.dumps(model.spacing_mm),
        "intensities": "0 the darkest, 1 bright tissue, cut at 1.5 (bt.data.volumes.normalise)",
    }
