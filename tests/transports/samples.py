"""Messages and images to test with, and ways to tamper with them."""

from __future__ import annotations

import json
import mmap
from contextlib import contextmanager

import numpy as np
import xxhash

from transports import image
from transports.messages import Ask, Limits, Ping, Pull, Report, Version, Weights, encode
from transports.reports import Aside, Fit, Happened, Known
from transports.schema import Schema, TensorSpec

LIMITS = Limits(max_message_bytes=1 << 20, max_samples=1000)
SCHEMA = Schema.of(
    [
        TensorSpec("conv.weight", "F32", (4, 3)),
        TensorSpec("conv.bias", "F32", (4,)),
        TensorSpec("steps", "I64", ()),
        TensorSpec("empty", "F32", (0, 3)),
        TensorSpec("half", "F16", (3,)),
        TensorSpec("brain", "BF16", (2,)),
        TensorSpec("double", "F64", (2,)),
    ]
)
VALUES = {
    "conv.weight": np.arange(12, dtype="<f4").reshape(4, 3),
    "conv.bias": np.full(4, -1.5, dtype="<f4"),
    "steps": np.array(-1, dtype="<i8"),  # all bits set: would be a NaN as a float
    "empty": np.zeros((0, 3), dtype="<f4"),
    "half": np.array([1, 65504, -2], dtype="<f2"),
    "brain": np.array([0x3F80, 0x7F7F], dtype="<u2"),  # 1 and the largest bfloat16
    "double": np.array([1e300, -0.0], dtype="<f8"),
}
HASH = "0123456789abcdef" * 4
DIGEST = "0123456789abcdef" * 2
MODEL = image.Model("site-b", (0, 3), 4)


def body():
    return b"".join(VALUES[spec.name].tobytes() for spec in SCHEMA.specs)


def picture(model=MODEL):
    """The image of a model, all of it."""
    return image.encode(model, SCHEMA) + body()


def weights(begin=0, end=None):
    """A range of that image, by default all of it."""
    whole = picture()
    data = memoryview(whole)[begin:end]
    return Weights("site-b", xxhash.xxh3_128_hexdigest(whole), len(whole), begin, data)


REPORT = Report(
    "site-a", "done", "pulling", (1, 7), 8, 4,
    {"b": Known((0, 6), (0, 7), "training", 3, gone=False),
     "c": Known(None, None, None, None, gone=True)},
    ("b",),
    {"c": Aside(29, "claims 5000 samples, the roster allows it 9")},
    (Fit(6, 812_345, 444_444), Fit(7, None, None)),
    (Happened(1, 90_000, "start", None, "v5"), Happened(2, 10, "merge", "b", "v6")),
    12, 2**53 - 1, 14_118_712, 61_000, 1, 62_001,
)  # fmt: skip
MESSAGES = [
    Ping("site-a"),
    Version("a.b_c", (1, 7), 0, HASH, "training"),
    Version("a.b_c", (1, 7), 12, HASH, "done", DIGEST, seen=(0, 5)),
    Version("a", (2**31 - 1, 0), 1000, HASH, "leaving", seen=(2**31 - 1, 2**31 - 1)),
    Pull("7", DIGEST, 0, 1),
    Pull("site-a", "f" * 32, 2**53 - 1, 2**53 - 1),
    Pull("site-a", DIGEST, 0, 1 << 16, "int8+zstd", "f" * 32),
    weights(),
    weights(begin=600, end=900),
    Weights("site-b", DIGEST, 700, 600, memoryview(bytes(100)), "fp16"),
    Weights("site-b", DIGEST, 0, 900, memoryview(b"")),  # not served (any more)
    Ask("site-a"),
    Report("site-a", "training", "idle", (0, 0), 8, 4),
    REPORT,
]
EACH = [f"{number}-{type(message).__name__}" for number, message in enumerate(MESSAGES)]


def joined(message):
    return b"".join(encode(message))


def file(about, tables=None, tail=b"", metadata=None):
    """A message or image made by hand: `about` goes under the key bt."""
    header = {"__metadata__": metadata or {"bt": json.dumps(about)}} | (tables or {})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + tail


def opened(raw):
    """(what stands under the key bt, the tensor table, the bytes after the header)."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8:end])
    return json.loads(header.pop("__metadata__")["bt"]), header, raw[end:]


@contextmanager
def sparse(folder, nbytes, beginning=b"", end=b""):
    """Zeros between these bytes, in a file that takes up no room: touch little of it.

    Mapped for as long as views of it live.
    """
    path = folder / "sparse"
    with path.open("wb") as made:
        made.write(beginning)
        made.truncate(nbytes)
        made.seek(nbytes - len(end))
        made.write(end)
    with path.open("rb") as opened:
        yield memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    path.unlink()
