"""Pull one model of 14 MB and merge it over slow links: how much of the link gets used.

Connections are kept, as peers keep them; between two pulls each is idle while others take their
turn. The time includes the round trip of asking, so that even a perfect transport uses less than
the whole rate: 14 MB / (14 MB / rate + round trip).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import Any

from benchmarks import model
from benchmarks.children import Child, Failed, Unavailable
from benchmarks.harness import Samples, Say, Way, clients, interleave, served, summaries
from benchmarks.links import FAR, Link, joined
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
LINKS = {  # rounds by link
    Link(1000, 20): 5,
    Link(100, 50): 3,
    Link(100, 50, loss=0.01): 3,
    Link(10, 200): 1,
}
TIMEOUT_S = 300.0  # of a link


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases transport@link/14MB."""
    found = Found()
    for link, rounds in LINKS.items():
        if quick and link.rate_mbit < 100:
            continue
        progress(f"Pull and merge 14MB over {link}")
        try:
            measured = over(link, WAYS, model.SIZES["14MB"], rounds)
        except (Unavailable, Failed) as exc:
            measured = Found()
            measured.trouble("all", exc)
        found.add(measured.of(f"@{link}/14MB"))
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
    for name, case in summaries(ways, samples, nbytes).items():
        assert isinstance(case, Transfer)
        share = 8 * nbytes / (1e3 * case.ms * link.rate_mbit)
        found.cases[name] = replace(case, cpu_server_s=None, share=share, shaped_by=ends.shaped_by)
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
    with clients(functions, places, nbytes, found) as pulls:
        samples = interleave(
            pulls,
            rounds=rounds,
            budget_s=TIMEOUT_S / 2,
            found=found,
            check={name: partial(model.verify, nbytes=nbytes, peers=1) for name in pulls},
        )
    told: dict[str, Any] = {name: asdict(each) for name, each in samples.items()}
    say({"samples": told, "skipped": found.skipped, "failed": found.failed})
