"""Strikes, pauses that double, and what takes them away."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bt import events
from bt.trust import MERITS, Trust
from tests.simulated import Federation

PAUSE_S = 30.0


def offend_until_told(trust: Trust, now: float) -> float:
    """When its pause is over."""
    assert trust.strike("garbage", now, PAUSE_S)
    return trust.until


def test_pauses_double_up_to_about_an_hour() -> None:
    trust, now, pauses = Trust(), 5.0, []
    for _ in range(10):
        until = offend_until_told(trust, now)
        pauses.append(until - now)
        assert trust.withheld(now)
        assert not trust.withheld(until)
        now = until
    assert pauses == [PAUSE_S * 2 ** min(strikes, 7) for strikes in range(10)]


def test_a_flood_is_one_offence() -> None:
    trust = Trust()
    assert trust.strike("first", 0.0, PAUSE_S)
    assert not any(trust.strike(f"more {n}", n / 100, PAUSE_S) for n in range(1000))
    assert (trust.strikes, trust.reason, trust.until) == (1, "first", PAUSE_S)


def test_several_good_models_in_a_row_take_a_strike_away_and_fewer_do_not() -> None:
    trust = Trust(strikes=2)
    for _ in range(MERITS - 1):
        trust.merit()
    assert trust.strikes == 2
    trust.merit()
    assert trust.strikes == 1
    for _ in range(3 * MERITS):
        trust.merit()
    assert trust.strikes == 0


@given(st.lists(st.integers(0, MERITS - 1), min_size=9, max_size=20))
def test_who_sends_good_and_bad_models_in_turn_is_set_aside_longer_and_longer(
    good: list[int],
) -> None:
    """However it alternates, if fewer than MERITS good ones lie between two bad ones."""
    trust, now, pauses = Trust(), 0.0, []
    for models in good:
        for _ in range(models):
            trust.merit()
        until = offend_until_told(trust, now)
        pauses.append(until - now)
        now = until
    assert trust.strikes == len(good)
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_S * 2**7


def test_the_peer_says_whom_it_has_set_aside_and_why() -> None:
    federation = Federation(("a", "b", "c"))
    peer = federation.peers["a"]
    assert peer.set_aside == ()
    federation.now = 100.0
    federation.feed("a", events.Rejected("c", "garbage"))
    federation.feed("a", events.Rejected("c", "more garbage"))
    (aside,) = peer.set_aside
    assert aside == ("c", "garbage", 100.0 + peer.timing.set_aside_s, 1)
    assert len(federation.notes) == 1
    federation.now = aside.until
    federation.feed("a", events.Tick())
    assert peer.set_aside == ()
