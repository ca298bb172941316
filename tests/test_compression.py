"""Differences between models: both ends agree to the bit, errors don't add up, strangers can't."""

from __future__ import annotations

import itertools
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from bt import compression
from bt.compression import ENCODINGS, BadEncoding, Cost, Costs, Encoded, choose, decode, encode
from bt.quicknat import QuickNAT
from bt.weights import DTYPES, FlatWeights
from transports.schema import Schema, TensorSpec

FINITE = st.floats(allow_nan=False, allow_infinity=False, width=32)
FLOATS = [dtype for dtype in DTYPES.values() if dtype.is_floating_point]
RATIOS = dict(zip(ENCODINGS, (1.99, 2.3, 3.98, 4.3), strict=True))  # of noise, at least
every_encoding = pytest.mark.parametrize("encoding", ENCODINGS)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def every_dtype(seed: int) -> FlatWeights:
    """Odd sizes in every dtype, around the sizes of a block and of a piece, scalars, nothing."""
    sizes: list[tuple[int, ...]] = [(), (0, 3), (1,), (33, 31), (1024,), (5, 205), (2, 1024)]
    tensors = {
        f"{number}.{name}": (noise(*size, seed=seed) * 10).to(dtype)
        for number, size in enumerate(sizes)
        for name, dtype in DTYPES.items()
    }
    return FlatWeights.of(tensors | {"3.large": noise(66 * 1024 + 7, seed=seed)})


def network(seed: int) -> FlatWeights:
    torch.manual_seed(seed)
    return FlatWeights.of(QuickNAT(classes=3, filters=4))


def of(values: torch.Tensor) -> FlatWeights:
    return FlatWeights.of({"w": values})


def w(model: FlatWeights) -> torch.Tensor:
    return model.tensors()["w"]


MODELS: dict[str, Callable[[int], FlatWeights]] = {
    "every dtype": every_dtype,
    "a network": network,
    "nothing": lambda _: FlatWeights.of({}),
    "no values": lambda _: FlatWeights.of({"w": torch.zeros(3, 0), "n": torch.zeros(0).int()}),
    "a scalar": lambda seed: of(noise(seed=seed)),
    "integers": lambda seed: FlatWeights.of({"n": torch.arange(99) + seed}),
}


@every_encoding
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_both_ends_have_the_same_bits(model: Callable[[int], FlatWeights], encoding: str) -> None:
    base, current = model(0), model(1)
    before = base.copy(), current.copy()
    encoded, rebuilt = encode(current, base, encoding)
    received = decode(encoded, base, encoding)
    assert base.buffer.equal(before[0].buffer)
    assert current.buffer.equal(before[1].buffer)
    assert received.schema == rebuilt.schema == base.schema
    assert received.buffer.equal(rebuilt.buffer)
    assert encode(base, base, encoding)[1].buffer.equal(base.buffer), "nothing new, no change"
    wanted = current.tensors()
    for name, tensor in received.tensors().items():
        close = 0.2 if tensor.is_floating_point() else 0
        torch.testing.assert_close(tensor, wanted[name], rtol=close / 20, atol=close)
    most = compression.largest_size(base.schema, encoding)
    assert encoded.body.nbytes == encoded.schema.nbytes <= most


def test_what_is_written_stays_what_it_is() -> None:
    base = FlatWeights.of({"a": torch.tensor([1.0, -2.0, 0.5]), "n": torch.tensor([7, 8]).byte()})
    new = FlatWeights.of({"a": torch.tensor([2.27, -2.0, -0.5]), "n": torch.tensor([9, 8]).byte()})
    for encoding, expected in {
        "int8": "0ad7233c 7f009c 0908",  # 0.01, 127 0 -100, 9 8
        "int8+zstd": "0ad7233c 7f009c 0908",
        "fp16": "00008038 1475 0000 00f4 0908",  # 2^-14, 1.27 0 -1 times 2^14
        "fp16+zstd": "00008038 140000 7500f4 0908",  # low bytes first
    }.items():
        body = encode(new, base, encoding)[0].body
        plain = zstandard.decompress(body) if encoding.endswith("+zstd") else body
        assert bytes(plain) == bytes.fromhex(expected)


@every_encoding
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_value_is_off_by_no_more_than_its_rounding(encoding: str, dtype: torch.dtype) -> None:
    base = of(noise(5000).to(dtype))
    current = of((w(base) + 0.1 * noise(5000, seed=1)).to(dtype))
    _, rebuilt = encode(current, base, encoding)
    new, old, got = (w(model).double() for model in (current, base, rebuilt))
    step = (new - old).abs()
    if encoding.startswith("int8"):
        half_unit = torch.cat([part.amax().expand_as(part) / 254 for part in step.split(1024)])
    else:
        half_unit = step * 2**-11 + step.amax() * 2**-31
    own = torch.finfo(dtype).eps * torch.maximum(new.abs(), old.abs())
    assert ((got - new).abs() <= half_unit * (1 + 1e-6) + own).all()


@every_encoding
def test_a_tensor_that_moves_far_does_not_drown_its_neighbour(encoding: str) -> None:
    base = FlatWeights.of({"bias": torch.zeros(32), "running_var": torch.zeros(32)})
    current = FlatWeights.of({"bias": 1e-6 * noise(32), "running_var": 1e3 * noise(32, seed=1)})
    _, rebuilt = encode(current, base, encoding)
    for name, tensor in rebuilt.tensors().items():
        error = (tensor - current.tensors()[name]).norm() / current.tensors()[name].norm()
        assert error < 1e-2


@pytest.mark.parametrize(("encoding", "ratio"), RATIOS.items())
def test_sizes_and_errors_of_noise(encoding: str, ratio: float) -> None:
    base = of(noise(300_000))
    current = of(w(base) + noise(300_000, seed=1))
    encoded, rebuilt = encode(current, base, encoding)
    assert base.schema.nbytes / encoded.body.nbytes > ratio
    error = (w(rebuilt) - w(current)).norm() / (w(current) - w(base)).norm()
    assert error < (3e-4 if encoding.startswith("fp16") else 9e-3)


@every_encoding
def test_errors_do_not_add_up(encoding: str) -> None:
    """A random walk: differences from what the receiver has, and from what the sender had."""
    true = received = drifting = of(noise(5000))
    fed_back, left = [], []
    for number in range(20):
        walked = of(w(true) + 0.01 * noise(5000, seed=number))
        encoded, rebuilt = encode(walked, received, encoding)
        largest = (w(walked) - w(received)).abs().max()
        received = decode(encoded, received, encoding)
        assert received.buffer.equal(rebuilt.buffer)
        unit = largest / 127 if encoding.startswith("int8") else largest * 2**-10
        off = w(received) - w(walked)
        assert off.abs().max() <= unit / 2 + 1e-6, "more than one rounding"
        drifting = decode(encode(walked, true, encoding)[0], drifting, encoding)
        fed_back.append(float(off.norm()))
        left.append(float((w(drifting) - w(walked)).norm()))
        true = walked
    assert fed_back[-1] < 1.2 * fed_back[0]
    assert left[-1] > 3 * left[0]


# --- what encode refuses


@every_encoding
@pytest.mark.parametrize("value", [math.nan, math.copysign(math.nan, -1), math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 1500])
def test_nan_and_infinity_are_not_sent(encoding: str, value: float, at: int) -> None:
    for dtype in FLOATS:
        base = FlatWeights.of({"v": noise(3).to(dtype), "w": noise(1501).to(dtype)})
        current = base.copy()
        w(current)[at] = value
        for pair in ((current, base), (base, current)):
            with pytest.raises(BadEncoding, match=r"tensor 'w': .* NaN or infinity"):
                encode(*pair, encoding)


@every_encoding
def test_steps_beyond_float32_are_not_sent(encoding: str) -> None:
    for dtype, old in (torch.float64, -1e39), (torch.float32, -3e38), (torch.bfloat16, -3e38):
        base, current = (of(torch.tensor([x], dtype=dtype)) for x in (old, 3e38))
        with pytest.raises(BadEncoding, match="NaN or infinity"):
            encode(current, base, encoding)


def test_the_wrong_arguments_are_named() -> None:
    one, two = of(noise(1)), of(noise(2))
    with pytest.raises(BadEncoding, match=r"tensor 'w' is F32 \[2\], expected F32 \[1\]"):
        encode(two, one, "int8")
    for call in encode, lambda one, two, name: decode(encode(one, two, "int8")[0], two, name):
        with pytest.raises(BadEncoding, match="encoding 'none': expected one of fp16, fp16"):
            call(one, one, "none")


# --- what decode refuses

BASE = FlatWeights.of({"w": noise(1100), "n": torch.tensor([3, 4, 5]).byte()})
NEXT = FlatWeights.of({"w": noise(1100, seed=1), "n": torch.tensor([6, 7, 5]).byte()})


def parts_of(encoding: str) -> tuple[Encoded, dict[str, np.ndarray]]:
    """A good difference, and writable views of its tensors."""
    encoded, _ = encode(NEXT, BASE, encoding)
    good = Encoded(encoded.schema, memoryview(bytearray(encoded.body)))
    tensors = FlatWeights.from_body(good.schema, good.body).tensors()
    return good, {name: tensor.numpy() for name, tensor in tensors.items()}


def refused(encoded: Encoded, encoding: str, why: str) -> None:
    with pytest.raises(BadEncoding, match=why) as caught:
        decode(encoded, BASE, encoding)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_scales_and_values_that_do_not_fit() -> None:
    why = "block 1: scale .* doesn't fit its values|NaN or infinity"
    for encoding, wrong in ("fp16", (math.nan, math.inf, -math.inf, 40000)), ("int8", (-128,)):
        good, parts = parts_of(encoding)
        scales, last = parts["scales"], parts["delta"][1024:]
        scale, value = scales[1], last[5]
        for scales[1] in (math.nan, math.inf, -math.inf, -scale, 0.0, -0.0, 1e-40, 3e38):
            refused(good, encoding, why)
        scales[1] = 1.5 * scale
        if encoding == "fp16":
            refused(good, encoding, why)  # no power of two
        scales[1] = scale
        for last[5] in wrong:
            refused(good, encoding, why)
        last[5] = value
        decode(good, BASE, encoding)
        for last[:] in (1, 0):  # too small for their scale
            refused(good, encoding, why)
        scales[1] = 0
        assert w(decode(good, BASE, encoding))[1024:].equal(w(BASE)[1024:])


@every_encoding
def test_other_tensors_and_sizes(encoding: str) -> None:
    good, _ = parts_of(encoding)
    refused(Encoded(BASE.schema, BASE.body()), encoding, "tensor '(scales|zstd)' .* is missing")
    for other in set(ENCODINGS) - {encoding}:
        refused(encode(NEXT, BASE, other)[0], encoding, "tensor|frame|bytes")
    for schema in (
        Schema.of([*good.schema.specs, TensorSpec("more", "U8", (0,))]),
        Schema.of([replace(spec, dtype="BOOL") for spec in good.schema.specs]),
        Schema.of([replace(spec, shape=(*spec.shape, 1)) for spec in good.schema.specs]),
    ):
        refused(replace(good, schema=schema), encoding, "tensor '[a-z]+' is")
    for body in (bytes(good.body) + b"\0", bytes(good.body)[:-1], b""):
        refused(replace(good, body=memoryview(body)), encoding, "bytes|tensor 'zstd' is U8")
        if encoding.endswith("+zstd"):
            refused(as_frame(body), encoding, "zstd frame")


def as_frame(body: bytes) -> Encoded:
    return Encoded(Schema.of([TensorSpec("zstd", "U8", (len(body),))]), memoryview(body))


def frame(claim: int, blocks: list[int], window: int | None = None) -> bytes:
    """A zstd frame (RFC 8878) of runs of zeros that claims to hold `claim` bytes."""
    ends = [size << 3 | 1 << 1 | (number == len(blocks)) for number, size in enumerate(blocks, 1)]
    descriptor = bytes([0xE0]) if window is None else bytes([0xC0, (window - 10) << 3])
    runs = b"".join(end.to_bytes(3, "little") + b"\0" for end in ends)
    return bytes.fromhex("28b52ffd") + descriptor + claim.to_bytes(8, "little") + runs


def peak_bytes(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("encoding", ["fp16+zstd", "int8+zstd"])
def test_frames_that_lie(encoding: str) -> None:
    size = zstandard.frame_content_size(encode(NEXT, BASE, encoding)[0].body)
    zeros = zstandard.compress(bytes(size))
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(size))
    lies = {
        "claims terabytes": (frame(1 << 42, [1 << 17] * 9), "claims 4398046511104 bytes"),
        "claims nothing": (unsized, "claims"),
        "holds more": (frame(size, [1 << 17] * 200), "broken"),
        "holds less": (frame(size, [size - 1]), "broken"),
        "wants a window of 2 GB": (frame(size, [size - 1], window=31)[:-1], "too much memory"),
        "is cut": (frame(size, [size, 0])[:-4], "broken"),
        "is skippable": (bytes.fromhex("502a4d18") + size.to_bytes(4, "little"), "broken"),
        "has another after it": (zeros + zeros, "broken"),
        "has bytes after it": (zeros + b"\0", "broken"),
        "is none": (b"no frame at all", "broken"),
    }
    good = decode(as_frame(frame(size, [size])), BASE, encoding)
    assert w(good).equal(w(BASE)), "frames made here are well-formed"
    for lie, (body, why) in lies.items():
        assert peak_bytes(lambda b=body, w=why: refused(as_frame(b), encoding, w)) < 1 << 17, lie
    wasteful = frame(size, [1] * size)  # a good frame, but nobody compresses so badly
    refused(as_frame(wasteful), encoding, f"{len(wasteful)} bytes of differences, at most")


@settings(deadline=None, max_examples=300)
@given(
    encoding=st.sampled_from(ENCODINGS),
    changes=st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=4),
    inside=st.booleans(),
    more=st.integers(-3, 3),
)
def test_mutated_bodies_are_refused_or_finite_models(
    encoding: str, changes: list[tuple[float, int]], inside: bool, more: int
) -> None:
    packed = encoding.endswith("+zstd")
    encoded, rebuilt = encode(NEXT, BASE, encoding)
    good = zstandard.decompress(encoded.body) if packed and inside else bytes(encoded.body)
    body = bytearray(good)
    for where, value in changes:
        body[int(where * len(body))] = value
    body = body[: len(body) + more] + bytes(max(more, 0))
    same = body == good
    if packed:
        bad = as_frame(zstandard.compress(body) if inside else bytes(body))
    else:
        bad = Encoded(encoded.schema, memoryview(body))

    def attempt() -> None:
        try:
            received = decode(bad, BASE, encoding)
        except BadEncoding:
            assert not same
        else:
            assert received.is_finite()
            assert not same or received.buffer.equal(rebuilt.buffer)

    assert peak_bytes(attempt) < 1 << 17


@settings(deadline=None, max_examples=300)
@given(
    encoding=st.sampled_from(ENCODINGS),
    dtype=st.sampled_from(FLOATS),
    values=st.lists(st.lists(FINITE, min_size=2, max_size=2), max_size=40),
    repeat=st.sampled_from([1, 30]),
    size=st.floats(1e-45, 1.0),
)
def test_whatever_encode_makes_decode_takes(
    encoding: str, dtype: torch.dtype, values: list[list[float]], repeat: int, size: float
) -> None:
    pairs = torch.tensor(values, dtype=torch.float64).reshape(-1, 2).repeat(repeat, 1)
    base, current = (of((size * pairs[:, i]).to(dtype)) for i in (0, 1))
    try:
        encoded, rebuilt = encode(current, base, encoding)
    except BadEncoding:
        step = w(current).double() - w(base).double()
        assert not (step.abs() < torch.finfo(dtype).max / 4).all() or not base.is_finite()
    else:
        assert decode(encoded, base, encoding).buffer.equal(rebuilt.buffer)


def test_costs_are_measured() -> None:
    seconds = itertools.count()
    costs = Costs.measure(lambda: next(seconds)).by_encoding
    assert list(costs) == list(ENCODINGS)
    for name, cost in costs.items():
        assert cost[:2] == (1 << 21, 1 << 21)
        assert cost.ratio == pytest.approx(RATIOS[name], rel=0.03)
        assert cost.overhead_s == 2
    assert all(cost.encode_bytes_per_s > 1e6 for cost in Costs.measure().by_encoding.values())


def test_the_slower_the_link_the_smaller_the_encoding() -> None:
    rates = (2e9, 4e9, 2.0), (1e9, 2e9, 2.3), (1e9, 4e9, 4.0), (5e8, 2e9, 5.0)
    costs = Costs({n: Cost(*r, 1e-3) for n, r in zip(ENCODINGS, rates, strict=True)})
    for bytes_per_s, expected in {
        1e6: "int8+zstd",
        1e8: "int8",
        8e8: "none",
        math.inf: "none",
    }.items():
        assert choose(bytes_per_s, 14_000_000, costs) == expected
    assert choose(1e6, 100, costs) == "none", "what encoding costs at least is not worth it"
    alike = Costs(dict.fromkeys(ENCODINGS, Cost(1e9, 1e9, 2.0, 0.0)))
    assert choose(1e6, 14_000_000, alike) == "fp16"
    for speed in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected more than 0"):
            choose(speed, 14_000_000, costs)
