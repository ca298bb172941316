"""Serving beside training: what each costs the other; and what doing nothing costs.

A peer trains QuickNAT (16 filters, slices of 96 x 96, one thread) and serves its last model, as
the product does: a training thread beside the loop. Then others pull that as fast as they can.
"""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from benchmarks import model, product
from benchmarks.children import Child, Failed
from benchmarks.harness import Say
from benchmarks.results import Beside, Found, quantile
from bt.quicknat import QuickNAT
from bt.runner import Runner
from bt.trainer import FitMetrics
from transports import messages

BATCH, SIDE, FILTERS, CLASSES = 4, 96, 16, 20
TRAINING_CORE = 0  # for the training alone: who pulls is on another machine, as a rule
PULLER, PINGER = "a", "c"


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases beside/size."""
    found = Found()
    for size in ("14MB",) if quick else ("14MB", "100MB"):
        progress(f"Serving {size} beside training")
        try:
            found.cases[f"beside/{size}"] = _measure(model.SIZES[size], 4.0 if quick else 10.0)
        except (Failed, TimeoutError) as exc:
            found.trouble(f"beside/{size}", exc)
    return found


class Steps(product.Nothing):
    """A trainer that counts its steps where another process sees it, until it is stopped."""

    def __init__(self, name: str, nbytes: int, steps: Path) -> None:
        super().__init__(name, product.weights(nbytes, model.THEIRS))
        self._steps = steps

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        network = QuickNAT(CLASSES, FILTERS)
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        adam = torch.optim.Adam(network.parameters(), fused=True)
        images = torch.rand(BATCH, 1, SIDE, SIDE)
        truth = torch.randint(CLASSES, (BATCH, SIDE, SIDE))
        counter = np.memmap(self._steps, np.int64, "r+", shape=(1,))
        if os.cpu_count() != 1:
            os.sched_setaffinity(threading.get_native_id(), {TRAINING_CORE})
        while not stop():
            loss = torch.nn.functional.cross_entropy(network(images), truth)
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            counter[0] += 1
        return FitMetrics(0.0, None, 0.0, 0)


def train_and_serve(place: str, nbytes: int, steps: str, say: Say) -> None:
    """A peer in the middle of a fine-tune that never ends."""
    torch.set_num_threads(1)
    _stay_off(TRAINING_CORE)  # and so does every thread made from here
    transport = product.listen(place, [PULLER, PINGER], say)
    trainer = Steps(transport.me, nbytes, Path(steps))
    product.runner_of(Runner, transport, trainer, rounds=10**6, waits=False).run()


def idle(place: str, nbytes: int, say: Say) -> None:
    """A peer that is done and waits for others."""
    product.serve(place, nbytes, say)


def _measure(nbytes: int, seconds: float) -> Beside:
    with tempfile.TemporaryDirectory() as folder:
        steps = Path(folder) / "steps"
        steps.write_bytes(bytes(8))
        counter = np.memmap(steps, np.int64, "r", shape=(1,))
        place = "tcp://127.0.0.1:0"
        with (
            Child(
                "benchmarks.beside:train_and_serve", place=place, nbytes=nbytes, steps=str(steps)
            ) as server,
            Child("benchmarks.beside:idle", place=place, nbytes=model.TINY) as waiting,
        ):
            places, _ = [server.hear()], waiting.hear()
            deadline = time.monotonic() + 60.0
            while counter[0] < 5:
                if time.monotonic() > deadline:
                    raise Failed("the training beside did not begin")
                time.sleep(0.1)
            alone = _rate(counter, seconds)
            before, at = waiting.cpu_s(), time.monotonic()
            pulls, pings, serving = _pull_and_ping(places, nbytes, counter, seconds)
            idle_share = (waiting.cpu_s() - before) / (time.monotonic() - at)
    return Beside(
        steps_per_s=alone,
        steps_per_s_serving=serving,
        share=serving / alone,
        pull_ms=1e3 * quantile(pulls, 0.5),
        ping_p50_ms=1e3 * quantile(pings, 0.5),
        ping_p99_ms=1e3 * quantile(pings, 0.99),
        idle_core=idle_share,
    )


def _stay_off(core: int) -> None:
    """Keep this thread, and those it makes, to the other cores."""
    if others := os.sched_getaffinity(0) - {core}:
        os.sched_setaffinity(0, others)


def _rate(counter: np.memmap[tuple[int], np.dtype[np.int64]], seconds: float) -> float:
    began, at = int(counter[0]), time.monotonic()
    time.sleep(seconds)
    return (int(counter[0]) - began) / (time.monotonic() - at)


def _pull_and_ping(
    places: list[str],
    nbytes: int,
    counter: np.memmap[tuple[int], np.dtype[np.int64]],
    seconds: float,
) -> tuple[list[float], list[float], float]:
    """Seconds of every pull and every ping, and steps per second meanwhile."""
    everywhere = os.sched_getaffinity(0)
    _stay_off(TRAINING_CORE)
    pulls: list[float] = []
    pings: list[float] = []
    ended = threading.Event()

    def ask() -> None:
        with product.client(places, PINGER) as transport, closing(transport):
            (to,) = transport.peers
            question = messages.encode(messages.Ping(PINGER))
            while not ended.wait(0.005):
                began = time.perf_counter()
                transport.send(to, question)
                if transport.recv(10.0) is not None:
                    pings.append(time.perf_counter() - began)

    with product.pull_and_merge(places, nbytes) as pull:
        pull()
        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        steps, began = int(counter[0]), time.monotonic()
        while time.monotonic() < began + seconds:
            started = time.perf_counter()
            pull()
            pulls.append(time.perf_counter() - started)
        rate = (int(counter[0]) - steps) / (time.monotonic() - began)
        ended.set()
        asking.join()
    os.sched_setaffinity(0, everywhere)
    if not pings:
        raise Failed("no ping was answered")
    return pulls, pings, rate
