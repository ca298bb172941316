"""Peers of one machine share its processors."""

from __future__ import annotations

import os

import pytest

from bt.contacts import Contacts
from bt.threads import threads_each


@pytest.mark.parametrize(("peers", "threads"), [(1, 8), (2, 4), (3, 2), (5, 1), (20, 1)])
def test_every_peer_gets_its_share(
    monkeypatch: pytest.MonkeyPatch, peers: int, threads: int
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8))
    assert threads_each(peers) == threads


def test_not_more_than_it_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert threads_each(2) == 1


def test_what_the_user_says_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads_each(5) == 3


def test_peers_on_loopback_are_neighbours() -> None:
    addresses: dict[str, str | None] = {
        "b": "tcp://127.0.0.1:7302",
        "c": "ipc:///tmp/c",
        "d": "tcp://192.0.2.7:7302",
        "e": "tcp://[::1]:7302",
    }
    assert Contacts("a", "tcp://127.0.0.1:7301", addresses | {"f": None}).neighbours == 3
