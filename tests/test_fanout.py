"""A round that asks a few: as many as it should, others each time, and the gone too."""

from __future__ import annotations

from random import Random

from bt.fanout import Fanout
from bt.others import Other
from tests.simulated import Federation
from transports import messages

NAMES = tuple(f"p{number}" for number in range(8))


def federation() -> Federation:
    """All but p0 have a model; p0 has one, too, and asks two."""
    found = Federation(NAMES, rounds=99)
    for name in NAMES:
        found.update(name)
    found.peers["p0"].fanout = Fanout(2, Random(3))
    return found


def pinged(found: Federation) -> set[str]:
    return {to for _, to, message in found.flying if isinstance(message, messages.Ping)}


def test_a_round_asks_and_merges_so_many() -> None:
    found = federation()
    for name in NAMES[1:]:
        found.update(name)  # news everywhere
    found.start_round("p0")
    asked = pinged(found)
    assert len(asked) == 2
    found.deliver_all()
    assert set(found.trained[-1][1]) == asked


def test_every_round_asks_others_and_all_get_their_turn() -> None:
    found = federation()
    asked = set()
    for _ in range(20):
        found.start_round("p0")
        asked |= pinged(found)
        found.deliver_all()
        found.finish_training("p0")
        found.deliver_all()
    assert asked == set(NAMES[1:])


def test_without_a_model_all_are_asked_and_few_merged() -> None:
    found = Federation(NAMES, rounds=9)
    for name in NAMES[1:]:
        found.update(name)
    found.peers["p0"].fanout = Fanout(2, Random(3))
    found.start_round("p0")
    assert pinged(found) == set(NAMES[1:]), "one of them may know of models it has lost"
    found.deliver_all()
    assert len(found.trained[-1][1]) == 2


def test_a_fine_tune_is_not_announced() -> None:
    found = federation()
    found.update("p0")
    before = found.peers["p1"].known_version("p0")
    assert before is not None
    assert before.count == 1, "p0 had two, and was not asked since"
    found.start_round("p1")
    found.deliver_all()
    assert found.peers["p1"].known_version("p0") == found.peers["p0"].version


def test_those_out_of_reach_are_asked_beside_the_others() -> None:
    others = {name: Other(gone=name in ("p1", "p2", "p3")) for name in NAMES[1:]}
    others["p4"].trust.until = 100.0
    asked = Fanout(2, Random(0)).asked(others, now=1.0)
    assert len(asked) == 4
    assert sum(others[name].gone for name in asked) == 2
    assert "p4" not in asked
    assert Fanout().asked(others, now=1.0) == sorted(set(others) - {"p4"})
