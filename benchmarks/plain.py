"""QuickNAT and its loss as one writes them from the paper, for comparison: float32, NCHW, PReLU.

No thought is given to speed; every layer is torch's own, with torch's defaults. The network has
as many layers and channels as bt.quicknat.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DenseBlock(nn.Module):
    """5x5, 5x5, 1x1, each after batch norm and PReLU, and fed with all before it."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + i * filters),
                nn.PReLU(),
                nn.Conv2d(inputs + i * filters, filters, kernel, padding=kernel // 2),
            )
            for i, kernel in enumerate((5, 5, 1))
        )

    def forward(self, x: Tensor) -> Tensor:
        first = self.units[0](x)
        second = self.units[1](torch.cat((x, first), dim=1))
        out: Tensor = self.units[2](torch.cat((x, first, second), dim=1))
        return out


class PlainQuickNAT(nn.Module):
    """Slices to logits: (B, 1, H, W) -> (B, classes, H, W)."""

    def __init__(self, classes: int, filters: int) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(DenseBlock(i, filters) for i in (1, *[filters] * 3))
        self.bottleneck = DenseBlock(filters, filters)
        self.decoders = nn.ModuleList(DenseBlock(2 * filters, filters) for _ in range(4))
        self.pool = nn.MaxPool2d(2, return_indices=True)
        self.unpool = nn.MaxUnpool2d(2)
        self.classifier = nn.Conv2d(filters, classes, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        skipped = []
        for encoder in self.encoders:
            skip = encoder(x)
            x, indices = self.pool(skip)
            skipped.append((skip, indices))
        x = self.bottleneck(x)
        for decoder, (skip, indices) in zip(self.decoders, reversed(skipped), strict=True):
            x = decoder(torch.cat((skip, self.unpool(x, indices)), dim=1))
        logits: Tensor = self.classifier(x)
        return logits


def plain_loss(logits: Tensor, classes: Tensor, weights: Tensor) -> Tensor:
    """Weighted cross-entropy plus Dice; `weights` (classes,), without extras on boundaries."""
    one_hot = F.one_hot(classes, logits.shape[1]).permute(0, 3, 1, 2)
    probability = logits.softmax(dim=1)
    both = (probability * one_hot).sum(dim=(0, 2, 3))
    dice = (2 * both + 1) / ((probability + one_hot).sum(dim=(0, 2, 3)) + 1)
    return F.cross_entropy(logits, classes, weights) + 1 - dice.mean()
