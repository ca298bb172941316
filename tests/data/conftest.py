"""Small cohorts on disk, made on the spot, and the real scans beside the checkout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray

SHARED = Path(__file__).parents[3] / "shared" / "data"

Write = Callable[..., Path]


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("the real scans are not beside this checkout (../shared/data)")
    return SHARED


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """write("a/b.nii.gz", data, affine=...) makes an image below the test's folder."""

    def write(
        name: str, data: NDArray[np.generic], affine: NDArray[np.float64] | None = None
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        placed = np.eye(4) if affine is None else affine
        kind = nib.MGHImage if path.suffix == ".mgz" else nib.Nifti1Image
        nib.save(kind(data, placed), path)
        return path

    return write


def head(shape: tuple[int, int, int] = (12, 14, 10)) -> NDArray[np.float32]:
    """A bright box in the dark, brighter to the right, the front and the top."""
    image = np.zeros(shape, np.float32)
    i, j, k = np.indices(shape)
    inside = tuple(slice(n // 4, n - n // 4) for n in shape)
    image[inside] = (100 + i + 2 * j + 3 * k)[inside]
    return image


def labels(
    ids: tuple[int, ...] = (1, 2), shape: tuple[int, int, int] = (12, 14, 10)
) -> NDArray[np.int16]:
    """A slab per label number within the box of `head`, in layers along the second axis."""
    label_map = np.zeros(shape, np.int16)
    first, last = shape[1] // 4, shape[1] - shape[1] // 4
    layers = np.array_split(np.arange(first, last), len(ids))
    for number, layer in zip(ids, layers, strict=True):
        label_map[3:-3, layer, 3:-3] = number
    return label_map
