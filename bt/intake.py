"""Models coming in: checked range by range, and folded into the round's mean as they arrive."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import xxhash
from torch import Tensor

from bt.merge import MergeRule
from bt.weights import FlatWeights, floats_in, is_finite
from transports import image, messages
from transports.schema import Schema, shown


class Refused(Exception):
    """A model that must not be merged; the message says why."""


@dataclass
class _Incoming:
    arrived: int = 0
    digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)


class Intake:
    """The models of one round, from several peers side by side, on their way into `rule`.

    The mean starts from `own`, which counts for `own_samples`.
    """

    def __init__(self, rule: Callable[[], MergeRule], own: FlatWeights, own_samples: int) -> None:
        self._rule = rule()
        self._rule.start(own, own_samples)
        self._schema = own.schema
        self._header = image.header_bytes(own.schema)
        self._nbytes = image.nbytes(own.schema)
        self._incoming: dict[str, _Incoming] = {}

    def take(self, weights: messages.Weights, announced: messages.Version) -> bool:
        """Merge the next range of a peer's image; whether that was the last one.

        Raises Refused, after which the mean is of no use: it may hold a part of that model.
        """
        incoming = self._incoming.setdefault(weights.sender, _Incoming())
        data = weights.data
        incoming.digest.update(data)
        if not incoming.arrived:
            _check_header(data, announced, self._schema)
            data = data[self._header :]
        begin = max(weights.offset - self._header, 0)
        for at, values in floats_in(self._schema, begin, data):
            if not is_finite(values):
                name = _bad_tensor(self._schema, at, values)
                raise Refused(f"tensor {shown(name)} holds NaN or infinity")
        self._rule.add(begin, data, announced.samples)
        incoming.arrived += weights.data.nbytes
        if incoming.arrived < self._nbytes:
            return False
        if incoming.digest.hexdigest() != announced.digest:
            raise Refused("its weights were damaged on the way: the checksum is wrong")
        return True

    def finish(self) -> FlatWeights:
        """The mean."""
        return self._rule.finish()


def _check_header(data: memoryview, announced: messages.Version, schema: Schema) -> None:
    try:
        model = image.decode(data, schema)
    except messages.MessageError as exc:
        raise Refused(str(exc)) from exc
    said = (announced.sender, announced.version, announced.samples)
    if (model.sender, model.version, model.samples) != said:
        raise Refused(f"announced {shown(said)}, but its weights say {shown(model)}")


def _bad_tensor(schema: Schema, begin: int, values: Tensor) -> str:
    """Name of the tensor that holds the first value that is not finite."""
    at = begin + int(torch.isfinite(values).int().argmin()) * values.itemsize
    return next(name for name, (first, end) in schema.offsets.items() if first <= at < end)
