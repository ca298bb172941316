"""Many schedules, one seed after the other, in one or several processes."""

from __future__ import annotations

import gc
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch

from bt.simulation.transcript import Transcript
from bt.simulation.world import Ended, Setup, World

_BATCH = 250  # schedules that a process does at once
_MOST_TRANSCRIPTS = 10


@dataclass
class Totals:
    """Of all schedules together."""

    schedules: int = 0
    events: int = 0
    virtual_seconds: float = 0.0
    messages: int = 0
    bytes: int = 0
    failed: dict[int, tuple[str, ...]] = field(default_factory=dict)  # seed -> violations

    def add(self, ended: Ended) -> None:
        self.schedules += 1
        self.events += ended.events
        self.virtual_seconds += ended.seconds
        self.messages += ended.traffic.messages
        self.bytes += ended.traffic.bytes
        if ended.violations:
            self.failed[ended.seed] = ended.violations

    def join(self, other: Totals) -> None:
        self.schedules += other.schedules
        self.events += other.events
        self.virtual_seconds += other.virtual_seconds
        self.messages += other.messages
        self.bytes += other.bytes
        self.failed |= other.failed


@dataclass
class Report:
    """Totals, and what it took."""

    totals: Totals
    seconds: float
    transcripts: list[Path]

    def to_json(self) -> dict[str, object]:
        totals = self.totals
        return {
            "schedules": totals.schedules,
            "violations": len(totals.failed),
            "events": totals.events,
            "events_per_second": round(totals.events / self.seconds),
            "seconds": round(self.seconds, 3),
            "virtual_seconds": round(totals.virtual_seconds),
            "messages": totals.messages,
            "bytes": totals.bytes,
            "failed": {str(seed): list(found) for seed, found in sorted(totals.failed.items())},
            "transcripts": [str(path) for path in self.transcripts],
        }


def soak(
    setup: Setup,
    kinds: tuple[str, ...],
    seeds: range,
    *,
    jobs: int,
    out: Path,
    progress: Callable[[Totals], None],
) -> Report:
    """Run them all; the transcripts of those that fail go to `out`."""
    began = time.perf_counter()
    totals = Totals()
    for part in _batches(setup, kinds, seeds, jobs):
        totals.join(part)
        progress(totals)
    seconds = time.perf_counter() - began
    failed = sorted(totals.failed)[:_MOST_TRANSCRIPTS]
    return Report(totals, seconds, [write_transcript(setup, kinds, s, out) for s in failed])


def run_some(setup: Setup, kinds: tuple[str, ...], seeds: range) -> Totals:
    """In this process."""
    totals = Totals()
    gc.freeze()  # what is there by now stays: no use in looking at it again and again
    with tempfile.TemporaryDirectory(prefix="bt-simulate-") as scratch:
        for seed in seeds:
            totals.add(World(seed, Path(scratch), setup, kinds).run())
    gc.unfreeze()
    return totals


def transcribed(setup: Setup, kinds: tuple[str, ...], seed: int) -> tuple[Ended, str]:
    """The same schedule once more, written down."""
    transcript = Transcript()
    with tempfile.TemporaryDirectory(prefix="bt-simulate-") as scratch:
        ended = World(seed, Path(scratch), setup, kinds, transcript).run()
    return ended, transcript.text()


def write_transcript(setup: Setup, kinds: tuple[str, ...], seed: int, out: Path) -> Path:
    """Into a file that begins with what was violated, and how to see it again."""
    ended, text = transcribed(setup, kinds, seed)
    again = f"bt simulate --schedules 1 --seed {seed} --faults {','.join(kinds) or 'none'}"
    again += "".join(
        f" --{name} {value}"
        for name, value in (("peers", setup.peers), ("fanout", setup.fanout))
        if value is not None
    )
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"seed-{seed}.txt"
    lines = [*ended.violations, f"again: {again}", ""]
    path.write_text("\n".join(lines) + "\n" + text, encoding="utf-8")
    return path


def _batches(setup: Setup, kinds: tuple[str, ...], seeds: range, jobs: int) -> Iterator[Totals]:
    batches = [seeds[begin : begin + _BATCH] for begin in range(0, len(seeds), _BATCH)]
    work = partial(run_some, setup, kinds)
    if jobs == 1:
        yield from map(work, batches)
        return
    spawn = multiprocessing.get_context("spawn")  # threads and fork don't mix
    with ProcessPoolExecutor(jobs, spawn, torch.set_num_threads, (1,)) as pool:
        for done in as_completed([pool.submit(work, batch) for batch in batches]):
            yield done.result()
