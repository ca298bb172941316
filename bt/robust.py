"""Merge rules that one liar can't bend far: norm-clipped mean, median and trimmed mean.

Each needs all models of the round at once, so they are spooled to disk (spool.py) and merged
block by block: memory for the result and about BLOCK_BYTES times five, or five times 64 KiB for
every model if that is more, however large the models are.

The median and the trimmed mean (Yin et al. 2018) look at each value by itself and count every
model alike: a weight by number of scans would be for the liar to choose. The clipped mean
(self-centred clipping, He et al. 2022) keeps these weights, and bounds how far one model can pull.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from bt.config import ConfigError
from bt.merge import MergeRule, WeightedMean, check_range
from bt.spool import Spool
from bt.transfer import GRAIN
from bt.weights import DTYPES, FlatWeights
from transports.schema import FLOAT_DTYPES

BLOCK_BYTES = 1 << 23  # of all models together
TRIMMED = 5  # one model in so many is dropped at either end


class _Block(NamedTuple):
    """Bytes [begin, end) of the body: floats of one dtype."""

    dtype: torch.dtype
    begin: int
    end: int

    def of(self, weights: FlatWeights) -> Tensor:
        return weights.buffer[self.begin : self.end].view(self.dtype)

    def cut(self, models: int) -> Iterator[_Block]:
        """Into blocks that `models` times fit into BLOCK_BYTES."""
        step = max(BLOCK_BYTES // models // GRAIN, 1) * GRAIN
        for begin in range(self.begin, self.end, step):
            yield self._replace(begin=begin, end=min(begin + step, self.end))


@dataclass
class _Model:
    place: int
    weight: float
    arrived: int = 0  # bytes


class _AtOnce:
    """A rule that merges when all models are there."""

    _kept = 0  # places of the spool that outlive a round

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._spool: Spool | None = None
        self._own: FlatWeights | None = None
        self._own_weight = 0.0
        self._models: dict[str, _Model] = {}

    def start(self, own: FlatWeights, weight: float) -> None:
        self._own, self._own_weight = own, weight
        self._models = {}

    def add(self, peer: str, begin: int, data: memoryview, weight: float) -> None:
        if self._own is None:
            raise RuntimeError("start() comes before add()")
        check_range(begin, data, weight, self._own.schema.nbytes)
        if self._spool is None:
            self._spool = Spool(self._folder, self._own.schema.nbytes)
        model = self._models.setdefault(peer, _Model(self._kept + len(self._models), weight))
        self._spool.write(model.place, begin, data)
        model.arrived += data.nbytes

    def finish(self) -> FlatWeights:
        if self._own is None:
            raise RuntimeError("start() comes before finish()")
        nbytes = self._own.schema.nbytes
        if any(model.arrived != nbytes for model in self._models.values()):
            raise RuntimeError("a model was added in part")
        merged = self._own.copy()
        if self._models and self._spool is not None:
            self._merge(self._own, self._spool, merged)
            self._spool.keep(self._kept)
        self._own = None
        return merged

    def _merge(self, own: FlatWeights, spool: Spool, merged: FlatWeights) -> None:
        raise NotImplementedError

    def _values(self, block: _Block, own: FlatWeights, spool: Spool) -> tuple[Tensor, Tensor]:
        """One's own, and the others': (models, values); exact enough to be added up."""
        kind = torch.float64 if block.dtype is torch.float64 else torch.float32
        read = [spool.read(m.place, block.begin, block.end) for m in self._models.values()]
        theirs = torch.stack([bytes_.view(block.dtype).to(kind) for bytes_ in read])
        return block.of(own).to(kind, copy=True), theirs


class TrimmedMean(_AtOnce):
    """Of each value, the mean without the lowest and the highest fifth (rounded up).

    At least one is left: of three models it is the median.
    """

    def _merge(self, own: FlatWeights, spool: Spool, merged: FlatWeights) -> None:
        models = len(self._models) + bool(self._own_weight)
        dropped = self._dropped(models)
        for dtype, begin, end in own.schema.float_runs:
            for block in _Block(DTYPES[dtype], begin, end).cut(models):
                mine, theirs = self._values(block, own, spool)
                rows = [*theirs, mine] if self._own_weight else [*theirs]
                block.of(merged).copy_(_middle(rows, dropped))

    def _dropped(self, models: int) -> int:
        """How many at either end."""
        return min(-(-models // TRIMMED), (models - 1) // 2)


class Median(TrimmedMean):
    """Of each value, the middle one; of an even number, the mean of the middle two."""

    def _dropped(self, models: int) -> int:
        return (models - 1) // 2


class ClippedMean(_AtOnce):
    """The weighted mean of one's own model and of the others', each brought near before.

    Every tensor W_j of another is taken as its difference from one's own W, shortened to length r
    if it is longer: W + sum_j (a_j / a) min(1, r / |W_j - W|) (W_j - W). So a model pulls no
    further than its share of r, whatever is in it. By tensor, since batch-norm statistics differ
    by other lengths than convolutions do; and of vectors by value, since a variance may be far
    smaller than what others beside it change by, and must not become negative.

    r is the median of the lengths of this round's differences and of one's own way since the last
    merge: all of them are estimates of how far apart models are here and now, so nothing has to be
    tuned, and most of them are true if most peers are. Of an even number it is the lower of the
    middle two: one other model alone can't go further than one went by oneself. After a start
    nothing is known of one's own way; it counts as 0.

    A peer without a model of its own measures from the median of the others.
    """

    _kept = 1  # the last merged model, to know one's own way since

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self._merged_before = False

    def _merge(self, own: FlatWeights, spool: Spool, merged: FlatWeights) -> None:
        weights = torch.tensor([model.weight for model in self._models.values()]).double()
        shares = weights / (weights.sum() + self._own_weight)
        for spec in own.schema.specs:
            if spec.dtype not in FLOAT_DTYPES:
                continue
            tensor = _Block(DTYPES[spec.dtype], *own.schema.offsets[spec.name])
            blocks = [*tensor.cut(len(self._models) + 1)]
            if len(spec.shape) < 2:
                for block in blocks:
                    self._merge_values(block, shares, own, spool, merged)
                continue
            squares = torch.zeros(len(self._models), dtype=torch.float64)
            way = 0.0  # one's own, squared
            for block in blocks:
                centre, theirs = self._values(block, own, spool)
                squares += _squares(theirs - self._centre(centre, theirs))
                if self._merged_before:
                    before = spool.read(0, block.begin, block.end).view(block.dtype)
                    way += _squares((centre - before)[None]).item()
            votes = [*squares.tolist(), way] if self._own_weight else squares.tolist()
            radius = sorted(votes)[(len(votes) - 1) // 2] ** 0.5
            lengths = squares.sqrt()
            clipped = torch.where(lengths > radius, shares * radius / lengths, shares)
            for block in blocks:
                mine, theirs = self._values(block, own, spool)
                centre = self._centre(mine, theirs)
                pull = clipped.to(theirs.dtype) @ (theirs - centre)
                block.of(merged).copy_(centre + pull)
        spool.write(0, 0, merged.body())
        self._merged_before = True

    def _merge_values(
        self, block: _Block, shares: Tensor, own: FlatWeights, spool: Spool, merged: FlatWeights
    ) -> None:
        """Each value as a tensor of its own."""
        mine, theirs = self._values(block, own, spool)
        centre = self._centre(mine, theirs)
        ways = theirs - centre
        votes = [*ways.abs()]
        if self._own_weight:
            before = spool.read(0, block.begin, block.end).view(block.dtype)
            votes.append(
                (centre - before).abs() if self._merged_before else torch.zeros_like(mine)
            )
        radius = torch.stack(votes).sort(dim=0).values[(len(votes) - 1) // 2]
        pull = shares.to(ways.dtype) @ ways.clamp(-radius, radius)
        block.of(merged).copy_(centre + pull)

    def _centre(self, own: Tensor, theirs: Tensor) -> Tensor:
        if self._own_weight:
            return own
        return _middle([*theirs.clone()], (len(theirs) - 1) // 2)


def _squares(differences: Tensor) -> Tensor:
    """Of each row, the sum of squares."""
    lengths: Tensor = torch.linalg.vector_norm(differences, dim=1, dtype=torch.float64)
    return lengths.square()


def _middle(rows: list[Tensor], dropped: int) -> Tensor:
    """Of each value, the mean over rows without the lowest and highest `dropped` ones.

    The rows are overwritten. Batcher's merge exchange (Knuth, 5.2.2 M): it compares whole rows, so
    it is many times faster than sorting every value's few numbers.
    """
    spare = torch.empty_like(rows[0])
    for low, high in _exchanges(len(rows)):
        torch.minimum(rows[low], rows[high], out=spare)
        torch.maximum(rows[low], rows[high], out=rows[high])
        rows[low], spare = spare, rows[low]
    kept = rows[dropped : len(rows) - dropped]
    total = kept[0]
    for row in kept[1:]:
        total += row
    return total.div_(len(kept))


def _exchanges(count: int) -> Iterator[tuple[int, int]]:
    """Pairs to be brought in order, one after the other; then all `count` are."""
    most = 1 << max((count - 1).bit_length() - 1, 0)
    p = most
    while p:
        q, r, d = most, 0, p
        while d:
            yield from ((i, i + d) for i in range(count - d) if i & p == r)
            d, q, r = q - p, q >> 1, p
        p >>= 1


_RULES = {"clipped": ClippedMean, "median": Median, "trimmed": TrimmedMean}
# Models that a merge needs, one's own included: of two, nobody knows which one lies.
LEAST_MODELS = {"mean": 1, "clipped": 1, "median": 3, "trimmed": 3}


def check_enough(name: str, others: int, fanout: int | None) -> None:
    """Raise ConfigError if a round could never merge by this rule."""
    least, asked = LEAST_MODELS[name] - 1, min(others, fanout or others)
    if asked < least:
        raise ConfigError(
            f"merge = {name} needs the models of {least} other peers at once, a round here has "
            f"{asked}: take mean or clipped, or more peers or a larger fanout"
        )


def rule_named(name: str, folder: Path | None = None) -> Callable[[], MergeRule]:
    """What gives one peer's merge rule for each of its rounds. Spools go to `folder`."""
    if name == "mean":
        return WeightedMean
    rule = _RULES[name](folder)
    return lambda: rule
