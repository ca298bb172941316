"""A trained network on whole volumes: segment slice by slice, compare with the label maps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import find_objects
from torch import nn

from bt.data.slices import all_slices, to_volume
from bt.data.volumes import Classes, Volume
from bt.metrics import LabelMap, SurfaceDistance, dice_scores, mean_of, surface_distances
from bt.precision import Precision

PIXELS_AT_ONCE = 1 << 18  # four slices of 256 x 256: more take memory, and no less time,
_TIMES_ON_CUDA = 8  # but on a GPU, which they keep busy
# What each view's answer weighs where several are combined (QuickNAT, section 2.4): from the
# side, left and right look alike.
VIEW_WEIGHTS = {"coronal": 0.4, "axial": 0.4, "sagittal": 0.2}
CPU = Precision(torch.device("cpu"), torch.float32, "default")


@dataclass(frozen=True)
class ScanScores:
    """One scan; the tuples run over the structures, background excluded."""

    id: str
    dice: tuple[float | None, ...]  # None: absent in truth and prediction
    surface: tuple[SurfaceDistance | None, ...] | None = None  # None: not asked for


@dataclass(frozen=True)
class Metrics:
    """Scores of some scans. `structures` has the names in class order, background excluded."""

    structures: tuple[str, ...]
    scans: tuple[ScanScores, ...]

    @property
    def dice(self) -> float | None:
        """Mean over structures of their means over scans; None without test scans."""
        return mean_of(self.by_structure().values())

    def by_structure(self) -> dict[str, float | None]:
        """Mean Dice over the scans that have the structure."""
        return {
            name: mean_of(scan.dice[i] for scan in self.scans)
            for i, name in enumerate(self.structures)
        }

    def by_scan(self) -> dict[str, float | None]:
        """Mean Dice over each scan's structures."""
        return {scan.id: mean_of(scan.dice) for scan in self.scans}

    def hd95(self) -> dict[str, float | None]:
        """95th percentile Hausdorff distance in mm by structure."""
        return self._surface("hd95")

    def mean_surface_distance(self) -> dict[str, float | None]:
        """Mean surface distance in mm by structure."""
        return self._surface("mean")

    def _surface(self, which: str) -> dict[str, float | None]:
        found = {}
        for i, name in enumerate(self.structures):
            distances = [scan.surface[i] for scan in self.scans if scan.surface is not None]
            found[name] = mean_of(getattr(d, which) for d in distances if d is not None)
        return found


def segment(model: nn.Module, volume: Volume, view: str, precision: Precision = CPU) -> Classes:
    """The class of every voxel of the volume, (X, Y, Z) uint8.

    `model` maps (B, 1, H, W) to logits (B, classes, H, W); it is left in the mode it was in. It
    is not asked about empty space: around a box that holds everything but 0 all is background.
    """
    classes = np.zeros(volume.image.shape, np.uint8)
    box = _filled(volume)
    if box is None:
        return classes
    inside = replace(volume, image=volume.image[box])
    with _asking(model, precision):
        found = [
            logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
            for logits in _logits(model, all_slices(inside, view), precision)
        ]
    classes[box] = to_volume(np.concatenate(found), view, inside.image.shape)
    return classes


def segment_views(
    models: Sequence[tuple[nn.Module, str]], volume: Volume, precision: Precision = CPU
) -> Classes:
    """As `segment`, by several models, each with its view: the class of the largest mean
    probability, views weighted as QuickNAT does.

    Takes two bytes per voxel and class for the sum, and as much for one view's.
    """
    classes = np.zeros(volume.image.shape, np.uint8)
    box = _filled(volume)
    if box is None:
        return classes
    inside = replace(volume, image=volume.image[box])
    total: list[NDArray[np.float16]] = []  # by class, (X, Y, Z)
    for model, view in models:
        with _asking(model, precision):
            found = np.concatenate(
                [
                    logits.float().softmax(dim=1).half().cpu().numpy()
                    for logits in _logits(model, all_slices(inside, view), precision)
                ]
            )  # (n, classes, H, W)
        weight = np.float16(VIEW_WEIGHTS[view])
        for c in range(found.shape[1]):
            part = to_volume(found[:, c], view, inside.image.shape) * weight
            if len(total) == c:
                total.append(part)
            else:
                total[c] += part
    best = total[0]
    inner = np.zeros(best.shape, np.uint8)
    for c, part in enumerate(total[1:], start=1):
        inner[part > best] = c
        best = np.maximum(best, part)
    classes[box] = inner
    return classes


def score(
    id: str,
    truth: LabelMap,
    predicted: LabelMap,
    classes: int,
    spacing_mm: tuple[float, float, float] | None = None,
) -> ScanScores:
    """Compare two label maps on one grid; surface distances too if `spacing_mm` is given."""
    surface = None
    if spacing_mm is not None:
        surface = tuple(surface_distances(truth, predicted, classes, spacing_mm))
    return ScanScores(id, tuple(dice_scores(truth, predicted, classes)), surface)


def evaluate(
    model: nn.Module,
    volumes: Iterable[Volume],
    view: str,
    structures: Sequence[str],
    precision: Precision = CPU,
) -> Metrics:
    """Segment and score volumes on their own grid; `structures` without the background."""
    scans = []
    for volume in volumes:
        if volume.classes is None:
            raise ValueError(f"{volume.id}: no label map to compare with")
        predicted = segment(model, volume, view, precision)
        scans.append(score(volume.id, volume.classes, predicted, len(structures) + 1))
    return Metrics(tuple(structures), tuple(scans))


def _filled(volume: Volume) -> tuple[slice, ...] | None:
    """The box around everything that is not 0; None if all is."""
    (box,) = find_objects(volume.image > 0, max_label=1)
    return box


@contextmanager
def _asking(model: nn.Module, precision: Precision) -> Iterator[None]:
    """Evaluation mode, no gradients; the mode it was in comes back."""
    was_training = model.training
    model.eval()
    with torch.inference_mode(), precision.autocast():
        yield
    model.train(was_training)


def _logits(
    model: nn.Module, slices: NDArray[np.float32], precision: Precision
) -> Iterator[torch.Tensor]:
    """Of slices (n, 1, H, W), some at a time: (b, classes, H, W)."""
    pixels = PIXELS_AT_ONCE * (_TIMES_ON_CUDA if precision.device.type == "cuda" else 1)
    at_once = max(1, pixels // slices[0].size)
    for begin in range(0, len(slices), at_once):
        batch = torch.from_numpy(slices[begin : begin + at_once])
        yield model(batch.to(precision.device))
