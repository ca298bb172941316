"""Millions of forged messages through `decode`: nothing but MessageError may get out of it.

For each: no other exception, one line of bounded length, no more memory than a header is worth,
no time to speak of; what is accepted says the same when it is encoded and decoded again. How far
they got is told by the function that refused them.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from types import CodeType
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.fuzzing.forge import LIMITS, forged
from transports import messages
from transports.base import Frame

DEPTHS = ("framing", "JSON", "protocol", "fields", "values", "accepted")
_DEPTH_OF = {  # by the function that refuses; any other looks at values
    "header.split": "framing",
    "header._parse": "JSON",
    "header.read": "protocol",
    "messages._read": "fields",
    "header.fields": "fields",
}
LONGEST_LINE = 400
LONGEST_S = 1.0  # of processor time
MOST_BYTES = 64 * LIMITS.max_header_bytes  # JSON as Python objects, beside the message itself
_PART = 50_000  # decodes that a process does at once
_EVERY, _TRACED = 500, 25  # of so many one after the other, the memory of the first so many
_ROOM = 1 << 25  # bytes of address space beyond what there is: the bound of every decode
_MOST_ESCAPES = 20


@dataclass
class Tally:
    """What became of some messages."""

    decodes: int = 0
    depths: Counter[str] = field(default_factory=Counter)
    refused_by: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)  # accepted
    slowest_s: float = 0.0  # waiting for the processor included
    most_bytes: int = 0  # allocated by one decode, of those traced
    escapes: list[dict[str, str]] = field(default_factory=list)

    def join(self, other: Tally) -> None:
        self.decodes += other.decodes
        self.depths += other.depths
        self.refused_by += other.refused_by
        self.kinds += other.kinds
        self.slowest_s = max(self.slowest_s, other.slowest_s)
        self.most_bytes = max(self.most_bytes, other.most_bytes)
        self.escapes += other.escapes

    def to_json(self) -> dict[str, Any]:
        def shares(counts: Counter[str]) -> dict[str, float]:
            return {name: round(n / self.decodes, 5) for name, n in counts.most_common()}

        return {
            "decodes": self.decodes,
            "escapes": len(self.escapes),
            "share_by_depth": {depth: shares(self.depths).get(depth, 0.0) for depth in DEPTHS},
            "share_refused_by": shares(self.refused_by),
            "accepted": dict(self.kinds.most_common()),
            "slowest_s": round(self.slowest_s, 5),
            "most_bytes_allocated": self.most_bytes,
            "most_bytes_allowed": MOST_BYTES,
            "found": self.escapes[:_MOST_ESCAPES],
        }


def run_part(seed: int, count: int) -> Tally:
    """`count` messages forged from `seed`, in this process."""
    tally = Tally()
    clock = time.perf_counter  # the processor's own costs more than a decode
    for number, frames in zip(range(count), forged(seed), strict=False):
        traced = number % _EVERY < _TRACED
        if traced != tracemalloc.is_tracing():
            (tracemalloc.start if traced else tracemalloc.stop)()
        if traced:
            before, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
        began = clock()
        said, trouble = _decoded(frames, tally)
        seconds = clock() - began
        if traced:
            took = tracemalloc.get_traced_memory()[1] - before
            tally.most_bytes = max(tally.most_bytes, took)
            if took > MOST_BYTES + sum(map(len, frames)):
                trouble = f"took {took} bytes"
        if seconds > LONGEST_S and (seconds := _processor_s(frames)) > LONGEST_S:
            trouble = f"took {seconds:.1f} s"
        tally.slowest_s = max(tally.slowest_s, seconds)
        if not (said.isprintable() and len(said) < LONGEST_LINE):
            trouble = f"said {said!a:.500}"
        if trouble:
            shown = " ".join(bytes(frame).hex() for frame in frames)
            place = f"seed {seed}, number {number}"
            tally.escapes.append({"what": trouble, "where": place, "frames": shown[:4000]})
    tracemalloc.stop()
    tally.decodes = count
    return tally


def _decoded(frames: list[Frame], tally: Tally) -> tuple[str, str]:
    """What a refusal says, and what is wrong with how it went; both may be empty."""
    try:
        message = messages.decode(frames, limits=LIMITS)
        tally.depths["accepted"] += 1
        tally.kinds[type(message).__name__] += 1
        if messages.decode(messages.encode(message), limits=LIMITS) != message:
            return "", "says something else when it is encoded and decoded again"
    except messages.MessageError as exc:
        name = _raised_in(exc)
        tally.refused_by[name] += 1
        of_size = type(exc) is messages.TooLarge and "bytes" in str(exc)
        tally.depths["framing" if of_size else _DEPTH_OF.get(name, "values")] += 1
        return str(exc), ""
    except Exception as exc:
        return "", f"escaped: {type(exc).__name__}: {exc}"[:500]
    return "", ""


def _processor_s(frames: list[Frame]) -> float:
    """The same once more: was it the decode, or others on this machine?"""
    began = time.process_time()
    _decoded(frames, Tally())
    return time.process_time() - began


def _raised_in(exc: BaseException) -> str:
    at = exc.__traceback__
    assert at is not None
    while at.tb_next is not None:
        at = at.tb_next
    return _named(at.tb_frame.f_code)


@cache
def _named(code: CodeType) -> str:
    """module.function"""
    return f"{Path(code.co_filename).stem}.{code.co_name}"


def run(decodes: int, seed: int, jobs: int, progress: Callable[[Tally], None]) -> dict[str, Any]:
    """All of them, in `jobs` processes of bounded memory."""
    began = time.perf_counter()
    total = Tally()
    for part in _parts(decodes, seed, jobs):
        total.join(part)
        progress(total)
    seconds = time.perf_counter() - began
    found = total.to_json()
    return found | {"seconds": round(seconds, 1), "decodes_per_second": round(decodes / seconds)}


def _parts(decodes: int, seed: int, jobs: int) -> Iterator[Tally]:
    sizes = [min(_PART, decodes - begin) for begin in range(0, decodes, _PART)]
    seeds = [seed * 1_000_003 + number for number in range(len(sizes))]
    # A new process for each part: tracing memory leaves some behind, and the bound is tight.
    apart = get_context("spawn")
    with ProcessPoolExecutor(jobs, apart, _bound_memory, max_tasks_per_child=1) as pool:
        for done in as_completed(map(lambda *a: pool.submit(run_part, *a), seeds, sizes)):
            yield done.result()


def _bound_memory() -> None:
    """A decode that asks for much more than there is gets a MemoryError, which counts."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def show(console: Console, found: dict[str, Any]) -> None:
    """For people."""
    table = Table("how far they got", "share", box=box.SIMPLE_HEAD, header_style="dim")
    for depth, share in found["share_by_depth"].items():
        told = depth if depth == "accepted" else f"refused for {depth}"
        table.add_row(told, f"{share:.2%}")
    console.print(table)
    console.print(
        f"{found['decodes']:,} decodes in {found['seconds']:.0f} s, {found['escapes']} escapes; "
        f"the slowest took {1e3 * found['slowest_s']:.1f} ms, the largest "
        f"{found['most_bytes_allocated'] / 1000:.0f} kB",
        highlight=False,
    )
    for escape in found["found"]:
        console.print(f"{escape['what']} ({escape['where']})", style="red", markup=False)
