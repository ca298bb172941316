"""What the newest model of a run makes of a test scan, recomputed now and then, here and not at a
peer: the model is read from the peers' checkpoints in the run's folder.
"""

from __future__ import annotations

import io
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imsave
from numpy.typing import NDArray

from bt import config as configs
from bt.checkpoint import CheckpointFile
from bt.data.cache import load_volumes
from bt.data.layouts import Cohort, find_scans
from bt.data.scan import DataError, Scan
from bt.data.volumes import Classes, Volume
from bt.evaluation import score, segment
from bt.federation import split_of
from bt.inference import load_model
from bt.lookup import structure_colours
from bt.report import style
from bt.report.overlays import PLANES, as_picture
from bt.versions import Version

_EVERY_S = 10.0
_OPACITY = 0.55


@dataclass(frozen=True)
class _Segmented:
    """A scan, and what a model made of it."""

    number: int
    volume: Volume
    predicted: Classes
    names: tuple[str, ...]
    about: str


class Slices:
    """Of the run in `folder`; of a scan of `data` if it is given, else of a test scan of the run.

    Whatever is wrong is told on the page. Close it.
    """

    def __init__(self, folder: Path, data: Path | None) -> None:
        self._folder = folder
        self._data = data
        self._found: _Segmented | None = None
        self._told = "waiting for the first model"
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="slices", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop predicting."""
        self._ended.set()
        self._thread.join()

    def about(self) -> dict[str, Any]:
        """What the page shows beside the pictures."""
        found = self._found
        if found is None:
            return {"number": 0, "about": self._told}
        shape, spacing_mm = found.volume.image.shape, found.volume.spacing_mm
        size_mm = np.multiply(shape, spacing_mm)
        return {
            "number": found.number,
            "about": found.about,
            "planes": [
                {
                    "name": plane.name,
                    "slices": shape[plane.axis],
                    "at": _fullest(found, plane.axis),
                    "mm": [round(float(size_mm[i]), 1) for i in (plane.across, plane.up)],
                    "ends": plane.ends,
                }
                for plane in PLANES
            ],
            "structures": list(zip(structure_colours(len(found.names)), found.names, strict=True)),
        }

    def png(self, number: int, plane: str, at: int, overlay: str) -> bytes | None:
        """Slice `at` of a plane, with the prediction, the truth or nothing over it."""
        found = self._found
        shown = next((each for each in PLANES if each.name == plane), None)
        if found is None or shown is None or not 0 <= at < found.volume.image.shape[shown.axis]:
            return None
        brightest = max(float(np.percentile(found.volume.image, 99.8)), 1e-6)
        scan = as_picture(found.volume.image, shown, at) / brightest
        rgb: NDArray[Any] = np.repeat(np.clip(scan, 0, 1)[..., None], 3, axis=2)
        classes = {"prediction": found.predicted, "truth": found.volume.classes}.get(overlay)
        if classes is not None:
            colours = structure_colours(len(found.names))
            table = np.array([(0.0, 0.0, 0.0), *map(to_rgb, colours)])
            here = as_picture(classes, shown, at)
            inside = here > 0
            rgb[inside] = (1 - _OPACITY) * rgb[inside] + _OPACITY * table[here[inside]]
        file = io.BytesIO()
        imsave(file, np.ascontiguousarray(rgb[::-1]), format="png")
        return file.getvalue()

    # In its thread ----------------------------------------------------------------------------
    def _work(self) -> None:
        torch.set_num_threads(1)  # peers may be training on this machine
        shown: tuple[str, Version] | None = None
        while not self._ended.is_set():
            try:
                newest = _newest(self._folder)
                if newest is not None and newest[:2] != shown:
                    self._found = self._segment(*newest)
                    shown = newest[:2]
            except Exception as exc:  # a checkpoint of another run, scans that are gone, memory
                self._told = f"no predictions: {exc}"[:300]
                self._found = None
            self._ended.wait(_EVERY_S)

    def _segment(self, peer: str, version: Version, path: Path) -> _Segmented:
        model = load_model(path, None, "cpu")
        scan, cohort = _scan(self._folder, self._data)
        if cohort.labels.structures != model.labels.structures:
            raise DataError("the scans have other structures than the model")
        loaded = load_volumes([scan], cohort.labels, model.spacing_mm)
        for bad in loaded.bad:
            raise DataError(str(bad))
        (volume,) = loaded.volumes
        predicted = segment(model.network, volume, model.view, model.precision)
        dice = ""
        if volume.classes is not None:
            found = score(scan.id, volume.classes, predicted, model.labels.classes, None).dice
            known = [value for value in found if value is not None]
            dice = f", Dice {sum(known) / len(known):.3f}" if known else ""
        when = time.strftime("%H:%M:%S")
        about = f"{style.short(scan.id)} by the model of {peer}, version {version}{dice}; {when}"
        number = self._found.number + 1 if self._found else 1
        return _Segmented(number, volume, predicted, model.labels.structures[1:], about)


def _newest(folder: Path) -> tuple[str, Version, Path] | None:
    """Whose checkpoint has the highest version."""
    found: list[tuple[Version, float, str, Path]] = []
    for path in [*folder.glob("*/checkpoint.safetensors"), *folder.glob("checkpoint.safetensors")]:
        with suppress(OSError):
            modified = path.stat().st_mtime
            checkpoint = CheckpointFile(path).load()
            if checkpoint is not None and checkpoint.version.count:
                found.append((checkpoint.version, modified, checkpoint.peer, path))
    if not found:
        return None
    version, _, peer, path = max(found)
    return peer, version, path


def _scan(folder: Path, data: Path | None) -> tuple[Scan, Cohort]:
    """One that the run holds out for testing, or the first of `data` that has a label map."""
    if data is not None:
        cohort = find_scans(data)
        labelled = [scan for scan in cohort.scans if scan.label_map is not None]
        return (labelled or [*cohort.scans])[0], cohort
    config = configs.read(folder / "config.toml")
    if config.data.path is None:
        raise DataError("the run's config.toml names no scans; say --data DIR")
    cohort = find_scans(Path(config.data.path))
    kept = tuple(scan for scan in cohort.scans if scan.id not in config.data.exclude)
    split = split_of(config, replace(cohort, scans=kept))
    if not split.test:
        raise DataError("the run holds no scans out for testing; say --data DIR")
    return split.test[0], cohort


def _fullest(found: _Segmented, axis: int) -> int:
    """Where most of the structures is to be seen."""
    classes = found.predicted if found.volume.classes is None else found.volume.classes
    others = tuple(i for i in range(3) if i != axis)
    return int((classes > 0).sum(axis=others).argmax())
