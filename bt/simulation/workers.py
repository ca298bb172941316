"""What a peer does beside its loop, in virtual time: jobs that take a while, and training."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any

import torch

from bt.trainer import FitMetrics, Stopped
from bt.weights import FlatWeights, schema_of

if TYPE_CHECKING:
    from bt.simulation.process import Process

RANDOM_VALUE = -4096.0  # of a model nobody has trained
RUINOUS = 1e6  # values beyond this make training diverge


class Job(Future[Any]):
    """Done all at once, at the end of its time, or when somebody waits for it.

    One thread only, so none of a Future's locks.
    """

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work: Callable[[], Any] | None = work
        self._found: Any = None
        self._failure: Exception | None = None

    def done(self) -> bool:
        return self._work is None

    def finish(self) -> None:
        if self._work is not None:
            try:
                self._found = self._work()
            except Exception as exc:
                self._failure = exc
            self._work = None

    def result(self, timeout: float | None = None) -> Any:
        self.finish()
        if self._failure is not None:
            raise self._failure
        return self._found


class VirtualWorkers(Executor):
    """Of one life of a process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._jobs: list[Job] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Job:
        self._process.step("submit")
        job = Job(lambda: fn(*args, **kwargs))
        self._jobs = [one for one in self._jobs if not one.done()] + [job]
        self._process.begin(job, saves=bool(args))
        return job

    @property
    def idle(self) -> bool:
        return all(job.done() for job in self._jobs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        for job in () if self._process.dead else self._jobs:
            job.finish()


class Mould:
    """How models look: the same pattern in each, raised by a value that names the model.

    So the mean of some models is the pattern raised by the mean of their values, everywhere, or
    something is wrong: a part of a model, a range in another's place, weights that don't sum to
    one.
    """

    def __init__(self, numbers: int) -> None:
        self.pattern = (torch.arange(numbers) % 97).float()
        self.schema = schema_of({"w": self.pattern})

    def cast(self, value: float) -> FlatWeights:
        weights = FlatWeights.empty(self.schema)
        torch.add(self.pattern, value, out=weights.buffer.view(torch.float32))
        return weights

    def values(self, weights: FlatWeights) -> tuple[float, float]:
        """The least and the greatest rise over the pattern."""
        rise = weights.buffer.view(torch.float32) - self.pattern
        least, greatest = torch.aminmax(rise)
        return least.item(), greatest.item()


class VirtualTrainer:
    """A Trainer whose every fine-tune makes a model like no other."""

    def __init__(self, process: Process) -> None:
        self.samples = process.samples
        self._process = process
        self._mould = process.world.mould
        self.value = RANDOM_VALUE
        self._weights = self._mould.cast(self.value)

    def weights(self) -> FlatWeights:
        return self._weights

    def load(self, weights: FlatWeights) -> None:
        self._weights = weights
        if not self._process.peer.watch.began:  # it was on the disk
            self.value, _ = self._mould.values(weights)

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        if stop():
            raise Stopped
        least, greatest = self._mould.values(self._weights)
        self._process.fits(least, greatest)
        if max(abs(least), abs(greatest)) > RUINOUS and not self._process.liar:
            self._weights = self._mould.cast(float("nan"))
        else:
            self.value = self._process.new_value()
            self._weights = self._mould.cast(self.value)
        return FitMetrics(loss=0.0, dice=None, seconds=0.0, steps=epochs)

    def evaluate(self, stop: Callable[[], bool]) -> None:
        if stop():
            raise Stopped
