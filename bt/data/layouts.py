"""Which scans a folder holds, recognised by looking at it.

Decathlon and nnU-Net, the MALC release, FreeSurfer's SUBJECTS_DIR, BIDS, a TSV manifest. Nothing
is opened here but the small text files, and label maps where only their numbers can say which
table they follow; whether a scan is any good is the business of checks.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from bt.data import bids, decathlon
from bt.data.checks import ScanError, read_label_map
from bt.data.labels import LabelError, LabelTable, ids_in, known_table, recognise, table_of_names
from bt.data.scan import DataError, Scan, strip_nifti

LOOKED_FOR = (
    "dataset.json (Decathlon, nnU-Net), training-images/ (MALC), SUBJECT/mri/T1.mgz (FreeSurfer), "
    "sub-*/anat/*_T1w.nii.gz (BIDS), manifest.tsv"
)

LABELS_OF = {  # where the label maps of a layout lie
    "manifest": "the column 'label'",
    "Decathlon": "what dataset.json lists, or labelsTr/",
    "MALC": "training-labels/NAME_glm.nii.gz",
    "FreeSurfer": "SUBJECT/mri/aparc+aseg.mgz and aseg.mgz",
    "BIDS": "sub-*_dseg.nii.gz beside the scans and in derivatives/*/sub-*/anat/",
}
_IMAGES = (".nii.gz", ".nii", ".mgz", ".mgh")

Found = tuple[list[Scan], LabelTable | None] | None


class NoScans(DataError):
    """Nothing in this folder looks like any of the layouts."""


@dataclass(frozen=True)
class Cohort:
    """All scans of a folder, by id, and how their labels are to be read."""

    root: Path
    layout: str
    scans: tuple[Scan, ...]
    labels: LabelTable


def find_scans(root: Path) -> Cohort:
    """The scans of a folder or of a TSV manifest.

    Raises NoScans where there is none, naming what was looked for, and DataError where no label
    map tells what its numbers mean. Scans without a label map or with missing files are listed:
    loading them says so.
    """
    if not root.exists():
        raise DataError(f"{root}: no such folder")
    layouts: dict[str, Callable[[Path], Found]] = {
        "manifest": _manifest,
        "Decathlon": decathlon.find,
        "MALC": _malc,
        "FreeSurfer": _freesurfer,
        "BIDS": bids.find,
    }
    for layout, find in layouts.items():
        found = find(root)
        if found is None:
            continue
        scans = tuple(sorted(found[0], key=lambda scan: scan.id))
        if not scans:
            raise DataError(f"{root}: looks like {layout} but lists no scan")
        for scan in scans:
            if not _names_a_file(scan.id):
                raise DataError(
                    f"{root}: rename {scan.id!a:.80}: a scan needs a printable name without /"
                )
        _refuse_twins(root, scans)
        return Cohort(root, layout, scans, found[1] or _table_by_looking(root, scans))
    flat = "; the images in it have no labels: bt predict alone takes such a folder"
    raise NoScans(
        f"{root}: no scans found; looked for {LOOKED_FOR}" + (flat if images_in(root) else "")
    )


def images_in(folder: Path) -> list[Path]:
    """The images that lie in a folder side by side, in no layout."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and path.name.lower().endswith(_IMAGES) and path.name[0] != "."
    )


def _names_a_file(id_: str) -> bool:
    """Whether what is made of this scan may be called so: it must not end up somewhere else."""
    return id_.isprintable() and "/" not in id_ and id_ not in ("", ".", "..")


def _refuse_twins(root: Path, scans: Iterable[Scan]) -> None:
    seen: dict[str, Scan] = {}
    for scan in scans:
        if scan.id in seen:
            raise DataError(
                f"{root}: two scans are called {scan.id}: {seen[scan.id].image} and {scan.image}"
            )
        seen[scan.id] = scan


def _table_by_looking(root: Path, scans: Iterable[Scan]) -> LabelTable:
    """The shipped table the first label maps speak, else one class per number found in any."""
    ids: set[int] = set()
    bad: list[str] = []
    for scan in scans:
        if scan.label_map is None:
            continue
        try:
            ids.update(ids_in(read_label_map(scan.label_map).data))
        except (ScanError, LabelError, MemoryError) as exc:
            bad.append(str(exc) if isinstance(exc, ScanError) else f"{scan.label_map}: {exc}")
            continue  # loading it will say so
        table = recognise(ids)
        if table is not None:
            return table
    if not ids:
        first = f": {bad[0]}" if bad else ""
        raise DataError(f"{root}: no scan has a label map that can be read{first}")
    try:
        return table_of_names(root.name, {i: f"label {i}" for i in ids if i})
    except LabelError as exc:
        raise DataError(f"{root}: its label maps can't be used: {exc}") from exc


# --- MALC ---------------------------------------------------------------------------------------


def _malc(root: Path) -> Found:
    """`training-images/1000_3.nii.gz` with `training-labels/1000_3_glm.nii.gz`, and testing-*."""
    parts = {"training": "train", "testing": "test"}
    if not any((root / f"{part}-images").is_dir() for part in parts):
        return None
    scans = []
    for part, split in parts.items():
        for image in sorted((root / f"{part}-images").glob("[!.]*.nii*")):
            stem = strip_nifti(image.name)
            choices = [
                root / f"{part}-labels" / f"{stem}{ending}"
                for ending in ("_glm.nii.gz", "_glm.nii", ".nii.gz", ".nii")
            ]
            label_map = next((path for path in choices if path.is_file()), None)
            scans.append(Scan(stem, image, label_map, split=split))
    return scans, known_table("neuromorphometrics")


# --- FreeSurfer ---------------------------------------------------------------------------------


def _freesurfer(root: Path) -> Found:
    """`SUBJECT/mri/` with T1.mgz or orig.mgz and aparc+aseg.mgz or aseg.mgz."""

    def first(folder: Path, *names: str) -> Path | None:
        return next((folder / name for name in names if (folder / name).is_file()), None)

    scans = []
    for folder in sorted(root.glob("*/mri")):
        image = first(folder, "T1.mgz", "orig.mgz")
        if image is None or folder.parent.name.startswith("fsaverage"):
            continue  # fsaverage is a template, not a person
        label_map = first(folder, "aparc+aseg.mgz", "aseg.mgz")
        scans.append(Scan(folder.parent.name, image, label_map))
    people = bids.participants(root)
    scans = [bids.with_covariates(scan, people.get(scan.id, {})) for scan in scans]
    return (scans, known_table("freesurfer")) if scans else None


# --- TSV manifest -------------------------------------------------------------------------------


def _manifest(root: Path) -> Found:
    """Columns image and label, optional id, split and site; any other is a covariate.

    Paths are relative to the manifest.
    """
    path = root if root.is_file() else root / "manifest.tsv"
    if root.is_file() and root.suffix.lower() != ".tsv":
        raise DataError(f"{root}: expected a folder of scans or a .tsv manifest")
    if not path.is_file():
        return None
    rows = bids.read_tsv(path)
    if not rows or "image" not in rows[0]:
        raise DataError(f"{path}: a manifest needs a column 'image' (and 'label') and a row")
    names = [row.get("id") or strip_nifti(Path(row["image"]).name) for row in rows]
    if len(set(names)) < len(names):  # a/T1.nii.gz and b/T1.nii.gz
        paths = [strip_nifti(row["image"].strip("/").replace("/", "_")) for row in rows]
        names = [row.get("id") or path for row, path in zip(rows, paths, strict=True)]
    scans = []
    for name, row in zip(names, rows, strict=True):
        if not row["image"]:
            raise DataError(f"{path}: a row without an image")
        for named in filter(None, (row["image"], row.get("label"))):
            if not named.isprintable():
                raise DataError(f"{path}: {named!a:.80}: a path must be printable")
        image = path.parent / row["image"]
        label_map = path.parent / row["label"] if row.get("label") else None
        rest = {k: v for k, v in row.items() if k not in ("image", "label", "id")}
        scans.append(bids.with_covariates(Scan(name, image, label_map), rest))
    return scans, None
