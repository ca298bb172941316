"""A peer that lost its disk learns of it from those who ask it."""

import pytest

from bt.events import PeerGone
from bt.schedule import Sequential
from bt.versions import Version
from tests.simulated import Federation

NAMES = ("a", "b")


@pytest.mark.parametrize("noticed", [False, True])
def test_a_peer_that_lost_its_disk_and_asks_nobody_is_told_by_who_asks_it(noticed: bool) -> None:
    federation = Federation(NAMES, rounds=9, schedule=Sequential(NAMES, 9, seed=0))
    for name in NAMES:
        federation.update(name)
    federation.crash("b")
    federation.disk.pop("b")
    if noticed:
        federation.feed("a", PeerGone("b"))
    federation.restart("b")
    federation.start_round("b")
    assert federation.training == {"b"}, "the first round of this schedule asks nobody"
    federation.start_round("a")
    federation.deliver_all()
    assert federation.peers["b"].version == Version(1, 0)
