"""Models on their way: what loss, silence, crashes and replacement in the middle of one cost."""

from __future__ import annotations

from collections import deque

import pytest

from bt import events
from bt.others import Other, Timing
from bt.protocol import Peer
from bt.pulls import Pulls
from bt.transfer import GRAIN, LEAST_BYTES_PER_S, MOST_CREDIT, Link
from bt.versions import Version
from tests.simulated import HEADER_BYTES, IMAGE, IMAGE_BYTES, Federation, digest
from transports import messages

AB = ("a", "b")
ABC = ("a", "b", "c")


def begin_pull(federation: Federation) -> None:
    """a starts a round; one range of b's model is merged, the rest on its way."""
    federation.update("b")
    federation.start_round("a")
    while not federation.partly.get("a", {}).get("b"):
        federation.deliver()


def lose_weights(federation: Federation) -> None:
    federation.flying = [m for m in federation.flying if not isinstance(m[2], messages.Weights)]


def test_a_peer_that_falls_silent_in_the_middle_of_a_pull_is_gone_after_the_deadline() -> None:
    federation = Federation(AB)
    begin_pull(federation)
    federation.flying.clear()
    federation.wait(Timing().ping_s)
    assert federation.trained[-1] == ("a", ())
    assert federation.notes == [("a", events.Note("gone", "b", "silent for 5 s"))]


def test_a_peer_that_answers_pings_but_sends_no_weights_is_set_aside_after_the_deadline() -> None:
    federation = Federation(AB)
    begin_pull(federation)
    started = federation.now
    while "a" not in federation.training:
        lose_weights(federation)
        if federation.flying:
            federation.deliver()
        else:
            federation.wait(0.5)
    assert Timing().pull_s <= federation.now - started <= Timing().pull_s + 1
    assert federation.trained[-1] == ("a", ())
    assert federation.notes[-1][1].event == "reject"


def test_a_lost_range_is_asked_for_again_and_what_came_is_kept() -> None:
    federation = Federation(AB)
    begin_pull(federation)
    lose_weights(federation)
    asked = []
    while "a" not in federation.training:
        federation.wait(0.5)
        asked += [m[2].offset for m in federation.flying if isinstance(m[2], messages.Pull)]
        federation.deliver_all()
    assert federation.now <= Timing().stall_s + 1
    assert asked
    assert 0 not in asked, "only what is missing"
    assert federation.trained[-1] == ("a", ("b",))


def test_a_transfer_goes_on_with_a_restarted_peer() -> None:
    federation = Federation(AB)
    begin_pull(federation)
    federation.flying.clear()
    federation.crash("b")
    federation.wait(0.5)  # the transport says that it is gone
    federation.restart("b")
    while "a" not in federation.training:
        federation.wait(0.5)
        federation.deliver_all()
    assert federation.trained[-1] == ("a", ("b",))
    assert not any(note.event == "gone" for _, note in federation.notes)


def test_a_model_replaced_in_the_middle_is_left_out_whole_and_its_successor_taken() -> None:
    federation = Federation(ABC)
    federation.update("c")
    begin_pull(federation)
    federation.served["b"] = digest("b", (0, 2))
    federation.peers["b"].version = Version(0, 2)
    federation.newest["b"] = Version(0, 2)
    federation.peers["b"].digest = federation.served["b"]
    lose_weights(federation)
    while "a" not in federation.training:
        federation.deliver_all()
        federation.wait(0.5)
    assert set(federation.trained[-1][1]) == {"b", "c"}
    federation.finish_training("a")
    assert federation.peers["a"].vector["b"] == Version(0, 2)


def test_a_peer_whose_model_is_gone_again_and_again_is_left_out() -> None:
    federation = Federation(ABC)
    federation.update("c")
    federation.update("b")
    federation.served["b"] = digest("b", (0, 9))  # not what it announces
    assert federation.update("a") == ("c",)


@pytest.mark.parametrize(
    ("digest_of", "begin", "end"),
    [(2, 0, 64 + GRAIN), (1, 64, 64 + GRAIN), (1, 0, 64 + GRAIN - 8), (1, 0, IMAGE_BYTES)],
    ids=["other image", "other place", "too short", "too long"],
)
def test_ranges_that_were_not_asked_for_are_ignored(digest_of: int, begin: int, end: int) -> None:
    federation = Federation(AB)
    federation.update("b")
    federation.start_round("a")
    while not any(isinstance(m[2], messages.Weights) for m in federation.flying):
        federation.deliver()
    lose_weights(federation)
    other = messages.Weights(
        "b", digest("b", (0, digest_of)), IMAGE_BYTES, begin, IMAGE[begin:end]
    )
    federation.feed("a", events.Received(other))
    assert not federation.partly


def asked_for_weights() -> tuple[Peer, events.Received]:
    """a, which has asked b for its model, and the first range of the answer."""
    federation = Federation(AB)
    federation.update("b")
    peer = federation.peers["a"]
    peer.handle(events.RoundDue(), 0.0)
    peer.handle(events.Received(federation.peers["b"].announcement()), 0.0)
    end = HEADER_BYTES + GRAIN
    first = messages.Weights("b", digest("b", (0, 1)), IMAGE_BYTES, 0, IMAGE[:end])
    return peer, events.Received(first)


def test_the_next_range_is_asked_for_before_one_is_merged() -> None:
    peer, first = asked_for_weights()
    kinds = [type(each) for each in peer.handle(first, 0.0)]
    assert kinds == [events.Send, events.Merge]


def test_a_refused_merge_does_not_count() -> None:
    peer, first = asked_for_weights()
    merge = peer.handle(first, 0.0)[-1]
    assert isinstance(merge, events.Merge)
    instructions = peer.handle(events.Merged("b", refused="not finite"), 0.0)
    assert instructions.index(events.StartOver()) < instructions.index(events.Train(0, ()))


def test_a_peer_that_drips_costs_no_more_than_the_slowest_link_of_use() -> None:
    federation = Federation(AB)
    begin_pull(federation)
    started = federation.now
    least = IMAGE_BYTES / LEAST_BYTES_PER_S
    while "a" not in federation.training:
        waiting = [m for m in federation.flying if isinstance(m[2], messages.Weights)]
        federation.flying = [m for m in federation.flying if m not in waiting]
        federation.deliver_all()
        for transfer in federation.peers["a"]._pulls.running.values():
            transfer.progress_at = federation.now  # as if a range came
        federation.wait(1.0)
    assert federation.now - started <= Timing().pull_s + least + 2
    assert federation.notes[-1][1].reason == "sends its model too slowly"


def test_a_rule_that_needs_three_models_waits_for_two_with_news() -> None:
    federation = Federation(ABC, rounds=9)
    for name in ABC:
        federation.update(name)
    federation.peers["a"].least_models = 3
    assert set(federation.update("a")) == {"b", "c"}
    federation.update("b")
    assert federation.update("a") == (), "of two models nobody knows which one lies"
    federation.update("c")
    assert set(federation.update("a")) == {"b", "c"}, "b still had news"


def test_a_rule_that_needs_three_models_merges_nobody_if_one_fails() -> None:
    federation = Federation(ABC, rounds=9)
    for name in ABC:
        federation.update(name)
    federation.peers["a"].least_models = 3
    federation.start_round("a")
    while "c" not in federation.peers["a"]._pulls.running:
        federation.deliver(0)
    federation.feed("a", events.Rejected("c", "garbage"))
    federation.deliver_all()
    assert federation.trained[-1] == ("a", ())
    federation.finish_training("a")
    assert federation.peers["a"].vector == {}


def test_a_peer_that_never_trained_needs_three_others_then() -> None:
    federation = Federation(("a", "b", "c", "d"), rounds=9)
    federation.peers["a"].least_models = 3
    for name in ("b", "c"):
        federation.update(name)
    assert federation.update("a") == (), "beside two others it has no model of its own"
    assert set(federation.update("a")) == {"b", "c"}


def test_a_fast_peer_leaves_the_others_room() -> None:
    """Of two large models over fast links both come in, not one after the other."""
    size = 40 * MOST_CREDIT
    others = {name: Other(link=Link(MOST_CREDIT)) for name in "bc"}
    for name, other in others.items():
        other.known = messages.Version(name, (0, 1), 1, "0" * 64, "training", digest(name, (0, 1)))
    pulls = Pulls("a", size, HEADER_BYTES, 2, lambda link: messages.PLAIN)
    pulls.begin(["b", "c"])
    data, arrived = memoryview(bytes(2 * MOST_CREDIT)), dict.fromkeys("bc", 0)
    waiting = deque(pulls.ask(others, lambda peer, now: True, 0.0))
    for number in range(100):
        now = 0.001 * number
        send = waiting.popleft()
        pull = send.message
        assert isinstance(pull, messages.Pull)
        part = data[: pull.length]
        answer = messages.Weights(send.to, pull.digest, size, pull.offset, part)
        assert pulls.take(answer, now) is pulls.running[send.to]
        arrived[send.to] += pull.length
        waiting += pulls.ask(others, lambda peer, now: True, now)
        coming = sum(each.message.length for each in waiting)  # type: ignore[union-attr]
        assert coming <= MOST_CREDIT + 2 * HEADER_BYTES
    assert min(arrived.values()) > 0.4 * sum(arrived.values())
