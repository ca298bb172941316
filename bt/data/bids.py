"""BIDS: `sub-*/[ses-*/]anat/*_T1w.nii.gz`, `*_dseg.nii.gz` beside or under derivatives/.

Names are key-value pairs joined by `_`; a label map belongs to the scan whose pairs agree with
its own. `participants.tsv` gives covariates, `*_dseg.tsv` what the numbers mean.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from bt.data.labels import LabelError, LabelTable, recognise, table_of_names
from bt.data.scan import DataError, Scan, strip_nifti

MISSING = ("", "n/a", "N/A")
# Of several label maps of a scan: parcels tell more than segments, and fMRIPrep's `dseg` without
# a description holds three tissues only.
PREFERRED = ("aparcaseg", "aseg", "")


def find(root: Path) -> tuple[list[Scan], LabelTable | None] | None:
    """Scans and, where a `dseg.tsv` states it, their label table; None if this isn't BIDS."""
    images = t1w_images(root)
    label_maps = sorted(_anat(root, "dseg"))
    for derivative in sorted(root.glob("derivatives/*")):
        images += sorted(_anat(derivative, "T1w"))
        label_maps += sorted(_anat(derivative, "dseg"))
    if not images:
        return None
    by_subject: dict[str, list[Path]] = defaultdict(list)
    for path in label_maps:
        by_subject[_pairs(path).get("sub", "")].append(path)
    people = participants(root)
    scans: list[Scan] = []
    taken: set[Path] = set()
    unlabelled: dict[str, Path] = {}
    for image in images:
        stated = _pairs(image)
        if _elsewhere(stated):
            continue
        label_map = _label_map_of(image, by_subject[stated.get("sub", "")])
        if label_map is None:
            unlabelled.setdefault(_session(stated), image)
        elif label_map not in taken:
            taken.add(label_map)
            scans.append(_scan(_image_on_grid_of(label_map, image), image, label_map, people))
    labelled = {_session(_pairs(scan.image)) for scan in scans}
    scans += [
        _scan(image, image, None, people)
        for session, image in unlabelled.items()
        if session not in labelled
    ]
    return scans, _stated_labels(root, sorted(taken))


def t1w_images(root: Path) -> list[Path]:
    """The T1-weighted scans as acquired: none of what was derived from them."""
    return sorted(_anat(root, "T1w"))


def participants(root: Path) -> dict[str, dict[str, str]]:
    """Rows of `participants.tsv` by `participant_id`; empty where there is none."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    return {row.get("participant_id", ""): row for row in read_tsv(path)}


def with_covariates(scan: Scan, row: Mapping[str, str]) -> Scan:
    """`scan` with the columns of its row; `site` and `split` are columns like any other."""
    stated = {k: v for k, v in row.items() if k != "participant_id" and v not in MISSING}
    site = stated.get("site", scan.site)
    return replace(
        scan,
        site=site if site is None or site.isprintable() else ascii(site),  # it gets printed
        split=stated.get("split", scan.split),
        covariates=stated,
    )


def read_tsv(path: Path) -> list[dict[str, str]]:
    """Rows of a tab-separated table. Raises DataError where it can't be read as one."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise DataError(f"{path}: not readable, save it as UTF-8: {exc}") from exc
    except OSError as exc:
        raise DataError(f"{path}: not readable: {exc}") from exc
    rows = csv.DictReader(text.splitlines(), delimiter="\t")
    try:
        return [{k: (v or "").strip() for k, v in row.items() if k is not None} for row in rows]
    except csv.Error as exc:
        raise DataError(f"{path}: not readable: {exc}") from exc


def _anat(root: Path, suffix: str) -> Iterator[Path]:
    for pattern in ("sub-*/anat", "sub-*/ses-*/anat"):
        yield from root.glob(f"{pattern}/sub-*_{suffix}.nii.gz")
        yield from root.glob(f"{pattern}/sub-*_{suffix}.nii")


def _pairs(path: Path) -> dict[str, str]:
    """`sub-01_run-2_desc-aseg_dseg.nii.gz` gives {sub: 01, run: 2, desc: aseg}."""
    parts = strip_nifti(path.name).split("_")[:-1]
    return {key: value for key, _, value in (part.partition("-") for part in parts)}


def _elsewhere(stated: Mapping[str, str]) -> bool:
    """Whether a file lies in a space that isn't its own scan's (MNI, say)."""
    return stated.get("space", "T1w") not in ("T1w", "orig", "individual", "native")


def _session(stated: Mapping[str, str]) -> str:
    return f"sub-{stated.get('sub')}" + (f"_ses-{stated['ses']}" if "ses" in stated else "")


def _label_map_of(image: Path, label_maps: list[Path]) -> Path | None:
    """The label map whose pairs agree with the image's, the preferred kind first."""
    ours = {k: v for k, v in _pairs(image).items() if k not in ("desc", "space")}
    fitting: list[tuple[int, Path]] = []
    for label_map in label_maps:
        stated = _pairs(label_map)
        free = ("desc", "space", "atlas", "seg", "label", "res")
        agrees = all(ours.get(k) == v for k, v in stated.items() if k not in free)
        if agrees and "ses" in ours:
            agrees = stated.get("ses") == ours["ses"]
        if agrees and not _elsewhere(stated):
            desc = stated.get("desc", "")
            rank = PREFERRED.index(desc) if desc in PREFERRED else len(PREFERRED)
            fitting.append((rank, label_map))
    return min(fitting)[1] if fitting else None


def _image_on_grid_of(label_map: Path, image: Path) -> Path:
    """A preprocessed image lying beside the label map shares its grid; else `image` itself."""
    if label_map.parent == image.parent:
        return image
    beside = sorted(label_map.parent.glob("sub-*_T1w.nii*"))
    return next((path for path in beside if not _elsewhere(_pairs(path))), image)


def _scan(
    image: Path, named_after: Path, label_map: Path | None, people: Mapping[str, dict[str, str]]
) -> Scan:
    stated = {k: v for k, v in _pairs(named_after).items() if k not in ("desc", "space")}
    name = "_".join(f"{key}-{value}" for key, value in stated.items())
    row = people.get(f"sub-{stated.get('sub')}", {})
    return with_covariates(Scan(name, image, label_map), row)


def _stated_labels(root: Path, label_maps: list[Path]) -> LabelTable | None:
    """What a `*dseg.tsv` beside the label maps or at the top says about the numbers."""
    beside = [p.with_name(strip_nifti(p.name) + ".tsv") for p in label_maps[:1]]
    top = sorted({*root.glob("*dseg.tsv"), *root.glob("derivatives/*/*dseg.tsv")})
    path = next((p for p in (*beside, *top) if p.is_file()), None)
    if path is None:
        return None
    rows = read_tsv(path)
    try:
        names = {int(row["index"]): row["name"] for row in rows}
    except (KeyError, ValueError) as exc:
        raise DataError(f"{path}: needs the columns 'index' (a number) and 'name'") from exc
    try:
        return recognise(names) or table_of_names(root.name, names)
    except LabelError as exc:
        raise DataError(f"{path}: {exc}") from exc
