"""A model as its difference from a base model that both ends have, in 16 or 8 bits a value.

A block, at most 1024 consecutive values of ONE tensor, shares a float32 scale; each value is a
half-precision number ("fp16", the scale a power of two) or an integer from -127 to 127 ("int8")
times that scale. Tensors share no block: next to a batch norm's variance, which moves a thousand
times further, a bias would round to nothing. What is not floating-point travels as it is.

The receiver's model is a little off the sender's. `encode` also returns the receiver's, and the
next difference is taken from that one, so errors never add up (error feedback, Seide et al. 2014).

Both ends must arrive at the same bits. What `_rebuild` does is elementwise, every operation a pass
of its own, so that nothing is fused or reordered and IEEE 754 defines each result. It does so only
down to 1.2e-38 where `torch.set_flush_denormal` or the processor flushes subnormal numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
import zstandard
from torch import Tensor

from bt.weights import DTYPES, FlatWeights
from transports import messages
from transports.base import flat
from transports.schema import FLOAT_DTYPES, Schema, TensorSpec, shown

ENCODINGS = tuple(name for name in messages.ENCODINGS if name != messages.PLAIN)

_BLOCK = 1024  # values that share a scale
_ROWS = 64  # blocks worked on at once: temporaries of 256 KB (F64: 512 KB) stay in the cache
# Coding takes up to twice as long as `Costs.measure` finds, with caches cold and cores in use; but
# it measures while a peer starts, and then often finds too much.
_BUSY = 1.5
_LEVEL = 1  # higher levels of zstd find little more in noise
_TINY, _INFINITY = 0x00800000, 0x7F800000  # float32: bits of the smallest normal and of infinity


class BadEncoding(ValueError):
    """A difference that can't be made or must not be used; the text says why, in one line."""


@dataclass(frozen=True)
class Encoded:
    """A coded difference: `body` holds the tensors of `schema`, so it is a safetensors body too.

    The tensors are "scales" F32 [blocks], "delta" F16 or I8 [values] and "exact" U8 [bytes that
    are no floats], each in the order of the model; or, with zstd, ONE frame of these as "zstd" U8.
    """

    schema: Schema
    body: memoryview


def encode(current: FlatWeights, base: FlatWeights, encoding: str) -> tuple[Encoded, FlatWeights]:
    """`current` less `base`, and the model exactly as the receiver will have it: its next base.

    Raises BadEncoding if the schemas differ or if a value or a difference is NaN, infinite or
    beyond float32: send the plain model then.
    """
    layout, half, packed = _layout(base.schema, encoding)
    _check_schema(current.schema, base.schema)
    coded, rebuilt = FlatWeights.empty(layout), FlatWeights.empty(base.schema)
    parts = coded.tensors()
    for piece in _pieces(base.schema):
        old = piece.of(base)
        delta = _spread((_wide(piece.of(current)) - _wide(old)).float(), piece.counts)
        scale = _scale(delta.abs().amax(1, keepdim=True), half)
        # NaN or infinity in a block reaches its scale, and from there what is rebuilt
        delta *= torch.where(scale > 0, scale.reciprocal(), 0.0)
        q = delta.half() if half else delta.round_().to(torch.int8)
        parts["scales"][piece.blocks] = scale.view(-1)
        _store(_gather(q, piece.counts), parts["delta"], piece.values)
        _rebuild(old, q, scale, piece, rebuilt)
    for whole, part in _exact(current, parts["exact"]):
        part.copy_(whole)
    for whole, part in _exact(rebuilt, parts["exact"]):
        whole.copy_(part)
    if not packed:
        return Encoded(layout, coded.body()), rebuilt
    body = zstandard.ZstdCompressor(level=_LEVEL).compress(coded.body()) if layout.nbytes else b""
    return Encoded(_packed_schema(len(body)), memoryview(body)), rebuilt


def decode(encoded: Encoded, base: FlatWeights, encoding: str) -> FlatWeights:
    """The model whose difference from `base` this is, to the bit what `encode` returned.

    Raises BadEncoding for anything `encode` can't have made from a model of `base.schema`: other
    tensors or sizes, a frame that doesn't hold exactly what it must, a scale that doesn't fit its
    block, a value that ends up NaN or infinite. Allocates the model and, with zstd, the difference
    uncompressed.
    """
    layout, half, packed = _layout(base.schema, encoding)
    body = flat(encoded.body)
    _check_schema(encoded.schema, _packed_schema(body.nbytes) if packed else layout)
    if body.nbytes > (most := largest_size(base.schema, encoding)):
        raise BadEncoding(f"{body.nbytes} bytes of differences, at most {most} are accepted")
    if packed and layout.nbytes:  # nothing is not compressed
        body = _decompress(body, layout.nbytes)
    if body.nbytes != layout.nbytes:
        raise BadEncoding(f"{body.nbytes} bytes of differences, expected {layout.nbytes}")
    parts, rebuilt = FlatWeights.from_body(layout, body).tensors(), FlatWeights.empty(base.schema)
    peaks = torch.empty(parts["scales"].numel(), dtype=torch.int16)
    for piece in _pieces(base.schema):
        q = _spread(_load(parts["delta"], piece.values), piece.counts)
        bits = q.view(torch.int16) & 0x7FFF if half else q.abs().view(torch.uint8)
        peaks[piece.blocks] = bits.amax(1)
        scale = parts["scales"][piece.blocks].view(-1, 1)
        _rebuild(piece.of(base), q, scale, piece, rebuilt)
    _check_scales(parts["scales"], peaks, half)
    for whole, part in _exact(rebuilt, parts["exact"]):
        whole.copy_(part)
    return rebuilt


def largest_size(schema: Schema, encoding: str) -> int:
    """No body that codes a model of `schema` has more bytes: refuse larger ones unread. Raises
    BadEncoding for an unknown encoding."""
    layout, _, packed = _layout(schema, encoding)
    size = layout.nbytes
    # ZSTD_COMPRESSBOUND of zstd.h, whose third term is at most 64
    return size + (size >> 8) + 64 if packed else size


# --- which one to use


class Cost(NamedTuple):
    """What an encoding takes: plain bytes a second, plain bytes per byte sent, and the seconds
    that coding and decoding together take however small the model."""

    encode_bytes_per_s: float
    decode_bytes_per_s: float
    ratio: float
    overhead_s: float


@dataclass(frozen=True)
class Costs:
    """The cost of every encoding on this processor; the other end is taken to be like it."""

    by_encoding: Mapping[str, Cost]

    @classmethod
    def measure(cls, clock: Callable[[], float] = time.perf_counter) -> Self:
        """Best of three, on 2 MB of noise, which compresses about as training steps do. Takes
        about 0.1 s; `clock` gives seconds."""
        random = torch.Generator().manual_seed(0)
        old, step = torch.randn(2, 1 << 19, generator=random)
        costs = {}
        for encoding in ENCODINGS:
            seconds = {}
            for size in (1, step.numel()):  # the first also loads what is only loaded once
                base, new = _sample(old[:size]), _sample(old[:size] + step[:size])
                runs = []
                for _ in range(3):
                    start = clock()
                    encoded, _ = encode(new, base, encoding)
                    middle = clock()
                    decode(encoded, base, encoding)
                    runs.append((middle - start, clock() - middle))
                seconds[size] = [max(min(times), 1e-9) for times in zip(*runs, strict=True)]
            nbytes, (up, down) = new.schema.nbytes, seconds[step.numel()]
            ratio = nbytes / encoded.body.nbytes
            costs[encoding] = Cost(nbytes / up, nbytes / down, ratio, sum(seconds[1]))
        return cls(costs)


def _sample(values: Tensor) -> FlatWeights:
    """As tensors that are no whole blocks, like those of most networks: that costs more."""
    return FlatWeights.of({f"w{i:02}": part for i, part in enumerate(torch.split(values, 35_000))})


def choose(bytes_per_s: float, nbytes: int, costs: Costs, wait_s: float = 0.0) -> str:
    """The encoding, or "none", that brings a plain model of `nbytes` to the other end of a link of
    `bytes_per_s` first; the more exact of equals. `wait_s` is what any difference has to wait.

    Raises ValueError for a speed that is none.
    """
    if not bytes_per_s > 0:
        raise ValueError(f"{bytes_per_s} bytes per second: expected more than 0")
    seconds = {"none": nbytes / bytes_per_s}
    for name in ENCODINGS:
        cost = costs.by_encoding[name]
        coding_s = nbytes / cost.encode_bytes_per_s + nbytes / cost.decode_bytes_per_s
        sending_s = nbytes / (cost.ratio * bytes_per_s)
        seconds[name] = wait_s + cost.overhead_s + _BUSY * coding_s + sending_s
    return min(seconds, key=seconds.__getitem__)


# --- blocks


class _Piece(NamedTuple):
    """Up to 64 consecutive blocks of one dtype."""

    dtype: str
    begin: int  # bytes of the model
    end: int
    values: slice  # of "delta"
    blocks: slice  # of "scales"
    counts: list[int]  # values of each tensor in it

    def of(self, model: FlatWeights) -> Tensor:
        return model.buffer[self.begin : self.end].view(DTYPES[self.dtype])


def _pieces(schema: Schema) -> Iterator[_Piece]:
    value = block = 0
    for dtype, begin, _ in schema.float_runs:
        tensors = (math.prod(spec.shape) for spec in schema.specs if spec.dtype == dtype)
        for counts in _grouped(tensors):
            count = sum(counts)
            end = begin + count * DTYPES[dtype].itemsize
            values, blocks = slice(value, value + count), slice(block, block + _blocks(counts))
            yield _Piece(dtype, begin, end, values, blocks, counts)
            begin, value, block = end, values.stop, blocks.stop


def _grouped(tensors: Iterable[int]) -> Iterator[list[int]]:
    """The same counts of values, cut and grouped into at most 64 blocks at a time."""
    counts: list[int] = []
    room = _ROWS
    for count in tensors:
        while count:
            counts.append(min(count, room * _BLOCK))
            count -= counts[-1]
            room -= _blocks(counts[-1:])
            if not room:
                yield counts
                counts, room = [], _ROWS
    if counts:
        yield counts


def _blocks(counts: Iterable[int]) -> int:
    return sum(-(-count // _BLOCK) for count in counts)


def _spread(values: Tensor, counts: list[int]) -> Tensor:
    """The values of a piece as [blocks, 1024], zeros after the end of each tensor."""
    if not any(count % _BLOCK for count in counts):
        return values.view(-1, _BLOCK)
    gap = torch.zeros(_BLOCK, dtype=values.dtype)
    parts = [x for part in torch.split(values, counts) for x in (part, gap[: -len(part) % _BLOCK])]
    return torch.cat(parts).view(-1, _BLOCK)


def _gather(rows: Tensor, counts: list[int]) -> Tensor:
    """What `_spread` spread."""
    if rows.numel() == sum(counts):
        return rows.view(-1)
    sizes = [size for count in counts for size in (count, -count % _BLOCK)]
    return torch.cat(torch.split(rows.view(-1), sizes)[::2])


def _scale(largest: Tensor, half: bool) -> Tensor:
    """What one unit stands for in blocks of these largest magnitudes: 0 or a normal float32."""
    if half:  # the power of two that makes them 2^14 to 2^15: far from subnormal and from infinite
        scale = (largest.view(torch.int32) & _INFINITY).view(torch.float32) * 2.0**-14
    else:
        scale = largest / 127
    return scale.masked_fill_(scale < torch.finfo(torch.float32).tiny, 0.0)  # NaN stays


def _rebuild(base: Tensor, q: Tensor, scale: Tensor, piece: _Piece, model: FlatWeights) -> None:
    """Write base + q scale into `model`: the product in float32, the sum in float64 for F64 and in
    float32 for all others. Both ends run this. Raises BadEncoding if the result isn't finite."""
    out = piece.of(model)
    torch.add(_wide(base), _gather(q.float().mul_(scale), piece.counts), out=out)
    if not all(math.isfinite(end) for end in torch.aminmax(out)):  # NaN anywhere makes both NaN
        at = piece.begin + int(out.isfinite().int().argmin()) * out.itemsize
        name = next(n for n, (begin, end) in model.schema.offsets.items() if begin <= at < end)
        raise BadEncoding(f"tensor {shown(name)}: base and difference add up to NaN or infinity")


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _store(q: Tensor, delta: Tensor, values: slice) -> None:
    """Into "delta". With zstd, fp16 is U8 [2, values], all low bytes before all high ones: those
    compress, and would not among the others."""
    if delta.dtype == q.dtype:
        delta[values] = q
    else:
        bits = q.view(torch.int16)
        delta[0, values] = bits  # the low byte: integers wrap
        delta[1, values] = bits >> 8


def _load(delta: Tensor, values: slice) -> Tensor:
    if delta.dtype != torch.uint8:
        return delta[values]
    high = delta[1, values].to(torch.int16) << 8
    return high.bitwise_or_(delta[0, values]).view(torch.float16)


def _exact(model: FlatWeights, exact: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Bytes of the model that are no floats, with their places in "exact"."""
    at = 0
    for spec in model.schema.specs:
        if spec.dtype not in FLOAT_DTYPES:
            begin, end = model.schema.offsets[spec.name]
            yield model.buffer[begin:end], exact[at : at + spec.nbytes]
            at += spec.nbytes


# --- sizes and checks


def _layout(schema: Schema, encoding: str) -> tuple[Schema, bool, bool]:
    """The coded tensors before zstd; whether they are fp16; whether zstd follows."""
    if encoding not in ENCODINGS:
        raise BadEncoding(f"encoding {shown(encoding)}: expected one of {', '.join(ENCODINGS)}")
    half, packed = encoding.startswith("fp16"), encoding.endswith("zstd")
    counts = [math.prod(spec.shape) for spec in schema.specs if spec.dtype in FLOAT_DTYPES]
    exact = sum(spec.nbytes for spec in schema.specs if spec.dtype not in FLOAT_DTYPES)
    planes = (2, sum(counts)) if half and packed else (sum(counts),)  # see _store
    specs = [
        TensorSpec("scales", "F32", (_blocks(counts),)),
        TensorSpec("delta", ("U8" if packed else "F16") if half else "I8", planes),
        TensorSpec("exact", "U8", (exact,)),
    ]
    return Schema.of(specs), half, packed


def _packed_schema(nbytes: int) -> Schema:
    return Schema((TensorSpec("zstd", "U8", (nbytes,)),))


def _decompress(body: memoryview, nbytes: int) -> memoryview:
    """The one frame that is all of `body` and must claim `nbytes`: the claim is what gets
    allocated, and zstd holds it to it."""
    try:
        claimed = zstandard.get_frame_parameters(body).content_size
        if claimed != nbytes:
            raise BadEncoding(f"the zstd frame claims {claimed} bytes, expected {nbytes}")
        frame = zstandard.ZstdDecompressor(max_window_size=min(max(nbytes, 1024), 1 << 27))
        return memoryview(frame.decompress(body, allow_extra_data=False))
    except zstandard.ZstdError as exc:
        raise BadEncoding(f"the zstd frame is broken: {exc}") from exc


def _check_schema(found: Schema, expected: Schema) -> None:
    difference = expected.difference(found)
    if difference is not None:
        raise BadEncoding(difference)


def _check_scales(scales: Tensor, peaks: Tensor, half: bool) -> None:
    """A block's largest magnitude uses the whole range, or it is 0 and its scale is, too. (NaN and
    infinity don't get here: they show in what is rebuilt.)"""
    bits = scales.view(torch.int32)
    if half:  # a power of two, and the bits of 2^14 to 2^15
        fits = (bits & (_TINY - 1) == 0) & (peaks >= 0x7400) & (peaks <= 0x7800)
    else:
        fits = peaks == 127
    fits = torch.where(bits == 0, peaks == 0, fits & (bits >= _TINY))
    if not fits.all():
        block = int(fits.int().argmin())
        raise BadEncoding(f"block {block}: scale {float(scales[block])} doesn't fit its values")
