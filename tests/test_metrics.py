"""Dice and surface distances against values worked out by hand and by brute force."""

from __future__ import annotations

import numpy as np
import pytest

from bt.metrics import dice_scores, mean_of, surface_distances


def test_dice_by_hand() -> None:
    truth = np.array([[0, 1, 1, 2], [0, 0, 2, 2]], np.uint8)
    predicted = np.array([[0, 1, 0, 2], [1, 0, 2, 0]], np.uint8)
    # class 1: 1 shared of 2 and 2; class 2: 2 shared of 3 and 2; class 3 in neither
    assert dice_scores(truth, predicted, 4) == [pytest.approx(0.5), pytest.approx(0.8), None]


def test_a_structure_in_only_one_counts_zero() -> None:
    none, some = np.zeros((2, 2), np.uint8), np.full((2, 2), 1, np.uint8)
    assert dice_scores(none, some, 2) == [0.0]
    assert dice_scores(some, none, 2) == [0.0]


def test_mean_leaves_out_what_does_not_exist() -> None:
    assert mean_of([0.5, None, 1.0]) == 0.75
    assert mean_of([None]) is None
    assert mean_of([]) is None


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="one grid"):
        dice_scores(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8), 2)


def test_surface_distances_in_millimetres() -> None:
    truth, predicted = np.zeros((2, 12, 9, 9), np.uint8)
    truth[2, 2:5, 2:5] = 1
    predicted[4, 2:5, 2:5] = 1  # the same plate, two voxels further along the first axis
    (distance,) = surface_distances(truth, predicted, 2, (3.0, 1.0, 1.0))
    assert distance is not None
    assert distance.hd95 == pytest.approx(6.0)
    assert distance.mean == pytest.approx(6.0)


def test_surface_distances_equal_brute_force() -> None:
    random = np.random.default_rng(0)
    spacing = (0.7, 1.0, 2.5)
    grid = np.indices((14, 12, 8)).reshape(3, -1).T

    def blob(centre: tuple[float, ...]) -> np.ndarray:
        radius = np.linalg.norm((grid - centre) * spacing, axis=1) + random.normal(
            0, 0.4, len(grid)
        )
        return (radius < 3.5).reshape(14, 12, 8).astype(np.uint8)

    truth, predicted = blob((6, 5, 4)), blob((7, 6, 3.5))

    def surface(label_map: np.ndarray) -> np.ndarray:
        padded = np.pad(label_map, 1)
        points = []
        for point in np.argwhere(label_map):
            x, y, z = point + 1
            around = (padded[x - 1, y, z], padded[x + 1, y, z], padded[x, y - 1, z],
                      padded[x, y + 1, z], padded[x, y, z - 1], padded[x, y, z + 1])  # fmt: skip
            if not all(around):
                points.append(point * spacing)
        return np.array(points)

    one, other = surface(truth), surface(predicted)
    apart = np.linalg.norm(one[:, None] - other[None], axis=2)
    there, back = apart.min(axis=1), apart.min(axis=0)
    (distance,) = surface_distances(truth, predicted, 2, spacing)
    assert distance is not None
    assert distance.mean == pytest.approx(np.concatenate((there, back)).mean(), rel=1e-5)
    assert distance.hd95 == pytest.approx(
        max(np.percentile(there, 95), np.percentile(back, 95)), rel=1e-5
    )


def test_surface_of_a_structure_missing_on_either_side_does_not_exist() -> None:
    truth, predicted = np.zeros((2, 4, 4, 4), np.uint8)
    truth[1, 1, 1] = 1
    predicted[2, 2, 2] = 2
    assert surface_distances(truth, predicted, 4, (1.0, 1.0, 1.0)) == [None, None, None]


def test_identical_maps_are_at_no_distance() -> None:
    truth = np.zeros((6, 6, 6), np.uint8)
    truth[1:4, 1:4, 1:4] = 1
    (distance,) = surface_distances(truth, truth, 2, (2.0, 2.0, 2.0))
    assert distance is not None
    assert (distance.hd95, distance.mean) == (0.0, 0.0)
