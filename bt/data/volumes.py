"""A scan as the network wants it: right-anterior-superior, on an isotropic grid, intensities in 0 to 1.

Orientation comes from the affine alone. Axes are flipped and permuted to the closest RAS
orientation (never rotated by parts of a turn), so the way back is exact. Resampling is separable:
one small matrix per axis, averaging when shrinking so that nothing aliases; labels are resampled
class by class and the largest share wins, so labels stay labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from bt.data.checks import Grid, ScanError, check_same_grid, read_image, read_label_map
from bt.data.labels import LabelError, LabelTable
from bt.data.scan import Scan

Image = NDArray[np.float32]
Classes = NDArray[np.uint8]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

Matrices = list[Image | None]  # one per axis; None leaves the axis as it is

SAME_SPACING = 1e-3  # relative difference below which an axis isn't resampled
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
    stored = read_image(scan.image)
    spacing = (spacing_mm,) * 3 if spacing_mm else _ras_spacing(stored.grid)
    matrices = _to_spacing(stored.grid, spacing)
    image = _resample(normalise(_to_ras(stored.data, stored.grid)), matrices)
    classes: Classes | None = None
    unknown: tuple[int, ...] = ()
    if labels is not None:
        if scan.label_map is None:
            raise ScanError(f"{scan.image}: no label map")
        label_map = read_label_map(scan.label_map)
        check_same_grid(stored.grid, label_map.grid, scan.label_map)
        try:
            found = labels.to_classes(label_map.data)
            unknown = labels.unknown_ids(label_map.data)
        except LabelError as exc:
            raise ScanError(f"{scan.label_map}: {exc}") from exc
        if not found.any():
            raise ScanError(f"{scan.label_map}: no voxel is labelled")
        classes = _resample_classes(_to_ras(found, stored.grid), matrices)
    return Volume(scan.id, image, classes, spacing, stored.grid, unknown)


def normalise(image: Image) -> Image:
    """Intensities of any scale to 0..BRIGHTEST: 0 the darkest, 1 the 98th percentile of tissue.

    Tissue is what is brighter than a tenth of the way from the darkest to the brightest, so
    neither air around a head nor a few bright voxels move the scale. Not finite: 0.
    """
    sample = image.ravel()[:: max(1, image.size // 1_000_000)]
    sample = sample[np.isfinite(sample)]
    darkest, brightest = np.percentile(sample, (0.5, 99.5))
    if darkest == brightest:  # a small thing in much air
        darkest, brightest = float(sample.min()), float(sample.max())
    tissue = sample[sample > darkest + 0.1 * (brightest - darkest)]
    bright = float(np.percentile(tissue, 98)) if tissue.size else brightest
    scaled = (image - np.float32(darkest)) / np.float32(max(bright - darkest, 1e-30))
    np.nan_to_num(scaled, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
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
        _interpolation(n_from, n_to, new / old)
        for n_from, n_to, new, old in zip(
            classes.shape, shape, fine, volume.spacing_mm, strict=True
        )
    ]
    return _from_ras(_resample_classes(classes, back), volume.stored)


# --- orientation --------------------------------------------------------------------------------


def _orientation(grid: Grid) -> NDArray[np.float64]:
    """nibabel's orientation (3, 2): for each stored axis its RAS axis and its direction."""
    found: NDArray[np.float64] = nib.orientations.io_orientation(grid.affine)
    return found


def _to_ras(data: NDArray[Any], grid: Grid) -> NDArray[Any]:
    return np.ascontiguousarray(nib.orientations.apply_orientation(data, _orientation(grid)))


def _from_ras(data: Classes, grid: Grid) -> Classes:
    ras = nib.orientations.axcodes2ornt("RAS")
    back = nib.orientations.ornt_transform(ras, _orientation(grid))
    return np.ascontiguousarray(nib.orientations.apply_orientation(data, back))


def _ras_spacing(grid: Grid) -> Spacing:
    """Voxel size along x, y and z."""
    of = dict(zip(_orientation(grid)[:, 0].astype(int), grid.spacing_mm, strict=True))
    return of[0], of[1], of[2]


def _ras_shape(grid: Grid) -> Shape:
    """Voxels along x, y and z."""
    of = dict(zip(_orientation(grid)[:, 0].astype(int), grid.shape, strict=True))
    return of[0], of[1], of[2]


# --- resampling ---------------------------------------------------------------------------------


def _interpolation(n_from: int, n_to: int, ratio: float) -> Image | None:
    """Matrix (n_to, n_from) that resamples one axis; None where nothing changes.

    `ratio` is new over old voxel size. Both grids share their centre. A new voxel weighs the old
    ones by how much of it they fill; one smaller than they are is taken to be as large, which is
    linear interpolation. Rows sum to one.
    """
    if n_from == n_to and abs(ratio - 1) < SAME_SPACING:
        return None
    at = (np.arange(n_to) - (n_to - 1) / 2) * ratio + (n_from - 1) / 2  # in old voxels
    at = np.clip(at, 0, n_from - 1)
    half = max(1.0, ratio) / 2
    old = np.arange(n_from)
    upper, lower = np.minimum(at[:, None] + half, old + 0.5), np.maximum(at[:, None] - half, old - 0.5)
    weights = np.maximum(upper - lower, 0)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _to_spacing(grid: Grid, spacing: Spacing) -> Matrices:
    """One matrix per RAS axis from the scan's voxels to voxels of `spacing` mm."""
    found = []
    for n, old, new in zip(_ras_shape(grid), _ras_spacing(grid), spacing, strict=True):
        ratio = new / old
        same = abs(ratio - 1) < SAME_SPACING
        found.append(None if same else _interpolation(n, max(1, round(n / ratio)), ratio))
    return found


def _resample(image: Image, matrices: Matrices) -> Image:
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            image = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(image, np.float32)


def _resample_classes(classes: Classes, matrices: Matrices) -> Classes:
    """The class with the largest share of every new voxel.

    Each class is resampled within its own bounding box; the background has what is left.
    """
    if all(matrix is None for matrix in matrices):
        return classes
    whole = [
        np.eye(n, dtype=np.float32) if matrix is None else matrix
        for n, matrix in zip(classes.shape, matrices, strict=True)
    ]
    shape = tuple(matrix.shape[0] for matrix in whole)
    winner = np.zeros(shape, np.uint8)
    largest = np.zeros(shape, np.float32)
    taken = np.zeros(shape, np.float32)
    for structure, box in enumerate(find_objects(classes), 1):
        if box is None:
            continue
        columns = [matrix[:, part] for matrix, part in zip(whole, box, strict=True)]
        reach = tuple(_nonzero_rows(matrix) for matrix in columns)
        rows = [matrix[part] for matrix, part in zip(columns, reach, strict=True)]
        share = _resample((classes[box] == structure).astype(np.float32), rows)
        taken[reach] += share
        better = share > largest[reach]
        winner[reach][better] = structure
        largest[reach][better] = share[better]
    winner[1 - taken > largest] = 0
    return winner


def _nonzero_rows(matrix: Image) -> slice:
    rows = np.flatnonzero(matrix.any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
