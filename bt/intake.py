"""Models coming in: checked range by range, and folded into the round's mean as they arrive.

Differences (delta.py) are the exception: they are small, collected, and merged as one range.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import xxhash
from torch import Tensor

from bt import delta, events
from bt.merge import MergeRule
from bt.weights import LARGEST, FlatWeights, floats_in, is_sane
from transports import image, messages
from transports.schema import Schema, shown


class Refused(Exception):
    """A model that must not be merged; the message says why."""


@dataclass
class _Incoming:
    arrived: int = 0
    digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    collected: bytearray = field(default_factory=bytearray)  # of a difference
    copy: FlatWeights | None = None  # of a model to keep


class Bases:
    """Models of other peers, kept because their next ones come as differences from them."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, FlatWeights]] = {}

    def of(self, peer: str, digest: str) -> FlatWeights | None:
        """The model of `peer` with this digest, if it is here."""
        named, weights = self._kept.get(peer, ("", None))
        return weights if named == digest else None

    def keep(self, peer: str, digest: str, weights: FlatWeights | None) -> str | None:
        """Keep this one of `peer`, or none. Returns its digest if it is kept."""
        self._kept.pop(peer, None)
        if weights is None:
            return None
        self._kept[peer] = digest, weights
        return digest


class Intake:
    """The models of one round, from several peers side by side, on their way into `rule`.

    The mean starts from `own`, which counts for `own_samples`.
    """

    def __init__(
        self, rule: Callable[[], MergeRule], own: FlatWeights, own_samples: int, bases: Bases
    ) -> None:
        self._rule = rule()
        self._rule.start(own, own_samples)
        self._bases = bases
        self._schema = own.schema
        self._header = image.header_bytes(own.schema)
        self._incoming: dict[str, _Incoming] = {}

    def take(self, merge: events.Merge) -> events.Merged | None:
        """Merge the next range of a peer's model; None until it was the last one.

        Raises Refused, after which the mean is of no use: it may hold a part of that model.
        """
        weights = merge.weights
        incoming = self._incoming.setdefault(weights.sender, _Incoming())
        if merge.base is None:
            self._fold(merge, incoming)
        else:
            incoming.collected += weights.data
        incoming.arrived += weights.data.nbytes
        if incoming.arrived < weights.size:
            return None
        del self._incoming[weights.sender]
        if merge.base is not None:
            return self._fold_difference(merge, incoming, merge.base)
        if incoming.digest.hexdigest() != merge.announced.digest:
            raise Refused("its weights were damaged on the way: the checksum is wrong")
        kept = self._bases.keep(weights.sender, weights.digest, incoming.copy)
        return events.Merged(weights.sender, kept=kept)

    def finish(self) -> FlatWeights:
        """The mean."""
        return self._rule.finish()

    def _fold(self, merge: events.Merge, incoming: _Incoming) -> None:
        data = merge.weights.data
        incoming.digest.update(data)
        if not incoming.arrived:
            try:
                _check(image.decode(data, self._schema), merge.announced)
            except messages.MessageError as exc:
                raise Refused(str(exc)) from exc
            data = data[self._header :]
            incoming.copy = FlatWeights.empty(self._schema) if merge.keep else None
        begin = max(merge.weights.offset - self._header, 0)
        self._check_values(begin, data)
        self._rule.add(merge.weights.sender, begin, data, merge.announced.samples)
        if incoming.copy is not None:
            incoming.copy.body()[begin : begin + data.nbytes] = data

    def _check_values(self, begin: int, data: memoryview) -> None:
        for at, values in floats_in(self._schema, begin, data):
            if not is_sane(values):
                name = _bad_tensor(self._schema, at, values)
                raise Refused(f"tensor {shown(name)} holds NaN, infinity or absurd values")

    def _fold_difference(
        self, merge: events.Merge, incoming: _Incoming, named: str
    ) -> events.Merged:
        sender = merge.weights.sender
        base = self._bases.of(sender, named)
        if base is None:
            raise Refused("sent a difference from a model that is not here")
        file = memoryview(incoming.collected)
        try:
            model, weights, digest = delta.unpack(file, base, named, merge.weights.encoding)
            _check(model, merge.announced)
        except messages.MessageError as exc:
            raise Refused(str(exc)) from exc
        self._check_values(0, weights.body())
        self._rule.add(sender, 0, weights.body(), merge.announced.samples)
        return events.Merged(sender, kept=self._bases.keep(sender, digest, weights))


def _check(model: image.Model, announced: messages.Version) -> None:
    said = (announced.sender, announced.version, announced.samples)
    if (model.sender, model.version, model.samples) != said:
        raise Refused(f"announced {shown(said)}, but its weights say {shown(model)}")


def _bad_tensor(schema: Schema, begin: int, values: Tensor) -> str:
    """Name of the tensor that holds the first value that is not sane."""
    at = begin + int((values.abs() <= LARGEST).int().argmin()) * values.itemsize
    return next(name for name, (first, end) in schema.offsets.items() if first <= at < end)
