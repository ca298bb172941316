"""Segmentations: which scans, which way round, in true proportions."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from bt.data.checks import Grid
from bt.data.volumes import Volume
from bt.lookup import structure_colours
from bt.report import style
from bt.report.overlays import PLANES, as_picture, chosen, draw, legend


def test_best_median_and_worst_are_three_scans() -> None:
    dice = {"a": 0.5, "b": 0.9, "c": 0.7, "d": None, "e": 0.6, "f": 0.8}
    assert chosen(dice) == {"best": "b", "median": "c", "worst": "a"}
    assert chosen({"a": 0.5, "b": 0.9}) == {"best": "b", "worst": "a"}
    assert chosen({"a": 0.5}) == {"best": "a"}
    assert chosen({"a": None}) == {}


@pytest.mark.parametrize("plane", PLANES, ids=lambda plane: plane.name)
def test_every_side_of_a_picture_is_what_its_letter_says(plane) -> None:  # type: ignore[no-untyped-def]
    towards = {"R": (0, 1), "L": (0, 0), "A": (1, 1), "P": (1, 0), "S": (2, 1), "I": (2, 0)}
    left, right, top, bottom = plane.ends
    for letter, edge in ((left, np.s_[:, 0]), (right, np.s_[:, -1]),
                         (top, np.s_[-1]), (bottom, np.s_[0])):  # fmt: skip
        axis, high = towards[letter]
        data = np.zeros((4, 5, 6), np.uint8)
        np.moveaxis(data, axis, 0)[-1 if high else 0] = 1
        picture = as_picture(data, plane, 2)
        assert picture[edge].all(), f"{letter} is not there"
        assert picture.sum() == picture[edge].size


def test_pictures_have_the_proportions_of_the_scan() -> None:
    shape, spacing = (10, 12, 8), (1.0, 2.0, 3.0)
    classes = np.zeros(shape, np.uint8)
    classes[4:6, 5:7, 3:5] = 1
    grid = Grid(shape, np.diag([*spacing, 1.0]))
    volume = Volume(
        "s", np.random.default_rng(0).random(shape, np.float32), classes, spacing, grid
    )
    with style.drawing():
        figure = draw(volume, {"truth": classes, "prediction": classes}, structure_colours(1))
    size = np.multiply(shape, spacing)
    for plane, axes in zip(PLANES, figure.axes[::3], strict=True):
        extent = axes.images[0].get_extent()
        assert (extent[1], extent[3]) == (size[plane.across], size[plane.up])
        assert axes.get_aspect() == 1.0
    truth, predicted = (axes.images[0].get_array() for axes in figure.axes[1:3])
    assert np.array_equal(truth, predicted)  # the same classes, the same colours


def test_a_legend_names_what_is_there() -> None:
    figure = Figure()
    legend(figure, {})
    assert not figure.legends
    legend(figure, {"Anterior": "#ff0000", "P" * 99: "#0000ff"})
    (made,) = figure.legends
    first, second = (text.get_text() for text in made.get_texts())
    assert first == "Anterior"
    assert second.endswith("…")
    assert [patch.get_facecolor()[:3] for patch in made.get_patches()] == [(1, 0, 0), (0, 0, 1)]


def test_structures_have_colours_of_their_own() -> None:
    assert len(set(structure_colours(28))) == 28
    assert len(set(style.peer_colours(20))) == 20
