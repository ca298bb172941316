"""Fine-tuning: it learns, repeats itself exactly, stops when asked, takes other networks."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bt import precision as precision_module
from bt.config import TrainConfig
from bt.data.checks import Grid
from bt.data.slices import Slices
from bt.data.volumes import Volume
from bt.errors import USER_ERRORS
from bt.precision import NoSuchDevice, choose_device, choose_precision
from bt.quicknat import QuickNAT
from bt.trainer import NothingToTrainOn, SegmentationTrainer, Stopped, TooLargeToTrain

CONFIG = TrainConfig(batch_size=4, precision="float32", device="cpu")


def discs(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy bright discs (1) with a brighter core (2): images and classes, (n, 32, 32)."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((32, 32))
    centres = random.uniform(11, 21, (n, 2, 1, 1))
    distance = np.hypot(rows - centres[:, 0], columns - centres[:, 1])
    classes = (distance < 8).astype(np.uint8) + (distance < 4)
    images = (0.4 * classes + random.normal(0, 0.1, classes.shape)).astype(np.float32)
    return images, classes


def slices(n: int = 22, seed: int = 0) -> Slices:
    images, classes = discs(n, seed)
    return Slices(images[:, None], classes)


def volume() -> Volume:
    images, classes = discs(8, seed=5)
    turned = (
        images.transpose(2, 0, 1),
        classes.transpose(2, 0, 1),
    )  # coronal: (z, x) from (X, Y, Z)
    return Volume("disc", *turned, (1.0, 1.0, 1.0), Grid((32, 8, 32), np.eye(4)))


def trainer(model: nn.Module | None = None, **changes: Any) -> SegmentationTrainer:
    torch.manual_seed(0)
    options: dict[str, Any] = {
        "samples": 4, "structures": ["ring", "core"], "view": "coronal", "config": CONFIG,
        "seed": 3, **changes,
    }  # fmt: skip
    data = options.pop("slices", slices())
    return SegmentationTrainer(model or QuickNAT(3, filters=4), data, **options)


def never() -> bool:
    return False


def test_it_learns() -> None:
    learner = trainer(test_volumes=[volume()])
    first = learner.fit(1, 0, never)
    last = learner.fit(4, 1, never)
    assert last.loss < 0.5 * first.loss
    assert last.dice is not None
    assert last.dice > 0.8
    dice = learner.evaluate().dice
    assert dice is not None
    assert dice > 0.8


def test_metrics_count_the_steps_of_all_epochs() -> None:
    metrics = trainer().fit(3, 0, never)
    assert metrics.steps == 3 * 6  # 22 slices in batches of 4, no batch of 1 or 2 left over
    assert metrics.seconds > 0


def test_training_dice_leaves_the_background_out() -> None:
    """A network that always says background overlaps with no structure."""
    background = nn.Conv2d(1, 3, 1)
    nn.init.zeros_(background.weight)
    background.bias = nn.Parameter(torch.tensor([50.0, 0.0, 0.0]))
    lazy = trainer(background, config=replace(CONFIG, learning_rate=0.0))
    assert lazy.fit(1, 0, never).dice == pytest.approx(0, abs=1e-6)


def test_an_update_repeats_exactly_and_differs_from_the_next() -> None:
    one, other = trainer(), trainer()
    for learner in (one, other):
        learner.fit(1, 4, never)
    assert torch.equal(one.weights().buffer, other.weights().buffer)
    one.load(trainer().weights())
    one.fit(1, 5, never)
    assert not torch.equal(one.weights().buffer, other.weights().buffer)


def test_a_resumed_run_continues_exactly() -> None:
    straight = trainer()
    for update in range(3):
        straight.fit(1, update, never)
    stopped = trainer()
    stopped.fit(1, 0, never)
    resumed = trainer()
    resumed.load(stopped.weights())
    for update in (1, 2):
        resumed.fit(1, update, never)
    assert torch.equal(resumed.weights().buffer, straight.weights().buffer)


def test_crops_are_windows_of_slices_and_their_classes() -> None:
    seen = []

    class Watched(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return super().forward(x)

    classes = np.tile(discs(22)[1], (1, 3, 3))  # 96 x 96
    aligned = Slices(classes.astype(np.float32)[:, None], classes)  # an image says its class
    learner = trainer(Watched(1, 3, 1), slices=aligned, config=CONFIG)
    compared = []
    learner.loss.register_forward_pre_hook(lambda loss, given: compared.append(given[1]))
    seen.clear()
    learner.fit(2, 0, never)
    assert {tuple(x.shape[2:]) for x in seen} == {(64, 64)}  # three quarters, rounded
    for x, y in zip(seen, compared, strict=True):
        assert torch.equal(x[:, 0], y.float())
    assert len({tuple(x[0, 0].flatten().tolist()) for x in seen}) > 1


def test_learning_rate_halves_after_every_four_updates() -> None:
    learner = trainer(nn.Conv2d(1, 3, 1))
    rates = [learner.learning_rate(update) for update in (0, 3, 4, 7, 8)]
    assert rates == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4]


def test_narrow_quicknats_take_larger_steps() -> None:
    assert trainer(QuickNAT(3, filters=16)).learning_rate(0) == pytest.approx(4e-3)
    assert trainer(QuickNAT(3)).learning_rate(0) == pytest.approx(1e-3)
    stated = replace(CONFIG, learning_rate=1e-3)
    assert trainer(QuickNAT(3, filters=16), config=stated).learning_rate(0) == 1e-3


def test_evaluation_stops_when_asked() -> None:
    with pytest.raises(Stopped):
        trainer(test_volumes=[volume()]).evaluate(lambda: True)


def test_it_stops_before_the_next_batch() -> None:
    asked = iter([False, False, True])
    learner = trainer()
    with pytest.raises(Stopped):
        learner.fit(1, 0, lambda: next(asked))
    assert next(asked, None) is None
    assert int(learner.model.get_buffer("bottleneck.first.0.num_batches_tracked")) == 2


def test_weights_are_a_copy_and_can_be_loaded_back() -> None:
    learner = trainer()
    before = learner.weights()
    kept = before.buffer.clone()
    learner.fit(1, 0, never)
    assert torch.equal(before.buffer, kept)
    assert not torch.equal(learner.weights().buffer, kept)
    learner.load(before)
    assert torch.equal(learner.weights().buffer, kept)


def test_any_module_can_take_quicknats_place() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    learner = trainer(model, test_volumes=[volume()])
    assert learner.fit(8, 0, never).loss < trainer(model).fit(1, 0, never).loss + 2
    assert set(learner.weights().tensors()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert learner.evaluate().by_scan().keys() == {"disc"}


def test_lack_of_memory_says_what_to_lower_and_leaves_the_weights() -> None:
    class Greedy(nn.Conv2d):
        hungry = False

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.hungry:
                torch.empty(1 << 60)  # what torch really raises
            return super().forward(x)

    learner = trainer(Greedy(1, 3, 1))
    before = learner.weights()
    Greedy.hungry = True
    with pytest.raises(TooLargeToTrain, match=r"--batch-size \(now 4\), --crop .* --filters"):
        learner.fit(1, 0, never)
    assert torch.equal(learner.weights().buffer, before.buffer)
    assert TooLargeToTrain in USER_ERRORS
    with pytest.raises(TooLargeToTrain):
        trainer(Greedy(1, 3, 1), config=replace(CONFIG, precision="auto"))


def test_other_errors_of_torch_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="channels"):
        trainer(nn.Conv2d(2, 3, 1)).fit(1, 0, never)


def test_without_slices_there_is_nothing_to_train_on() -> None:
    empty = Slices(np.zeros((0, 1, 16, 16), np.float32), np.zeros((0, 16, 16), np.uint8))
    with pytest.raises(NothingToTrainOn, match="labelled scans"):
        trainer(slices=empty)


def test_without_test_scans_there_is_no_dice() -> None:
    assert trainer().evaluate().dice is None


def test_bfloat16_trains_too_and_keeps_float32_weights() -> None:
    learner = trainer(config=replace(CONFIG, precision="bfloat16"))
    assert np.isfinite(learner.fit(1, 0, never).loss)
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("bfloat16_s", "expected"), [(0.2, "bfloat16"), (0.95, "float32")])
def test_precision_is_the_faster_one(
    monkeypatch: pytest.MonkeyPatch, bfloat16_s: float, expected: str
) -> None:
    seconds = itertools.cycle([1.0, bfloat16_s])  # float32 and bfloat16 take turns
    monkeypatch.setattr(precision_module, "_seconds", lambda work, device: next(seconds))
    choice = choose_precision(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 16, 16), device="cpu")
    assert choice.name == expected
    assert f"{1e3 * bfloat16_s:.0f} ms a step in bfloat16" in choice.reason


def test_timing_leaves_the_model_as_it_was() -> None:
    model = QuickNAT(3, filters=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    choice = choose_precision(model, torch.randn(2, 1, 32, 32), device="cpu")
    assert choice.name in ("float32", "bfloat16")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there_is_named(device: str) -> None:
    with pytest.raises(NoSuchDevice, match=device):
        choose_device(device)


def test_an_unknown_precision_is_named() -> None:
    with pytest.raises(NoSuchDevice, match="float64"):
        choose_precision(nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 16, 16), precision="float64")
