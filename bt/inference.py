"""Using a trained model: load it, segment a volume, score it on labelled scans (bt eval).

It answers on the scan's own grid: shape, orientation and voxel size are those of its file.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bt import rundir
from bt.data.checks import TOO_LARGE, BadScan, ScanError, read_label_map
from bt.data.labels import LabelError, LabelTable
from bt.data.layouts import find_scans
from bt.data.scan import DataError, Scan
from bt.data.volumes import Classes, Volume, prepare, to_scan_grid
from bt.evaluation import Metrics, ScanScores, score, segment
from bt.files import write_atomic
from bt.modelfile import BadModelFile, read_model
from bt.models import restore, seen_as
from bt.precision import Precision, choose_device, ran_out_of_memory
from bt.wording import unnamed_labels


@dataclass(frozen=True)
class Model:
    """A trained network with what it needs to see a scan as it was trained to."""

    network: nn.Module
    labels: LabelTable
    view: str
    spacing_mm: float | None
    precision: Precision

    def segment(self, volume: Volume) -> Classes:
        """Classes on the grid of the scan's file. Raises ScanError where memory is too small."""
        with enough_memory(volume):
            found = segment(self.network, volume, self.view, self.precision)
            return to_scan_grid(found, volume)


@contextmanager
def enough_memory(volume: Volume) -> Iterator[None]:
    """Where it runs out: ScanError, which names the scan."""
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        if not ran_out_of_memory(exc):
            raise
        raise ScanError(f"{volume.id}: {TOO_LARGE}") from exc


def load_model(path: Path, factory: str | None = None, device: str = "auto") -> Model:
    """Read a model file. Raises BadModelFile, FileNotFoundError, NoSuchDevice."""
    weights, description = read_model(path)
    try:
        network, labels = restore(weights, description, factory)
        view, spacing_mm = seen_as(description)
    except BadModelFile as exc:
        raise BadModelFile(f"{path}: {exc}") from exc
    where = choose_device(device)
    precision = Precision(where, torch.float32, "float32 gives the same result everywhere")
    network = network.to(where, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return Model(network.eval(), labels, view, spacing_mm, precision)


def evaluate_folder(
    model: Model,
    data: Path,
    *,
    only: Container[str] | None = None,
    surface: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
    warn: Callable[[str], None] = lambda line: None,
) -> tuple[Metrics, list[BadScan]]:
    """Score the model on every scan of a folder, or on those with an id in `only`.

    Each is scored on its own grid. The folder's own label table is used to read its label maps;
    its structures must be the model's. Raises DataError.
    """
    cohort = find_scans(data)
    if cohort.labels.structures != model.labels.structures:
        raise DataError(
            f"{data} labels other structures ({_some(cohort.labels.structures[1:])}) "
            f"than the model ({_some(model.labels.structures[1:])})"
        )
    scores: list[ScanScores] = []
    bad: list[BadScan] = []
    unnamed: set[int] = set()
    scans = [scan for scan in cohort.scans if only is None or scan.id in only]
    if not scans:
        raise DataError(f"{data} has none of the scans that were held out")
    for done, scan in enumerate(scans):
        progress(done, len(scans))
        try:
            volume = prepare(scan, cohort.labels, model.spacing_mm)
            scores.append(_score(model, scan, volume, cohort.labels, surface=surface))
            unnamed.update(volume.unknown_ids)
        except (ScanError, LabelError) as exc:
            bad.append(BadScan(scan.id, scan.image, str(exc)))
    if not scores:
        raise DataError(f"{data}: none of {len(scans)} scans could be scored: {bad[0]}, ...")
    for line in unnamed_labels(unnamed, data):
        warn(line)
    return Metrics(model.labels.structures[1:], tuple(scores)), bad


def _some(structures: Sequence[str], most: int = 3) -> str:
    return ", ".join([*structures[:most], *(["..."] if len(structures) > most else [])])


def held_out(model: Path) -> frozenset[str]:
    """The ids of the test scans of the run that made a model file. Raises DataError.

    They are in results.json beside the file, or above it for a peer's own.
    """
    paths = [folder / "results.json" for folder in (model.parent, model.parent.parent)]
    found = [content for path in paths if (content := rundir.read_results(path)) is not None]
    for results in found:
        data = results.get("data")
        ids = data.get("test") if isinstance(data, dict) else None
        if isinstance(ids, list) and ids:
            return frozenset(str(id) for id in ids)
    if found:
        raise DataError(
            f"{model}: the results.json beside it names no held-out scans (that of bt peer never "
            "does); without --held-out all are scored"
        )
    raise DataError(f"{model}: no results.json beside it tells which scans its run held out")


def _score(
    model: Model, scan: Scan, volume: Volume, labels: LabelTable, *, surface: bool
) -> ScanScores:
    if scan.label_map is None:
        raise ScanError(f"{scan.image}: no label map")
    truth = labels.to_classes(read_label_map(scan.label_map).data)
    spacing_mm = volume.stored.spacing_mm if surface else None
    return score(scan.id, truth, model.segment(volume), labels.classes, spacing_mm)


def to_json(metrics: Metrics) -> dict[str, Any]:
    """What `bt eval --json` prints."""
    found: dict[str, Any] = {
        "dice": metrics.dice,
        "structures": metrics.by_structure(),
        "scans": metrics.by_scan(),
    }
    if any(scan.surface is not None for scan in metrics.scans):
        found["hd95_mm"] = metrics.hd95()
        found["mean_surface_distance_mm"] = metrics.mean_surface_distance()
    return found


def write_scores(path: Path, metrics: Metrics) -> None:
    """One line per scan and structure."""
    rows: list[list[Any]] = []
    for scan in metrics.scans:
        for i, structure in enumerate(metrics.structures):
            distance = scan.surface[i] if scan.surface is not None else None
            row = [scan.id, structure, scan.dice[i]]
            rows.append(row + ([distance.hd95, distance.mean] if distance else [None, None]))
    header = ["scan", "structure", "dice", "hd95_mm", "mean_surface_distance_mm"]
    write_csv(path, header, rows)


def write_csv(path: Path, header: list[str], rows: Iterable[list[Any]]) -> None:
    """A CSV file, written atomically; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_atomic(path, text.getvalue().encode())
