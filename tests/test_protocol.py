"""The state machine under any order of events, and what silence, loss and lies cost."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bt import events
from bt.others import Timing
from bt.protocol import Phase
from bt.schedule import Sequential
from bt.versions import Version
from tests.simulated import IMAGE, IMAGE_BYTES, SCHEMA, Federation, digest
from transports import messages

AB = ("a", "b")
ABC = ("a", "b", "c")
NAMES = st.sampled_from(ABC)
INDEX = st.integers(0, 10**6)


class AnyOrder(RuleBasedStateMachine):
    """Delays, loss, duplication, reordering, crashes with restart: Federation checks the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.federation = Federation(ABC, rounds=4, samples={"a": 1, "b": 5, "c": 2})

    @rule(name=NAMES)
    def start_round(self, name: str) -> None:
        peer = self.federation.peers.get(name)
        if peer is not None and peer.ready:
            self.federation.start_round(name)

    @precondition(lambda self: self.federation.flying)
    @rule(index=INDEX, keep=st.booleans())
    def deliver(self, index: int, keep: bool) -> None:
        self.federation.deliver(index % len(self.federation.flying), keep=keep)

    @rule()
    def deliver_all(self) -> None:
        self.federation.deliver_all()

    @precondition(lambda self: self.federation.flying)
    @rule(index=INDEX)
    def lose(self, index: int) -> None:
        self.federation.flying.pop(index % len(self.federation.flying))

    @precondition(lambda self: self.federation.training)
    @rule(index=INDEX)
    def finish_training(self, index: int) -> None:
        training = sorted(self.federation.training)
        self.federation.finish_training(training[index % len(training)])

    @rule(seconds=st.sampled_from([0.3, 1.0, 5.0, 61.0]))
    def wait(self, seconds: float) -> None:
        self.federation.wait(seconds)

    @rule(name=NAMES)
    def crash_or_restart(self, name: str) -> None:
        if name not in self.federation.peers:
            self.federation.restart(name)
        elif len(self.federation.peers) > 1:
            self.federation.crash(name)

    @rule(name=NAMES)
    def lose_disk(self, name: str) -> None:
        if name not in self.federation.peers:
            self.federation.disk.pop(name, None)

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        for peer in self.federation.peers.values():
            if not (peer.ready or peer.phase is Phase.TRAINING or peer.finished):
                assert peer.deadline is not None
                assert peer.deadline <= self.federation.now + Timing().pull_s

    def teardown(self) -> None:
        """Once the faults stop, every living peer does its rounds and leaves."""
        federation = self.federation
        for name in ABC:
            if name not in federation.peers:
                federation.restart(name)
        for _ in range(400):
            for name, peer in federation.peers.items():
                if name in federation.training:
                    federation.finish_training(name)
                elif peer.ready:
                    federation.start_round(name)
            federation.deliver_all()
            federation.wait(1.0)
            if all(peer.finished for peer in federation.peers.values()):
                break
        else:
            raise AssertionError("a peer never finished")
        for peer in federation.peers.values():
            assert peer.version.count >= 4


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)


def test_a_silent_peer_delays_a_round_by_at_most_its_deadline() -> None:
    federation = Federation(ABC)
    federation.start_round("a")
    federation.flying = [m for m in federation.flying if m[1] != "c"]  # c hears nothing
    started = federation.now
    while "a" not in federation.training:
        federation.wait(0.25)
        federation.flying = [m for m in federation.flying if m[1] != "c"]
        federation.deliver_all()
    assert federation.now - started <= Timing().ping_s
    assert federation.notes == [("a", events.Note("gone", "c", "silent for 5 s"))]


def test_a_ping_of_the_other_one_is_no_answer() -> None:
    federation = Federation(AB)
    federation.update("b")
    federation.peers["a"]._others["b"].known = None  # a has heard nothing yet
    federation.start_round("a")
    federation.feed("a", events.Received(messages.Ping("b")))
    federation.deliver_all()
    assert federation.trained[-1] == ("a", ("b",))


def test_a_peer_known_to_be_gone_costs_nothing() -> None:
    federation = Federation(ABC)
    federation.update("a")
    federation.crash("c")
    federation.update("a")  # c is missed here
    started = federation.now
    federation.update("a")
    assert federation.now == started


def test_a_peer_that_comes_back_is_asked_again() -> None:
    federation = Federation(AB, rounds=9)
    federation.update("b")
    federation.crash("b")
    federation.update("a")
    assert federation.peers["a"].known_version("b") is None
    federation.restart("b")
    federation.update("b")
    assert federation.update("a") == ("b",)


def test_a_late_peer_goes_on_at_the_learning_rate_of_the_others() -> None:
    federation = Federation(ABC, rounds=6)
    federation.crash("c")
    federation.update("b")
    for _ in range(3):
        federation.update("a")
    federation.restart("c")
    federation.update("c")  # merges version 3 and version 1: the lower median decides
    federation.update("c")
    federation.crash("c")
    federation.restart("c")
    federation.update("c")
    assert federation.update_numbers == {"a": [1, 2, 3], "b": [0], "c": [1, 2, 3]}


def test_a_liar_cannot_end_the_learning_of_a_late_peer() -> None:
    federation = Federation(AB, rounds=6)
    federation.crash("b")
    federation.newest["b"] = Version(0, messages.MAX_VERSION)
    federation.disk["b"] = federation.newest["b"], {}, 0
    federation.restart("b")
    assert federation.update("a") == ("b",)
    assert federation.update_numbers["a"] == [6]


def test_a_peer_that_dies_while_sending_leaves_the_round_without_it() -> None:
    federation = Federation(ABC)
    federation.update("b")
    federation.update("c")
    federation.start_round("a")
    while not any(isinstance(m[2], messages.Weights) for m in federation.flying):
        federation.deliver()
    federation.flying = [m for m in federation.flying if m[0] != "b" and m[1] != "b"]
    federation.crash("b")
    started = federation.now
    while "a" not in federation.training:
        federation.wait(0.5)
        federation.deliver_all()
    assert federation.now - started <= Timing().ping_s
    assert federation.trained[-1] == ("a", ("c",))
    federation.finish_training("a")
    assert "b" not in federation.peers["a"].vector


def test_what_was_merged_counts_only_once_the_model_is_trained() -> None:
    federation = Federation(AB)
    federation.update("b")
    federation.start_round("a")
    federation.deliver_all()
    federation.crash("a")
    federation.restart("a")
    assert federation.peers["a"].vector == {}
    assert federation.update("a") == ("b",)


def test_random_weights_are_announced_to_nobody() -> None:
    federation = Federation(AB)
    lost = messages.Version("a", (0, 1), 1, SCHEMA.hash, "training", None, seen=(0, 4))
    federation.feed("b", events.Received(lost))  # b has lost four updates
    assert federation.peers["b"].version == Version(1, 0)
    assert federation.peers["b"].announcement().digest is None
    assert federation.update("a") == ()


def test_another_schema_is_refused_before_weights_move() -> None:
    federation = Federation(AB)
    federation.start_round("a")
    federation.flying.clear()
    other = messages.Version("b", (0, 3), 1, "f" * 64, "training")
    federation.feed("a", events.Received(other))
    assert federation.trained == [("a", ())]
    assert federation.notes[0][1].event == "reject"
    assert not any(isinstance(m[2], messages.Pull) for m in federation.flying)


def test_a_rejected_peer_is_set_aside_for_growing_pauses() -> None:
    federation = Federation(AB, rounds=999)
    pauses = []
    for _ in range(3):
        federation.feed("a", events.Rejected("b", "garbage"))
        start = federation.now
        while True:
            federation.start_round("a")
            asked = any(m[:2] == ("a", "b") for m in federation.flying)
            federation.deliver_all()
            federation.finish_training("a")
            federation.flying.clear()
            if asked:
                break
            federation.now += 1.0
        pauses.append(federation.now - start)
    assert pauses == [30.0, 60.0, 120.0]


def test_weights_nobody_asked_for_are_ignored() -> None:
    federation = Federation(AB)
    weights = messages.Weights("b", digest("b", (0, 1)), IMAGE_BYTES, 0, IMAGE)
    federation.feed("a", events.Received(weights))
    assert federation.peers["a"].phase is Phase.IDLE
    assert federation.shares == {}


def test_a_peer_that_lost_its_disk_starts_a_new_incarnation() -> None:
    federation = Federation(AB, rounds=9)
    for _ in range(3):
        federation.update("b")
    federation.update("a")
    federation.crash("b")
    federation.disk.clear()
    federation.restart("b")
    federation.update("b")
    assert federation.peers["b"].version == Version(1, 1)
    assert federation.update("a") == ("b",), "its new model is not taken for an old one"


def test_nobody_is_asked_anything_while_the_disk_is_waited_for() -> None:
    federation = Federation(ABC, rounds=2)
    federation.start_round("a")
    federation.deliver_all()
    federation.now += 10.0
    peer = federation.peers["a"]
    assert peer.handle(events.Trained(), federation.now) == [events.Persist()]
    assert peer.deadline is None, "it would be woken for nothing"


def test_models_that_nobody_merged_count_when_a_disk_is_lost() -> None:
    federation = Federation(AB, rounds=9)
    for _ in range(3):
        federation.update("b")  # a hears of them
    federation.crash("b")
    federation.disk.clear()
    federation.restart("b")
    federation.update("b")
    assert federation.peers["b"].version == Version(1, 1), "no number stands for two models"
    assert federation.update("a") == ("b",), "its new model is not taken for an old one"


def test_a_peer_asked_to_leave_says_so_and_nobody_waits_for_it() -> None:
    federation = Federation(ABC, rounds=1)
    for name in ABC:
        federation.update(name)
    federation.feed("c", events.Leave())
    federation.crash("c")
    federation.deliver_all()
    started = federation.now
    for _ in range(4):
        federation.wait(1.0)
        federation.deliver_all()
    assert all(federation.peers[name].finished for name in AB)
    assert federation.now - started < Timing().ping_s
    assert ("a", events.Note("gone", "c", "left")) in federation.notes


def test_a_peer_that_left_and_came_back_is_waited_for() -> None:
    federation = Federation(AB, rounds=1)
    federation.start_round("a")
    federation.deliver_all()
    federation.feed("b", events.Leave())
    federation.crash("b")
    federation.deliver_all()
    federation.restart("b")
    federation.feed("a", events.Received(messages.Ping("b")))  # its first sign of life
    federation.flying.clear()
    federation.finish_training("a")
    assert "a" not in federation.aggregated, "b has only begun"
    federation.update("b")
    federation.wait(1.0)
    federation.deliver_all()
    assert federation.aggregated["a"] == ("b",)


def test_a_round_can_only_start_when_ready() -> None:
    federation = Federation(AB)
    federation.start_round("a")
    with pytest.raises(RuntimeError, match="ready"):
        federation.start_round("a")


def test_a_liar_cannot_drive_versions_up() -> None:
    federation = Federation(AB)
    for seen in ((2**31 - 1, 0), (40, 0)):
        lie = messages.Version("b", (0, 1), 1, SCHEMA.hash, "training", None, seen)
        federation.feed("a", events.Received(lie))
        assert federation.peers["a"].version == Version(0, 0)
    assert federation.notes[-1][1].event == "reject"
    for step in range(1000):
        lie = messages.Version("b", (0, 1), 1, SCHEMA.hash, "training", None, (step, 9))
        federation.feed("a", events.Received(lie))
    assert federation.peers["a"].version.incarnation < 20


def test_a_peer_that_lives_but_makes_no_progress_is_not_waited_for_for_ever() -> None:
    federation = Federation(ABC, rounds=1)
    for name in AB:
        federation.update(name)  # c answers pings and never trains
    started = federation.now
    while not all(federation.peers[name].finished for name in AB):
        federation.wait(30.0)
        federation.deliver_all()
        assert federation.now - started < Timing().patience_s + 120
    assert set(federation.aggregated["a"]) == {"b"}


def test_a_sequential_run_goes_on_without_a_peer_that_is_done_or_set_aside() -> None:
    schedule = Sequential(ABC, 3, seed=1)
    federation = Federation(ABC, rounds=3, schedule=schedule)
    federation.peers["b"].rounds = 1
    for name in AB:
        federation.update(name)
    federation.feed("a", events.Rejected("c", "garbage"))
    federation.peers["c"].version = Version(0, 0)
    assert federation.peers["a"].ready


def test_a_done_peer_that_is_restarted_waits_for_the_others_whatever_the_clock_says() -> None:
    federation = Federation(AB, rounds=1)
    federation.now = 10 * Timing().patience_s  # of a machine that has been up for long
    federation.update("a")
    federation.crash("a")
    federation.restart("a")
    assert not federation.aggregated
    federation.update("b")
    for _ in range(5):
        federation.wait(1.0)
        federation.deliver_all()
    assert set(federation.aggregated["a"]) == {"b"}


def test_a_ping_unanswered_when_the_pulls_begin_does_not_keep_the_peer_awake() -> None:
    federation = Federation(("a", "b", "c"), rounds=1)
    for name in ("a", "c"):
        federation.update(name)
    federation.wait(1.0)  # a waits for b, and pings
    federation.flying = [one for one in federation.flying if one[:2] != ("a", "c")]  # lost
    federation.deliver_all()
    federation.wait(4.5)
    federation.flying.clear()
    federation.start_round("b")
    federation.deliver_all()
    federation.finish_training("b")
    while federation.peers["a"].phase is not Phase.PULLING:
        federation.deliver()
    federation.flying.clear()
    federation.wait(0.6)  # the ping's deadline passes while the model of c is on its way
    deadline = federation.peers["a"].deadline
    assert deadline is not None
    assert deadline > federation.now, "the runner would go round and round"
