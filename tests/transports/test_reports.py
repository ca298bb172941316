"""Reports are bounded, whatever a peer puts into one; that they travel is in test_messages."""

from __future__ import annotations

import json

import pytest

from tests.transports.samples import file, joined, opened
from transports.messages import Limits, Malformed, Report, decode
from transports.reports import (
    LONGEST_TEXT,
    MOST_ASIDE,
    MOST_EVENTS,
    MOST_FITS,
    MOST_OTHERS,
    MOST_PULLS,
    Aside,
    Fit,
    Happened,
    Known,
)

LIMITS = Limits(max_message_bytes=1 << 20)
LONG = "x" * 60
TEXT = "e" * LONGEST_TEXT
UNKNOWN = Known(None, None, None, None, True)


def full(**changed):
    """As much as there may be of everything, with short names of peers."""
    others = {f"p{i}": Known((0, 10), (0, 12), "training", 7, False) for i in range(MOST_OTHERS)}
    fields = {
        "others": others,
        "pulling": tuple(list(others)[:MOST_PULLS]),
        "aside": {f"p{i}": Aside(3600, TEXT) for i in range(MOST_ASIDE)},
        "fits": tuple(Fit(i, 912_345, 712_345) for i in range(MOST_FITS)),
        "events": tuple(Happened(i, 999, "reject", LONG, TEXT) for i in range(MOST_EVENTS)),
    }
    return Report("me", "training", "pulling", (0, 12), 99, 4, **(fields | changed))


def test_the_largest_with_usual_names_has_room_in_a_message():
    assert decode([joined(full())], limits=LIMITS) == full()


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("others", {str(i): UNKNOWN for i in range(401)}, "at most 400"),
        ("others", {"no name": UNKNOWN}, "no name of a peer"),
        ("others", {"b": Known((0, -1), None, None, None, True)}, "merged -1"),
        ("others", {"b": Known(None, (0, 2**31), None, None, True)}, "heard"),
        ("others", {"b": Known(None, None, "tired", None, True)}, "state 'tired'"),
        ("others", {"b": Known(None, None, None, -3, True)}, "ago_s -3"),
        ("others", {"b": Known(None, None, None, None, 1)}, "gone 1: expected true or false"),
        ("pulling", ("b",) * 17, "at most 16"),
        ("pulling", ("\x1b[2J",), "no name of a peer"),
        ("aside", {str(i): Aside(1, "") for i in range(33)}, "at most 32"),
        ("aside", {"b": Aside(-1, "")}, "left_s -1"),
        ("aside", {"b": Aside(1, "\x1b[2J")}, "can be printed"),
        ("aside", {"b": Aside(1, "a\nb")}, "can be printed"),
        ("aside", {"b": Aside(1, "turned \u202e round")}, "can be printed"),
        ("aside", {"b": Aside(1, "x" * 161)}, "short text"),
        ("fits", (Fit(1, 0, 0),) * 65, "at most 64"),
        ("fits", (Fit(1, -1, 0),), "loss_millionths -1"),
        ("fits", (Fit(1, 0, True),), "dice_millionths True"),
        ("events", (Happened(1, 0, "start", None, ""),) * 25, "at most 24"),
        ("events", (Happened(1, 0, "explode", None, ""),), "event 'explode'"),
        ("events", (Happened(1, 0, "start", "", ""),), "no name of a peer"),
        ("events", (Happened(1, -5, "start", None, ""),), "ago_ms -5"),
        ("events", (Happened(1, 0, "gone", "b", "\u2028"),), "can be printed"),
    ],
)  # fmt: skip
def test_what_is_out_of_bounds_is_refused_here_and_there(field, value, line):
    with pytest.raises(Malformed, match=line):
        full(**{field: value})
    fields, _, _ = opened(joined(full()))
    raw = file(json.loads(json.dumps(fields | {field: value})))
    with pytest.raises(Malformed, match=line):
        decode([raw], limits=Limits(1 << 20, max_header_bytes=1 << 20))


@pytest.mark.parametrize("entry", [None, [], [1], [1, 2], {}, "ab", [1, 2, 3, 4, 5, 6, 7]])
@pytest.mark.parametrize("field", ["others", "aside", "fits", "events"])
def test_entries_of_another_shape(field, entry):
    fields, _, _ = opened(joined(Report("me", "training", "idle", (0, 0), 1, 1)))
    value = {"b": entry} if field in ("others", "aside") else [entry]
    with pytest.raises(Malformed):
        decode([file(fields | {field: value})], limits=LIMITS)


@pytest.mark.parametrize("name", ["others", "aside", "fits", "events", "pulling", "version"])
def test_lists_nested_a_thousand_times_are_refused(name):
    about, table, _ = opened(joined(full()))
    deep = json.loads("[" * 900 + "]" * 900)
    about[name] = {"p1": deep} if name in ("others", "aside") else deep
    with pytest.raises(Malformed, match=r"nested too deeply|expected"):
        decode([file(about, table)], limits=LIMITS)
