"""The plain network is as large as the product's, and what is measured becomes a case."""

from __future__ import annotations

import io

import pytest
import torch
from rich.console import Console

from benchmarks import trainer
from benchmarks.plain import PlainQuickNAT, plain_loss
from benchmarks.results import Accuracy, Footprint, Found
from benchmarks.table import show
from bt.losses import SegmentationLoss
from bt.quicknat import QuickNAT


def convolutions(network: torch.nn.Module) -> list[torch.Size]:
    return [
        layer.weight.shape for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)
    ]


def test_the_plain_network_does_the_same_work() -> None:
    plain = PlainQuickNAT(5, 4)
    assert convolutions(plain) == convolutions(QuickNAT(5, 4))
    assert plain(torch.randn(2, 1, 32, 48)).shape == (2, 5, 32, 48)


def test_the_plain_loss_is_the_products_without_boundaries() -> None:
    logits, weights = torch.randn(2, 3, 16, 16), torch.tensor([0.5, 1.0, 2.0])
    classes = torch.randint(3, (2, 16, 16))
    ours = SegmentationLoss(weights, boundary_weight=0.0)(logits, classes).total
    torch.testing.assert_close(plain_loss(logits, classes, weights), ours)


def test_steps_are_timed_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trainer.BATCHES, (2, 32), 2)
    monkeypatch.setitem(trainer.ROUNDS, (2, 32), 3)
    threads = torch.get_num_threads()
    try:
        case = trainer.steps(2, 32)
    finally:
        torch.set_num_threads(threads)
    assert case.rounds == 3
    assert case.ms > 0
    assert case.times_faster > 0
    assert 0 < case.pipeline_share < 1


def test_each_kind_has_its_table() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    cases = {
        "memory/a": Footprint(4000.0, 56.0, 1.0, 4),
        "accuracy/b": Accuracy(0.81, 0.805, -0.005, {"float32": [0.81]}, 4),
    }
    show(console, "trainer", Found(dict(cases)))
    text = console.export_text()
    for part in ("memory/a", "peak mb", "4000", "accuracy/b", "-0.005"):
        assert part in text
