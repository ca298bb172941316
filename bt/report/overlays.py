"""Segmentations to look at: the best, the median and the worst test scan, in three planes.

Volumes have their axes to the right, anterior and superior (bt/data/volumes.py). Pictures are in
radiological convention: the patient's right is on the left, from the front, from below.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from bt.data.cache import load_volumes
from bt.data.checks import ScanError
from bt.data.layouts import find_scans
from bt.data.scan import DataError
from bt.data.volumes import Classes, Volume
from bt.evaluation import segment
from bt.inference import Model, load_model
from bt.lookup import structure_colours
from bt.modelfile import BadModelFile
from bt.precision import ran_out_of_memory
from bt.report import style
from bt.report.figures import Picture
from bt.report.study import BRAINTORRENT, Division, Study

_OPACITY = 0.6
_BLACK = (0.0, 0.0, 0.0)
_EDGED = [withStroke(linewidth=2, foreground="black")]  # white words are read on white matter too
_QUICK = 5e11  # voxels times weights: some ten seconds of prediction on two cores


@dataclass(frozen=True)
class Plane:
    """`axis` is fixed; the picture's columns and rows run along `across` and `up`."""

    name: str
    axis: int
    across: int
    up: int
    ends: tuple[str, str, str, str]  # left, right, top, bottom


# Columns run against their axis: from the patient's right to left, from anterior to posterior.
PLANES = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


@dataclass(frozen=True)
class Overlays:
    """The pictures, the structures' colours, and why there are none, if so."""

    pictures: tuple[Picture, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()  # structure, colour
    about: str = ""
    missing: str | None = None


def overlays_of(study: Study, network: str | None, *, quick: bool = False) -> Overlays:
    """Of the aggregated model. `network` names the code of one that isn't QuickNAT, if trusted.

    What is wrong with the model or the scans is said in `missing`; with `quick`, so is that
    they take too long to segment.
    """
    try:
        return _overlays(study, network, quick)
    except (BadModelFile, DataError, ScanError, FileNotFoundError) as exc:
        return Overlays(missing=f"No segmentations to look at: {' '.join(str(exc).split())}.")
    except (MemoryError, RuntimeError) as exc:
        if not ran_out_of_memory(exc):
            raise
        return Overlays(missing="No segmentations to look at: memory was too small for them.")


def chosen(scans: Mapping[str, float | None]) -> dict[str, str]:
    """ "best", "median", "worst" -> the scan; fewer where there are fewer than three."""
    ranked = sorted((dice, scan) for scan, dice in scans.items() if dice is not None)
    if not ranked:
        return {}
    found = {"best": ranked[-1][1]}
    if len(ranked) > 2:
        found["median"] = ranked[(len(ranked) - 1) // 2][1]
    if len(ranked) > 1:
        found["worst"] = ranked[0][1]
    return found


def _overlays(study: Study, network: str | None, quick: bool) -> Overlays:
    source = _model_of(study)
    if source is None:
        return Overlays(missing="No segmentations to look at: no aggregated model was kept.")
    path, scores, about = source
    wanted = chosen(scores)
    if not wanted:
        return Overlays(missing="No segmentations to look at: no test scan has a Dice.")
    if study.data_path is None or not study.data_path.exists():
        where = study.data_path or "their folder"
        return Overlays(missing=f"No segmentations to look at: the scans are gone ({where}).")
    model = load_model(path, network, "cpu")
    cohort = find_scans(study.data_path)
    if cohort.labels.structures != model.labels.structures:
        raise DataError("the scans have other structures now than when the model was trained")
    by_id = {scan.id: scan for scan in cohort.scans}
    for scan in wanted.values():
        if scan not in by_id:
            raise DataError(f"{scan} is no longer in {study.data_path}")
    loaded = load_volumes(
        [by_id[scan] for scan in wanted.values()], cohort.labels, model.spacing_mm
    )
    for bad in loaded.bad:
        raise DataError(str(bad))
    weights = sum(parameter.numel() for parameter in model.network.parameters())
    if quick and weights * sum(volume.image.size for volume in loaded.volumes) > _QUICK:
        return Overlays(
            missing="No segmentations to look at: this network takes long for scans of this "
            f"size; bt report {study.folder} makes them."
        )
    colours = structure_colours(model.labels.classes - 1)
    pictures = [
        _picture(rank, scores[scan], volume, model, colours)
        for (rank, scan), volume in zip(wanted.items(), loaded.volumes, strict=True)
    ]
    names = model.labels.structures[1:]
    return Overlays(tuple(pictures), tuple(zip(names, colours, strict=True)), about)


def _model_of(study: Study) -> tuple[Path, Mapping[str, float | None], str] | None:
    """The model file, its Dice by test scan, and which model it is."""
    if not study.is_experiment:
        path = study.folder / "aggregated.safetensors"
        scores = study.main.methods[BRAINTORRENT].scans
        return (path, scores[0], "Aggregated model of this run.") if path.is_file() else None
    division = study.main
    names = sorted(division.methods, key=lambda name: (not name.startswith(BRAINTORRENT), name))
    for name in names:
        for seed, scores_of_seed in zip(study.seeds, division.methods[name].scans, strict=False):
            path = _part(study.folder, division, name, seed) / "aggregated.safetensors"
            if path.is_file() and any(dice is not None for dice in scores_of_seed.values()):
                label = style.look(name).label
                return path, scores_of_seed, f"Aggregated model of {label}, seed {seed}."
    return None


def _part(folder: Path, division: Division, method: str, seed: int) -> Path:
    # A method's name comes from a file: it must not lead out of the folder.
    name = method if method.replace("-", "").isalnum() else "unknown"
    return folder / "parts" / division.name / name / f"seed-{seed}"


def _picture(
    rank: str, dice: float | None, volume: Volume, model: Model, colours: list[str]
) -> Picture:
    truth = volume.classes
    assert truth is not None  # load_volumes was given a table
    assert dice is not None  # or the scan had not been chosen
    predicted = segment(model.network, volume, model.view, model.precision)
    figure = draw(volume, {"truth": truth, "prediction": predicted}, colours)
    title = f"{rank.capitalize()}: {style.short(volume.id)}, Dice {dice:.3f}"
    caption = "Scan, truth and prediction; axial, coronal and sagittal."
    alt = (
        f"The {rank} test scan, {volume.id}, with a mean Dice of {dice:.3f}: in each plane the "
        "scan, the same with the true structures, and with the predicted ones."
    )
    return Picture(f"scan-{rank}", title, caption, alt, style.to_png(figure))


def draw(volume: Volume, label_maps: Mapping[str, Classes], colours: Sequence[str]) -> Figure:
    """Rows are planes, through where there is most to see in the first of `label_maps`; columns
    the scan, and the scan beneath each of these."""
    size_mm = np.multiply(volume.image.shape, volume.spacing_mm)
    heights = [float(size_mm[p.up] / size_mm[p.across]) for p in PLANES]
    width = 1.4  # inches of a column
    columns: dict[str, Classes | None] = {"scan": None, **label_maps}
    figure = Figure(figsize=(len(columns) * width, width * sum(heights) + 0.3))
    grid = figure.subplots(
        3, len(columns), squeeze=False,
        gridspec_kw={"height_ratios": heights, "wspace": 0.03, "hspace": 0.03,
                     "left": 0, "right": 1, "bottom": 0, "top": 0.95},
    )  # fmt: skip
    brightest = max(float(np.percentile(volume.image, 99.8)), 1e-6)
    for row, plane in zip(grid, PLANES, strict=True):
        at = _fullest(next(iter(label_maps.values())), plane.axis)
        scan = as_picture(volume.image, plane, at) / brightest
        for axes, label_map in zip(row, columns.values(), strict=True):
            found = None if label_map is None else as_picture(label_map, plane, at)
            _show(axes, plane, scan, found, size_mm, colours)
        _scale_bar(row[0], float(size_mm[plane.across]))
        row[0].text(
            0.02, 0.98, plane.name, transform=row[0].transAxes, color="white", fontsize=7.5,
            va="top", ha="left", path_effects=_EDGED,
        )  # fmt: skip
    for axes, name in zip(grid[0], columns, strict=True):
        axes.set_title(name, fontsize=9.5, loc="center")
    return figure


def legend(figure: Figure, colours: Mapping[str, str]) -> None:
    """Below it, which colour is which structure."""
    handles = [
        Patch(color=colour, alpha=_OPACITY, label=style.short(name))  # as over bright tissue
        for name, colour in colours.items()
    ]
    if handles:
        figure.legend(
            handles=handles, loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, frameon=False,
            fontsize=6.5, handlelength=1, handleheight=1, columnspacing=1, borderaxespad=0.2,
        )  # fmt: skip


def as_picture(data: NDArray[Any], plane: Plane, at: int) -> NDArray[Any]:
    """The plane's voxels (rows, columns), the first row the lowest, as `Plane.ends` says."""
    flat = np.take(data, at, axis=plane.axis)  # the two axes left over keep their order
    columns_against_axis: NDArray[Any] = flat[::-1].T
    return columns_against_axis


def _fullest(truth: Classes, axis: int) -> int:
    """Where most structures are to be seen; of equal places, where they are largest."""
    others = tuple(i for i in range(3) if i != axis)
    present = np.array([len(np.unique(np.take(truth, i, axis))) for i in range(truth.shape[axis])])
    filled = (truth > 0).sum(axis=others)
    return int(np.lexsort((filled, present))[-1])


def _show(
    axes: Axes,
    plane: Plane,
    scan: NDArray[Any],
    label_map: NDArray[np.uint8] | None,
    size_mm: NDArray[np.float64],
    colours: Sequence[str],
) -> None:
    rgb = np.repeat(np.clip(scan, 0, 1)[..., None], 3, axis=2)
    if label_map is not None:
        table = np.array([_BLACK, *map(to_rgb, colours)])
        inside = label_map > 0
        rgb[inside] = (1 - _OPACITY) * rgb[inside] + _OPACITY * table[label_map[inside]]
    extent = (0.0, float(size_mm[plane.across]), 0.0, float(size_mm[plane.up]))  # mm
    axes.imshow(rgb, origin="lower", extent=extent, interpolation="nearest", aspect="equal")
    axes.set_axis_off()
    axes.set_autoscale_on(False)  # the scale bar must not move the picture
    if label_map is not None:
        return
    left, right, top, bottom = plane.ends
    for x, y, word in (
        (0.03, 0.5, left),
        (0.97, 0.5, right),
        (0.5, 0.97, top),
        (0.5, 0.03, bottom),
    ):
        axes.text(
            x, y, word, transform=axes.transAxes, color="white", fontsize=8, fontweight="bold",
            ha={0.03: "left", 0.97: "right"}.get(x, "center"),
            va={0.97: "top", 0.03: "bottom"}.get(y, "center"), path_effects=_EDGED,
        )  # fmt: skip


def _scale_bar(axes: Axes, width_mm: float) -> None:
    length = 50 if width_mm > 150 else 20 if width_mm > 60 else 10
    x, y = axes.get_xlim()[1] * 0.96, axes.get_ylim()[1] * 0.05
    axes.plot([x - length, x], [y, y], color="white", linewidth=2, solid_capstyle="butt",
              path_effects=[withStroke(linewidth=3.5, foreground="black")])  # fmt: skip
    axes.annotate(
        f"{length} mm", (x - length / 2, y), (0, 3), textcoords="offset points", color="white",
        fontsize=6.5, ha="center", path_effects=_EDGED,
    )  # fmt: skip
