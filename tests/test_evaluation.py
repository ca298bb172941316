"""Whole volumes: segmented where they are, scored by structure and by scan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bt.data.checks import Grid
from bt.data.volumes import Volume
from bt.evaluation import Metrics, ScanScores, evaluate, score, segment
from bt.metrics import SurfaceDistance


class Threshold(nn.Module):
    """A network that knows: class = intensity, to the nearest of `classes` whole numbers."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        levels = torch.arange(self.classes, dtype=x.dtype).view(1, -1, 1, 1)
        return -(x - levels).abs()


def volume(shape: tuple[int, int, int] = (18, 21, 11), id: str = "a", top: int = 3) -> Volume:
    classes = np.random.default_rng(0).integers(0, top, shape).astype(np.uint8)
    return Volume(id, classes.astype(np.float32), classes, (1.0, 1.0, 1.0), Grid(shape, np.eye(4)))


@pytest.mark.parametrize("view", ["sagittal", "coronal", "axial"])
def test_every_voxel_comes_back_where_it_was(view: str) -> None:
    scan = volume()
    assert scan.classes is not None
    np.testing.assert_array_equal(segment(Threshold(3), scan, view), scan.classes)


def test_empty_space_around_is_background_and_is_not_looked_at() -> None:
    seen = []

    class Watched(Threshold):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x.shape)
            return super().forward(x)

    scan = volume((40, 50, 60))
    assert scan.classes is not None
    outside = np.ones((40, 50, 60), bool)
    outside[3:13, 20:25, 7:30] = False
    scan.image[outside], scan.classes[outside] = 0, 0
    np.testing.assert_array_equal(segment(Watched(3), scan, "coronal"), scan.classes)
    assert seen == [(5, 1, 32, 16)]


def test_an_empty_volume_is_all_background() -> None:
    scan = volume()
    scan.image[:] = 0
    assert not segment(Threshold(3), scan, "axial").any()


def test_segmenting_leaves_the_mode_and_the_statistics_of_a_model() -> None:
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 1)).train()
    before = model[0].running_mean.clone()
    segment(model, volume(), "axial")
    assert model.training
    assert torch.equal(model[0].running_mean, before)


def test_evaluate_names_structures_and_scans() -> None:
    metrics = evaluate(Threshold(3), [volume(id="a"), volume(id="b")], "coronal", ["CA1", "CA3"])
    assert metrics.dice == 1.0
    assert metrics.by_structure() == {"CA1": 1.0, "CA3": 1.0}
    assert metrics.by_scan() == {"a": 1.0, "b": 1.0}


def test_a_structure_in_no_scan_is_left_out() -> None:
    metrics = evaluate(Threshold(4), [volume(top=2)], "coronal", ["there", "not there", "nor"])
    assert metrics.by_structure() == {"there": 1.0, "not there": None, "nor": None}
    assert metrics.dice == 1.0


def test_no_test_scans_no_dice() -> None:
    assert evaluate(Threshold(2), [], "coronal", ["it"]).dice is None


def test_means_are_over_what_exists() -> None:
    metrics = Metrics(("one", "two"), (ScanScores("a", (0.8, None)), ScanScores("b", (0.4, 0.2))))
    assert metrics.by_structure() == {"one": pytest.approx(0.6), "two": pytest.approx(0.2)}
    assert metrics.by_scan() == {"a": pytest.approx(0.8), "b": pytest.approx(0.3)}
    assert metrics.dice == pytest.approx(0.4)


def test_score_measures_surfaces_when_asked() -> None:
    truth, predicted = np.zeros((2, 8, 6, 6), np.uint8)
    truth[1, 1:4, 1:4] = 1
    predicted[3, 1:4, 1:4] = 1
    assert score("a", truth, predicted, 3).surface is None
    scores = score("a", truth, predicted, 3, (0.5, 1.0, 1.0))
    assert scores.dice == (0.0, None)
    assert scores.surface == (SurfaceDistance(hd95=1.0, mean=1.0), None)
    metrics = Metrics(("plate", "absent"), (scores,))
    assert metrics.hd95() == {"plate": 1.0, "absent": None}
    assert metrics.mean_surface_distance() == {"plate": 1.0, "absent": None}


def test_a_volume_without_labels_cannot_be_scored() -> None:
    scan = volume()
    bare = Volume(scan.id, scan.image, None, scan.spacing_mm, scan.stored)
    with pytest.raises(ValueError, match="a: no label map"):
        evaluate(Threshold(2), [bare], "coronal", ["it"])
