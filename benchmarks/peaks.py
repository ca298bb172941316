"""Peak memory in models, of who pulls and of who serves, in processes that do nothing else.

What counts is how much the peak grows with the model: that of one run, less that of the same run
with a tiny model. So libraries cancel out, and buffers of a fixed size count as what they are.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from benchmarks import memory, model
from benchmarks.child import resolve
from benchmarks.children import Child
from benchmarks.harness import Client, Say, Way, served
from benchmarks.results import Found, Memory, Transfer

PULLS = 3  # the second may need what the first has not freed
AT_ONCE = (1, 4, 9)


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases merge/size/k: one peer merges k models; and serve/size/k: k peers pull from one."""
    found = Found()
    size = "14MB" if quick else "100MB"
    for name, peaks in {"merge": _of_merging, "serve": _of_serving}.items():
        for k in AT_ONCE:
            progress(f"Memory: {name} {size}, {k} at once")
            try:
                small, large = (peaks(k, nbytes) for nbytes in (model.TINY, model.SIZES[size]))
            except Exception as exc:
                found.trouble(f"{name}/{size}/{k}", exc)
                continue
            grown = model.SIZES[size] - model.TINY
            models = [(more - less) / grown for less, more in zip(small, large, strict=True)]
            found.cases[f"{name}/{size}/{k}"] = Memory(k, *models)
    return found


def _of_merging(peers: int, nbytes: int) -> tuple[int, int]:
    product_ = "benchmarks.product:"
    way = Way("merge", product_ + "pull_and_merge", product_ + "serve", peers=peers)
    return _peaks(way, nbytes, Found())


def _of_serving(pullers: int, nbytes: int) -> tuple[int, int]:
    names = [f"a{number}" for number in range(pullers)]
    with ExitStack() as stack:
        start = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "start"
        serve = {"place": "tcp://127.0.0.1:0", "nbytes": nbytes, "clients": names}
        server = stack.enter_context(Child("benchmarks.product:serve", **serve))
        asks = {"place": server.hear(), "nbytes": nbytes, "start": str(start)}
        clients = [
            stack.enter_context(Child("benchmarks.peaks:pull_with_others", me=name, **asks))
            for name in names
        ]
        for client in clients:
            client.hear()
        start.touch()
        return max(client.hear() for client in clients), server.peak_bytes()


def pull_with_others(place: str, nbytes: int, me: str, start: str, say: Say) -> None:
    """A peer that pulls as soon as there is a file `start`."""
    from benchmarks import product  # not above: raw sockets need none of it

    memory.reset_peak()
    with product.pull_and_merge([place], nbytes, me) as once:
        say("ready")
        while not Path(start).exists():
            time.sleep(0.001)
        for _ in range(PULLS):
            once()
        say(memory.peak_bytes())


def add(found: Found, case: str, way: Way, nbytes: int) -> None:
    """Fill in the peaks of `case`, a Transfer already found."""
    measured = found.cases.get(case)
    if not isinstance(measured, Transfer):
        return
    try:
        small, large = (_peaks(way, each, found) for each in (model.TINY, nbytes))
    except Exception as exc:  # of whatever library this way uses; the others go on
        found.trouble(f"{case} memory", exc)
        return
    grown = nbytes - model.TINY
    found.cases[case] = replace(
        measured,
        peak_models=(large[0] - small[0]) / grown,
        peak_models_server=(large[1] - small[1]) / grown if way.server else None,
    )


def _peaks(way: Way, nbytes: int, found: Found) -> tuple[int, int]:
    """Bytes, of the client and of the largest server."""
    with served([way], nbytes, found) as running:
        servers = running[way.name]
        with Child(
            "benchmarks.peaks:pull", client=way.client, places=servers.places, nbytes=nbytes
        ) as client:
            own: int = client.hear()
            return own, max((child.peak_bytes() for child in servers.children), default=0)


def pull(client: str, places: Sequence[str], nbytes: int, say: Say) -> None:
    """What the client's process does."""
    function: Client = resolve(client)
    memory.reset_peak()  # importing has a peak of its own
    with function(places, nbytes) as once:
        for _ in range(PULLS):
            once()
        say(memory.peak_bytes())
