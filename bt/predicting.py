"""bt predict: from scans on disk to segmentations, structure volumes, and pictures to look at.

A file gives a file. A folder gives a folder: as BIDS derivatives where it is BIDS, else side by
side, with one table of volumes and the names and colours of the label numbers. Segmentations lie
on the grid of their scan's file, voxel for voxel. One scan that can't be used stops no other.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bt import __version__, lookup
from bt.data import bids
from bt.data.checks import BadScan, Grid, ScanError, read_label_map
from bt.data.labels import LabelError, LabelTable
from bt.data.layouts import NoScans, find_scans, images_in
from bt.data.scan import DataError, Scan, strip_nifti
from bt.data.volumes import Classes, Volume, prepare, to_scan_grid
from bt.evaluation import segment, segment_views
from bt.files import write_atomic
from bt.inference import Model, enough_memory

ENDINGS = (".nii.gz", ".nii")
_SEGMENTATION = "_dseg"  # how the names of ours end, and of BIDS's: they are no scans


@dataclass(frozen=True)
class Job:
    """One scan, and where its segmentation goes."""

    name: str
    scan: Path
    out: Path


@dataclass(frozen=True)
class Segmented:
    """What came of a job: the volume of each structure in ml."""

    job: Job
    ml: dict[str, float]


def check_views(models: Sequence[Model]) -> None:
    """Raises DataError where they can't answer together."""
    first = models[0]
    for other in models[1:]:
        if other.labels.structures != first.labels.structures:
            raise DataError("these models know different structures; they can't be combined")
        if other.spacing_mm != first.spacing_mm:
            raise DataError(
                "these models see scans at different voxel sizes; they can't be combined"
            )
    views = [model.view for model in models]
    if len(set(views)) < len(views):
        raise DataError(f"two of these models see {views[-1]} slices; give one for each view")


def jobs_of(source: Path, out: Path) -> list[Job]:
    """The scans of a file or folder, and where their segmentations go. Raises DataError."""
    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    into_a_file = out.name.endswith(ENDINGS)
    if source.is_file():
        name = strip_nifti(source.name)
        return [Job(name, source, out if into_a_file else out / _named(name))]
    if into_a_file:
        raise DataError(f"{source} is a folder: name a folder to write into, not {out}")
    if images := bids.t1w_images(source):
        return [_derivative(image, source, out) for image in images]
    files = [(strip_nifti(path.name), path) for path in images_in(source)]
    named = [(name, path) for name, path in files if not name.endswith(_SEGMENTATION)]
    if not named:
        try:
            named = [(scan.id, scan.image) for scan in find_scans(source).scans]
        except NoScans as exc:
            if not files:
                raise
            raise DataError(
                f"{source}: no scans, only segmentations (*{_SEGMENTATION}): name the folder of "
                "the scans"
            ) from exc
    jobs = [Job(name, path, out / _named(name)) for name, path in named]
    if len({job.out for job in jobs}) < len(jobs):
        raise DataError(f"{source}: two scans have the same name but for its ending; rename one")
    return jobs


def predict(models: Sequence[Model], job: Job, picture: Path | None = None) -> Segmented:
    """Segment one scan, by all `models` together. Raises ScanError, DataError.

    With `picture`, also a PNG of scan and segmentation in three planes.
    """
    if job.out.exists() and job.scan.exists() and job.out.samefile(job.scan):
        raise DataError(f"{job.out} is the scan itself; choose another name for the segmentation")
    labels = models[0].labels
    volume = prepare(Scan(job.name, job.scan), None, models[0].spacing_mm)
    with enough_memory(volume):
        found = _segment(models, volume)
        classes = to_scan_grid(found, volume)
    _write(job, volume, labels.to_labels(classes))
    if picture is not None:
        _draw(picture, volume, found, labels.structures[1:])
    return Segmented(job, _volumes(classes, volume.stored, labels))


def measured(labels: LabelTable, jobs: Sequence[Job]) -> tuple[list[Segmented], list[BadScan]]:
    """What came of these earlier, from the segmentations that they left; and the unreadable."""
    found, bad = [], []
    for job in jobs:
        try:
            there = read_label_map(job.out)
            ml = _volumes(labels.to_classes(there.data), there.grid, labels)
        except (ScanError, LabelError) as exc:
            bad.append(BadScan(job.name, job.out, str(exc)))
        else:
            found.append(Segmented(job, ml))
    return found, bad


def _volumes(classes: Classes, grid: Grid, labels: LabelTable) -> dict[str, float]:
    """Of each structure, in ml."""
    ml = float(abs(np.linalg.det(grid.affine[:3, :3]))) / 1000
    counts = np.bincount(classes.ravel(), minlength=labels.classes)
    names = labels.structures[1:]
    return {name: int(n) * ml for name, n in zip(names, counts[1:], strict=True)}


def predict_all(
    models: Sequence[Model],
    jobs: Sequence[Job],
    *,
    pictures: bool = False,
    done: Callable[[Job], None] = lambda job: None,
) -> tuple[list[Segmented], list[BadScan]]:
    """Every scan that can be segmented, and the others with the reason."""
    found, bad = [], []
    for job in jobs:
        picture = job.out.with_name(strip_nifti(job.out.name) + ".png") if pictures else None
        try:
            found.append(predict(models, job, picture))
        except ScanError as exc:
            bad.append(BadScan(job.name, job.scan, str(exc)))
        done(job)
    return found, bad


def write_volumes(path: Path, found: Sequence[Segmented]) -> None:
    """A tab-separated line per scan: its name, and the volume of each structure in ml."""
    text = io.StringIO()
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow(["scan", *(f"{name} (ml)" for name in found[0].ml)] if found else ["scan"])
    writer.writerows([one.job.name, *(round(ml, 4) for ml in one.ml.values())] for one in found)
    write_atomic(path, text.getvalue().encode())


def write_tables(folder: Path, model: Model) -> list[Path]:
    """What the label numbers mean, for viewers; and that these are derivatives, for BIDS tools."""
    about = {
        "Name": "Segmentations by BrainTorrent",
        "BIDSVersion": "1.9.0",
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": "BrainTorrent", "Version": __version__}],
    }
    contents = {
        "dseg.tsv": lookup.bids_table(model.labels),
        "lookup.txt": lookup.freesurfer_table(model.labels),
        "dataset_description.json": json.dumps(about, indent=2) + "\n",
    }
    for name, text in contents.items():
        write_atomic(folder / name, text.encode())
    return [folder / name for name in contents]


def _named(scan: str) -> str:
    return f"{scan}{_SEGMENTATION}.nii.gz"


def _derivative(image: Path, root: Path, out: Path) -> Job:
    """sub-1/anat/sub-1_run-2_T1w.nii.gz -> sub-1/anat/sub-1_run-2_dseg.nii.gz"""
    name = strip_nifti(image.name).removesuffix("_T1w")
    return Job(name, image, out / image.parent.relative_to(root) / _named(name))


def _write(job: Job, volume: Volume, labels: NDArray[np.int32]) -> None:
    """With the scan's own geometry, codes included, or a viewer may not overlay them."""
    kind = np.int16 if labels.max() < 1 << 15 else np.int32
    affine = volume.stored.affine
    image = nib.Nifti1Image(labels.astype(kind), affine)  # type: ignore[no-untyped-call]
    source = nib.load(job.scan)
    if isinstance(source, nib.Nifti1Image):
        for get, put in (("get_qform", "set_qform"), ("get_sform", "set_sform")):
            try:
                affine, code = getattr(source, get)(coded=True)
                getattr(image, put)(affine, int(code))
            except (ValueError, ArithmeticError):
                continue  # a broken form of the scan; the one nibabel placed it by is kept
    content = image.to_bytes()
    zipped = job.out.suffix == ".gz"
    write_atomic(job.out, gzip.compress(content, 1, mtime=0) if zipped else content)


def _segment(models: Sequence[Model], volume: Volume) -> Classes:
    """On the volume's own grid."""
    first = models[0]
    if len(models) == 1:
        return segment(first.network, volume, first.view, first.precision)
    networks = [(model.network, model.view) for model in models]
    return segment_views(networks, volume, first.precision)


def _draw(picture: Path, volume: Volume, found: Classes, structures: Sequence[str]) -> None:
    """Scan and segmentation side by side, in three planes, and which colour is what."""
    from bt.report import style  # needs the report extra
    from bt.report.overlays import draw, legend

    colours = lookup.structure_colours(len(structures))
    with style.drawing():
        figure = draw(volume, {"segmentation": found}, colours)
        seen = {structures[i - 1]: colours[i - 1] for i in np.unique(found) if i}
        legend(figure, seen)
        write_atomic(picture, style.to_png(figure))
