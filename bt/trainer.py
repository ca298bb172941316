"""Fine-tuning: the seam the runner trains through, and the product's own trainer.

Anything with the four methods of `Trainer` can take part in a federation. `SegmentationTrainer`
is the product's: a plain training loop over slices, for QuickNAT or any torch module that maps
(B, 1, H, W) to logits (B, classes, H, W).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from bt.config import TrainConfig
from bt.data.slices import Slices
from bt.data.volumes import Volume
from bt.evaluation import Metrics, evaluate
from bt.losses import SegmentationLoss, class_weights
from bt.precision import choose_precision, ran_out_of_memory
from bt.quicknat import MULTIPLE_OF
from bt.weights import FlatWeights
from transports.malloc import keep_freed_memory

PAPER_LEARNING_RATE = 1e-3
TRIAL_SIDE = 128  # pixels, to choose the precision on: whole slices of a scan take a minute
SMALLEST_WINDOW = 64  # pixels; less shows too little of what surrounds a structure


class Stopped(Exception):
    """A fine-tune was asked to stop; its model is half-trained."""


class NothingToTrainOn(ValueError):
    """A peer without a slice."""


class TooLargeToTrain(Exception):
    """The memory of this machine or device is too small for a training step."""


@dataclass(frozen=True)
class FitMetrics:
    """One fine-tune, averaged over its batches."""

    loss: float
    dice: float | None  # on the training slices, soft, mean over structures; background left out
    seconds: float
    steps: int


class Trainer(Protocol):
    """What the runner needs. Bring your own: any torch model and data set."""

    samples: int  # number of scans: the paper's a_i

    def weights(self) -> FlatWeights:
        """A copy of the model now."""

    def load(self, weights: FlatWeights) -> None:
        """Go on from these weights."""

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        """Fine-tune. `update` counts this peer's fine-tunes from 0, or, if it came late, from
        those the others had: it decides the learning rate and the order of the batches, so that
        a resumed run continues exactly.

        Raises Stopped soon after `stop()` says so.
        """

    def evaluate(self, stop: Callable[[], bool]) -> Any:
        """Scores on the held-out scans. Raises Stopped soon after `stop()` says so."""


class SegmentationTrainer:
    """Trains a network on slices; evaluates it on whole volumes.

    `structures` names the classes 1, 2, ... without the background. `test_volumes` may be empty.
    Each batch is a random window of its slices (`config.crop`): cheaper steps that see as much.
    Raises NothingToTrainOn without slices, TooLargeToTrain if timing a few steps already fails.
    """

    def __init__(
        self,
        model: nn.Module,
        slices: Slices,
        *,
        samples: int,
        structures: Sequence[str],
        view: str,
        test_volumes: Sequence[Volume] = (),
        config: TrainConfig | None = None,
        seed: int = 0,
    ) -> None:
        if not len(slices):
            raise NothingToTrainOn("no slice to train on: give this peer labelled scans")
        keep_freed_memory()
        self.samples = samples
        self.config = config or TrainConfig()
        self.seed = seed
        self.structures = tuple(structures)
        self.view = view
        self.test_volumes = test_volumes
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        images = torch.from_numpy(slices.images)
        with naming_lack_of_memory(self.config):
            self.precision = choose_precision(
                model,
                images[: self.config.batch_size, :, :TRIAL_SIDE, :TRIAL_SIDE],
                self.config.device,
                self.config.precision,
            )
        device = self.precision.device
        self.model = model.to(device)
        self.images = images.to(device)  # (n, 1, H, W)
        self.classes = torch.from_numpy(slices.classes).to(device)  # (n, H, W)
        weights = class_weights(slices.classes, len(structures) + 1)
        self.loss = SegmentationLoss(weights).to(device)
        torch.optim.Adam(self.model.parameters())  # the first one imports for seconds: now

    def weights(self) -> FlatWeights:
        """A copy of the model now."""
        return FlatWeights.of(self.model)

    def load(self, weights: FlatWeights) -> None:
        """Go on from these weights."""
        weights.load_into(self.model)

    def learning_rate(self, update: int) -> float:
        """Halved after every `halve_every` updates of this peer (paper, section 3).

        Where none is configured it starts at the paper's 0.001, times the network's own
        `learning_rate_scale` if it has one, as QuickNAT has for narrow networks.
        """
        start = self.config.learning_rate
        if start is None:
            scale = float(getattr(self.model, "learning_rate_scale", 1.0))
            start = PAPER_LEARNING_RATE * scale
        return start * 0.5 ** (update // self.config.halve_every)

    def optimiser(self, update: int) -> torch.optim.Adam:
        """A fresh Adam for every fine-tune."""
        rate = self.learning_rate(update)
        return torch.optim.Adam(self.model.parameters(), lr=rate, fused=True)

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        """`epochs` passes over the slices. Raises Stopped, TooLargeToTrain."""
        started = time.perf_counter()
        order = np.random.default_rng((self.seed, update))
        adam = self.optimiser(update)
        losses = torch.zeros((), device=self.precision.device)
        overlap = torch.zeros(3, len(self.structures) + 1, device=self.precision.device)
        steps = 0
        self.model.train()
        with flushing_denormals(), naming_lack_of_memory(self.config):
            for _ in range(epochs):
                for images, classes in self.batches(order):
                    if stop():
                        raise Stopped
                    with self.precision.autocast():
                        logits = self.model(images)
                    loss = self.loss(logits, classes)
                    adam.zero_grad()
                    loss.total.backward()
                    adam.step()
                    losses += loss.total.detach()
                    overlap += loss.overlap
                    steps += 1
        seconds = time.perf_counter() - started
        return FitMetrics(losses.item() / max(1, steps), _soft_dice(overlap), seconds, steps)

    def evaluate(self, stop: Callable[[], bool] = lambda: False) -> Metrics:
        """Dice on the held-out volumes. Raises Stopped."""

        def volumes() -> Iterator[Volume]:
            for volume in self.test_volumes:
                if stop():
                    raise Stopped
                yield volume

        return evaluate(self.model, volumes(), self.view, self.structures, self.precision)

    def batches(self, order: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass over the slices, shuffled, in batches of nearly equal size.

        Yields images (B, 1, H, W) and classes (B, H, W): of every batch a random window, its
        sides rounded to multiples of 16.
        """
        shuffled = torch.from_numpy(order.permutation(len(self.images)))
        rows, columns = self.images.shape[2:]
        height, width = (self._cropped(size) for size in (rows, columns))
        for batch in torch.tensor_split(shuffled, -(-len(shuffled) // self.config.batch_size)):
            top = int(order.integers(rows - height + 1))
            left = int(order.integers(columns - width + 1))
            window = (..., slice(top, top + height), slice(left, left + width))
            yield self.images[window][batch], self.classes[window][batch]  # a copy of no more

    def _cropped(self, size: int) -> int:
        wanted = max(SMALLEST_WINDOW, size * self.config.crop)
        return min(size, round(wanted / MULTIPLE_OF) * MULTIPLE_OF)


@contextmanager
def flushing_denormals() -> Iterator[None]:
    """Numbers below 1e-38 count as 0 in this thread: they slow convolutions many times."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextmanager
def naming_lack_of_memory(config: TrainConfig) -> Iterator[None]:
    """Raises TooLargeToTrain for what torch and numpy raise when memory runs out."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not ran_out_of_memory(exc):
            raise
        raise TooLargeToTrain(
            "training needs more memory than there is: lower --batch-size "
            f"(now {config.batch_size}), --crop (now {config.crop:g}) or --filters"
        ) from exc


def _soft_dice(overlap: Tensor) -> float | None:
    """Mean Dice over the structures that occurred; `overlap` as in losses.Loss, summed."""
    intersection, predicted, true = overlap[:, 1:]
    seen = true > 0
    if not seen.any():
        return None
    return float((2 * intersection / (predicted + true))[seen].mean())
