from __future__ import annotations

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bt.data.labels import table_of_names
from bt.data.layouts import find_scans
from bt.data.resampling import interpolation, resample, resample_classes
from bt.data.scan import Scan
from bt.data.volumes import BRIGHTEST, normalise, prepare, to_scan_grid
from tests.data.conftest import Write, head, labels

TABLE = table_of_names("test", {1: "one", 2: "two", 3: "three"})
ORIENTATIONS = [
    "".join(code)
    for axes in itertools.permutations(("LR", "PA", "IS"))
    for code in itertools.product(*axes)
]


def oblique(spacing_mm: tuple[float, float, float], degrees: float) -> NDArray[np.float64]:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", [degrees, -degrees, degrees / 2], degrees=True)
    affine[:3, :3] = turn.as_matrix() * spacing_mm
    affine[:3, 3] = (-40, 12, 7)
    return affine


def reoriented(data: np.ndarray, code: str) -> tuple[np.ndarray, NDArray[np.float64]]:
    """Data of a RAS image stored in another orientation, and the affine that says so."""
    image = nib.Nifti1Image(data, oblique((1.0, 1.5, 2.0), 10))
    start = nib.orientations.axcodes2ornt("RAS")
    turned = image.as_reoriented(
        nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(code))
    )
    return np.ascontiguousarray(turned.dataobj), turned.affine


@pytest.mark.parametrize("code", ORIENTATIONS)
def test_every_orientation_gives_the_same_volume_and_goes_back_exactly(
    code: str, write: Write
) -> None:
    """Right, anterior and superior come from the affine, whatever order the file has."""
    label_map = labels((1, 2, 3))
    image, affine = reoriented(head(), code)
    stored_labels, _ = reoriented(label_map, code)
    scan = Scan("x", write("i.nii.gz", image, affine), write("l.nii.gz", stored_labels, affine))
    volume = prepare(scan, TABLE)
    assert volume.classes is not None
    assert np.array_equal(volume.classes, label_map)
    assert np.allclose(volume.image, normalise(head()))
    assert np.allclose(volume.spacing_mm, (1.0, 1.5, 2.0))
    assert np.array_equal(to_scan_grid(volume.classes, volume), stored_labels)


@pytest.mark.parametrize("code", ["RAS", "LIA", "PSR"])
def test_resampling_puts_a_ball_where_it_was(code: str, write: Write) -> None:
    """Millimetres are kept: a ball of 9 mm in voxels of 1 x 1.5 x 2 mm, resampled to 1.3 mm."""
    shape = (44, 30, 24)
    at_mm = (np.indices(shape).T - [20, 14, 12]) * [1.0, 1.5, 2.0]
    ball = (np.linalg.norm(at_mm, axis=-1).T < 9).astype(np.int16)
    stored, affine = reoriented(ball, code)
    image = (50 + 100 * stored).astype(np.float32)
    scan = Scan("x", write("i.nii.gz", image, affine), write("l.nii.gz", stored, affine))
    volume = prepare(scan, table_of_names("ball", {1: "ball"}), 1.3)
    assert volume.classes is not None
    assert volume.image.shape == (34, 35, 37)
    centre_mm = np.argwhere(volume.classes).mean(axis=0) - (np.array(volume.image.shape) - 1) / 2
    expected_mm = (np.array([20, 14, 12]) - (np.array(shape) - 1) / 2) * [1.0, 1.5, 2.0]
    assert np.abs(centre_mm * 1.3 - expected_mm).max() < 0.2
    volume_mm3 = volume.classes.sum() * 1.3**3
    assert volume_mm3 == pytest.approx(ball.sum() * 3.0, rel=0.03)
    back = to_scan_grid(volume.classes, volume)
    assert back.shape == stored.shape
    assert 2 * (back & stored).sum() / (back.sum() + stored.sum()) > 0.95


def test_labels_stay_labels_under_resampling() -> None:
    """Between 1 and 3 lies no 2, and no class moves by half a voxel."""
    classes = np.zeros((20, 6, 6), np.uint8)
    classes[2:8], classes[8:14] = 1, 3
    matrices = [interpolation(20, 40, 0.5), None, None]
    found = resample_classes(classes, matrices)
    assert np.array_equal(found[:, 0, 0], np.repeat(classes[:, 0, 0], 2))
    back = resample_classes(found, [interpolation(40, 20, 2.0), None, None])
    assert np.array_equal(back, classes)


def test_interpolation_keeps_constants_lines_and_means() -> None:
    for n, m, ratio in ((20, 40, 0.5), (40, 20, 2.0), (30, 23, 1.3), (9, 9, 1.2)):
        matrix = interpolation(n, m, ratio)
        assert matrix is not None
        assert np.allclose(matrix.sum(axis=1), 1)
        line = matrix @ np.arange(n) - (n - 1) / 2
        inside = slice(2, -2)
        assert np.allclose(line[inside], ((np.arange(m) - (m - 1) / 2) * ratio)[inside], atol=0.1)
    assert interpolation(7, 7, 1.0004) is None
    image = np.random.default_rng(0).random((8, 8, 8), np.float32)
    halved = resample(image, [interpolation(8, 4, 2.0)] * 3)
    assert np.allclose(halved, image.reshape(4, 2, 4, 2, 4, 2).mean(axis=(1, 3, 5)), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3e4])
@pytest.mark.parametrize("offset", [0.0, -500.0])
def test_intensities_of_any_scale_come_out_alike(scale: float, offset: float) -> None:
    image = head((40, 40, 40))
    image[20, 20, 20] = 1e4  # one spike
    found = normalise((image * scale + offset * scale).astype(np.float32))
    assert found.dtype == np.float32
    assert np.allclose(found, normalise(image), atol=1e-3)
    assert found.min() == 0
    assert found.max() == BRIGHTEST
    assert 0.9 < np.percentile(found[10:30, 10:30, 10:30], 95) <= 1.0


def test_a_small_thing_in_much_air() -> None:
    image = np.zeros((50, 50, 50), np.int16)
    image[25:28, 25:28, 25:28] = 700
    assert normalise(image).max() == 1


def test_classes_of_another_shape_are_refused(write: Write) -> None:
    volume = prepare(Scan("x", write("i.nii.gz", head())))
    with pytest.raises(ValueError, match="the volume is"):
        to_scan_grid(np.zeros((3, 3, 3), np.uint8), volume)


@pytest.mark.shared
def test_real_scans_there_and_back(shared: Path) -> None:
    """A whole head of 256^3 in LIA: exact without resampling, close with it."""
    cohort = find_scans(shared / "brains-1mm")
    scan = cohort.scans[0]
    volume = prepare(scan, cohort.labels)
    assert volume.classes is not None
    assert scan.label_map is not None
    truth = cohort.labels.to_classes(np.asarray(nib.load(scan.label_map).dataobj))
    assert np.array_equal(to_scan_grid(volume.classes, volume), truth)
    coarse = prepare(scan, cohort.labels, 2.0)
    assert coarse.classes is not None
    assert coarse.image.shape == (128, 128, 128)
    back = to_scan_grid(coarse.classes, coarse)
    assert (back == truth).mean() > 0.98
    ventricle = cohort.labels.structures.index("lateral ventricle")
    overlap = ((back == ventricle) & (truth == ventricle)).sum()
    assert 2 * overlap / ((back == ventricle).sum() + (truth == ventricle).sum()) > 0.94
