"""The loss: weights that are never zero, and the formula against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bt.losses import (
    SMOOTH,
    SegmentationLoss,
    boundaries,
    class_weights,
)


def test_weights_are_the_root_of_median_over_frequency() -> None:
    classes = np.array([0] * 8 + [1] * 4 + [2] * 2, np.uint8)
    torch.testing.assert_close(class_weights(classes, 3), torch.tensor([0.5, 1.0, 2.0]).sqrt())


def test_no_weight_is_zero_however_rare_or_absent_a_class() -> None:
    classes = np.zeros(10_000_000, np.uint8)
    classes[:3] = 1
    classes[3:300] = 2
    weights = class_weights(classes, 5)  # 3 and 4 never occur
    assert (weights > 0).all()
    assert weights.isfinite().all()
    assert weights[3] == weights[4] == weights[1]


def test_weights_refuse_labels_outside_the_classes() -> None:
    with pytest.raises(ValueError, match="label 3 among 3 classes"):
        class_weights(np.array([0, 3], np.uint8), 3)


def test_boundaries_are_pixels_with_another_neighbour() -> None:
    classes = torch.zeros(1, 4, 5, dtype=torch.uint8)
    classes[0, 1, 2] = 1
    expected = torch.tensor(
        [[0, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]], dtype=torch.bool
    )
    assert torch.equal(boundaries(classes)[0], expected)


def reference(
    logits: torch.Tensor, classes: torch.Tensor, weights: torch.Tensor, boundary: float
) -> torch.Tensor:
    """The same loss, pixel by pixel in float64."""
    n = logits.shape[1]
    probability = logits.double().softmax(dim=1)
    one_hot = F.one_hot(classes.long(), n).permute(0, 3, 1, 2).double()
    pixel = weights.double()[classes.long()] + boundary * boundaries(classes)
    entropy = -(probability.log() * one_hot).sum(dim=1)
    dice = [
        (2 * (probability[:, c] * one_hot[:, c]).sum() + SMOOTH)
        / (probability[:, c].sum() + one_hot[:, c].sum() + SMOOTH)
        for c in range(n)
        if one_hot[:, c].any()
    ]
    return (pixel * entropy).sum() / pixel.sum() + 1 - torch.stack(dice).mean()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_loss_and_gradient_equal_the_reference(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    classes = torch.randint(0, 4, (2, 8, 6), dtype=torch.uint8)  # class 4 does not occur
    weights = torch.tensor([0.2, 1.0, 3.0, 0.7, 9.0])
    logits = torch.randn(2, 5, 8, 6).contiguous(memory_format=layout).requires_grad_()
    loss = SegmentationLoss(weights, boundary_weight=2.0)(logits, classes)
    (gradient,) = torch.autograd.grad(loss.total, logits)
    expected = reference(logits, classes, weights, 2.0)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    torch.testing.assert_close(loss.total.double(), expected)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-6, rtol=1e-4)


def test_overlap_counts_soft_pixels() -> None:
    classes = torch.tensor([[[0, 1], [1, 2]]], dtype=torch.uint8)
    sure = 30.0 * F.one_hot(torch.tensor([[[0, 1], [0, 2]]]), 3).permute(0, 3, 1, 2).float()
    overlap = SegmentationLoss(torch.ones(3))(sure, classes).overlap
    torch.testing.assert_close(
        overlap, torch.tensor([[1.0, 1.0, 1.0], [2.0, 1.0, 1.0], [1.0, 2.0, 1.0]])
    )
    assert not overlap.requires_grad


def test_a_perfect_answer_costs_next_to_nothing_and_a_wrong_one_more() -> None:
    classes = torch.randint(0, 3, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    loss = SegmentationLoss(torch.ones(3))
    right = 30.0 * F.one_hot(classes, 3).permute(0, 3, 1, 2).float()
    assert loss(right, classes).total.item() == pytest.approx(0, abs=1e-3)
    assert loss(-right, classes).total.item() > 5


def test_bfloat16_logits_are_summed_in_float32() -> None:
    logits = torch.randn(1, 3, 8, 8, dtype=torch.bfloat16)
    classes = torch.zeros(1, 8, 8, dtype=torch.uint8)
    loss = SegmentationLoss(torch.ones(3))(logits, classes)
    assert loss.total.dtype == torch.float32
