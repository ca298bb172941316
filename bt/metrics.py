"""How alike two label maps are: Dice overlap, and distances between surfaces in millimetres.

A structure absent in both is left out (None), counted neither as 1 nor as 0. Present in only one,
its Dice is 0 and its distances do not exist.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt, find_objects

LabelMap = NDArray[np.integer[Any]]


@dataclass(frozen=True)
class SurfaceDistance:
    """Between two surfaces, both ways, in mm."""

    hd95: float  # larger of the two directions' 95th percentiles
    mean: float  # over all surface voxels of both


def dice_scores(truth: LabelMap, predicted: LabelMap, classes: int) -> list[float | None]:
    """Dice of classes 1 .. classes - 1 (the background has none); None where absent in both.

    Raises ValueError if the shapes differ.
    """
    _check_shapes(truth, predicted)
    pairs = truth.reshape(-1).astype(np.intp) * classes + predicted.reshape(-1)
    table = np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)
    both, either = table.diagonal(), table.sum(axis=0) + table.sum(axis=1)
    return [2 * int(both[c]) / int(either[c]) if either[c] else None for c in range(1, classes)]


def surface_distances(
    truth: LabelMap, predicted: LabelMap, classes: int, spacing_mm: tuple[float, float, float]
) -> list[SurfaceDistance | None]:
    """HD95 and mean surface distance of classes 1 .. classes - 1; None where absent in either.

    A surface is the voxels of a structure with a neighbour (of six) outside it; beyond the edge
    of the volume counts as outside.
    """
    _check_shapes(truth, predicted)
    boxes_true = _boxes(truth, classes)
    boxes_predicted = _boxes(predicted, classes)
    found: list[SurfaceDistance | None] = []
    for c in range(1, classes):
        one, other = boxes_true[c - 1], boxes_predicted[c - 1]
        if one is None or other is None:
            found.append(None)
            continue
        box = tuple(
            slice(min(a.start, b.start), max(a.stop, b.stop))
            for a, b in zip(one, other, strict=True)
        )
        found.append(_distance(truth[box] == c, predicted[box] == c, spacing_mm))
    return found


def mean_of(values: Iterable[float | None]) -> float | None:
    """Mean of those that exist; None if none does."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _check_shapes(truth: LabelMap, predicted: LabelMap) -> None:
    if truth.shape != predicted.shape:
        raise ValueError(
            f"label maps of shapes {truth.shape} and {predicted.shape} can't be compared: "
            "bring them onto one grid"
        )


def _boxes(label_map: LabelMap, classes: int) -> list[tuple[slice, ...] | None]:
    boxes: list[tuple[slice, ...] | None] = list(find_objects(label_map, max_label=classes - 1))
    return boxes


def _distance(
    one: NDArray[np.bool_], other: NDArray[np.bool_], spacing_mm: tuple[float, float, float]
) -> SurfaceDistance:
    edge_one, edge_other = one & ~binary_erosion(one), other & ~binary_erosion(other)
    there = distance_transform_edt(~edge_other, sampling=spacing_mm)[edge_one]
    back = distance_transform_edt(~edge_one, sampling=spacing_mm)[edge_other]
    hd95 = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
    return SurfaceDistance(hd95, float(np.concatenate((there, back)).mean()))
