"""Serving beside training: what each costs the other; and what doing nothing costs.

A peer trains QuickNAT (16 filters, slices of 96 x 96, one thread) and serves its last model, as
the product does: a training thread beside the loop. By turns nobody wants anything of it, others
pull its model as fast as they can, and others pull the same of another process: cores share
caches and memory, so even that is felt. Training has a core to itself; all else has the others.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks import model, product
from benchmarks.children import Child, Failed, Unavailable
from benchmarks.harness import Pull, Say
from benchmarks.results import Beside, Found, Idle, paired_ratio, quantile
from benchmarks.transports import mpirun
from bt.quicknat import QuickNAT
from bt.runner import Runner
from bt.trainer import FitMetrics
from transports import messages

BATCH, SIDE, FILTERS, CLASSES = 4, 96, 16, 20
TRAINING_CORE = 0  # for the training alone: who pulls is on another machine, as a rule
PULLER, PINGER = "a", "c"
TURN_S = 2.0
IDLE_S = 10.0
PLACE = "tcp://127.0.0.1:0"
Counter = np.memmap[tuple[int], np.dtype[np.int64]]


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases beside/size, idle-tcp and idle-mpi."""
    found = Found()
    for size in ("14MB",) if quick else ("14MB", "100MB"):
        progress(f"Serving {size} beside training")
        try:
            found.cases[f"beside/{size}"] = _measure(model.SIZES[size], rounds=3 if quick else 9)
        except (Failed, TimeoutError) as exc:
            found.trouble(f"beside/{size}", exc)
    for name, idle in {"idle-tcp": _idle_over_tcp, "idle-mpi": _idle_over_mpi}.items():
        progress(name)
        try:
            found.cases[name] = Idle(idle())
        except (Failed, Unavailable) as exc:
            found.trouble(name, exc)
    return found


class Steps(product.Nothing):
    """A trainer that tells another process when its steps ended, until it is stopped."""

    def __init__(self, name: str, nbytes: int, steps: Path) -> None:
        super().__init__(name, product.weights(nbytes, model.THEIRS))
        self._steps = steps

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        network = QuickNAT(CLASSES, FILTERS)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam = torch.optim.Adam(network.parameters(), fused=True)
        images = torch.rand(BATCH, 1, SIDE, SIDE)
        truth = torch.randint(CLASSES, (BATCH, SIDE, SIDE))
        steps = np.memmap(self._steps, np.int64, "r+", shape=(2,))
        if os.cpu_count() != 1:
            os.sched_setaffinity(threading.get_native_id(), {TRAINING_CORE})
        while not stop():
            loss = torch.nn.functional.cross_entropy(network(images), truth)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            steps[:] = int(steps[0]) + 1, time.monotonic_ns()
        return FitMetrics(0.0, None, 0.0, 0)


def train_and_serve(place: str, nbytes: int, steps: str, say: Say) -> None:
    """A peer in the middle of a fine-tune that never ends."""
    torch.set_num_threads(1)
    _stay_off(TRAINING_CORE)  # and so does every thread made from here
    transport = product.listen(place, [PULLER, PINGER], say)
    trainer = Steps(transport.me, nbytes, Path(steps))
    product.runner_of(Runner, transport, trainer, rounds=10**6, waits=False).run()


def serve(place: str, nbytes: int, say: Say) -> None:
    """A peer that only serves, away from the training."""
    _stay_off(TRAINING_CORE)
    product.serve(place, nbytes, say, [PULLER])


def _measure(nbytes: int, rounds: int) -> Beside:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "steps"
        file.write_bytes(bytes(16))
        steps: Counter = np.memmap(file, np.int64, "r", shape=(2,))
        training = Child(
            "benchmarks.beside:train_and_serve", place=PLACE, nbytes=nbytes, steps=str(file)
        )
        serving = Child("benchmarks.beside:serve", place=PLACE, nbytes=nbytes)
        with training, serving, _off_the_training_core():
            here, elsewhere = training.hear(), serving.hear()
            _await_steps(steps, 5)
            with (
                product.pull_and_merge([here], nbytes, PULLER) as pull,
                product.pull_and_merge([elsewhere], nbytes, PULLER) as pull_elsewhere,
                _pings(here) as pings,
            ):
                speed = _Speeds(steps)
                pull(), pull_elsewhere()
                for _ in range(rounds):
                    speed.during(speed.alone, partial(time.sleep, 0.01))
                    pings.wanted.set()
                    speed.during(speed.serving, partial(_timed, pull, speed.pulls))
                    pings.wanted.clear()
                    speed.during(speed.elsewhere, pull_elsewhere)
    if not pings.seconds:
        raise Failed("no ping was answered")
    return Beside(
        steps_per_s=statistics.median(speed.alone),
        steps_per_s_serving=statistics.median(speed.serving),
        share=paired_ratio(speed.serving, speed.alone),
        share_elsewhere=paired_ratio(speed.elsewhere, speed.alone),
        pull_ms=1e3 * quantile(speed.pulls, 0.5),
        ping_p50_ms=1e3 * quantile(pings.seconds, 0.5),
        ping_p99_ms=1e3 * quantile(pings.seconds, 0.99),
    )


@dataclass
class _Speeds:
    """Steps per second of every turn, by what went on meanwhile."""

    steps: Counter
    alone: list[float] = field(default_factory=list)
    serving: list[float] = field(default_factory=list)
    elsewhere: list[float] = field(default_factory=list)
    pulls: list[float] = field(default_factory=list)  # seconds

    def during(self, speeds: list[float], work: Callable[[], object]) -> None:
        """Do `work` again and again for a turn; the speed is that between ends of steps."""
        (first, began), until = self._whole_steps(), time.monotonic() + TURN_S
        while time.monotonic() < until:
            work()
        last, ended = self._whole_steps()
        speeds.append(1e9 * (last - first) / (ended - began))

    def _whole_steps(self) -> tuple[int, int]:
        """How many there were, and when the last one ended (ns)."""
        while True:
            count, at = (int(part) for part in self.steps)
            if [count, at] == [int(part) for part in self.steps]:  # not in the middle of a change
                return count, at


def _timed(pull: Pull, seconds: list[float]) -> None:
    started = time.perf_counter()
    pull()
    seconds.append(time.perf_counter() - started)


def _await_steps(steps: Counter, count: int) -> None:
    deadline = time.monotonic() + 60.0
    while steps[0] < count:
        if time.monotonic() > deadline:
            raise Failed("the training beside did not begin")
        time.sleep(0.1)


@dataclass
class _Pings:
    wanted: threading.Event = field(default_factory=threading.Event)
    ended: bool = False
    seconds: list[float] = field(default_factory=list)


@contextmanager
def _pings(place: str) -> Iterator[_Pings]:
    """A third peer that asks for the version some 200 times a second, while that is wanted."""
    pings = _Pings()

    def ask() -> None:
        with product.client([place], PINGER) as transport, closing(transport):
            (to,) = transport.peers
            question = messages.encode(messages.Ping(PINGER))
            while pings.wanted.wait() and not pings.ended:
                while transport.recv(0.005) is not None:
                    pass  # what the other asks of us, and late answers
                began = time.perf_counter()
                transport.send(to, question)
                if transport.recv(10.0) is not None:
                    pings.seconds.append(time.perf_counter() - began)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    try:
        yield pings
    finally:
        pings.ended = True
        pings.wanted.set()
        asking.join()


def _idle_over_tcp() -> float:
    """Share of a core that a peer uses which is done and waits for others."""
    with Child("benchmarks.product:serve", place=PLACE, nbytes=model.TINY) as waiting:
        place = waiting.hear()
        with product.pull_and_merge([place], model.TINY) as pull:
            pull()
            before, at = waiting.cpu_s(), time.monotonic()
            time.sleep(IDLE_S)
            return (waiting.cpu_s() - before) / (time.monotonic() - at)


def _idle_over_mpi() -> float:
    core: float = mpirun("--idle-s", str(IDLE_S))["core"]
    return core


def _stay_off(core: int) -> None:
    """Keep this thread, and those it makes, to the other cores."""
    if others := os.sched_getaffinity(0) - {core}:
        os.sched_setaffinity(0, others)


@contextmanager
def _off_the_training_core() -> Iterator[None]:
    everywhere = os.sched_getaffinity(0)
    _stay_off(TRAINING_CORE)
    try:
        yield
    finally:
        os.sched_setaffinity(0, everywhere)
