"""Clients that train in milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from bt.experiment.clients import ChoosyTrainer, Clients
from bt.experiment.plan import Choices
from bt.weights import FlatWeights
from tests.test_trainer import CONFIG, slices

EPOCHS = 2


class Watched(ChoosyTrainer):
    """Writes down the batches it is given, and the rate."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: list[tuple[int, float, list[int]]] = []
        self._update = 0

    def learning_rate(self, update: int) -> float:
        self._update = update
        return super().learning_rate(update)

    def batches(self, order: Any) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rate = super().learning_rate(self._update)
        for images, classes in super().batches(order):
            self.seen.append((self._update, rate, images.flatten(1).sum(1).tolist()))
            yield images, classes


def network() -> nn.Module:
    """The same weights every time."""
    torch.manual_seed(7)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 3, 1))


def trainer(number: int, scans: int = 1, choices: Choices | None = None) -> Watched:
    return Watched(
        network(),
        slices(4 * scans, seed=number),
        samples=scans,
        structures=["ring", "core"],
        view="coronal",
        config=replace(CONFIG, halve_every=2),
        seed=number,
        choices=choices or Choices(),
    )


def trainers(
    scans: Sequence[int] = (1, 2, 3), choices: Choices | None = None
) -> dict[str, Watched]:
    return {f"peer-{n}": trainer(n, scans[n], choices) for n in range(len(scans))}


def clients(of: dict[str, Watched], rounds: int = 3) -> Clients:
    return Clients(of, rounds=rounds, epochs=EPOCHS)


def same(one: FlatWeights, other: FlatWeights) -> bool:
    return torch.equal(one.buffer, other.buffer)


def close(one: FlatWeights, other: FlatWeights) -> bool:
    pairs = zip(one.tensors().values(), other.tensors().values(), strict=True)
    return all(torch.allclose(a.float(), b.float(), atol=1e-6) for a, b in pairs)
