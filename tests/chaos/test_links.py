"""Links that go mute, lose packets, are slow, or are cut: two real peers, over real TCP.

Between network namespaces where root can make them; what makes the link slow (netem, or a relay
in user space that simulates it) is benchmarks/links.py's choice.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

import pytest

from benchmarks import links
from benchmarks.children import Unavailable
from benchmarks.links import FAR, NEAR, Ends, Link
from benchmarks.mute import Relay
from benchmarks.peers import Federation, Site, wait_for, waits_s

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
DEADLINE_S = 1.0
SLACK_S = 2.0
ENDLESS = 100_000  # rounds: the test ends it
BAD = Link(rate_mbit=20, round_trip_ms=400, loss=0.05)
NARROW = Link(rate_mbit=1, round_trip_ms=20)


def merges(site: Site, since: float = 0.0) -> int:
    return sum(event["time"] > since for event in site.events("merge"))


def losses(site: Site, since: float) -> list[str]:
    """Why the other one was lost since then; before, it may not have been up yet."""
    return [event["reason"] for event in site.events("gone") if event["time"] > since]


def assert_cheap(site: Site, since: float) -> None:
    """Every round since then lost at most one deadline to the other."""
    waits = waits_s(site, since)
    assert waits
    assert max(waits) < DEADLINE_S + SLACK_S


def test_a_link_that_goes_mute_costs_a_deadline_a_round_and_comes_back(
    federate: Callable[..., Federation],
) -> None:
    federation = federate("A", "B", rounds=ENDLESS, more=("--ping-timeout", str(DEADLINE_S)))
    a, b = federation["A"], federation["B"]
    with (
        closing(Relay(federation.addresses["A"])) as to_a,
        closing(Relay(federation.addresses["B"])) as to_b,
    ):
        federation.reach("A", {"B": to_b.address})
        federation.reach("B", {"A": to_a.address})
        federation.start()
        wait_for(lambda: merges(a) and merges(b), "they merge each other")
        to_a.mute.set()
        to_b.mute.set()
        mute_at = time.time()
        wait_for(lambda: losses(a, mute_at) and losses(b, mute_at), "both notice")
        for site in (a, b):
            assert losses(site, mute_at)[0].startswith("silent for"), "nobody has hung up"
        at = a.count
        wait_for(lambda: a.count > at + 2, "A goes on alone")
        assert_cheap(a, mute_at)
        to_a.mute.clear()
        to_b.mute.clear()
        again_at = time.time()
        wait_for(lambda: merges(a, again_at) and merges(b, again_at), "they merge again")


@contextmanager
def joined(link: Link) -> Iterator[Ends]:
    try:
        with links.joined(link) as ends:
            yield ends
    except Unavailable as exc:
        pytest.skip(str(exc))


@contextmanager
def cut(ends: Ends) -> Iterator[None]:
    """Nothing gets through."""
    wire = ["ip", "-n", ends.near[-1], "link", "set", links.DEVICE]
    subprocess.run([*wire, "down"], check=True)
    try:
        yield
    finally:
        with suppress(subprocess.CalledProcessError):
            subprocess.run([*wire, "up"], check=True)


def between(ends: Ends, federate: Callable[..., Federation], rounds: int) -> Federation:
    """One peer at either end."""
    more = ("--ping-timeout", str(2 * DEADLINE_S), "--insecure")
    federation = federate("A", "B", rounds=rounds, more=more, hosts=(NEAR, FAR))
    federation["A"].prefix, federation["B"].prefix = ends.near, ends.far
    return federation


def partition(federate: Callable[..., Federation], link: Link, seconds: float) -> None:
    with joined(link) as ends:
        federation = between(ends, federate, ENDLESS)
        a, b = federation["A"], federation["B"]
        federation.start()
        wait_for(lambda: merges(a) and merges(b), "they merge each other")
        cut_at = time.time()
        with cut(ends):
            wait_for(lambda: losses(a, cut_at) and losses(b, cut_at), "both notice")
            gone_at = time.time()
            at = a.count, b.count
            wait_for(lambda: a.count > at[0] + 2 and b.count > at[1] + 2, "both go on alone")
            time.sleep(max(0.0, gone_at + seconds - time.time()))
            waits = sorted(waits_s(a, gone_at))
            assert waits[len(waits) // 2] < DEADLINE_S, "known to be gone, it still costs"
        again_at = time.time()
        wait_for(lambda: merges(a, again_at) and merges(b, again_at), "they merge again")
        for site in (a, b):
            assert site.code is None
            assert site.events("reject") == []
            site.kill()


def test_200_ms_with_5_percent_loss_and_a_partition(federate: Callable[..., Federation]) -> None:
    partition(federate, BAD, seconds=3)


@pytest.mark.soak
@pytest.mark.parametrize("link", [BAD, NARROW], ids=str)
def test_a_partition_of_a_minute(federate: Callable[..., Federation], link: Link) -> None:
    partition(federate, link, seconds=60)


@pytest.mark.soak
def test_1_mbit_per_second_to_the_end(federate: Callable[..., Federation]) -> None:
    with joined(NARROW) as ends:
        federation = between(ends, federate, rounds=10)
        federation.start()
        assert set(federation.finish().values()) == {0}
