"""Which device, and which arithmetic on it: decided by timing a few real training steps once.

bfloat16 halves or quarters a step where the hardware has units for it and multiplies it where it
has not, and no list of processors stays right; a few steps of the real network tell. Parameters
and optimiser stay float32 either way.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
STEPS = 3  # timed, after one to warm up
WORTH_IT = 0.9  # bfloat16 must need less than this share of float32's time


class NoSuchDevice(ValueError):
    """A device or precision that can't be had here."""


@dataclass(frozen=True)
class Precision:
    """Where and how to compute; `reason` says why, for people."""

    device: torch.device
    dtype: torch.dtype  # of activations: float32 or bfloat16
    reason: str

    @property
    def name(self) -> str:
        """ "float32" or "bfloat16"."""
        return "bfloat16" if self.dtype == torch.bfloat16 else "float32"

    def autocast(self) -> torch.autocast:
        """The context to run the network in."""
        enabled = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16, enabled=enabled)


def choose_device(name: str = "auto") -> torch.device:
    """ "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1". Raises NoSuchDevice."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as exc:
        raise NoSuchDevice(f"device {name!r}: use auto, cpu, cuda or cuda:N") from exc
    if device.type not in ("cpu", "cuda"):
        raise NoSuchDevice(f"device {name!r}: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda":
        found = torch.cuda.device_count()
        if (device.index or 0) >= found:
            raise NoSuchDevice(f"device {name!r}: {found} CUDA devices found; use --device cpu")
    return device


def ran_out_of_memory(exc: Exception) -> bool:
    """Whether `exc` says so: on processors torch has no error of its own for that."""
    if isinstance(exc, MemoryError | torch.OutOfMemoryError):
        return True
    words = (
        "allocate memory",
        "bad_alloc",
        "can't start new thread",
        "could not create a memory object",
        "out of memory",
    )
    said = str(exc)
    unbuilt = said.endswith("could not create a primitive")  # oneDNN's code is memory, too
    return isinstance(exc, RuntimeError) and (unbuilt or any(word in said for word in words))


def choose_precision(
    model: nn.Module, images: Tensor, device: str = "auto", precision: str = "auto"
) -> Precision:
    """Time `model` on `images` (B, 1, H, W), a real batch, unless `precision` says what to use.

    `model` itself is left as it is.
    """
    where = choose_device(device)
    if precision in PRECISIONS:
        return Precision(where, PRECISIONS[precision], "as set")
    if precision != "auto":
        raise NoSuchDevice(f"precision {precision!r}: use auto, float32 or bfloat16")
    candidates = [Precision(where, dtype, "") for dtype in PRECISIONS.values()]
    if where.type == "cuda" and not torch.cuda.is_bf16_supported():
        return Precision(where, torch.float32, "this GPU has no bfloat16")
    steps = [_stepper(model, images, candidate) for candidate in candidates]
    # In turns, so that other load on the machine hits both alike; the first warms up.
    rounds = [[_seconds(step, where) for step in steps] for _ in range(1 + STEPS)]
    full, half = (min(times) for times in zip(*rounds[1:], strict=True))
    timed = f"{half * 1e3:.0f} ms a step in bfloat16, {full * 1e3:.0f} ms in float32"
    return Precision(where, torch.bfloat16 if half < WORTH_IT * full else torch.float32, timed)


def _stepper(model: nn.Module, images: Tensor, precision: Precision) -> Callable[[], None]:
    """One forward and backward pass of a copy of `model`."""
    trial = copy.deepcopy(model).to(precision.device).train()
    images = images.to(precision.device)

    def step() -> None:
        with precision.autocast():
            logits = trial(images)
        logits.float().square().mean().backward()

    return step


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
