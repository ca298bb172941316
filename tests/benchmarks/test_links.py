"""Namespaces joined by a slow link: bytes cross it, and nothing of it is left behind."""

from __future__ import annotations

import os
import subprocess

import pytest

from benchmarks import links, model, slow
from benchmarks.children import Unavailable
from benchmarks.links import Link, joined
from benchmarks.results import Transfer
from benchmarks.transports import RAW_TCP

needs_namespaces = pytest.mark.skipif(
    (reason := links.why_not()) is not None, reason=reason or "they work"
)
FAST = Link(1000, 2)


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def devices() -> str:
    return subprocess.run(["ip", "link"], capture_output=True, text=True, check=True).stdout


def test_links_have_names() -> None:
    assert str(Link(1000, 20)) == "1Gbit-20ms"
    assert str(Link(100, 50, loss=0.01)) == "100Mbit-50ms-1%loss"
    assert str(Link(2.5, 12.5)) == "2.5Mbit-12.5ms"


def test_without_root_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Unavailable, match=r"^slow links need root[^\n]*$"), joined(FAST):
        pass


def test_without_iproute_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(Unavailable, match=r"^slow links need the command ip[^\n]*$"), joined(FAST):
        pass


@needs_namespaces
@pytest.mark.parametrize("link", [FAST, Link(100, 2, loss=0.01)], ids=str)
def test_a_model_crosses(link: Link) -> None:
    found = slow.over(link, [RAW_TCP], model.TINY, rounds=1)
    assert not found.failed
    case = found.cases["raw-tcp"]
    assert isinstance(case, Transfer)
    assert case.share is not None
    assert 0 < case.share < 1  # not faster than the link
    assert case.ms > link.round_trip_ms
    assert case.flow is not None
    assert case.flow > 0
    assert case.wire_mb is not None
    assert case.wire_mb * 1e6 >= model.TINY
    assert case.shaped_by in ("netem", "a relay")


@needs_namespaces
def test_nothing_is_left_even_after_an_error() -> None:
    names, before = namespaces(), devices()
    made: set[str] = set()

    def fail_inside() -> None:
        with joined(FAST) as ends:
            made.update(namespaces() - names)
            assert made == {ends.near[-1], ends.far[-1]}
            show = [*ends.near, "ip", "address"]
            address = subprocess.run(show, capture_output=True, text=True, check=True)
            assert links.NEAR in address.stdout
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert made
    assert not made & namespaces()
    assert devices() == before


@needs_namespaces
def test_what_killed_runs_left_is_swept_and_what_others_use_is_not() -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    dead, alive = f"btlink-{ended.pid}-1-near", f"btlink-{os.getpid()}-999-far"
    for name in (dead, alive):
        subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        links.sweep()
        assert dead not in namespaces()
        assert alive in namespaces()
    finally:
        subprocess.run(["ip", "netns", "delete", alive], check=True)
