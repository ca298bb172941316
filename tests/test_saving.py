"""Checkpoints while disks are full or files damaged: the peer goes on, and tells."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from bt import saving
from bt.versions import Version
from tests.test_runner import ABC, TIMEOUT_S, FakeTrainer, Peers, ask, result
from tests.waiting import wait_until
from transports import messages


@pytest.fixture
def peers(tmp_path: Path) -> Any:
    started: list[Peers] = []

    def make(names: tuple[str, ...] = ABC, **timing: float) -> Peers:
        started.append(Peers(tmp_path, names, **timing))
        return started[-1]

    yield make
    for each in started:
        each.close()


def test_a_full_disk_is_waited_for_and_the_others_get_the_last_saved_model(
    peers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "AGAIN_S", 0.02)
    federation = peers(("a", "b"), ping_s=0.05)
    other = federation.network.join("b")
    save, full = federation.checkpoint("a").save, threading.Event()
    tries = 0

    def save_if_it_fits(checkpoint: Any) -> None:
        nonlocal tries
        if checkpoint.version.count == 2 and not full.is_set():
            tries += 1
            raise OSError("No space left on device")
        save(checkpoint)

    future = federation.start("a", FakeTrainer(), rounds=2, save=save_if_it_fits)
    wait_until(lambda: tries > 3)
    assert ask(other, "a", messages.Ping("b")).version == (0, 1)
    assert [event["version"] for event in federation.events("a", "unsaved")] == ["2"]
    full.set()
    other.close()
    assert result(future).reason == "finished"
    assert [event["version"] for event in federation.events("a", "persist")] == ["1", "2"]
    found = federation.checkpoint("a").load()
    assert found is not None
    assert found.version == Version(0, 2)


def test_a_damaged_checkpoint_costs_a_fine_tune(peers: Any) -> None:
    federation = peers(("a",), ping_s=0.05)
    result(federation.start("a", FakeTrainer(), rounds=3))
    file = federation.checkpoint("a")
    file.path.write_bytes(file.path.read_bytes()[:-1])
    trainer = FakeTrainer()
    outcome = result(federation.start("a", trainer, rounds=3))
    assert trainer.updates == [2]
    assert outcome.version == Version(1, 3)
    (event,) = federation.events("a", "damaged")
    assert str(file.path) in event["reason"]


def test_a_full_disk_is_told_even_when_it_fills_at_the_end(peers: Any) -> None:
    federation = peers(("a", "b"), ping_s=0.05)
    trainer = FakeTrainer()
    tried = threading.Event()

    def fail(checkpoint: object) -> None:
        tried.set()
        federation.runners["a"].stop("left")
        raise OSError("No space left on device")

    future = federation.start("a", trainer, save=fail)
    assert tried.wait(TIMEOUT_S)
    with pytest.raises(OSError, match="No space left"):
        result(future)
