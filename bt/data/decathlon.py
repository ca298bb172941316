"""The layout of the Medical Segmentation Decathlon and of nnU-Net: `dataset.json` says it all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from bt.data.labels import LabelError, LabelTable, table_of_names
from bt.data.scan import DataError, Scan, strip_nifti

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")
LONGEST = 1000  # characters of a path


def find(root: Path) -> tuple[list[Scan], LabelTable] | None:
    """Scans and labels of a folder with a `dataset.json`; None where there is none.

    Images with a channel ending (`_0000`) use their first channel. A listed pair is taken from
    the list; without a list (nnU-Net v2) labelsTr/ pairs with imagesTr/, labelsTs/ with imagesTs/.
    Raises DataError for a `dataset.json` that can't be read.
    """
    path = root / "dataset.json"
    if not path.is_file():
        return None
    try:
        stated = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as exc:
        raise DataError(f"{path}: not readable as JSON: {exc}") from exc
    if not isinstance(stated, dict) or "labels" not in stated:
        return None
    name = stated.get("name")
    name = name if name and isinstance(name, str) else root.name
    return _scans(path, stated), _labels(path, name, stated["labels"])


def _scans(path: Path, stated: dict[str, Any]) -> list[Scan]:
    root, listed = path.parent, stated.get("training")
    if listed is not None:
        if not isinstance(listed, list):
            raise DataError(f"{path}: 'training' must be a list of images with their labels")
        pairs = [[_file(path, entry, key) for key in ("image", "label")] for entry in listed]
        return [_scan(image, label_map, None) for image, label_map in pairs]
    ending = stated.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise DataError(f"{path}: file_ending {ending!a:.80}: use {', '.join(ENDINGS)}")
    scans = []
    for folder, split in (("Tr", "train"), ("Ts", "test")):
        for label_map in sorted((root / f"labels{folder}").glob(f"[!.]*{ending}")):
            image = root / f"images{folder}" / label_map.name
            scans.append(_scan(image, label_map, split))
    return scans


def _file(path: Path, entry: Any, key: str) -> Path:
    """The file that an entry of 'training' names as its 'image' or 'label'."""
    name = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(name, str) and name.isprintable() and len(name) <= LONGEST:
        if Path(name).name:  # which "", "." and "/" don't have
            return path.parent / name
    raise DataError(f"{path}: 'training' lists {entry!a:.80}, whose {key!r} must name a file")


def _scan(image: Path, label_map: Path, split: str | None) -> Scan:
    stem = strip_nifti(label_map.name)
    if not os.path.isfile(image):  # nnU-Net names the channel: the image of `a` is `a_0000`
        first_channel = image.with_name(image.name.replace(stem, f"{stem}_0000", 1))
        image = first_channel if os.path.isfile(first_channel) else image
    return Scan(stem, image, label_map, split=split)


def _labels(path: Path, name: str, labels: Any) -> LabelTable:
    """`{"1": "Anterior"}` (Decathlon) or `{"Anterior": 1}` (nnU-Net v2)."""
    names: dict[int, str] = {}
    if not isinstance(labels, dict):
        raise DataError(f"{path}: 'labels' must be a dictionary")
    for key, value in labels.items():
        try:
            if type(value) not in (int, str):  # a bool, a float, null, a list
                raise TypeError
            number, structure = (value, key) if isinstance(value, int) else (int(key), value)
        except (TypeError, ValueError) as exc:
            raise DataError(
                f"{path}: label {key!a:.80}: {value!a:.80} isn't one number and one name "
                "(regions of several labels are not supported)"
            ) from exc
        if structure != "ignore":
            names[number] = structure
    try:
        return table_of_names(name, names)
    except LabelError as exc:
        raise DataError(f"{path}: {exc}") from exc
