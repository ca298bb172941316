"""Open a scan, or say in one line why it can't be used."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.imageglobals import logger as nibabel_log
from nibabel.spatialimages import SpatialImage
from numpy.typing import NDArray

from bt.wording import printable

LARGEST_SCAN = 1 << 28  # voxels; a header may claim anything
LONGEST_AXIS = 4096  # voxels
FARTHEST_MM = 1e6  # from the scanner's middle
DEFLATED_MOST = 1032  # bytes that one byte of a gzip file can stand for
ABSURD = 1e30  # no intensity is as large as this
TOO_LARGE = "too large for this machine's memory"
SAME_PLACE_MM = 0.1  # corners of an image and its label map may differ by this much


class ScanError(Exception):
    """A file that can't be used; the message is one line naming it and what is wrong."""


@dataclass(frozen=True)
class BadScan:
    """A scan that can't be used, and why, in one line."""

    id: str
    path: Path
    reason: str

    def __str__(self) -> str:
        return printable(f"{self.id}: {self.reason}")  # names of files, and their own words


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels as the file stores them: shape (I, J, K) and the affine (4, 4) to RAS millimetres."""

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size along I, J and K."""
        i, j, k = np.sqrt((self.affine[:3, :3] ** 2).sum(axis=0))
        return float(i), float(j), float(k)


@dataclass(frozen=True, eq=False)
class Stored:
    """The content of one file: `data` (I, J, K) on `grid`."""

    data: NDArray[Any]
    grid: Grid


def read_image(path: Path) -> Stored:
    """Intensities of a 3-D scan, as stored but sane: NaN, infinite and absurd are the darkest.

    Raises ScanError.
    """
    stored = _read(path)
    image = stored.data
    if image.dtype.kind not in "biuf":
        raise ScanError(f"{path}: intensities are {image.dtype}, expected real numbers")
    if image.dtype.kind == "f":
        sane = np.abs(image) < ABSURD  # False for NaN
        darkest = np.min(image, where=sane, initial=ABSURD)
        image = image if sane.all() else np.where(sane, image, darkest)
    if image.min() == image.max():
        raise ScanError(f"{path}: empty, all intensities are the same")
    return Stored(image, stored.grid)


def read_label_map(path: Path) -> Stored:
    """Label numbers of a 3-D label map, as stored. Raises ScanError."""
    return _read(path)


def check_same_grid(image: Grid, label_map: Grid, path: Path) -> None:
    """Raises ScanError unless the label map at `path` lies voxel for voxel on the image."""
    if image.shape != label_map.shape:
        raise ScanError(
            f"{path}: label map of {_by(label_map.shape)} voxels, image of {_by(image.shape)}"
        )
    apart_mm = float(np.abs(_corners(image) - _corners(label_map)).max())
    if apart_mm > SAME_PLACE_MM:
        raise ScanError(f"{path}: label map lies up to {apart_mm:.1f} mm from the image (affines)")


def _read(path: Path) -> Stored:
    try:
        if not path.is_file():
            raise ScanError(f"{path}: missing")
        # nibabel is talkative about odd but harmless header fields.
        with warnings.catch_warnings(action="ignore"), _without_log():
            file = nib.load(path)
            if not isinstance(file, SpatialImage):
                raise ScanError(f"{path}: not an image of a volume")
            shape = _three_dimensional(path, tuple(int(n) for n in file.shape))
            _check_there(path, file)
            data = np.asanyarray(file.dataobj).reshape(shape)
    except ScanError:
        raise
    # Any: nibabel lets through what the decompressors and parsers of all its formats raise.
    except Exception as exc:
        reason = str(exc).replace(str(path), path.name)
        reason = " ".join(reason.split())[:120] or type(exc).__name__
        reason = reason if reason.isprintable() else ascii(reason)  # the file's own words
        reason = TOO_LARGE if isinstance(exc, MemoryError) else reason
        raise ScanError(f"{path}: unreadable: {reason}") from exc
    affine = np.asarray(file.affine, np.float64)
    if not _is_sane(affine):
        raise ScanError(f"{path}: its affine is singular or absurd, it has no place in space")
    return Stored(data, Grid(shape, affine))


def _check_there(path: Path, file: SpatialImage) -> None:
    """A small file that claims much would have all that memory taken before it is read."""
    holder = file.file_map.get("image")
    name = None if holder is None else holder.filename
    kind = getattr(file.dataobj, "dtype", None)
    if not isinstance(name, str | Path) or kind is None:
        return
    found = Path(name)
    packing = {".gz": DEFLATED_MOST, ".mgz": DEFLATED_MOST, ".bz2": None, ".zst": None}
    times = packing.get(found.suffix.lower(), 1)
    claimed, there = math.prod(file.shape) * kind.itemsize, found.stat().st_size
    if times is not None and claimed > there * times:
        raise ScanError(f"{path}: claims {claimed} bytes of voxels, the file has {there}")


@contextmanager
def _without_log() -> Iterator[None]:
    """Unlike nibabel's own LoggingOutputSuppressor, which takes its handler away for good: then
    the lines go to standard error by another way."""
    nibabel_log.disabled = True
    try:
        yield
    finally:
        nibabel_log.disabled = False


def _is_sane(affine: NDArray[np.float64]) -> bool:
    """Voxels of a thinkable size in mm, their edges not nearly in one plane."""
    if not (np.abs(affine) < FARTHEST_MM).all():  # NaN neither; the rest can't overflow
        return False
    edges = affine[:3, :3]
    sizes = np.linalg.norm(edges, axis=0)
    if not (sizes.min() > 1e-4 and sizes.max() < 1e4):
        return False
    return bool(abs(np.linalg.det(edges / sizes)) > 1e-2)


def _three_dimensional(path: Path, shape: tuple[int, ...]) -> tuple[int, int, int]:
    """The shape without trailing axes of length 1."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3:
        raise ScanError(f"{path}: {len(shape)}-D ({_by(shape)}), expected one 3-D volume")
    if 0 in shape:
        raise ScanError(f"{path}: empty, {_by(shape)} voxels")
    if max(shape) > LONGEST_AXIS or shape[0] * shape[1] * shape[2] > LARGEST_SCAN:
        raise ScanError(f"{path}: claims {_by(shape)} voxels, more than a scan has")
    return shape[0], shape[1], shape[2]


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(str(n) for n in shape)


def _corners(grid: Grid) -> NDArray[np.float64]:
    """The eight corner voxels in millimetres, (8, 3)."""
    corners = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(grid.shape) - 1)
    placed: NDArray[np.float64] = corners @ grid.affine[:3, :3].T + grid.affine[:3, 3]
    return placed
