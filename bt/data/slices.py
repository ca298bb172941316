"""Volumes as stacks of 2-D slices, and back.

Volumes are right-anterior-superior, so the view says which axis is sliced and what rows and
columns mean; rows and columns grow to the named side, so show a slice with origin="lower".

    view      slices along   rows (H)       columns (W)
    sagittal  x (right)      z (superior)   y (anterior)
    coronal   y (anterior)   z (superior)   x (right)
    axial     z (superior)   y (anterior)   x (right)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bt.data.scan import DataError
from bt.data.volumes import Classes, Image, Shape, Volume
from bt.wording import counted

VIEWS = {"sagittal": (0, 2, 1), "coronal": (1, 2, 0), "axial": (2, 1, 0)}  # slices, rows, columns
MULTIPLE = 16  # four poolings halve H and W four times


@dataclass(frozen=True, eq=False)
class Slices:
    """Training slices of one view: `images` (n, 1, H, W) float32, `classes` (n, H, W) uint8."""

    images: Image
    classes: Classes

    def __len__(self) -> int:
        return len(self.images)


def slices_of(
    volumes: Sequence[Volume], view: str, step: int = 1, margin_mm: float | None = 8.0
) -> Slices:
    """The labelled slices of all volumes, every `step`-th, of one H and W.

    Each volume is cut to a window around its own labelled voxels, `margin_mm` more on each side
    (None: no cut), and slices with no labelled voxel are dropped. H and W are the largest window
    of any volume, up to the next multiple of 16; what a volume doesn't fill is 0, background.
    Raises DataError where no slice is left.
    """
    if step < 1:
        raise DataError(f"slice step {step}: must be at least 1")
    if not volumes:
        raise DataError("no scans to take slices of")
    stacks = [_labelled(volume, view) for volume in volumes]
    windows = [_window(image, classes, spacing, margin_mm) for image, classes, spacing in stacks]
    kept = [(i, w) for i, w in enumerate(windows) if w is not None]
    if not kept:
        # Resampling took them: a scan without labels is refused as it is read.
        raise DataError(
            f"no {view} slice with a labelled voxel in {counted(len(volumes), 'scan')}: voxels of "
            f"{volumes[0].spacing_mm[0]:g} mm are too large for the structures, take a smaller "
            "--spacing"
        )
    height = _padded(max(w.rows[1] - w.rows[0] for _, w in kept))
    width = _padded(max(w.columns[1] - w.columns[0] for _, w in kept))
    images, labels = [], []
    for i, window in kept:
        image, classes, _ = stacks[i]
        chosen = window.slices[::step]
        rows = _span(window.rows, height, image.shape[1])
        columns = _span(window.columns, width, image.shape[2])
        images.append(_cut(image[chosen], rows, columns, height, width))
        labels.append(_cut(classes[chosen], rows, columns, height, width))
    return Slices(np.concatenate(images)[:, None], np.concatenate(labels))


def all_slices(volume: Volume, view: str) -> Image:
    """Every slice of a volume, (n, 1, H, W), padded with 0 at the end to multiples of 16."""
    image = _stack(volume.image, view)
    n, rows, columns = image.shape
    padded = np.zeros((n, 1, _padded(rows), _padded(columns)), np.float32)
    padded[:, 0, :rows, :columns] = image
    return padded


def to_volume(slices: NDArray[Any], view: str, shape: Shape) -> NDArray[Any]:
    """What a network says of `all_slices`, (n, H, W), as a volume of `shape` (X, Y, Z)."""
    order = _order(view)
    n, rows, columns = (shape[axis] for axis in order)
    if slices.shape[0] != n or slices.shape[1] < rows or slices.shape[2] < columns:
        raise ValueError(f"{view} slices of {shape} can't come from {slices.shape}")
    volume = slices[:, :rows, :columns].transpose(np.argsort(order))
    return np.ascontiguousarray(volume)


@dataclass(frozen=True)
class _Window:
    slices: NDArray[np.intp]  # which have a labelled voxel
    rows: tuple[int, int]  # first, one past the last; not yet padded
    columns: tuple[int, int]


def _order(view: str) -> tuple[int, int, int]:
    if view not in VIEWS:
        raise DataError(f"view {view!r}: must be one of {', '.join(VIEWS)}")
    return VIEWS[view]


def _stack(data: NDArray[Any], view: str) -> NDArray[Any]:
    return data.transpose(_order(view))


def _padded(n: int) -> int:
    return -(-n // MULTIPLE) * MULTIPLE


def _labelled(volume: Volume, view: str) -> tuple[Image, Classes, tuple[float, float]]:
    """(n, rows, columns) of image and classes, and the voxel size of rows and columns."""
    if volume.classes is None:
        raise DataError(f"{volume.id}: no label map to train on")
    _, rows, columns = _order(view)
    spacing = volume.spacing_mm[rows], volume.spacing_mm[columns]
    return _stack(volume.image, view), _stack(volume.classes, view), spacing


def _window(
    image: Image, classes: Classes, spacing: tuple[float, float], margin_mm: float | None
) -> _Window | None:
    labelled = classes != 0
    slices = np.flatnonzero(labelled.any(axis=(1, 2)))
    if not slices.size:
        return None
    _, n_rows, n_columns = image.shape
    if margin_mm is None:
        return _Window(slices, (0, n_rows), (0, n_columns))
    flat = labelled.any(axis=0)
    rows = _grown(np.flatnonzero(flat.any(axis=1)), margin_mm / spacing[0], n_rows)
    columns = _grown(np.flatnonzero(flat.any(axis=0)), margin_mm / spacing[1], n_columns)
    return _Window(slices, rows, columns)


def _grown(used: NDArray[np.intp], margin: float, size: int) -> tuple[int, int]:
    more = round(margin)
    return max(0, int(used[0]) - more), min(size, int(used[-1]) + 1 + more)


def _span(window: tuple[int, int], wanted: int, size: int) -> tuple[int, int]:
    """The window widened to `wanted` about its centre, as far as there is something."""
    first = window[0] - (wanted - (window[1] - window[0])) // 2
    first = max(0, min(first, size - wanted))
    return first, min(size, first + wanted)


def _cut(
    data: NDArray[Any], rows: tuple[int, int], columns: tuple[int, int], height: int, width: int
) -> NDArray[Any]:
    cut = np.zeros((len(data), height, width), data.dtype)
    part = data[:, rows[0] : rows[1], columns[0] : columns[1]]
    cut[:, : part.shape[1], : part.shape[2]] = part
    return cut
