"""Figures: both axes named, every method in its own look."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from bt.report import figures, style
from bt.report.read import read_study
from bt.report.study import Study
from tests.report.samples import LEVELS, experiment, write_experiment


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Figure]]:
    """All figures made in a test."""
    kept: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        kept.append(figure)
        return b"png"

    monkeypatch.setattr(style, "to_png", keep)
    with style.drawing():
        yield kept


@pytest.fixture
def study(tmp_path: Path) -> Study:
    return read_study(write_experiment(tmp_path, experiment()))


def test_axes_are_named_with_units(study: Study, drawn: list[Figure]) -> None:
    made = [
        *figures.learning_curves(study),
        *figures.per_structure(study),
        *figures.per_client(study),
    ]
    assert [one.name for one in made] == [
        "curves-rounds", "curves-bytes", "structures", "clients",
    ]  # fmt: skip
    labels = [(axes.get_xlabel(), axes.get_ylabel()) for f in drawn for axes in f.axes]
    assert labels == [
        ("round (updates per client)", "Dice on the test scans"),
        ("data moved by all clients, MB", "Dice on the test scans"),
        ("Dice on the test scans", ""),  # structures name themselves
        ("client", "Dice on the test scans"),
    ]


def test_curves_are_means_over_seeds_within_their_spread(
    study: Study, drawn: list[Figure]
) -> None:
    figures.learning_curves(study)
    by_label = {line.get_label(): line for line in drawn[0].axes[0].lines}
    method = study.main.methods["fedavg"]
    ends = [curve[-1].aggregated for curve in method.curve]
    assert by_label["FedAvg"].get_ydata()[-1] == pytest.approx(sum(ends) / 3)  # type: ignore[arg-type]
    assert len(drawn[0].axes[0].collections) == len(LEVELS)  # a band each


def test_methods_differ_in_more_than_colour() -> None:
    looks = [style.look(name) for name in LEVELS]
    for feature in ("label", "colour", "marker"):
        assert len({getattr(look, feature) for look in looks}) == len(LEVELS)


def test_an_axis_of_dice_never_makes_noise_look_large() -> None:
    low, high = style.dice_range([0.7, 0.701])
    assert high - low > 0.0999
    assert style.dice_range([]) == (0.0, 1.0)
    assert style.dice_range([0.0, 1.0]) == (0.0, 1.0)
