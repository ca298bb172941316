"""A trained network on whole volumes: segment slice by slice, compare with the label maps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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

PIXELS_AT_ONCE = 1 << 18  # four slices of 256 x 256: more take memory, and no less time
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
    (box,) = find_objects(volume.image > 0, max_label=1)
    if box is None:
        return classes
    inside = replace(volume, image=volume.image[box])
    found = _segment_slices(model, all_slices(inside, view), precision)
    classes[box] = to_volume(found, view, inside.image.shape)
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


def _segment_slices(
    model: nn.Module, slices: NDArray[np.float32], precision: Precision
) -> NDArray[np.uint8]:
    """(n, 1, H, W) to classes (n, H, W)."""
    was_training = model.training
    model.eval()
    at_once = max(1, PIXELS_AT_ONCE // slices[0].size)
    found = np.empty((len(slices), *slices.shape[2:]), np.uint8)
    with torch.inference_mode(), precision.autocast():
        for begin in range(0, len(slices), at_once):
            batch = torch.from_numpy(slices[begin : begin + at_once])
            logits = model(batch.to(precision.device))
            found[begin : begin + len(batch)] = logits.argmax(dim=1).to(torch.uint8).cpu().numpy()
    model.train(was_training)
    return found
