"""How long an experiment will take, from a few timed steps; and which precision is the faster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median

from bt.config import Config
from bt.data.labels import LabelTable
from bt.data.volumes import Volume
from bt.evaluation import evaluate
from bt.experiment import plan
from bt.experiment.plan import Part
from bt.node import make_trainer
from bt.precision import Precision
from bt.trainer import Stopped

_TIMED_STEPS = 6
_WARM_UP = 3


@dataclass(frozen=True)
class Costs:
    """Measured here, on one processor."""

    precision: Precision
    step_s: float
    volume_s: float  # to segment and score one
    steps_per_scan: float  # of one epoch

    def training_s(self, part: Part) -> float:
        """All fine-tunes."""
        scans = sum(map(len, part.clients))
        epochs = part.config.federation.rounds * part.config.train.epochs
        return epochs * scans * self.steps_per_scan * self.step_s

    def scoring_s(self, part: Part) -> float:
        """The aggregated model after every round, the clients at the end or after every round."""
        models, rounds = 0, part.config.federation.rounds
        if part.method != plan.ONLY_CLIENT:
            models += rounds
        if part.method not in (plan.POOLED, plan.CYCLIC):
            models += len(part.clients) * (rounds if part.choices.evaluate_clients else 1)
        return models * len(part.test) * self.volume_s

    def seconds(self, part: Part) -> float:
        return self.training_s(part) + self.scoring_s(part)


def measure(config: Config, labels: LabelTable, train: Sequence[Volume], test: Volume) -> Costs:
    """Train a few steps on the volumes of one client, and score one volume."""
    trainer = make_trainer(config, "", labels, train, ())
    times: list[float] = []

    def enough() -> bool:
        times.append(time.perf_counter())
        return len(times) > _WARM_UP + _TIMED_STEPS

    try:
        while True:  # an epoch of a small client may have a step or two
            trainer.fit(1, 0, enough)
    except Stopped:
        pass
    steps = [later - earlier for earlier, later in pairwise(times)]
    started = time.perf_counter()
    evaluate(trainer.model, [test], config.data.view, labels.structures[1:], trainer.precision)
    volume_s = time.perf_counter() - started
    batches = -(-len(trainer.images) // config.train.batch_size)
    return Costs(trainer.precision, median(steps[_WARM_UP:]), volume_s, batches / len(train))
