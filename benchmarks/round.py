"""A round without training: N processes, the real protocol, real disks; where the seconds go.

Everybody starts a round as soon as all others have a new model, so all pull from all at once: the
busiest moment that a federation on one machine can have.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch

from benchmarks import model, product
from benchmarks.children import Child, Failed, Unavailable
from benchmarks.harness import Say
from benchmarks.results import Found, Overhead, Round
from bt.checkpoint import CheckpointFile
from bt.eventlog import EventLog
from bt.protocol import Peer
from bt.runner import Runner
from bt.schedule import Async
from bt.trainer import FitMetrics
from bt.weights import FlatWeights
from transports.zeromq import ZeroMQTransport

PEERS = 5
ROUNDS = 12
_TIMEOUT_S = 120.0


def run(
    quick: bool,
    progress: Callable[[str], None],
    peers: int = PEERS,
    real: Path | None = None,
) -> Found:
    """Cases roundN/size; overhead/NAME of the run in the folder `real`."""
    found = Found()
    for size in ("14MB",) if quick else ("14MB", "100MB"):
        progress(f"Rounds of {peers} peers without training, {size}")
        try:
            found.cases[f"round{peers}/{size}"] = _measure(peers, model.SIZES[size])
        except Failed as exc:
            found.trouble(f"round{peers}/{size}", exc)
    if real is not None:
        name = f"overhead/{real.resolve().name}"
        try:
            found.cases[name] = overhead(real)
        except Unavailable as exc:
            found.trouble(name, exc)
    return found


class _Instant(product.Nothing):
    """Fine-tunes at once: who sends the same model as a new one is taken for a liar."""

    def load(self, weights: FlatWeights) -> None:
        self._weights = weights

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        self._weights = self._weights.copy()
        for _, values in self._weights.floats():
            values[0] += 1
        return super().fit(epochs, update, stop)


class _Together(Async):
    """A round when all others are as far: it merges a model of every one."""

    def ready(self, peer: Peer) -> bool:
        known = [peer.known_version(name) for name in peer.others]
        count = peer.version.count
        return count == 0 or all(each is None or each.count >= count for each in known)


def peer(number: int, folder: str, peers: int, nbytes: int, say: Say) -> None:
    """One process: a runner that trains nothing, until its rounds are done."""
    torch.set_num_threads(1)
    places = [f"ipc://{folder}/{each}" for each in range(peers)]
    others = {f"p{each}": place for each, place in enumerate(places) if each != number}
    mine = Path(folder) / f"p{number}.files"
    transport = ZeroMQTransport(f"p{number}", places[number], others, max_message_bytes=1 << 24)
    log = EventLog(mine / "events.jsonl")
    weights = product.weights(nbytes, number)
    runner = product.runner_of(
        Runner,
        transport,
        _Instant(transport.me, weights),
        ROUNDS,
        checkpoints=CheckpointFile(mine / "checkpoint.safetensors"),
        log=log,
    )
    runner.peer.schedule = _Together()
    runner.run()
    transport.close()
    log.close()
    say(str(mine / "events.jsonl"))


def _measure(peers: int, nbytes: int) -> Round:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="bt-"))
        shared: dict[str, Any] = {"folder": folder, "peers": peers, "nbytes": nbytes}
        children = [
            stack.enter_context(Child("benchmarks.round:peer", number=number, **shared))
            for number in range(peers)
        ]
        logs = [Path(child.hear(_TIMEOUT_S)).read_text() for child in children]
    rounds = [each for log in logs for each in _rounds(log)]
    full = [each for each in rounds if each["models"] == peers - 1]
    if not full:
        raise Failed("no round merged all the others")
    parts = {
        name: 1e3 * median(each[name] for each in full)
        for name in ("seconds", "ping", "transfer", "persist")
    }
    return Round(
        ms=parts["seconds"],
        ping_ms=parts["ping"],
        transfer_ms=parts["transfer"],
        persist_ms=parts["persist"],
        rest_ms=max(0.0, 2 * parts["seconds"] - sum(parts.values())),
        rounds=len(full),
    )


def _rounds(log: str) -> Iterator[dict[str, float]]:
    """The rounds of one peer, from its event log; the first is how everybody starts."""
    events = [json.loads(line) for line in log.splitlines()]
    ends = [at for at, event in enumerate(events) if event["event"] == "persist"]
    for begin, end in pairwise(ends):
        inside = events[begin + 1 : end + 1]
        pings, pulls = (_times(inside, what, "peer") for what in ("ping", "pull"))
        merges = _times(inside, "merge", "from")
        if not (pings and pulls and merges):
            continue
        yield {
            "seconds": inside[-1]["time"] - events[begin]["time"],
            "ping": pulls[0] - pings[0],
            "transfer": merges[-1] - pulls[0],
            "persist": inside[-1]["seconds"],
            "models": len({event["from"] for event in inside if event["event"] == "merge"}),
        }


def _times(events: Sequence[dict[str, Any]], what: str, who: str) -> list[float]:
    """Of its own pings and pulls, which name a `peer`, or of what came `from` one."""
    return [event["time"] for event in events if event["event"] == what and who in event]


def overhead(folder: Path) -> Overhead:
    """Which share of a real run was not training, all peers together. Raises Unavailable."""
    seconds = training = 0.0
    rounds = 0
    for path in sorted(folder.glob("*/events.jsonl")):
        events: Sequence[dict[str, Any]] = [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        if fits := [event for event in events if event["event"] == "fit"]:
            seconds += fits[-1]["time"] - events[0]["time"]
            training += sum(event["seconds"] for event in fits)
            rounds += len(fits)
    if not rounds:
        raise Unavailable(f"no peer's events with a fine-tune below {folder}")
    return Overhead(1 - training / seconds, rounds)
