"""The loss: weighted cross-entropy plus Dice as in QuickNAT (Roy et al., NeuroImage 2019).

A pixel's weight is its class's, by median frequency balancing, plus an extra on the boundaries
between structures. The balancing is tempered by a square root: in full, a pixel of a small
nucleus weighs hundreds of times one of the background, and in the few steps that a fine-tune
has the large structures are not learned. Everything is worked out on (pixels, classes) rows in
few passes over memory: on small networks with many classes a careless loss costs as much as
several layers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

TEMPER = 0.5  # 0: all classes weigh the same, 1: median frequency balancing in full
SMOOTH = 1.0  # pixels, so that an empty overlap has a gradient


class Loss(NamedTuple):
    """What to minimise, and the overlap it was made from."""

    total: Tensor  # scalar
    overlap: Tensor  # (3, classes), detached: intersection, predicted, true pixels (soft)


def class_weights(classes: NDArray[np.uint8], n: int) -> Tensor:
    """Tempered median frequency balancing: (n,) float32 from label maps of any shape.

    Weights are (median(frequency) / frequency) ** TEMPER over the classes that occur; a class
    that doesn't occur weighs as much as the rarest that does. All are positive.
    """
    counts = np.bincount(classes.reshape(-1), minlength=n).astype(np.float64)
    if len(counts) > n:
        raise ValueError(f"label {len(counts) - 1} among {n} classes (0 to {n - 1})")
    present = counts > 0
    if not present.any():
        raise ValueError("no labelled pixel to weigh the classes by")
    counts[~present] = counts[present].min()
    weights = (np.median(counts[present]) / counts) ** TEMPER
    return torch.from_numpy(weights.astype(np.float32))


def boundaries(classes: Tensor) -> Tensor:
    """Pixels with a neighbour (of four) in another class: (B, H, W) any integer -> bool."""
    edge = torch.zeros_like(classes, dtype=torch.bool)
    across = classes[:, :, 1:] != classes[:, :, :-1]
    down = classes[:, 1:] != classes[:, :-1]
    edge[:, :, 1:] |= across
    edge[:, :, :-1] |= across
    edge[:, 1:] |= down
    edge[:, :-1] |= down
    return edge


class SegmentationLoss(nn.Module):
    """Cross-entropy, weighted by class and boundary, plus 1 - mean Dice of the batch's classes."""

    weights: Tensor

    def __init__(self, weights: Tensor, boundary_weight: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.boundary_weight = boundary_weight

    def forward(self, logits: Tensor, classes: Tensor) -> Loss:
        """Logits (B, C, H, W), classes (B, H, W) of any integer type."""
        n = logits.shape[1]
        weight = self.weights[classes.long()] + self.boundary_weight * boundaries(classes)
        weight = weight.reshape(-1)
        target = classes.reshape(-1).long()
        # (pixels, classes): no copy for channels-last logits
        log_probability = logits.float().permute(0, 2, 3, 1).reshape(-1, n).log_softmax(dim=1)
        of_target = log_probability.gather(1, target[:, None]).squeeze(1)
        cross_entropy = -(weight * of_target).sum() / weight.sum()

        intersection = logits.new_zeros(n, dtype=torch.float32)
        intersection = intersection.index_add(0, target, of_target.exp())
        predicted = log_probability.exp().sum(dim=0)
        true = torch.bincount(target, minlength=n).float()
        dice = (2 * intersection + SMOOTH) / (predicted + true + SMOOTH)
        total = cross_entropy + 1 - dice[true > 0].mean()
        return Loss(total, torch.stack((intersection, predicted, true)).detach())
