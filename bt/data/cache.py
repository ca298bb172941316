"""Preprocessed volumes, kept on disk: the second run starts at once.

An entry is one safetensors file named by a hash of everything it depends on: the bytes of the
scan's files, the label table, the spacing and the version of the preprocessing. It is written to
a name of its own and renamed, so several processes may make the same entry at once; an entry
that can't be read is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bt.data.checks import BadScan, Grid, ScanError
from bt.data.labels import LabelTable
from bt.data.scan import Scan
from bt.data.volumes import Classes, Image, Volume, prepare
from bt.files import write_atomic

FORMAT = 1  # raise it whenever preprocessing gives something else for the same files


@dataclass(frozen=True)
class Loaded:
    """Volumes that can be used, in the order asked for, and the scans that can't."""

    volumes: tuple[Volume, ...]
    bad: tuple[BadScan, ...]

    @property
    def unknown_ids(self) -> tuple[int, ...]:
        """Label numbers in no table, taken as background in some volume."""
        return tuple(sorted({i for volume in self.volumes for i in volume.unknown_ids}))


def load_volumes(
    scans: Iterable[Scan],
    labels: LabelTable | None,
    spacing_mm: float | None = None,
    cache: Path | None = None,
) -> Loaded:
    """Preprocess scans, or take them from the cache; what can't be used is named, not raised.

    `labels` None: no label maps are needed. `cache` None: `cache_folder()`.
    """
    folder = cache or cache_folder()
    volumes, bad = [], []
    for scan in scans:
        try:
            volumes.append(load_volume(scan, labels, spacing_mm, folder))
        except ScanError as exc:
            bad.append(BadScan(scan.id, scan.image, str(exc)))
    return Loaded(tuple(volumes), tuple(bad))


def load_volume(
    scan: Scan, labels: LabelTable | None, spacing_mm: float | None, folder: Path
) -> Volume:
    """One scan, preprocessed or from the cache in `folder`. Raises ScanError."""
    entry = folder / f"{_key(scan, labels, spacing_mm)}.safetensors"
    volume = _read(entry, scan.id)
    if volume is None:
        volume = prepare(scan, labels, spacing_mm)
        _write(entry, volume)
    return volume


def cache_folder() -> Path:
    """$BT_CACHE, else braintorrent/ in the user's cache folder (XDG)."""
    stated = os.environ.get("BT_CACHE")
    if stated:
        return Path(stated)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "braintorrent"


def _key(scan: Scan, labels: LabelTable | None, spacing_mm: float | None) -> str:
    about = {"format": FORMAT, "spacing_mm": spacing_mm, "labels": labels and labels.as_json()}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for path in (scan.image, scan.label_map if labels else None):
        digest.update(b"/")
        if path is not None:
            try:
                if not path.is_file():  # a pipe or a device would be read for ever
                    raise ScanError(f"{path}: missing")
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
            except (OSError, ValueError) as exc:
                raise ScanError(f"{path}: {exc}") from exc
    return digest.hexdigest()[:40]


def _read(entry: Path, scan_id: str) -> Volume | None:
    """The volume in `entry`, or None where there is none that can be read."""
    try:
        with safe_open(entry, framework="numpy") as file:
            about = json.loads(file.metadata()["bt"])
            image = file.get_tensor("image")
            classes = file.get_tensor("classes") if about["classes"] else None
            if about["crc32"] != _crc32(image, classes):
                return None
            return Volume(
                id=scan_id,
                image=image,
                classes=classes,
                spacing_mm=tuple(about["spacing_mm"]),
                stored=Grid(tuple(about["shape"]), np.array(about["affine"])),
                unknown_ids=tuple(about["unknown_ids"]),
            )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, MemoryError):
        return None


def _crc32(image: Image, classes: Classes | None) -> int:
    return zlib.crc32(b"" if classes is None else classes.data, zlib.crc32(image.data))


def _write(entry: Path, volume: Volume) -> None:
    """Keep `volume` if there is room: a cache that can't be written costs time only."""
    about = {
        "shape": volume.stored.shape,
        "affine": volume.stored.affine.tolist(),
        "spacing_mm": volume.spacing_mm,
        "unknown_ids": volume.unknown_ids,
        "classes": volume.classes is not None,
        "crc32": _crc32(volume.image, volume.classes),
    }
    tensors: dict[str, NDArray[Any]] = {"image": volume.image}
    if volume.classes is not None:
        tensors["classes"] = volume.classes
    with suppress(OSError, MemoryError):
        content = save(tensors, metadata={"bt": json.dumps(about, sort_keys=True)})
        write_atomic(entry, content, mode=0o600)  # scans are nobody else's business
