"""Clients in processes of their own: none profits from what another one does to its process.

BrainTorrent tunes its memory (transports/malloc.py), an obvious way does not; libraries have
threads. So each has a process, which pulls when told to and says how long that took.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

from benchmarks import model
from benchmarks.child import resolve
from benchmarks.children import Child
from benchmarks.results import Found


@dataclass(frozen=True)
class Taken:
    """What one pull took, where it happened."""

    seconds: float
    cpu_s: float


@contextmanager
def clients(
    functions: Mapping[str, tuple[str, int]],
    places: Mapping[str, Sequence[str]],
    nbytes: int,
    found: Found,
) -> Iterator[dict[str, Callable[[], Taken]]]:
    """Start a process for each client, given with the number of models that it merges.

    Those that can't connect are noted in `found`.
    """
    with ExitStack() as stack:
        started = {}
        for name, (client, peers) in functions.items():
            told = {"client": client, "places": places[name], "nbytes": nbytes, "peers": peers}
            started[name] = stack.enter_context(Child("benchmarks.apart:pulls", **told))
        connected = {}
        for name, child in started.items():  # they import side by side
            try:
                child.hear()
                connected[name] = _turn(child)
            except Exception as exc:
                found.trouble(name, exc)
        yield connected


def _turn(child: Child) -> Callable[[], Taken]:
    def turn() -> Taken:
        child.tell()
        return Taken(*child.hear())

    return turn


class Prepared:
    """A Pull that wants something done before the clock runs: a small message both ways, say, so
    that both ends are awake. BrainTorrent pings; what it is compared to does so, too."""

    def __init__(self, pull: Callable[[], Any], prepare: Callable[[], object]) -> None:
        self._pull = pull
        self.prepare = prepare

    def __call__(self) -> Any:
        return self._pull()


def prepare(pull: object) -> None:
    """Do what this Pull wants done, if it is a Prepared one."""
    if isinstance(pull, Prepared):
        pull.prepare()


def pulls(
    client: str,
    places: Sequence[str],
    nbytes: int,
    peers: int,
    say: Callable[[object], None],
    hear: Callable[[], None],
) -> None:
    """What the process does: pulls whenever it hears something. The first merge is verified."""
    verified = False
    with resolve(client)(places, nbytes) as pull:
        say("connected")
        while True:
            hear()
            prepare(pull)
            cpu_s, started = process_time(), perf_counter()
            merged = pull()
            seconds, cpu_s = perf_counter() - started, process_time() - cpu_s
            if merged is not None and not verified:
                model.verify(merged, nbytes, peers)
                model.values.cache_clear()  # most ways have their own by now
            verified, merged = True, None
            say([seconds, cpu_s])
