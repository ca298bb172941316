"""How bt status looks, at 5 and at 200 peers, wide and narrow."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from bt.outside import NoAnswer
from bt.watching.federation import Event, Federation
from bt.watching.simulated import Simulated
from bt.watching.terminal import event_words, render
from tests.watching.test_federation import A, B
from transports.reports import Known


def seen(federation: Federation, width: int, height: int | None = None) -> str:
    out = io.StringIO()
    console = Console(file=out, width=width, markup=False, highlight=False)
    console.print(render(federation, 102.0, "demo", width, height))
    return out.getvalue()


@pytest.fixture(scope="module")
def large() -> Federation:
    source, federation = Simulated(200, ahead_s=60.0), Federation()
    for now in (100.0, 101.0):
        federation.take(source.look(now), now)
    return federation


def small() -> Federation:
    federation = Federation()
    federation.take({"a": A, "b": B, "c": NoAnswer("silent for 2 s")}, 101.0)
    return federation


def test_a_small_one_is_shown_whole() -> None:
    text = seen(small(), 120)
    rows = {line.split()[0]: line for line in text.splitlines() if line.strip()}
    assert "2 of 3 answer" in text
    assert "pulling" in text
    assert "pulls b" in text
    assert "silent for 2 s" in text
    assert "5/8" in text
    assert rows["0:02"].endswith("a merged b v2")
    assert "who merged whom" in text
    (line,) = [line for line in text.splitlines() if line.split() == ["a", "5", "2/4", "7"]]
    assert line, "of b version 2 of 4, of c the last"


def test_at_the_end_models_are_averaged_not_merged() -> None:
    federation = Federation()
    ended = {"state": "finished", "phase": "idle", "pulling": (), "aside": {}}
    federation.take({"a": replace(A, **ended), "b": B}, 101.0)
    (row,) = [line for line in seen(federation, 120).splitlines() if line.startswith("a ")][:1]
    assert row.rstrip().endswith("averaged b v2")


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_it_fits_whatever_the_width(large: Federation, width: int) -> None:
    for federation in (small(), large):
        text = seen(federation, width)
        assert max(map(len, text.splitlines())) <= width
        assert "peer" in text


@pytest.mark.parametrize("height", [24, 40, 60])
def test_it_fits_whatever_the_height_and_says_who_is_left_out(
    large: Federation, height: int
) -> None:
    text = seen(large, 100, height)
    lines = text.splitlines()
    assert len(lines) <= height
    table = [line for line in lines if line.startswith("peer-")]
    assert f"… and {200 - len(table)} peers that do better" in text
    assert "no answer" in table[0], "what needs a person comes first"


@pytest.mark.parametrize("height", [24, 40])
def test_names_that_a_peer_makes_up_push_nobody_aside(height: int) -> None:
    made_up = Known(None, (0, 2**31 - 1), None, None, gone=True)
    liar = replace(A, others=dict(A.others) | {f"aa-{i}": made_up for i in range(380)})
    federation = Federation()
    federation.take({"a": liar, "b": B, "c": NoAnswer("silent for 2 s")}, 101.0)
    lines = seen(federation, 120, height).splitlines()
    assert any("2 of 3 answer" in line and "100 more that they tell of" in line for line in lines)
    assert any("4 to 7, median 5 of 8" in line for line in lines), "versions of those asked"
    table = lines[lines.index(next(line for line in lines if line.startswith("peer "))) + 1 :]
    assert [line.split()[0] for line in table[:3]] == ["c", "b", "a"]


def test_words() -> None:
    assert event_words(Event(0.0, "a", "reject", "b", "lies")) == "set b aside: lies"
    assert event_words(Event(0.0, "a", "fit", None, "v3")) == "made v3"
