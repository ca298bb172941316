"""Pull one model and merge it over slow links: how much of the link gets used.

Connections are kept, as peers keep them; between two pulls each is idle while others take their
turn. The time of a pull includes asking: one round trip for a bare socket, and two for a peer,
which asks for the version first. So even a perfect transport uses less than the whole rate, and
a 14 MB model at 1 Gbit/s and 20 ms at most 74 %; how full the link is once the model flows is told
beside it.
"""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

from benchmarks import model
from benchmarks.apart import Prepared, prepare
from benchmarks.children import Child, Failed, Unavailable
from benchmarks.harness import Pull, Samples, Say, Way, clients, interleave, served, summaries
from benchmarks.links import DEVICE, FAR, Link, joined
from benchmarks.results import Found, Transfer
from benchmarks.transports import CURVE, FRAME, RAW_TCP, TCP
from transports import messages

_OURS = "benchmarks.product:"
CODED = tuple(
    Way(
        f"tcp+{name}",
        f"{_OURS}pull_{name.replace('+', '_')}",
        _OURS + "serve_changing",
        ceiling="raw-tcp",
    )
    for name in (*messages.ENCODINGS, "auto")
)
WAYS = (RAW_TCP, TCP, CURVE, replace(FRAME, ceiling="raw-tcp"), *CODED)
FAST, GOOD, LOSSY, SLOW = (
    Link(1000, 20),
    Link(100, 50),
    Link(100, 50, loss=0.01),
    Link(10, 200),
)
RUNS = (  # link, size, ways, rounds
    (FAST, "14MB", WAYS, 7),
    (FAST, "100MB", (RAW_TCP, TCP), 5),
    (GOOD, "14MB", WAYS, 3),
    (GOOD, "100MB", (RAW_TCP, TCP), 2),
    (LOSSY, "14MB", WAYS, 3),
    (SLOW, "14MB", WAYS, 1),
)
QUICK = tuple(run for run in RUNS if run[0] is not SLOW and run[1] == "14MB")
TIMEOUT_S = 400.0  # of a run
_POLL_S = 1e-3
_FLOWS_BYTES = 1 << 15  # more than questions and answers about versions


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases transport@link/size."""
    found = Found()
    for link, size, ways, rounds in QUICK if quick else RUNS:
        progress(f"Pull and merge {size} over {link}")
        try:
            measured = over(link, ways, model.SIZES[size], rounds)
        except (Unavailable, Failed) as exc:
            measured = Found()
            measured.trouble("all", exc)
        found.add(measured.of(f"@{link}/{size}"))
    return found


def over(link: Link, ways: Sequence[Way], nbytes: int, rounds: int) -> Found:
    """Servers at the far end, clients in one process at the near end. Raises Unavailable."""
    found = Found()
    with joined(link) as ends:
        with served(ways, nbytes, found, host=FAR, prefix=ends.far) as running:
            with Child(
                "benchmarks.slow:take_turns",
                prefix=ends.near,
                functions={way.name: way.client for way in ways if way.name in running},
                places={name: server.places for name, server in running.items()},
                nbytes=nbytes,
                rounds=rounds,
            ) as client:
                told = client.hear(TIMEOUT_S)
    found.skipped |= told["skipped"]
    found.failed |= told["failed"]
    samples = {name: Samples(**each) for name, each in told["samples"].items()}
    bytes_per_s = link.rate_mbit * 1e6 / 8
    for name, case in summaries(ways, samples, nbytes).items():
        assert isinstance(case, Transfer)
        flows = [Flow(**each) for each in told["flows"][name]]
        found.cases[name] = replace(
            case,
            cpu_server_s=None,
            share=nbytes / (case.ms / 1e3) / bytes_per_s,
            flow=statistics.median(flow.bytes / flow.seconds for flow in flows) / bytes_per_s,
            wire_mb=statistics.median(flow.total for flow in flows) / 1e6,
            shaped_by=ends.shaped_by,
        )
    return found


def take_turns(
    functions: Mapping[str, str],
    places: Mapping[str, Sequence[str]],
    nbytes: int,
    rounds: int,
    say: Say,
) -> None:
    """The near end: what every client took."""
    found = Found()
    flows: dict[str, list[Flow]] = {name: [] for name in functions}
    with clients(functions, places, nbytes, found) as pulls:
        samples = interleave(
            {name: _watched(pull, flows[name]) for name, pull in pulls.items()},
            rounds=rounds,
            budget_s=TIMEOUT_S / 2,
            found=found,
            check={name: partial(model.verify, nbytes=nbytes, peers=1) for name in pulls},
        )
    told: dict[str, Any] = {name: asdict(each) for name, each in samples.items()}
    # without the round to warm up
    flowed = {name: [asdict(flow) for flow in each[1:]] for name, each in flows.items()}
    say({"samples": told, "flows": flowed, "skipped": found.skipped, "failed": found.failed})


@dataclass
class Flow:
    """What came over the device in one pull."""

    total: int = 0  # bytes, headers included,
    bytes: int = 0  # and after the first ones of the model
    seconds: float = 0.0  # from these until it was merged


def _watched(pull: Pull, flows: list[Flow]) -> Pull:
    def once() -> Sequence[model.Floats] | None:
        with _watch() as flow:
            merged = pull()
        flows.append(flow)
        return merged

    return Prepared(once, partial(prepare, pull))


@contextmanager
def _watch() -> Iterator[Flow]:
    """Fill in a Flow, by what the device says it has received, looked up every millisecond."""
    flow, ended = Flow(), threading.Event()
    counter = os.open(f"/sys/class/net/{DEVICE}/statistics/rx_bytes", os.O_RDONLY)
    before = flowing = received = int(os.pread(counter, 32, 0))
    began_at = time.perf_counter()

    def look() -> None:
        nonlocal flowing, began_at
        while not ended.wait(_POLL_S):
            flowing, began_at = int(os.pread(counter, 32, 0)), time.perf_counter()
            if flowing - before > _FLOWS_BYTES:
                return

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield flow
        ended_at, received = time.perf_counter(), int(os.pread(counter, 32, 0))
    finally:
        ended.set()
        looking.join()
        os.close(counter)
    flow.total, flow.bytes = received - before, received - flowing
    flow.seconds = ended_at - began_at
