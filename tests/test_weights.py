"""One buffer per model: nothing is lost on the way in or out, and views are views."""

from __future__ import annotations

import pytest
import torch

from bt.quicknat import QuickNAT
from bt.weights import DTYPES, FlatWeights, UnsupportedTensor


def random_model(seed: int) -> QuickNAT:
    torch.manual_seed(seed)
    model = QuickNAT(classes=3, filters=2)
    model(torch.rand(3, 1, 16, 16))  # moves the batch-norm statistics
    return model


def every_dtype() -> dict[str, torch.Tensor]:
    """Odd sizes, a scalar and an empty tensor, so that alignment matters."""
    tensors = {
        name: torch.arange(7).remainder(2).to(dtype).reshape(7, 1)
        for name, dtype in DTYPES.items()
    }
    return tensors | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}


def test_a_model_survives_the_round_trip() -> None:
    model = random_model(0).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    weights = FlatWeights.of(model)
    other = random_model(1)
    weights.load_into(other)
    expected, found = model.state_dict(), other.state_dict()
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
    assert FlatWeights.of(other).buffer.equal(weights.buffer)
    parameter = next(model.parameters())
    before = parameter.clone()
    weights.buffer.zero_()
    assert torch.equal(parameter, before), "weights are a copy"


def test_every_dtype_has_its_place() -> None:
    tensors = every_dtype()
    weights = FlatWeights.of(tensors)
    found = weights.tensors()
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name


def test_float_runs_cover_every_float_and_nothing_else() -> None:
    tensors = every_dtype()
    weights = FlatWeights.of(tensors)
    runs = weights.float_runs()
    floats = {name for name, tensor in tensors.items() if tensor.is_floating_point()}
    assert sum(run.numel() for run in runs) == sum(tensors[name].numel() for name in floats)
    for run in runs:
        run.fill_(7)
    for name, tensor in weights.tensors().items():
        wanted = torch.full_like(tensor, 7) if name in floats else tensors[name]
        assert torch.equal(tensor, wanted), name


def test_views_share_memory_and_copies_do_not() -> None:
    weights = FlatWeights.of({"w": torch.zeros(3)})
    copy = weights.copy()
    weights.tensors()["w"][1] = 5
    assert weights.float_runs()[0].tolist() == [0, 5, 0]
    assert copy.tensors()["w"].tolist() == [0, 0, 0]
    received = FlatWeights.from_body(weights.schema, bytes(weights.body()))
    assert received.tensors()["w"].tolist() == [0, 5, 0]
    body = bytearray(weights.body())
    received = FlatWeights.from_body(weights.schema, memoryview(body))
    body[0:4] = bytes.fromhex("0000803f")  # 1.0
    assert received.tensors()["w"].tolist() == [1, 5, 0], "the body was copied"


def test_what_cant_travel_is_named() -> None:
    with pytest.raises(UnsupportedTensor, match=r"tensor phase: .*complex64"):
        FlatWeights.of({"phase": torch.zeros(2, dtype=torch.complex64)})
    schema = FlatWeights.of({"w": torch.zeros(1)}).schema
    with pytest.raises(ValueError, match="expected 4 bytes, got 3"):
        FlatWeights(schema, torch.zeros(3, dtype=torch.uint8))
