"""Models coming in: checked range by range, and folded into the round's mean as they arrive.

Differences (delta.py) are the exception: they are small, collected, and merged as one range.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import xxhash
from torch import Tensor

from bt import delta, events
from bt.incarnation import MOST_LOSSES
from bt.merge import MergeRule
from bt.transfer import GRAIN
from bt.versions import Version
from bt.weights import LARGEST, FlatWeights, floats_in, squares
from transports import image, messages
from transports.schema import Schema, shown


class Refused(Exception):
    """A model that must not be merged; the message says why."""


class Late(Refused):
    """The answer to an earlier question: no offence, but of no use now."""


ABSURD = 1e3  # times as long as one's own: no honest model is


@dataclass
class _Incoming:
    arrived: int = 0
    digest: xxhash.xxh3_128 = field(default_factory=xxhash.xxh3_128)
    squares: float = 0.0  # of all floating-point values
    begins: bytes = b""  # a digest of the first grain of its body,
    body: xxhash.xxh3_128 | None = None  # and of all of it, if the last model began like this
    collected: bytearray = field(default_factory=bytearray)  # of a difference
    copy: FlatWeights | None = None  # of a model to keep


class _Last(NamedTuple):
    """What is remembered of the last model of a peer."""

    version: tuple[int, int]
    begins: bytes
    body: str | None
    reborn: int = 0  # how often this very model came under a new incarnation


class Bases:
    """What outlives a round: models of other peers, kept because their next ones come as
    differences from them; and traces of all, to know them if they come again."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, FlatWeights]] = {}
        self._last: dict[str, _Last] = {}

    def may_be_again(self, of: messages.Version, begins: bytes) -> bool:
        """Whether this may be the last model of its peer under a new number."""
        last = self._last.get(of.sender)
        return last is not None and last.begins == begins and of.version > last.version

    def remember(self, of: messages.Version, begins: bytes, body: str | None) -> None:
        """Note what came. Raises Refused if it has a new number and is the last one again.

        A body is digested if it begins as the one before: so the second time is noticed, and
        models that differ cost nothing. One under a new incarnation alone is no lie: its peer may
        have lost its disk, but not time and again.
        """
        last, reborn = self._last.get(of.sender), 0
        same = last is not None and body is not None and body == last.body
        if same and last is not None and of.version > last.version:
            reborn = last.reborn + 1
            if of.version[1] > last.version[1] or reborn > MOST_LOSSES:
                before, now = Version(*last.version), Version(*of.version)
                raise Refused(f"sends the weights of its version {before} again as version {now}")
        elif body is None and last is not None and last.begins == begins:
            body, reborn = last.body, last.reborn  # the same version, asked for again
        self._last[of.sender] = _Last(of.version, begins, body, reborn)

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

    The mean starts from `own`, which counts for `own_weight`.
    """

    def __init__(
        self, rule: Callable[[], MergeRule], own: FlatWeights, own_weight: float, bases: Bases
    ) -> None:
        self._rule = rule()
        self._rule.start(own, own_weight)
        self._bases = bases
        self._own, self._trained = own, own_weight > 0
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
        body = None if incoming.body is None else incoming.body.hexdigest()
        self._bases.remember(merge.announced, incoming.begins, body)
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
            incoming.begins = xxhash.xxh3_128_digest(data[:GRAIN])
            if self._bases.may_be_again(merge.announced, incoming.begins):
                incoming.body = xxhash.xxh3_128()
            incoming.copy = FlatWeights.empty(self._schema) if merge.keep else None
        begin = max(merge.weights.offset - self._header, 0)
        if incoming.body is not None:
            incoming.body.update(data)
        self._check_values(begin, data, incoming)
        self._rule.add(merge.weights.sender, begin, data, merge.weight)
        if incoming.copy is not None:
            incoming.copy.body()[begin : begin + data.nbytes] = data

    def _check_values(self, begin: int, data: memoryview, incoming: _Incoming) -> None:
        for at, values in floats_in(self._schema, begin, data):
            found = squares(values)
            if math.isnan(found):
                name = _bad_tensor(self._schema, at, values)
                raise Refused(f"tensor {shown(name)} holds NaN, infinity or absurd values")
            incoming.squares += found
        if incoming.squares > self._most_squares:
            raise Refused(f"its weights are more than {ABSURD:.0f} times as large as one's own")

    @cached_property
    def _most_squares(self) -> float:
        """Of a model of another; a peer that never trained does not know."""
        return (self._own.squares if self._trained else 0.0) * ABSURD**2 or math.inf

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
        except delta.OtherBase as exc:
            raise Late(str(exc)) from exc
        except messages.MessageError as exc:
            raise Refused(str(exc)) from exc
        self._check_values(0, weights.body(), incoming)
        begins = xxhash.xxh3_128_digest(weights.body()[:GRAIN])
        self._bases.remember(merge.announced, begins, digest)
        self._rule.add(sender, 0, weights.body(), merge.weight)
        return events.Merged(sender, kept=self._bases.keep(sender, digest, weights))


def _check(model: image.Model, announced: messages.Version) -> None:
    said = (announced.sender, announced.version, announced.samples)
    if (model.sender, model.version, model.samples) != said:
        raise Refused(f"announced {shown(said)}, but its weights say {shown(model)}")


def _bad_tensor(schema: Schema, begin: int, values: Tensor) -> str:
    """Name of the tensor that holds the first value that is not sane."""
    at = begin + int((values.double().abs() <= LARGEST).int().argmin()) * values.itemsize
    return next(name for name, (first, end) in schema.offsets.items() if first <= at < end)
