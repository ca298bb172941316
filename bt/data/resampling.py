"""Resampling along the axes: one small matrix per axis, so a volume takes three products.

Averages when shrinking, so that nothing aliases; interpolates linearly when growing. Labels are
resampled class by class and the largest share wins, so labels stay labels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

Image = NDArray[np.float32]
Classes = NDArray[np.uint8]
Shape = tuple[int, int, int]
Matrices = Sequence[Image | None]  # one per axis; None leaves the axis as it is


def same_spacing(ratio: float) -> bool:
    """Whether two voxel sizes of this ratio count as one."""
    return abs(ratio - 1) < 1e-3


def interpolation(n_from: int, n_to: int, ratio: float) -> Image | None:
    """Matrix (n_to, n_from) that resamples one axis; None where nothing changes.

    `ratio` is new over old voxel size. Both grids share their centre. A new voxel weighs the old
    ones by how much of it they fill; one smaller than they are is taken to be as large, which is
    linear interpolation. Rows sum to one.
    """
    if n_from == n_to and same_spacing(ratio):
        return None
    at = (np.arange(n_to) - (n_to - 1) / 2) * ratio + (n_from - 1) / 2  # in old voxels
    at = np.clip(at, 0, n_from - 1)
    half = max(1.0, ratio) / 2
    old = np.arange(n_from)
    upper, lower = (
        np.minimum(at[:, None] + half, old + 0.5),
        np.maximum(at[:, None] - half, old - 0.5),
    )
    weights = np.maximum(upper - lower, 0)
    matrix: Image = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return matrix


def resample(image: Image, matrices: Matrices) -> Image:
    """`image` with each axis replaced by its matrix times it."""
    for axis, matrix in enumerate(matrices):
        if matrix is not None:
            image = np.moveaxis(np.tensordot(matrix, image, axes=(1, axis)), 0, axis)
    return np.ascontiguousarray(image, np.float32)


def resample_classes(classes: Classes, matrices: Matrices) -> Classes:
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
        share = resample((classes[box] == structure).astype(np.float32), rows)
        taken[reach] += share
        better = share > largest[reach]
        winner[reach][better] = structure
        largest[reach][better] = share[better]
    winner[1 - taken > largest] = 0
    return winner


def _nonzero_rows(matrix: Image) -> slice:
    rows = np.flatnonzero(matrix.any(axis=1))
    return slice(int(rows[0]), int(rows[-1]) + 1) if rows.size else slice(0, 0)
