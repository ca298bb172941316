"""Servers and clients in processes of their own, and everybody takes turns.

Cases are interleaved, so that other load on the machine hits all alike; what is reported is the
median, the spread, and the ratio to a ceiling measured in the same rounds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from time import perf_counter, process_time

from benchmarks import apart, model
from benchmarks.child import resolve
from benchmarks.children import Child
from benchmarks.results import Found, Ping, Transfer, paired_ratio, quantile

Say = Callable[[object], None]
# Pulls and merges once. The merged model in pieces, or None if there is nothing to verify.
Pull = Callable[[], Sequence[model.Floats] | None]
Turn = Callable[[], apart.Taken]  # elsewhere, and checked there
Client = Callable[[Sequence[str], int], AbstractContextManager[Pull]]

MIN_ROUNDS = 3


@dataclass(frozen=True)
class Way:
    """One way to get a model from its peers.

    `client` and `server` name functions, "package.module:function", imported where they run::

        def server(place: str, nbytes: int, say: Say) -> None
            # serves until killed; says the place it really listens at, once it does
        def client(places: Sequence[str], nbytes: int) -> AbstractContextManager[Pull]

    `scheme` is that of the place: tcp://HOST:0, ipc://PATH or curve://HOST:0 (tcp, encrypted).
    """

    name: str
    client: str
    server: str | None = None
    scheme: str = "tcp"
    ceiling: str | None = None  # name of another way in the same run
    rivals: tuple[str, ...] = ()  # ways that this one should be faster than
    peers: int = 1


@dataclass
class Samples:
    """What each round took."""

    seconds: list[float] = field(default_factory=list)
    client_cpu_s: list[float] = field(default_factory=list)
    server_cpu_s: list[float] = field(default_factory=list)

    def add(self, seconds: float, client_cpu_s: float, server_cpu_s: float) -> None:
        self.seconds.append(seconds)
        self.client_cpu_s.append(client_cpu_s)
        self.server_cpu_s.append(server_cpu_s)


@dataclass
class Served:
    """The servers of one way, running."""

    children: list[Child]
    places: list[str]

    def cpu_s(self) -> float:
        return sum(child.cpu_s() for child in self.children)


@contextmanager
def served(
    ways: Sequence[Way],
    nbytes: int,
    found: Found,
    *,
    host: str = "127.0.0.1",
    prefix: Sequence[str] = (),
) -> Iterator[dict[str, Served]]:
    """Start the servers of all ways; those that don't start are noted in `found`."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bt-bench-"))
        started = {}
        for i, way in enumerate(ways):
            places = [
                f"ipc://{folder}/{i}-{peer}" if way.scheme == "ipc" else f"{way.scheme}://{host}:0"
                for peer in range(way.peers)
            ]
            started[way.name] = [
                stack.enter_context(Child(way.server, prefix=prefix, place=place, nbytes=nbytes))
                for place in places
                if way.server is not None
            ]
        running = {}
        for name, children in started.items():  # they import side by side
            try:
                running[name] = Served(children, [child.hear() for child in children])
            except Exception as exc:
                found.trouble(name, exc)
        yield running


def measure(ways: Sequence[Way], nbytes: int, *, rounds: int, budget_s: float) -> Found:
    """Every way's Transfer, by its name. After `budget_s` no further rounds begin."""
    found = Found()
    with served(ways, nbytes, found) as running:
        with apart.clients(
            {way.name: (way.client, way.peers) for way in ways if way.name in running},
            {name: server.places for name, server in running.items()},
            nbytes,
            found,
        ) as pulls:
            samples = interleave(
                pulls,
                rounds=rounds,
                budget_s=budget_s,
                found=found,
                server_cpu_s=lambda name: running[name].cpu_s(),
            )
    found.cases |= summaries(ways, samples, nbytes)
    return found


@contextmanager
def clients(
    functions: Mapping[str, str], places: Mapping[str, Sequence[str]], nbytes: int, found: Found
) -> Iterator[dict[str, Pull]]:
    """Connect each client to its places, all from here; see apart.py for each by itself."""
    with ExitStack() as stack:
        pulls = {}
        for name, function in functions.items():
            try:
                client: Client = resolve(function)
                pulls[name] = stack.enter_context(client(places[name], nbytes))
            except Exception as exc:  # of whatever library this way uses; the others go on
                found.trouble(name, exc)
        yield pulls


def interleave(
    pulls: Mapping[str, Pull | Turn],
    *,
    rounds: int,
    budget_s: float,
    found: Found,
    check: Mapping[str, Callable[[Sequence[model.Floats]], None]] | None = None,
    before: Callable[[str], None] = lambda name: None,
    server_cpu_s: Callable[[str], float] = lambda name: 0.0,
) -> dict[str, Samples]:
    """Time all in turn, `rounds` times after one round to warm up, whose results are checked.

    `before` is called, untimed, before each, and then apart.prepare. Who raises is out, and noted
    in `found`.
    """
    samples = {name: Samples() for name in pulls}
    until = time.monotonic() + budget_s
    for turn in range(-1, rounds):
        if turn >= MIN_ROUNDS and time.monotonic() > until:
            break
        # forth and back: nobody always finds the caches as the same other left them
        for name in list(samples)[:: 1 if turn % 2 else -1]:
            try:
                before(name)
                apart.prepare(pulls[name])
                server, client, started = server_cpu_s(name), process_time(), perf_counter()
                merged = pulls[name]()
                taken = perf_counter() - started
                client, server = process_time() - client, server_cpu_s(name) - server
                if isinstance(merged, apart.Taken):
                    taken, client = merged.seconds, merged.cpu_s
                elif turn < 0 and merged is not None and check:
                    check[name](merged)
                merged = None  # whoever pulls next has its memory
            except Exception as exc:  # as above
                found.trouble(name, exc)
                del samples[name]
                continue
            if turn >= 0:
                samples[name].add(taken, client, server)
    return samples


def summaries(
    ways: Sequence[Way], samples: Mapping[str, Samples], nbytes: int
) -> dict[str, Transfer | Ping]:
    """What the samples say, by the way's name."""
    return {way.name: _summary(way, samples, nbytes) for way in ways if way.name in samples}


def _summary(way: Way, samples: Mapping[str, Samples], nbytes: int) -> Transfer:
    mine = samples[way.name]
    ceiling = way.ceiling if way.ceiling in samples else None
    rivals = [rival for rival in way.rivals if rival in samples]
    median = statistics.median(mine.seconds)
    return Transfer(
        ms=1e3 * median,
        p10_ms=1e3 * quantile(mine.seconds, 0.1),
        p90_ms=1e3 * quantile(mine.seconds, 0.9),
        gbps=way.peers * nbytes / median / 1e9,
        rounds=len(mine.seconds),
        cpu_client_s=statistics.fmean(mine.client_cpu_s),
        cpu_server_s=statistics.fmean(mine.server_cpu_s) if way.server else None,
        ceiling=ceiling,
        ratio=paired_ratio(mine.seconds, samples[ceiling].seconds) if ceiling else None,
        times_faster_than={
            rival: paired_ratio(samples[rival].seconds, mine.seconds) for rival in rivals
        }
        or None,
    )
