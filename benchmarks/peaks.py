"""Peak memory in models, of who pulls and of who serves, in processes that do nothing else.

What counts is how much the peak grows with the model: that of one run, less that of the same run
with a tiny model. So libraries cancel out, and buffers of a fixed size count as what they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from benchmarks import memory, model
from benchmarks.child import resolve
from benchmarks.children import Child
from benchmarks.harness import Client, Say, Way, served
from benchmarks.results import Found, Transfer

PULLS = 3  # the second may need what the first has not freed


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
