"""What the reports of many peers add up to."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bt.outside import NO_ADDRESS, NoAnswer
from bt.versions import Version
from bt.watching.federation import Federation, lag, to_json
from transports.reports import Aside, Fit, Happened, Known, Report

A = Report(
    "a",
    "training",
    "pulling",
    (0, 5),
    8,
    12,
    {
        "b": Known((0, 2), (0, 3), "training", 4, gone=False),
        "c": Known((0, 7), (0, 7), "training", 60, gone=True),
    },
    pulling=("b",),
    aside={"c": Aside(20, "lies")},
    fits=(Fit(4, 500_000, 600_000), Fit(5, 400_000, 700_000)),
    events=(Happened(1, 5000, "start", None, "v0"), Happened(2, 1000, "merge", "b", "v2")),
    bytes_in=1000,
    uptime_ms=5000,
)
B = Report(
    "b", "done", "idle", (0, 4), 4, 3, {"a": Known(None, (0, 5), "training", 1, gone=False)}
)


def test_what_is_seen_of_peers_that_answer_and_of_one_that_does_not() -> None:
    federation = Federation()
    federation.take({"a": A, "b": B, "c": NoAnswer("silent for 2 s")}, 100.0)
    a, b, c = federation.rows(101.0)
    assert (a.state, a.version, a.rounds, a.samples) == ("pulling", Version(0, 5), 8, 12)
    assert (a.loss, a.dice, a.pulling, a.age_s) == (0.4, 0.7, ("b",), 1.0)
    assert a.behind == pytest.approx((2 + 0) / 2), "b has made two more, of c it has the last"
    assert a.aside == {"c": (20, "lies")}
    assert (b.state, b.version, b.behind) == ("done", Version(0, 4), (5 + 7) / 2)
    assert (c.state, c.version, c.silent) == ("gone", Version(0, 7), "silent for 2 s")
    assert c.aside_by == {"a": (20, "lies")}
    assert federation.merged() == {"a": {"b": Version(0, 2), "c": Version(0, 7)}, "b": {}}
    assert federation.curve("a") == [(4, 0.5, 0.6), (5, 0.4, 0.7)]


def test_events_of_one_moment_are_told_as_they_came() -> None:
    merges = Happened(1, 5, "merge", "b", "v1"), Happened(2, 5, "merge", None, "v1")
    federation = Federation()
    federation.take({"a": replace(A, events=merges)}, 100.0)
    assert [event.other for event in federation.events] == ["b", None]


def test_of_who_tells_of_ever_more_updates_the_newest_are_kept() -> None:
    federation = Federation()
    for begin in range(0, 6400, 64):
        fits = tuple(Fit(made, None, None) for made in range(begin, begin + 64))
        federation.take({"a": replace(A, fits=fits)}, float(begin))
    curve = federation.curve("a")
    assert (len(curve), curve[-1][0]) == (4000, 6399)


def test_a_peer_is_gone_if_most_of_the_others_say_so() -> None:
    federation = Federation()
    gone = Known(None, None, None, None, gone=True)
    reports = {n: Report(n, "training", "idle", (0, 1), 2, 1, {"d": gone}) for n in "ab"}
    federation.take({**reports, "d": NoAnswer("not reachable")}, 0.0)
    assert [row.state for row in federation.rows(0.0)] == ["idle", "idle", "gone"]


LIE = Known(None, (0, 2**31 - 1), "training", 1, gone=False)


def test_what_a_peer_says_of_itself_counts_whatever_others_say_of_it() -> None:
    federation = Federation()
    liar = Report("d", "training", "idle", (0, 1), 8, 1, {"a": LIE, "b": LIE})
    federation.take({"a": A, "b": B, "d": liar}, 100.0)
    assert federation.newest()["a"] == Version(0, 5)
    a, b, *_ = federation.rows(100.0)
    assert (a.version, a.behind) == ((0, 5), 1.0), "two of b, none of c"
    assert (b.version, b.behind) == ((0, 4), (5 + 1) / 2), "of a and d"


def test_of_a_silent_peer_the_middle_of_what_others_heard_counts() -> None:
    federation = Federation()
    heard = [Known(None, (0, count), "training", 1, gone=False) for count in (6, 7)]
    told = [{"a": known} for known in (*heard, LIE)]
    reports = {n: replace(B, sender=n, others=o) for n, o in zip("bcd", told, strict=True)}
    federation.take({"a": A, **reports}, 100.0)
    assert federation.newest()["a"] == Version(0, 5)
    federation.take({"a": NoAnswer("silent for 2 s")}, 101.0)
    assert federation.newest()["a"] == Version(0, 7)
    federation.take({"c": replace(B, others={}), "d": replace(B, others={})}, 102.0)
    assert federation.newest()["a"] == Version(0, 6)
    federation.take({"b": replace(B, others={})}, 103.0)
    assert federation.newest()["a"] == Version(0, 5), "its own word is left"


def test_where_it_is_known_who_takes_part_nobody_else_is_shown() -> None:
    federation = Federation(closed=True)
    merged = LIE._replace(merged=(0, 2))
    liar = replace(A, others={f"fake-{i}": merged for i in range(380)} | {"b": A.others["b"]})
    federation.take({"a": liar, "b": B, "c": NoAnswer("silent for 2 s")}, 100.0)
    assert [row.name for row in federation.rows(100.0)] == ["a", "b", "c"]
    found = to_json(federation, 100.0, simulated=False)
    assert found["merged"] == {"a": [None, [0, 2], None], "b": [None, None, None]}


def test_else_those_asked_come_first_then_some_that_most_of_them_tell_of() -> None:
    federation = Federation()
    liar = replace(A, others={f"fake-{i}": LIE for i in range(380)})
    known = {"z": Known(None, (0, 2), "training", 1, gone=False)}
    honest = {name: replace(B, sender=name, others=known) for name in ("b", "y")}
    federation.take({"a": liar, **honest}, 100.0)
    rows = federation.rows(100.0)
    assert [row.name for row in rows[:4]] == ["a", "b", "y", "z"]
    assert [row.asked for row in rows[:4]] == [True, True, True, False]
    assert len(rows) == 3 + 100
    assert rows[1].behind == pytest.approx((5 + 4 + 2) / 3), "not of what another made up"


def test_who_has_no_address_is_as_those_that_it_meets_say() -> None:
    federation = Federation()
    closed = Known((0, 2), (0, 3), "training", 4, gone=False)
    hidden = {"a": replace(A, others={"c": closed}), "c": NoAnswer(NO_ADDRESS)}
    federation.take(hidden, 100.0)
    assert [(row.name, row.state) for row in federation.rows(101.0)][-1] == ("c", "training")
    federation.take({"a": replace(A, others={"c": closed._replace(gone=True)})}, 101.0)
    assert federation.rows(102.0)[-1].state == "gone"
    federation.take({"a": replace(A, others={}), "c": NoAnswer(NO_ADDRESS)}, 102.0)
    assert federation.rows(103.0)[-1].state == "no answer"


def test_events_are_told_once_in_order_and_again_after_a_restart() -> None:
    federation = Federation()
    late = replace(B, events=(Happened(9, 3000, "fit", None, "v4"),))
    federation.take({"a": A, "b": late}, 100.0)
    federation.take({"a": replace(A, uptime_ms=6000)}, 101.0)
    told = [(e.at, e.peer, e.event, e.other, e.text) for e in federation.events]
    assert told == [
        (95.0, "a", "start", None, "v0"),
        (97.0, "b", "fit", None, "v4"),
        (99.0, "a", "merge", "b", "v2"),
    ]
    again = replace(A, uptime_ms=10, events=(Happened(1, 0, "start", None, "v5"),))
    federation.take({"a": again}, 102.0)
    assert federation.events[-1].text == "v5"


def test_throughput_is_between_two_looks() -> None:
    federation = Federation()
    federation.take({"a": A}, 100.0)
    assert federation.rows(100.0)[0].rate_in is None
    federation.take({"a": replace(A, bytes_in=5000, uptime_ms=7000)}, 102.0)
    assert federation.rows(102.0)[0].rate_in == 2000
    federation.take({"a": replace(A, bytes_in=10, uptime_ms=1)}, 103.0)
    assert federation.rows(103.0)[0].rate_in == 0, "it has lost its disk"


def test_versions_of_another_incarnation_are_all_news() -> None:
    assert lag(Version(0, 5), Version(0, 3)) == 2
    assert lag(Version(1, 2), Version(0, 7)) == 2
    assert lag(Version(0, 4), None) == 4
    assert lag(Version(0, 4), Version(0, 6)) == 0


def test_as_json() -> None:
    federation = Federation()
    federation.take({"a": A, "b": B}, 100.0)
    found = to_json(federation, 100.0, simulated=False)
    assert found["simulated"] is False
    assert list(found["peers"]) == ["a", "b", "c"]
    assert found["merged"] == {"a": [None, [0, 2], [0, 7]], "b": [None, None, None]}
    assert found["peers"]["a"]["set_aside"] == {"c": [20, "lies"]}
    assert found["events"][-1] == {
        "seconds_ago": 1.0, "peer": "a", "event": "merge", "about": "b", "text": "v2",
    }  # fmt: skip
