from __future__ import annotations

import numpy as np
import pytest

from bt.data.checks import Grid
from bt.data.scan import DataError
from bt.data.slices import VIEWS, all_slices, slices_of, to_volume
from bt.data.volumes import Volume


def volume(
    shape: tuple[int, int, int] = (20, 30, 25),
    box: tuple[slice, slice, slice] = (slice(4, 9), slice(10, 22), slice(7, 11)),
    spacing_mm: float = 1.0,
) -> Volume:
    """Every voxel another intensity, a labelled box."""
    image = np.arange(1, 1 + np.prod(shape), dtype=np.float32).reshape(shape)
    classes = np.zeros(shape, np.uint8)
    classes[box] = 1
    return Volume("x", image, classes, (spacing_mm,) * 3, Grid(shape, np.eye(4)))


@pytest.mark.parametrize("view", VIEWS)
def test_all_slices_and_back(view: str) -> None:
    one = volume()
    slices = all_slices(one, view)
    assert slices.dtype == np.float32
    assert slices.shape[2] % 16 == slices.shape[3] % 16 == 0
    assert np.array_equal(to_volume(slices[:, 0], view, one.image.shape), one.image)
    with pytest.raises(ValueError, match="can't come from"):
        to_volume(slices[1:, 0], view, one.image.shape)


def test_rows_and_columns_grow_to_the_named_side() -> None:
    x, y, z = np.indices((5, 6, 7))
    n, row, column = 0, 1, 2
    for axis, grows in (
        (x, {"coronal": column, "axial": column, "sagittal": n}),
        (y, {"coronal": n, "axial": row, "sagittal": column}),
        (z, {"coronal": row, "axial": n, "sagittal": row}),
    ):
        one = Volume("x", axis.astype(np.float32), None, (1, 1, 1), Grid((5, 6, 7), np.eye(4)))
        for view, along in grows.items():
            steps = np.diff(all_slices(one, view)[:3, 0, :3, :3], axis=along)
            assert (steps == 1).all(), view


@pytest.mark.parametrize("view", VIEWS)
def test_training_slices_hold_every_labelled_voxel_and_no_empty_slice(view: str) -> None:
    one = volume()
    assert one.classes is not None
    slices = slices_of([one], view, margin_mm=2.0)
    n = {"sagittal": 5, "coronal": 12, "axial": 4}[view]
    assert slices.images.shape == (n, 1, *slices.classes.shape[1:])
    assert slices.classes.sum() == one.classes.sum()
    assert slices.classes.any(axis=(1, 2)).all()
    there = set(slices.images[:, 0][slices.classes == 1])
    assert there == set(one.image[one.classes == 1])


def test_a_window_is_cut_not_moved() -> None:
    """What surrounds the labels is the scan, as far as it goes."""
    one = volume((64, 64, 64), (slice(30, 34), slice(30, 34), slice(2, 6)))
    slices = slices_of([one], "coronal", margin_mm=4.0)
    assert slices.images.shape == (4, 1, 16, 16)
    rows, columns = slice(0, 16), slice(24, 40)  # the window stays within the scan
    expected = one.image[columns, 30:34, rows].transpose(1, 2, 0)
    assert np.array_equal(slices.images[:, 0], expected)


def test_volumes_of_different_size_share_height_and_width() -> None:
    small = volume((10, 10, 10), (slice(2, 8),) * 3)
    large = volume((40, 50, 60), (slice(2, 38), slice(5, 45), slice(10, 50)), spacing_mm=2.0)
    slices = slices_of([small, large], "axial", margin_mm=6.0)
    assert slices.images.shape[1:] == (1, 48, 48)
    assert len(slices) == 6 + 40
    whole = slices_of([small, large], "axial", margin_mm=None)
    assert whole.images.shape[1:] == (1, 64, 48)


def test_every_nth_slice_of_the_labelled_ones() -> None:
    every, third = slices_of([volume()], "coronal"), slices_of([volume()], "coronal", step=3)
    assert np.array_equal(third.images, every.images[::3])


def test_what_cannot_be_sliced() -> None:
    empty = volume(box=(slice(0, 0),) * 3)
    says = r"no axial slice .* voxel in 1 scan: voxels of 1 mm are too large .* smaller --spacing$"
    with pytest.raises(DataError, match=says):
        slices_of([empty], "axial")
    with pytest.raises(DataError, match="no scans to take slices of"):
        slices_of([], "axial")
    with pytest.raises(DataError, match="view 'top': must be one of sagittal, coronal, axial"):
        all_slices(empty, "top")
    with pytest.raises(DataError, match="step 0"):
        slices_of([empty], "axial", step=0)
    assert len(slices_of([empty, volume()], "axial")) == 4
