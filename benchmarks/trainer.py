"""Training, evaluation and preparation of scans, beside QuickNAT as one writes it from the paper.

The product's own trainer takes turns with benchmarks.plain on the same slices, forward, backward
and step; once more in a process that may use no more than AVX2, as on a machine without units
for bfloat16. One thread each, as the peers of `bt train` have.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks import memory
from benchmarks.children import Child, Failed, Unavailable
from benchmarks.harness import Say, interleave
from benchmarks.plain import PlainQuickNAT, plain_loss
from benchmarks.results import (
    Accuracy,
    Evaluated,
    Footprint,
    Found,
    Prepared,
    Stepped,
    paired_ratio,
)
from bt.config import Config, TrainConfig, change
from bt.data.cache import load_volumes
from bt.data.layouts import find_scans
from bt.data.slices import Slices, slices_of
from bt.data.splits import split
from bt.evaluation import evaluate
from bt.losses import class_weights
from bt.models import build
from bt.precision import PRECISIONS
from bt.quicknat import QuickNAT
from bt.trainer import SegmentationTrainer

CLASSES = 20
BATCHES = {(16, 96): 4, (64, 256): 1}  # slices at once, by filters and side of the slices
ROUNDS = {(16, 96): 9, (64, 256): 3}
AVX2 = ("env", "ONEDNN_MAX_CPU_ISA=AVX2", "ATEN_CPU_CAPABILITY=avx2")
SEEDS, UPDATES, TRAINING, TEST = 3, 4, 5, 20  # of the comparison of accuracies
_LONG_S = 900.0


def run(
    quick: bool,
    progress: Callable[[str], None],
    scans: Path | None = None,
    accuracy: Path | None = None,
) -> Found:
    """Cases train/FILTERSxSIDE, memory/..., and prepare, evaluate, accuracy where there are scans.

    `scans` is a folder of labelled scans, of which one is prepared and evaluated; `accuracy` one
    of small scans to train on in each precision.
    """
    found = Found()
    sizes = [(16, 96)] if quick else [(16, 96), (64, 256)]
    for filters, side in sizes:
        progress(f"Training with {filters} filters on slices of {side} x {side}")
        name = f"{filters}x{side}"
        found.cases[f"train/{name}"] = steps(filters, side)
    _told(found, "train/16x96-avx2", Stepped, AVX2, "say_steps", filters=16, side=96)
    for filters, side in sizes:
        for precision in PRECISIONS:
            progress(f"Memory of training with {filters} filters in {precision}")
            _told(
                found, f"memory/{filters}x{side}-{precision}", Footprint, (), "say_footprint",
                filters=filters, side=side, precision=precision,
            )  # fmt: skip
    if scans is None:
        found.skipped["prepare, evaluate"] = "needs --scans DIR, a folder of labelled scans"
    else:
        progress("Preparing and evaluating a scan")
        _a_scan(found, scans, filters=16 if quick else 64)
    if accuracy is not None:
        found.cases["accuracy/16"] = _accuracies(accuracy, progress)
    return found


def steps(filters: int, side: int) -> Stepped:
    """Time the plain network, and the product in float32 and bfloat16, in turns."""
    torch.set_num_threads(1)
    batch = BATCHES[filters, side]
    data = some_slices(2 * batch if filters < 64 else batch, side)
    chosen = _trainer(filters, data, batch, "auto").precision.name
    ours = {name: _trainer(filters, data, batch, name) for name in PRECISIONS}
    turns = {"plain": _plain(filters, data, batch)}
    turns |= {name: partial(_fit, trainer) for name, trainer in ours.items()}
    found = Found()
    samples = interleave(turns, rounds=ROUNDS[filters, side], budget_s=60.0, found=found)
    if found.failed:
        raise Failed("; ".join(found.failed.values()))
    seconds = {name: sample.seconds for name, sample in samples.items()}
    return Stepped(
        ms=1e3 * median(seconds[chosen]) / len(data),
        precision=chosen,
        times_faster=paired_ratio(seconds["plain"], seconds[chosen]),
        float32_times_faster=paired_ratio(seconds["plain"], seconds["float32"]),
        plain_ms=1e3 * median(seconds["plain"]) / len(data),
        pipeline_share=_pipeline_s(ours[chosen]) / median(seconds[chosen]),
        batch=batch,
        rounds=len(seconds[chosen]),
    )


def say_steps(filters: int, side: int, say: Say) -> None:
    """`steps` in a process of its own."""
    say(asdict(steps(filters, side)))


def say_footprint(filters: int, side: int, precision: str, say: Say) -> None:
    """The peak of a process that trains in batches of the default size."""
    data = some_slices(TrainConfig().batch_size, side)
    trainer = _trainer(filters, data, TrainConfig().batch_size, precision)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    _fit(trainer)
    weights = sum(p.nbytes for p in trainer.model.parameters())
    say(
        asdict(
            Footprint(
                peak_mb=memory.peak_bytes() / 1e6,
                weights_mb=4 * weights / 1e6,
                data_mb=(data.images.nbytes + data.classes.nbytes) / 1e6,
                batch=TrainConfig().batch_size,
            )
        )
    )


def some_slices(n: int, side: int) -> Slices:
    """Noise, and squares of all classes."""
    random = np.random.default_rng(0)
    squares = random.integers(0, CLASSES, (n, side // 8, side // 8), dtype=np.uint8)
    classes = squares.repeat(8, axis=1).repeat(8, axis=2)
    return Slices(random.random((n, 1, side, side), dtype=np.float32), classes)


def _told(
    found: Found,
    name: str,
    kind: type,
    prefix: tuple[str, ...],
    function: str,
    **arguments: object,
) -> None:
    """The case that a child says."""
    try:
        with Child(f"{__name__}:{function}", prefix=prefix, **arguments) as child:
            found.cases[name] = kind(**child.hear(_LONG_S))
    except (Failed, Unavailable) as exc:
        found.trouble(name, exc)


def _trainer(filters: int, data: Slices, batch: int, precision: str) -> SegmentationTrainer:
    torch.manual_seed(0)
    return SegmentationTrainer(
        QuickNAT(CLASSES, filters),
        data,
        samples=1,
        structures=[str(c) for c in range(1, CLASSES)],
        view="axial",
        config=TrainConfig(batch_size=batch, crop=1.0, precision=precision, device="cpu"),
    )


def _fit(trainer: SegmentationTrainer) -> None:
    trainer.fit(1, 0, lambda: False)


def _plain(filters: int, data: Slices, batch: int) -> Callable[[], None]:
    torch.manual_seed(0)
    network = PlainQuickNAT(CLASSES, filters).train()
    adam = torch.optim.Adam(network.parameters())
    images, classes = torch.from_numpy(data.images), torch.from_numpy(data.classes).long()
    weights = class_weights(data.classes, CLASSES)

    def epoch() -> None:
        for some, truth in zip(images.split(batch), classes.split(batch), strict=True):
            adam.zero_grad()
            plain_loss(network(some), truth, weights).backward()
            adam.step()

    return epoch


def _pipeline_s(trainer: SegmentationTrainer) -> float:
    """What the batches of one epoch cost without training."""
    taken = []
    for seed in range(20):
        started = time.perf_counter()
        for _ in trainer.batches(np.random.default_rng(seed)):
            pass
        taken.append(time.perf_counter() - started)
    return median(taken)


class _Timed(nn.Module):
    """A network that counts the seconds of its forward passes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seconds = 0.0

    def forward(self, x: Tensor) -> Tensor:
        started = time.perf_counter()
        logits: Tensor = self.network(x)
        self.seconds += time.perf_counter() - started
        return logits


def _a_scan(found: Found, folder: Path, filters: int) -> None:
    """Prepare the first scan, without and with a cache; evaluate a network on 32 slices of it."""
    cohort = find_scans(folder)
    scan = cohort.scans[0]
    with tempfile.TemporaryDirectory(prefix="bt-bench-") as cache:
        taken = []
        for _ in range(2):
            started = time.perf_counter()
            loaded = load_volumes([scan], cohort.labels, cache=Path(cache))
            taken.append(time.perf_counter() - started)
    if not loaded.volumes:
        found.trouble("prepare", Failed(str(loaded.bad[0])))
        return
    volume = loaded.volumes[0]
    shape = "x".join(str(n) for n in volume.image.shape)
    found.cases[f"prepare/{shape}"] = Prepared(s=taken[0], cached_s=taken[1])
    structures = cohort.labels.structures[1:]
    network = build(change(Config(), {"filters": filters}).model, cohort.labels.classes, seed=0)
    trainer = SegmentationTrainer(
        network, slices_of([volume], "coronal", step=32), samples=1, structures=structures,
        view="coronal",
    )  # fmt: skip
    timed = _Timed(network)
    some = slice(volume.image.shape[1] // 2 - 16, volume.image.shape[1] // 2 + 16)
    assert volume.classes is not None
    slab = replace(volume, image=volume.image[:, some], classes=volume.classes[:, some])
    started = time.perf_counter()
    evaluate(timed, [slab], "coronal", structures, trainer.precision)
    seconds = time.perf_counter() - started
    found.cases[f"evaluate/{filters}-{shape}"] = Evaluated(
        s=seconds,
        forward_s=timed.seconds,
        ratio=seconds / timed.seconds,
        precision=trainer.precision.name,
    )


def _accuracies(folder: Path, progress: Callable[[str], None]) -> Accuracy:
    """Dice on held-out scans after equal updates in each precision, from equal weights."""
    cohort = find_scans(folder)
    dice: dict[str, list[float]] = {name: [] for name in PRECISIONS}
    for seed in range(SEEDS):
        parts = split(cohort, peers=1, test_scans=TEST, scans_per_peer=TRAINING, seed=seed)
        train, test = (load_volumes(s, cohort.labels) for s in (parts.peers[0], parts.test))
        for name, scores in dice.items():
            progress(f"Accuracy in {name}: seed {seed + 1} of {SEEDS}")
            config = change(Config(), {"filters": 16, "precision": name, "device": "cpu"})
            trainer = SegmentationTrainer(
                build(config.model, cohort.labels.classes, seed),
                slices_of(train.volumes, "sagittal"),
                samples=TRAINING,
                structures=cohort.labels.structures[1:],
                view="sagittal",
                test_volumes=test.volumes,
                config=config.train,
                seed=seed,
            )
            for update in range(UPDATES):
                trainer.fit(config.train.epochs, update, lambda: False)
            scores.append(trainer.evaluate().dice or 0.0)
    return Accuracy(
        float32_dice=fmean(dice["float32"]),
        bfloat16_dice=fmean(dice["bfloat16"]),
        difference=fmean(dice["bfloat16"]) - fmean(dice["float32"]),
        by_seed={name: [round(score, 4) for score in scores] for name, scores in dice.items()},
        updates=UPDATES,
    )
