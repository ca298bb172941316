"""QuickNAT (Roy et al., NeuroImage 2019): a 2-D encoder/decoder of dense blocks, on slices.

Four encoders, a bottleneck and four decoders, each one dense block; encoders end in a 2x2 max
pooling whose indices the matching decoder un-pools with. About
3.5 million parameters at 64 filters. On CPUs channels-last memory keeps every layer on its fast
path; ReLU instead of PReLU saves a fifth of a training step there and costs no Dice.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PAPER_FILTERS = 64
LEVELS = 4
MULTIPLE_OF: int = 2**LEVELS  # height and width must be whole multiples of this


class WrongInputShape(ValueError):
    """Slices the network can't take."""


class DenseUnit(nn.Sequential):
    """Batch norm, ReLU, convolution: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__(
            nn.BatchNorm2d(inputs),
            nn.ReLU(inplace=True),
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2),
        )


class DenseBlock(nn.Module):
    """5x5, 5x5, 1x1, each fed with all before it: (B, inputs, H, W) -> (B, filters, H, W)."""

    def __init__(self, inputs: int, filters: int) -> None:
        super().__init__()
        self.first = DenseUnit(inputs, filters, kernel=5)
        self.second = DenseUnit(inputs + filters, filters, kernel=5)
        self.third = DenseUnit(inputs + 2 * filters, filters, kernel=1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(torch.cat((x, first), dim=1))
        out: Tensor = self.third(torch.cat((x, first, second), dim=1))
        return out


class QuickNAT(nn.Module):
    """Slices to logits: (B, 1, H, W) -> (B, classes, H, W), H and W multiples of 16.

    `classes` counts the background. Raises WrongInputShape for slices it can't take.

    `learning_rate_scale` is how much larger Adam's default steps are than the paper's for its 64
    filters: the best rate goes with 1 / width (Yang et al. 2022, muP), and with 16 filters four
    times 0.001 reaches in one fine-tune what 0.001 needs several for.
    """

    def __init__(self, classes: int, filters: int = PAPER_FILTERS) -> None:
        super().__init__()
        self.learning_rate_scale = PAPER_FILTERS / filters
        self.encoders = nn.ModuleList(
            DenseBlock(1 if level == 0 else filters, filters) for level in range(LEVELS)
        )
        self.bottleneck = DenseBlock(filters, filters)
        self.decoders = nn.ModuleList(DenseBlock(2 * filters, filters) for _ in range(LEVELS))
        self.classifier = nn.Conv2d(filters, classes, kernel_size=1)
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):  # He et al. 2015; torch's default learns far slower
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4 or x.shape[1] != 1 or x.shape[2] % MULTIPLE_OF or x.shape[3] % MULTIPLE_OF:
            raise WrongInputShape(
                f"slices of shape {tuple(x.shape)}: expected (B, 1, H, W) with H and W multiples "
                f"of {MULTIPLE_OF}; pad them"
            )
        # One channel fits both memory layouts; calling it channels-last makes all that follows so.
        height, width = x.shape[2:]
        x = x.contiguous().as_strided(x.shape, (height * width, 1, width, 1))
        if torch.is_autocast_enabled(x.device.type):  # else all that is concatenated with it is
            x = x.to(torch.get_autocast_dtype(x.device.type))  # float32, too
        skipped = []
        for encoder in self.encoders:
            x = encoder(x)
            pooled, indices = F.max_pool2d(x, kernel_size=2, return_indices=True)
            skipped.append((x, indices))
            x = pooled
        x = self.bottleneck(x)
        for decoder, (skip, indices) in zip(self.decoders, reversed(skipped), strict=True):
            with torch.autocast(x.device.type, enabled=False):  # it moves values: no float32
                x = F.max_unpool2d(x, indices, kernel_size=[2, 2])
            x = decoder(torch.cat((skip, x), dim=1))
        logits: Tensor = self.classifier(x)
        return logits
