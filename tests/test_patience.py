"""How long a peer waits for others: a deadline for answers, and at the end never for ever."""

from __future__ import annotations

from bt import events
from bt.others import Timing
from bt.versions import Version
from tests.simulated import SCHEMA, Federation
from transports import messages

TIMING = Timing()


def test_who_announces_but_does_not_answer_costs_one_deadline() -> None:
    """Half of its connections are dead: what it publishes comes, and nothing that is asked."""
    federation = Federation(("a", "b"))
    federation.update("b")
    told = events.Received(federation.peers["b"].announcement(), published=True)
    federation.start_round("a")
    federation.deliver()  # the ping, and
    federation.deliver()  # the answer: now its model is asked for
    started = federation.now
    while "a" not in federation.training:
        federation.flying.clear()
        federation.wait(0.25)
        federation.feed("a", told)
    assert federation.now - started <= TIMING.ping_s
    assert federation.notes == [("a", events.Note("gone", "b", "silent for 5 s"))]
    federation.finish_training("a")
    federation.start_round("a")
    assert "a" in federation.training, "known not to answer, it costs nothing"


def test_a_peer_that_makes_progress_and_never_gets_done_is_not_waited_for_for_ever() -> None:
    federation = Federation(("a", "b", "c"), rounds=1)
    for name in ("a", "b"):
        federation.update(name)
    started, count = federation.now, 0
    while not federation.peers["a"].finished:
        count += 1  # of c, which is honest and slow, or wants to keep the others
        told = messages.Version("c", Version(0, count), 1, SCHEMA.hash, "training", None)
        c = federation.peers["c"]
        c.version, c._told = Version(0, count), told  # and it answers pings with that
        for name in ("a", "b"):
            federation.feed(name, events.Received(told))
        federation.wait(TIMING.patience_s / 2)
        federation.deliver_all()
        assert federation.now - started < TIMING.longest_s + TIMING.patience_s
    assert federation.now - started > TIMING.longest_s - TIMING.patience_s
    assert set(federation.aggregated["a"]) == {"b"}


def test_patience_begins_with_the_last_progress_and_ends_with_the_longest_wait() -> None:
    assert TIMING.waits_until(moved_at=5.0, done_at=100.0) == 100.0 + TIMING.patience_s
    assert TIMING.waits_until(moved_at=200.0, done_at=100.0) == 200.0 + TIMING.patience_s
    late = 100.0 + TIMING.longest_s - 1
    assert TIMING.waits_until(moved_at=late, done_at=100.0) == 100.0 + TIMING.longest_s
