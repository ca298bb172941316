"""One buffer per model: nothing is lost on the way in or out, and views are views."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from bt.quicknat import QuickNAT
from bt.weights import DTYPES, FlatWeights, UnsupportedTensor, floats_in, schema_of
from transports import image

MODEL = image.Model("a", (0, 1), 1)
FLOATS = [dtype for dtype in DTYPES.values() if dtype.is_floating_point]


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


def test_floats_are_every_float_and_nothing_else() -> None:
    tensors = every_dtype()
    weights = FlatWeights.of(tensors)
    runs = list(weights.floats())
    names = {name for name, tensor in tensors.items() if tensor.is_floating_point()}
    assert sum(run.values.numel() for run in runs) == sum(tensors[n].numel() for n in names)
    assert [run.values.dtype for run in runs] == [
        torch.float64,
        torch.float32,
        torch.bfloat16,
        torch.float16,
    ]
    for run in runs:
        run.values.fill_(7)
    for name, tensor in weights.tensors().items():
        wanted = torch.full_like(tensor, 7) if name in names else tensors[name]
        assert torch.equal(tensor, wanted), name


@given(st.integers(0, 50), st.integers(0, 50))
def test_floats_of_a_range_are_those_in_it(first: int, last: int) -> None:
    weights = FlatWeights.of(every_dtype())
    begin, end = sorted((min(8 * first, weights.schema.nbytes), min(8 * last, 192)))
    expected = weights.copy()
    for name, tensor in weights.tensors().items():
        if tensor.is_floating_point():
            first_byte, last_byte = weights.schema.offsets[name]
            low, high = max(begin, first_byte), min(end, last_byte)
            if low < high:
                width = tensor.itemsize
                flat = expected.tensors()[name].view(-1)
                flat[(low - first_byte) // width : (high - first_byte) // width] = 7
    for at, values in weights.floats(begin, end):
        assert begin <= at <= at + values.nbytes <= end
        values.fill_(7)
    assert weights.buffer.equal(expected.buffer)


def test_floats_of_bytes_that_arrived_are_views() -> None:
    weights = FlatWeights.of({"w": torch.arange(6.0), "n": torch.arange(2)})
    arrived = bytearray(weights.body()[8:32])
    (at, values), *others = floats_in(weights.schema, 8, memoryview(arrived))
    assert (at, values.tolist(), others) == (16, [0, 1, 2, 3], [])
    arrived[8:12] = bytes.fromhex("0000803f")  # 1.0
    assert values.tolist() == [1, 1, 2, 3]
    (_, values), *_ = floats_in(weights.schema, 16, memoryview(bytes(8)))
    assert values.tolist() == [0, 0]
    for nothing in (floats_in(weights.schema, 16, memoryview(b"")), weights.floats(20, 20)):
        assert not list(nothing)
    assert not list(weights.floats(0, 16)), "integers"


def test_a_range_must_not_cut_through_a_value() -> None:
    weights = FlatWeights.of({"w": torch.arange(6.0), "d": torch.zeros(2, dtype=torch.float64)})
    for begin, end in ((18, 24), (16, 22), (4, 16), (0, 12)):
        with pytest.raises(ValueError, match="cut through a value"):
            list(weights.floats(begin, end))
        with pytest.raises(ValueError, match="cut through a value"):
            list(floats_in(weights.schema, begin, weights.body()[begin:end]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_bad_value_anywhere_is_seen(dtype: torch.dtype, bad: float) -> None:
    for size in (1, 7, 1000):
        for at in {0, size // 2, size - 1}:
            values = torch.ones(size, dtype=dtype)
            assert FlatWeights.of({"w": values}).is_finite()
            values[at] = bad
            tensors = {"fine": torch.ones(3), "w": values, "n": torch.tensor(-1)}
            assert not FlatWeights.of(tensors).is_finite()


@pytest.mark.parametrize("dtype", FLOATS)
def test_finite_values_whose_sum_is_not_are_finite(dtype: torch.dtype) -> None:
    values = torch.full((1000,), torch.finfo(dtype).max, dtype=dtype)
    assert not math.isfinite(values.sum())
    assert FlatWeights.of({"w": values}).is_finite()
    assert FlatWeights.of({"w": -values}).is_finite()


def test_infinities_do_not_cancel() -> None:
    for values in ([math.inf, -math.inf], [3e38, 3e38, -math.inf]):
        assert not FlatWeights.of({"w": torch.tensor(values)}).is_finite()


def test_integers_and_nothing_are_finite() -> None:
    assert FlatWeights.of({"n": torch.full((9,), -1)}).is_finite()  # all bits set
    assert FlatWeights.of({"w": torch.zeros(0)}).is_finite()
    assert FlatWeights.of({}).is_finite()


def test_views_share_memory_and_copies_do_not() -> None:
    weights = FlatWeights.of({"w": torch.zeros(3)})
    copy = weights.copy()
    weights.tensors()["w"][1] = 5
    assert next(weights.floats()).values.tolist() == [0, 5, 0]
    assert copy.tensors()["w"].tolist() == [0, 0, 0]
    received = FlatWeights.from_body(weights.schema, bytes(weights.body()))
    assert received.tensors()["w"].tolist() == [0, 5, 0]
    body = bytearray(weights.body())
    received = FlatWeights.from_body(weights.schema, memoryview(body))
    body[0:4] = bytes.fromhex("0000803f")  # 1.0
    assert received.tensors()["w"].tolist() == [1, 5, 0], "the body was copied"


def test_the_image_is_header_and_body_without_a_copy() -> None:
    tensors = every_dtype()
    weights = FlatWeights.of(tensors)
    header = image.encode(MODEL, weights.schema)
    for mine in (weights, weights.copy()):
        whole = mine.image(header)
        assert whole == header + bytes(mine.body())
        assert whole.readonly
        found = {name: bytes(entry["data"]) for name, entry in deserialize(bytes(whole))}
        assert found == {
            name: bytes(whole[len(header) :][slice(*place)])
            for name, place in mine.schema.offsets.items()
        }
        mine.tensors()["scalar"].fill_(7)
        assert whole == header + bytes(mine.body()), "the image is a copy"
    again = image.encode(image.Model("b", (1, 2), 3), weights.schema)
    assert bytes(weights.image(again)[: len(again)]) == again


def test_there_is_an_image_of_a_model_without_values() -> None:
    for tensors in ({}, {"w": torch.zeros(0, 3)}):
        weights = FlatWeights.of(tensors)
        header = image.encode(MODEL, weights.schema)
        assert weights.image(header) == header


def test_an_image_needs_room_for_exactly_its_header() -> None:
    weights = FlatWeights.of({"w": torch.arange(3.0)})
    header = image.encode(MODEL, weights.schema)
    for wrong in (header[:-1], header + b" ", b""):
        with pytest.raises(ValueError, match=f"no room for a header of {len(wrong)} bytes"):
            weights.image(wrong)
    received = FlatWeights.from_body(weights.schema, bytes(weights.body()))
    with pytest.raises(ValueError, match="no room"):
        received.image(header)
    whole = bytearray(weights.image(header))
    received = FlatWeights.from_body(weights.schema, memoryview(whole)[len(header) :])
    with pytest.raises(ValueError, match="no room"):
        received.image(header)
    assert received.copy().image(header) == whole


def test_the_body_begins_at_a_cache_line_of_the_image() -> None:
    weights = FlatWeights.of({"w": torch.arange(3.0)})
    assert weights.buffer.storage_offset() % 64 == 0


def looking_at(weights: FlatWeights) -> list[np.ndarray]:
    """All that can be had of a model without a copy."""
    picture = weights.image(image.encode(MODEL, weights.schema))
    return [
        weights.buffer[3:].numpy(),
        weights.tensors()["w"].numpy(),
        next(weights.floats()).values.numpy(),
        np.frombuffer(weights.body()[4:], np.uint8),
        np.frombuffer(picture[-4:], np.uint8),
    ]


@pytest.mark.parametrize("which", range(5))
def test_memory_is_not_used_again_while_anything_looks_at_it(which: int) -> None:
    weights = FlatWeights.of({"w": torch.full((1000,), 1.0)})
    view = looking_at(weights)[which]
    before = view.copy()
    del weights
    FlatWeights.of({"w": torch.full((1000,), 2.0)})
    FlatWeights.of({"w": torch.full((1000,), 3.0)})
    assert (view == before).all()


def test_memory_may_be_taken_and_freed_in_several_threads() -> None:
    schema = schema_of({"w": torch.zeros(100)})
    wrong: list[object] = []

    def use(number: int) -> None:
        try:
            for _ in range(300):
                weights = FlatWeights.empty(schema)
                weights.buffer.fill_(number)
                if not bool((weights.buffer == number).all()):
                    wrong.append(number)
        except Exception as exc:
            wrong.append(exc)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_cant_travel_is_named() -> None:
    with pytest.raises(UnsupportedTensor, match=r"tensor phase: .*complex64"):
        FlatWeights.of({"phase": torch.zeros(2, dtype=torch.complex64)})
    schema = FlatWeights.of({"w": torch.zeros(1)}).schema
    with pytest.raises(ValueError, match="expected 4 bytes, got 3"):
        FlatWeights(schema, torch.zeros(3, dtype=torch.uint8))
