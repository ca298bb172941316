"""Ways to get a model that need no torch and have a known result; and some that are broken."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from benchmarks import model
from benchmarks.harness import Pull, Say
from benchmarks.results import Found, Transfer

COPIES = 3


def absent(*_: object, **__: object) -> None:
    raise NotImplementedError("not built yet")


def broken(*_: object, **__: object) -> None:
    raise ValueError("broken on purpose")


def counts(say: Say, hear: Callable[[], None]) -> None:
    for count in itertools.count(1):
        hear()
        say(count)


def silent(say: Say) -> None:
    while True:
        input()


def ends(say: Say) -> None:
    raise SystemExit("had enough")


def chatty(say: Say) -> None:
    os.write(1, b"a library's greeting\n")
    say({"here": [1, 2]})
    silent(say)


@contextmanager
def merged_right(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    own, theirs = model.values(nbytes, model.OWN), model.values(nbytes, model.THEIRS)
    yield lambda: np.array_split((own + theirs) / 2, model.TENSORS)


@contextmanager
def merged_wrong(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    yield lambda: [model.values(nbytes, model.OWN)]


@contextmanager
def three_copies(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """Needs exactly so much memory: COPIES and the source."""
    source = model.values(nbytes, model.OWN)

    def pull() -> None:
        copies = [source.copy() for _ in range(COPIES)]
        del copies

    yield pull


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """As the benchmarks' own."""
    progress("nothing")
    case = Transfer(ms=2.0, p10_ms=1.0, p90_ms=3.0, gbps=7.0, rounds=5 if quick else 20)
    return Found({"tcp/14MB": case}, {"mpi/14MB": "no mpirun here"})


def run_broken(quick: bool, progress: Callable[[str], None]) -> Found:
    return Found(failed={"tcp/14MB": "broken on purpose"})
