"""The model that everybody moves here: 100 float32 tensors, and what merging it must give.

Every process makes it from a seed, so nothing but the measured bytes ever has to be sent.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

TENSORS = 100
SIZES = {"14MB": 14_000_000, "100MB": 100_000_000, "1GB": 1_000_000_000}
TINY = 400_000  # bytes of a model that costs nothing: for what a process needs without one
OWN, THEIRS = 0, 1  # seeds
_STRIDE = 97  # checking every value of 1 GB would take longer than pulling it

Floats = np.ndarray[tuple[int], np.dtype[np.float32]]


@lru_cache(maxsize=2)
def values(nbytes: int, seed: int) -> Floats:
    """All values of a model, in order; nobody may write to them."""
    made: Floats = np.random.default_rng(seed).standard_normal(nbytes // 4, dtype=np.float32)
    made.flags.writeable = False
    return made


def image(nbytes: int, seed: int) -> memoryview:
    """The same as bytes, without a copy."""
    return values(nbytes, seed).data.cast("B")


def tensor(buffer: Any) -> Tensor:
    """A float32 view of bytes, read-only or not."""
    import torch  # not above: raw sockets need none of it

    with warnings.catch_warnings():  # torch has no read-only tensors and says so
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(buffer, dtype=torch.float32)


def tensors(flat: Tensor) -> dict[str, Tensor]:
    """The model as state dicts have it: views by name."""
    return {f"layer{i:03}": part for i, part in enumerate(flat.chunk(TENSORS))}


def verify(merged: Iterable[Floats], nbytes: int, peers: int) -> None:
    """Raise ValueError unless `merged` is the mean of one's own and `peers` times their model.

    `merged` is the model in pieces, in order.
    """
    own, theirs = values(nbytes, OWN), values(nbytes, THEIRS)
    begin = 0
    for piece in merged:
        part = slice(begin, begin + len(piece), _STRIDE)
        wanted = (own[part] + peers * theirs[part]) / (1 + peers)
        if not np.allclose(piece[::_STRIDE], wanted, rtol=1e-5, atol=1e-6):
            raise ValueError("the merged model is not the mean of the models")
        begin += len(piece)
    if begin != len(own):
        raise ValueError(f"the merged model has {begin} values, expected {len(own)}")
