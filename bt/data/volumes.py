"""A scan as the network wants it: axes right, anterior, superior; intensities about 0 to 1.

Orientation comes from the affine alone. Axes are flipped and permuted to the closest RAS
orientation (never rotated by parts of a turn), so the way back is exact.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, io_orientation, ornt_transform
from numpy.typing import NDArray

from bt.data.checks import (
    LARGEST_SCAN,
    LONGEST_AXIS,
    TOO_LARGE,
    Grid,
    ScanError,
    check_same_grid,
    read_image,
    read_label_map,
)
from bt.data.labels import LabelError, LabelTable
from bt.data.resampling import Matrices, interpolation, resample, resample_classes, same_spacing
from bt.data.scan import Scan

Image = NDArray[np.float32]
Classes = NDArray[np.uint8]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

SMALLEST_RANGE = 1e-30  # of intensities; less is a scan of nothing
BRIGHTEST = 1.5  # normalised intensities are cut here: vessels, eyes, spikes


@dataclass(frozen=True, eq=False)
class Volume:
    """One preprocessed scan; x, y, z point right, anterior and superior.

    `image` (X, Y, Z) float32 in 0..BRIGHTEST, 0 the darkest, about 1 the bright tissue;
    `classes` (X, Y, Z) uint8 or None; `stored` the grid of the scan's file, to go back to.
    """

    id: str
    image: Image
    classes: Classes | None
    spacing_mm: Spacing
    stored: Grid
    unknown_ids: tuple[int, ...] = ()


def prepare(
    scan: Scan, labels: LabelTable | None = None, spacing_mm: float | None = None
) -> Volume:
    """Read and preprocess one scan; its label map only with a table to read it by.

    `spacing_mm` is the isotropic grid to resample to; None keeps the voxels as they are. Raises
    ScanError, one line, for whatever is wrong with the files.
    """
    try:
        return _prepare(scan, labels, spacing_mm)
    except MemoryError as exc:
        raise ScanError(f"{scan.image}: {TOO_LARGE}") from exc


def _prepare(scan: Scan, labels: LabelTable | None, spacing_mm: float | None) -> Volume:
    stored = read_image(scan.image)
    spacing = (spacing_mm,) * 3 if spacing_mm is not None else _ras_spacing(stored.grid)
    matrices = _to_spacing(scan, stored.grid, spacing)
    image = resample(normalise(_to_ras(stored.data, stored.grid)), matrices)
    if labels is None:
        return Volume(scan.id, image, None, spacing, stored.grid)
    found, unknown = _read_classes(scan, stored.grid, labels)
    classes = resample_classes(found, matrices)
    return Volume(scan.id, image, classes, spacing, stored.grid, unknown)


def _read_classes(scan: Scan, grid: Grid, labels: LabelTable) -> tuple[Classes, tuple[int, ...]]:
    """Classes (X, Y, Z) of the scan's label map, and the label numbers in no table."""
    if scan.label_map is None:
        raise ScanError(f"{scan.image}: no label map")
    stored = read_label_map(scan.label_map)
    check_same_grid(grid, stored.grid, scan.label_map)
    numbers = _to_ras(stored.data, grid)
    try:
        classes, unknown = labels.to_classes(numbers), labels.unknown_ids(numbers)
    except LabelError as exc:
        raise ScanError(f"{scan.label_map}: {exc}") from exc
    if not classes.any():
        raise ScanError(f"{scan.label_map}: no voxel is labelled")
    return classes, unknown


def normalise(image: NDArray[Any]) -> Image:
    """Finite intensities of any scale to 0..BRIGHTEST: 0 the darkest, 1 what is bright in tissue.

    Tissue is what is brighter than a tenth of the way from the darkest to the brightest, so
    neither the air around a head nor a few bright voxels move the scale.
    """
    sample = image.ravel()[:: max(1, image.size // 1_000_000)].astype(np.float64)
    darkest, brightest = np.percentile(sample, (0.5, 99.5))
    if darkest == brightest:  # a small thing in much air
        darkest, brightest = float(image.min()), float(image.max())
    tissue = sample[sample > darkest + 0.1 * (brightest - darkest)]
    bright = float(np.percentile(tissue, 98)) if tissue.size else brightest
    scaled = image.astype(np.float32)
    scaled -= np.float32(darkest)
    scaled *= np.float32(1 / max(bright - darkest, SMALLEST_RANGE))
    return np.clip(scaled, 0.0, BRIGHTEST, out=scaled)


def to_scan_grid(classes: Classes, volume: Volume) -> Classes:
    """Classes (X, Y, Z) of a volume on the grid of the scan's file, (I, J, K).

    Without resampling every voxel comes back where it was; with it, each of the scan's voxels
    takes the class with the largest share of it.
    """
    if classes.shape != volume.image.shape:
        raise ValueError(f"classes are {classes.shape}, the volume is {volume.image.shape}")
    fine = _ras_spacing(volume.stored)
    shape = _ras_shape(volume.stored)
    back = [
        interpolation(n_from, n_to, new / old)
        for n_from, n_to, new, old in zip(
            classes.shape, shape, fine, volume.spacing_mm, strict=True
        )
    ]
    return _from_ras(resample_classes(classes, back), volume.stored)


# --- orientation --------------------------------------------------------------------------------


# An orientation is (3, 2): for each stored axis, its axis in RAS and its direction there.
_orientation_of: Callable[[NDArray[np.float64]], NDArray[np.float64]] = io_orientation
_reorient: Callable[[NDArray[Any], NDArray[np.float64]], NDArray[Any]] = apply_orientation
_way: Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]] = ornt_transform
_RAS = np.array([(0.0, 1.0), (1.0, 1.0), (2.0, 1.0)])


def _to_ras(data: NDArray[Any], grid: Grid) -> NDArray[Any]:
    return np.ascontiguousarray(_reorient(data, _orientation_of(grid.affine)))


def _from_ras(data: NDArray[Any], grid: Grid) -> NDArray[Any]:
    return np.ascontiguousarray(_reorient(data, _way(_RAS, _orientation_of(grid.affine))))


def _ras_spacing(grid: Grid) -> Spacing:
    """Voxel size along x, y and z."""
    x, y, z = (grid.spacing_mm[axis] for axis in _stored_axes(grid))
    return x, y, z


def _ras_shape(grid: Grid) -> Shape:
    """Voxels along x, y and z."""
    x, y, z = (grid.shape[axis] for axis in _stored_axes(grid))
    return x, y, z


def _stored_axes(grid: Grid) -> list[int]:
    """Which stored axis runs along x, y and z."""
    return [int(axis) for axis in np.argsort(_orientation_of(grid.affine)[:, 0])]


# --- resampling ---------------------------------------------------------------------------------


def _to_spacing(scan: Scan, grid: Grid, spacing: Spacing) -> Matrices:
    """One matrix per RAS axis from the scan's voxels to voxels of `spacing` mm."""
    found = []
    size_mm = np.multiply(_ras_shape(grid), _ras_spacing(grid))
    if min(spacing) <= 0 or np.prod(size_mm / spacing) > LARGEST_SCAN:
        by = " x ".join(f"{mm:.0f}" for mm in size_mm)
        raise ScanError(f"{scan.image}: {by} mm can't be resampled to {spacing[0]:g} mm voxels")
    for n, old, new in zip(_ras_shape(grid), _ras_spacing(grid), spacing, strict=True):
        ratio = new / old
        n_new = n if same_spacing(ratio) else max(1, round(n / ratio))
        if n_new > LONGEST_AXIS:
            raise ScanError(f"{scan.image}: {n_new} voxels along one axis at {new:g} mm")
        found.append(interpolation(n, n_new, ratio))
    return found
