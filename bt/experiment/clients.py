"""The clients of one part, and the budget that all methods share.

Whatever the method, client i fine-tunes R times from the same initial weights, and its k-th
fine-tune sees the same batches at the same learning rate: they depend on the seed, the client's
name and k alone.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from bt.data.labels import LabelTable
from bt.data.volumes import Volume
from bt.experiment.plan import POOLED, Choices, Part
from bt.models import build
from bt.node import make_trainer
from bt.outcome import Diverged
from bt.robust import rule_named
from bt.trainer import FitMetrics, SegmentationTrainer
from bt.weights import FlatWeights


class ChoosyTrainer(SegmentationTrainer):
    """The product's trainer, with what the paper leaves open as choices."""

    def __init__(self, *args: Any, choices: Choices, **options: Any) -> None:
        super().__init__(*args, **options)
        self._choices = choices
        self._adam: torch.optim.Adam | None = None

    def optimiser(self, update: int) -> torch.optim.Adam:
        """A fresh Adam, or the one of the last fine-tune at the rate of this one."""
        if self._adam is None or self._choices.adam == "fresh":
            self._adam = super().optimiser(update)
        for group in self._adam.param_groups:
            group["lr"] = self.learning_rate(update)
        return self._adam

    def load(self, weights: FlatWeights) -> None:
        """Go on from these weights; batch-norm layers stay as they are if they are local."""
        if self._choices.batch_norm == "averaged":
            super().load(weights)
            return
        own = batch_norm_tensors(self.model)
        state = self.model.state_dict()
        with torch.no_grad():
            for name, values in weights.tensors().items():
                if name not in own:
                    state[name].copy_(values)


def batch_norm_tensors(model: nn.Module) -> set[str]:
    """Names of all parameters and buffers of its batch-norm layers."""
    return {
        f"{layer}.{name}"
        for layer, module in model.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for name in module.state_dict()
    }


class Clients:
    """Trainers by name; each can be fine-tuned `rounds` times, no more."""

    def __init__(
        self,
        trainers: Mapping[str, SegmentationTrainer],
        *,
        rounds: int,
        epochs: int,
        merge: str = "mean",
        stale_weight: float = 1.0,
        told: Callable[[str, FitMetrics], None] = lambda name, metrics: None,
    ) -> None:
        self.names = tuple(trainers)
        self.rounds = rounds
        self.merge, self.stale_weight = merge, stale_weight  # BrainTorrent's rule
        self.samples = {name: trainer.samples for name, trainer in trainers.items()}
        self.steps = {  # of a fine-tune: simulated time, where peers are equally fast
            name: epochs * -(-len(trainer.images) // trainer.config.batch_size)
            for name, trainer in trainers.items()
        }
        self._trainers = dict(trainers)
        self._epochs = epochs
        self._updates = dict.fromkeys(trainers, 0)
        self._told = told

    def initial(self, name: str) -> FlatWeights:
        """The weights that `name` is at."""
        return self._trainers[name].weights()

    def fit(self, name: str, start: FlatWeights | None) -> FlatWeights:
        """The next fine-tune of `name`, from `start`; None: from where it is.

        Raises Diverged.
        """
        trainer, update = self._trainers[name], self._updates[name]
        if update >= self.rounds:
            raise RuntimeError(f"{name} has had its {self.rounds} updates")
        if start is not None:
            trainer.load(start)
        metrics = trainer.fit(self._epochs, update, lambda: False)
        self._updates[name] += 1
        weights = trainer.weights()
        if not weights.is_finite():
            raise Diverged(
                f"training of {name} diverged: the model is no longer finite; lower "
                "--learning-rate"
            )
        self._told(name, metrics)
        return weights

    def average(self, models: Mapping[str, FlatWeights], merge: str = "mean") -> FlatWeights:
        """By number of scans: the paper's W^S, and its aggregated model. By another rule: as the
        first client would."""
        (first, own), *others = models.items()
        rule = rule_named(merge)()
        rule.start(own, self.samples[first])
        for name, weights in others:
            rule.add(name, 0, weights.body(), self.samples[name])
        return rule.finish()


def make_trainers(
    part: Part, labels: LabelTable, volumes: Mapping[str, Volume]
) -> dict[str, SegmentationTrainer]:
    """A trainer per client on its `volumes` (by id); for pooled training, one on all of them."""
    divided: Mapping[str, Sequence[str]] = dict(zip(part.names, part.clients, strict=True))
    if part.method == POOLED:
        divided = {POOLED: sorted(scan for scans in part.clients for scan in scans)}
    kind = partial(ChoosyTrainer, choices=part.choices)
    trainers = {}
    for name, scans in divided.items():
        own = [volumes[scan] for scan in scans]
        trainers[name] = make_trainer(part.config, name, labels, own, (), kind)
        if part.choices.start == "own":
            seed = zlib.crc32(f"start/{part.config.seed}/{name}".encode())
            network = build(part.config.model, labels.classes, seed)
            FlatWeights.of(network).load_into(trainers[name].model)
    return trainers
