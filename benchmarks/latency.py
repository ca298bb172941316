"""Small questions: one at a time, and with 64 under way; beside a bare echo over ZeroMQ."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from statistics import median
from time import perf_counter

from benchmarks import model
from benchmarks.child import resolve
from benchmarks.harness import Way, served
from benchmarks.results import Found, Ping, quantile

NBYTES = 1024  # of an echoed question; the product's pings are its own
OUTSTANDING = 64
SINGLE, FLOOD = 200, 4000  # questions a round


@dataclass(frozen=True)
class Pinger:
    """Ask without waiting; wait for one answer, in whatever order they come."""

    ask: Callable[[], object]
    answer: Callable[[], object]
    both: Callable[[], object] | None = None  # where asking and waiting at once is faster

    def ping(self) -> None:
        if self.both is not None:
            self.both()
        else:
            self.ask()
            self.answer()


Client = Callable[[Sequence[str], int], AbstractContextManager[Pinger]]


@dataclass
class Times:
    """What was seen in all rounds."""

    single_s: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)


def measure(ways: Sequence[Way], *, rounds: int) -> Found:
    """Every way's Ping, by its name; clients are `Client`s here."""
    found = Found()
    times: dict[str, Times] = {}
    with served(ways, model.TINY, found) as running, ExitStack() as stack:
        pingers: dict[str, Pinger] = {}
        for way in ways:
            if way.name in running:
                try:
                    client: Client = resolve(way.client)
                    pinger = stack.enter_context(client(running[way.name].places, model.TINY))
                    take_turn(pinger, Times())  # to warm up
                    pingers[way.name], times[way.name] = pinger, Times()
                except Exception as exc:  # of whatever library this way uses; the others go on
                    found.trouble(way.name, exc)
        for _ in range(rounds):
            for name, pinger in pingers.items():
                take_turn(pinger, times[name])
    found.cases = {way.name: _summary(way, times) for way in ways if way.name in times}
    return found


def take_turn(pinger: Pinger, times: Times) -> None:
    """One round."""
    for _ in range(SINGLE):
        started = perf_counter()
        pinger.ping()
        times.single_s.append(perf_counter() - started)
    started = perf_counter()
    for _ in range(OUTSTANDING):
        pinger.ask()
    for _ in range(FLOOD - OUTSTANDING):
        pinger.answer()
        pinger.ask()
    for _ in range(OUTSTANDING):
        pinger.answer()
    times.per_s.append(FLOOD / (perf_counter() - started))


def _summary(way: Way, times: Mapping[str, Times]) -> Ping:
    mine = times[way.name]
    p50, p99 = quantile(mine.single_s, 0.5), quantile(mine.single_s, 0.99)
    per_s = median(mine.per_s)
    if way.ceiling is None or way.ceiling not in times:
        return Ping(1e6 * p50, 1e6 * p99, per_s)
    best = times[way.ceiling]
    return Ping(
        1e6 * p50,
        1e6 * p99,
        per_s,
        ceiling=way.ceiling,
        ratio=p50 / quantile(best.single_s, 0.5),
        ratio_p99=p99 / quantile(best.single_s, 0.99),
        ratio_per_s=per_s / median(best.per_s),
    )
