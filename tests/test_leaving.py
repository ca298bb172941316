"""Peers that share a folder and are never there at the same time: what they left is merged."""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from bt.checkpoint import CheckpointFile
from bt.eventlog import EventLog
from bt.leaving import Leaver
from bt.outcome import Outcome
from bt.protocol import Peer
from bt.runner import Runner
from bt.shelf import Shelf
from bt.versions import Version
from bt.weights import FlatWeights
from tests.test_runner import LIMITS, SCHEMA, FakeTrainer
from transports import image, messages
from transports.base import TransportError
from transports.folder import FolderTransport
from transports.inproc import Network


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir(mode=0o700)
    return tmp_path / "shared"


def run(shared: Path, name: str, rounds: int, *, step: float = 1.0, samples: int = 1) -> Outcome:
    """A peer, from its start to its end, with nobody else there."""
    sizes = image.nbytes(SCHEMA), image.header_bytes(SCHEMA)
    peer = Peer(name, (), samples, SCHEMA.hash, rounds, *sizes)
    own = shared.parent / name
    log = EventLog(own / "events.jsonl")
    transport = FolderTransport(name, shared)
    checkpoint = CheckpointFile(own / "checkpoint.safetensors")
    trainer = FakeTrainer(samples, step)
    try:
        return Runner(peer, transport, trainer, checkpoint, log, epochs=1, limits=LIMITS).run()
    finally:
        transport.close()
        log.close()


def events(shared: Path, name: str, kind: str) -> list[dict[str, Any]]:
    lines = (shared.parent / name / "events.jsonl").read_text().splitlines()
    return [found for line in lines if (found := json.loads(line))["event"] == kind]


def merged(shared: Path, name: str) -> list[tuple[str, str]]:
    return [(event["from"], event["version"]) for event in events(shared, name, "merge")]


def test_peers_that_are_never_there_together_train_together(shared: Path) -> None:
    first = run(shared, "a", 1, samples=1, step=1.0)
    assert (first.reason, first.aggregated_of) == ("finished", {"a": "1"})
    b = run(shared, "b", 1, samples=3, step=5.0)
    assert merged(shared, "b")[0] == ("a", "1"), "new here, it starts from the others' model"
    assert b.weights.tensors()["w"].tolist() == [6.0] * 3
    assert b.aggregated is not None
    assert b.aggregated.tensors()["w"].tolist() == [(1 + 3 * 6) / 4] * 3
    second = run(shared, "a", 2, samples=1, step=1.0)
    assert merged(shared, "a")[0] == ("b", "1")
    assert second.weights.tensors()["w"].tolist() == [(1 + 3 * 6) / 4 + 1.0] * 3
    assert second.aggregated_of == {"a": "2", "b": "1"}
    assert events(shared, "a", "gone") == events(shared, "b", "gone") == []


def test_who_was_interrupted_or_killed_is_merged_too(shared: Path) -> None:
    run(shared, "a", 2)
    told = FolderTransport("a", shared)
    version = messages.Version("a", (0, 2), 1, SCHEMA.hash, "training", _digest(shared))
    told.leave(messages.encode(version), version.digest, memoryview(b""))
    told.close()
    b = run(shared, "b", 1)
    assert merged(shared, "b")[0] == ("a", "2")
    assert (b.reason, b.aggregated_of) == ("finished", {"a": "2", "b": "1"})


def _digest(shared: Path) -> str:
    """Of the last model of a."""
    (newest,) = [path.stem for path in (shared / "a").glob("*.model") if newest_of(path)]
    return newest


def newest_of(path: Path) -> bool:
    model = image.decode(memoryview(path.read_bytes()), SCHEMA)
    return model.version == (0, 2)


def test_who_lost_its_disk_goes_on_as_another_incarnation(shared: Path) -> None:
    run(shared, "a", 2)
    run(shared, "b", 1)
    shutil.rmtree(shared.parent / "a")
    again = run(shared, "a", 1)
    assert again.version == Version(1, 1)
    assert again.aggregated_of == {"a": "1.1", "b": "1"}


def test_who_was_done_already_averages_those_that_came_since(shared: Path) -> None:
    run(shared, "a", 1)
    run(shared, "b", 1)
    assert run(shared, "a", 1).aggregated_of == {"a": "1", "b": "1"}


def test_a_model_that_was_damaged_in_the_folder_is_not_merged(shared: Path) -> None:
    run(shared, "a", 1)
    (left,) = (shared / "a").glob("*.model")
    content = bytearray(left.read_bytes())
    content[-1] ^= 1
    left.write_bytes(content)
    b = run(shared, "b", 1)
    assert merged(shared, "b") == []
    assert "damaged on the way" in events(shared, "b", "reject")[0]["reason"]
    assert b.aggregated_of == {"b": "1"}


# --- leaving


class Leaving:
    """Counts what it is left, or can't take it."""

    def __init__(self) -> None:
        self.left: list[tuple[str | None, bytes]] = []
        self.full = False

    def leave(self, announcement: Any, digest: str | None, data: memoryview) -> None:
        if self.full:
            raise TransportError("the disk is full")
        self.left.append((digest, bytes(data)))


def test_every_change_is_left_once_and_tried_again_if_it_cant_be(tmp_path: Path) -> None:
    shelf = Shelf()
    transport = Leaving()
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        leaver = Leaver(transport, shelf, log)  # type: ignore[arg-type]
        told = messages.Version("a", (0, 0), 1, SCHEMA.hash, "training")
        leaver.update(told, 0.0)
        leaver.update(told, 1.0)
        assert transport.left == [(None, b"")]
        weights = FlatWeights.of({"w": torch.ones(3)})
        digest = shelf.put(image.Model("a", (0, 1), 1), weights)
        newer = messages.Version("a", (0, 1), 1, SCHEMA.hash, "training", digest)
        transport.full = True
        for now in (2.0, 3.0, 13.0):
            leaver.update(newer, now)
        transport.full = False
        leaver.update(newer, 14.0)
        assert len(transport.left) == 1, "not every moment"
        leaver.update(newer, 30.0)
        assert transport.left[1] == (digest, bytes(shelf.image(digest)))
        assert len(transport.left[1][1]) == image.nbytes(SCHEMA)
    lines = (tmp_path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == ["the disk is full"]


def test_other_transports_are_left_nothing(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "events.jsonl")) as log:
        told = messages.Version("a", (0, 0), 1, SCHEMA.hash, "training")
        Leaver(Network("ab").join("a"), Shelf(), log).update(told, 0.0)
