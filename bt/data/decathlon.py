"""The layout of the Medical Segmentation Decathlon and of nnU-Net: `dataset.json` says it all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bt.data.labels import LabelError, LabelTable, table_of_names
from bt.data.scan import DataError, Scan, strip_nifti

ENDINGS = (".nii.gz", ".nii", ".mgz", ".mgh")


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
    name = str(stated.get("name") or root.name)
    return _scans(root, stated), _labels(path, name, stated["labels"])


def _scans(root: Path, stated: dict[str, Any]) -> list[Scan]:
    listed = stated.get("training")
    if isinstance(listed, list) and all(isinstance(pair, dict) for pair in listed):
        pairs = [(root / str(p.get("image")), root / str(p.get("label"))) for p in listed]
        return [_scan(image, label_map, None) for image, label_map in pairs]
    ending = stated.get("file_ending", ".nii.gz")
    if ending not in ENDINGS:
        raise DataError(f"{root}/dataset.json: file_ending {ending!a}: use {', '.join(ENDINGS)}")
    scans = []
    for folder, split in (("Tr", "train"), ("Ts", "test")):
        for label_map in sorted((root / f"labels{folder}").glob(f"[!.]*{ending}")):
            image = root / f"images{folder}" / label_map.name
            scans.append(_scan(image, label_map, split))
    return scans


def _scan(image: Path, label_map: Path, split: str | None) -> Scan:
    stem = strip_nifti(label_map.name)
    if not image.is_file():  # nnU-Net names the channel: the image of `a` is `a_0000`
        first_channel = image.with_name(image.name.replace(stem, f"{stem}_0000", 1))
        image = first_channel if first_channel.is_file() else image
    return Scan(stem, image, label_map, split=split)


def _labels(path: Path, name: str, labels: Any) -> LabelTable:
    """`{"1": "Anterior"}` (Decathlon) or `{"Anterior": 1}` (nnU-Net v2)."""
    names: dict[int, str] = {}
    if not isinstance(labels, dict):
        raise DataError(f"{path}: 'labels' must be a dictionary")
    for key, value in labels.items():
        try:
            number, structure = (int(value), key) if isinstance(value, int) else (int(key), value)
        except (TypeError, ValueError) as exc:
            raise DataError(
                f"{path}: label {key!r}: {value!r} isn't one number and one name "
                "(regions of several labels are not supported)"
            ) from exc
        if structure != "ignore":
            names[number] = str(structure)
    try:
        return table_of_names(name, names)
    except LabelError as exc:
        raise DataError(f"{path}: {exc}") from exc
