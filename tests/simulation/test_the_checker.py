"""The checker can fail: the product broken in known ways, and each is noticed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bt import events
from bt.checkpoint import Checkpoint, CheckpointFile
from bt.cli import app
from bt.files import Disk
from bt.intake import Intake, Refused
from bt.merge import WeightedMean
from bt.others import Other
from bt.protocol import Peer
from bt.pulls import Pulls
from bt.runner import Runner
from bt.shelf import Shelf
from bt.simulation import faults, soak
from bt.simulation.disk import VirtualDisk
from bt.simulation.world import Setup
from bt.versions import Version
from bt.weights import FlatWeights

Break = Callable[[pytest.MonkeyPatch], None]
_MOST = 400  # schedules; most breakages show within some ten


def under_an_old_number(patch: pytest.MonkeyPatch) -> None:
    """After its disk was wiped a peer ignores what others know of it."""
    patch.setattr(Peer, "_reincarnate", lambda self, *about: None)


def announced_before_it_is_on_disk(patch: pytest.MonkeyPatch) -> None:
    def persist(self: Any) -> None:
        before(self)
        self._feed(events.Persisted(self._put_on_shelf()))

    before = Runner._persist
    patch.setattr(Runner, "_persist", persist)


def a_checkpoint_of_the_round_before(patch: pytest.MonkeyPatch) -> None:
    """Saving keeps the version that was."""

    def save(self: CheckpointFile, state: Checkpoint) -> None:
        if state.version.count % 2:
            before(self, state)

    before = CheckpointFile.save
    patch.setattr(CheckpointFile, "save", save)


def no_sync(patch: pytest.MonkeyPatch) -> None:
    """Renamed before what was written is on the disk."""
    patch.setattr(VirtualDisk, "sync", lambda self, file: None)


def written_in_place(patch: pytest.MonkeyPatch) -> None:
    def write(path: Path, *parts: Any, keep: Path | None, disk: Disk) -> None:
        with disk.create(path, 0o666) as file:
            file.writelines(parts)
            disk.sync(file)

    patch.setattr("bt.modelfile.write_atomic", write)


def half_a_model(patch: pytest.MonkeyPatch) -> None:
    """Only the first range of a model is merged."""

    def add(self: WeightedMean, peer: str, begin: int, data: memoryview, samples: int) -> None:
        if begin == 0:
            before(self, peer, begin, data, samples)

    before = WeightedMean.add
    patch.setattr(WeightedMean, "add", add)
    patch.setattr(WeightedMean, "finish", lambda self: self._mean or self._own)


def a_range_twice(patch: pytest.MonkeyPatch) -> None:
    def take(self: Intake, merge: events.Merge) -> events.Merged | None:
        merged = before(self, merge)
        if merge.base is None and merge.weights.offset:
            begin = merge.weights.offset - self._header
            sender, samples = merge.weights.sender, merge.announced.samples
            self._rule.add(sender, begin, merge.weights.data, samples)
        return merged

    before = Intake.take
    patch.setattr(Intake, "take", take)


def any_model_under_a_digest(patch: pytest.MonkeyPatch) -> None:
    """The shelf serves its current image whatever is asked for, and nobody looks."""

    def read(self: Shelf, pull: Any, me: str, now: float) -> Any:
        *_, current = self._images
        found = self._images.setdefault(pull.digest, self._images[current])
        return type(before(self, pull, me, now))(
            me, pull.digest, found.data.nbytes, pull.offset,
            found.data[pull.offset : pull.offset + pull.length],
        )  # fmt: skip

    before = Shelf.read
    patch.setattr(Shelf, "read", read)
    patch.setattr("bt.intake._check", lambda model, announced: None)
    patch.setattr("xxhash.xxh3_128.hexdigest", lambda self: "", raising=False)


def unweighted(patch: pytest.MonkeyPatch) -> None:
    def add(self: WeightedMean, peer: str, begin: int, data: memoryview, samples: int) -> None:
        before(self, peer, begin, data, 1)

    before = WeightedMean.add
    patch.setattr(WeightedMean, "add", add)


def random_weights_merged(patch: pytest.MonkeyPatch) -> None:
    """A peer that never trained counts its own model."""

    def start(self: WeightedMean, own: FlatWeights, samples: int) -> None:
        before(self, own, samples or 1)

    before = WeightedMean.start
    patch.setattr(WeightedMean, "start", start)


def no_vector(patch: pytest.MonkeyPatch) -> None:
    """What was merged is forgotten."""

    def finish(self: Peer, out: Any) -> None:
        before(self, out)
        self.vector.clear()

    before = Peer._finish_training
    patch.setattr(Peer, "_finish_training", finish)


def a_vector_that_runs_ahead(patch: pytest.MonkeyPatch) -> None:
    def finish(self: Peer, out: Any) -> None:
        before(self, out)
        self.vector = {
            name: Version(v.incarnation, v.count + 9) for name, v in self.vector.items()
        }

    before = Peer._finish_training
    patch.setattr(Peer, "_finish_training", finish)


def asked_for_nothing_new(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Other, "has_newer_than", lambda self, merged, now: bool(
        self.known and self.known.digest and not self.gone and self.failures < 3
    ))  # fmt: skip


def no_deadline(patch: pytest.MonkeyPatch) -> None:
    """Who is silent is waited for."""

    def lost(self: Peer, peer: str, reason: str, now: float, out: Any) -> None:
        if reason.startswith("silent"):
            self._awaited[peer] = now + 100
        else:
            before(self, peer, reason, now, out)

    before = Peer._lost
    patch.setattr(Peer, "_lost", lost)


def the_gone_stay_gone(patch: pytest.MonkeyPatch) -> None:
    """Who was silent once is not merged any more."""

    def begin(self: Pulls, peers: list[str]) -> None:
        before(self, [peer for peer in peers if peer != "peer-1"])

    before = Pulls.begin
    patch.setattr(Pulls, "begin", begin)


def refused_models_are_merged(patch: pytest.MonkeyPatch) -> None:
    """Damaged, mislabelled, absurd: all the same."""

    def take(self: Intake, merge: events.Merge) -> events.Merged | None:
        try:
            return before(self, merge)
        except Refused:
            self._incoming.clear()
            return events.Merged(merge.weights.sender)

    before = Intake.take
    patch.setattr(Intake, "take", take)


BREAKAGES: dict[Break, tuple[str, str]] = {  # what is broken: (faults, what is said)
    under_an_old_number: ("wipe", "knows of"),
    announced_before_it_is_on_disk: ("crash", "came back as"),
    a_checkpoint_of_the_round_before: ("crash", "came back as"),
    no_sync: ("crash", "BadModelFile|came back as|trains on"),
    written_in_place: ("crash", "BadModelFile|came back as|trains on"),
    half_a_model: ("none", "mean of what was merged"),
    a_range_twice: ("none", "mean of what was merged"),
    any_model_under_a_digest: ("all", "mean of what was merged|merges a model|aside|KeyError"),
    unweighted: ("none", "mean of what was merged"),
    random_weights_merged: ("none", "mean of what was merged"),
    no_vector: ("none", "forgets that it has merged"),
    a_vector_that_runs_ahead: ("none", "never had more than"),
    asked_for_nothing_new: ("none", "asks peer-. for weights"),
    no_deadline: ("crash", "beyond (the|their) deadline"),
    the_gone_stay_gone: ("none", "out of its round|out of the aggregated model"),
    refused_models_are_merged: ("liar", "that nobody ever finished|mean of what was merged"),
}


@pytest.mark.parametrize("breakage", BREAKAGES, ids=lambda breakage: breakage.__name__)
def test_what_is_broken_is_noticed(breakage: Break, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds, says = BREAKAGES[breakage]
    breakage(monkeypatch)
    for seed in range(_MOST):
        failed = soak.run_some(Setup(), faults.chosen(kinds), range(seed, seed + 1)).failed
        if failed:
            assert re.search(says, " ".join(failed[seed])), failed
            return
    pytest.fail("nothing was noticed")


def test_a_violation_is_written_down_and_comes_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unweighted(monkeypatch)
    report = soak.soak(
        Setup(peers=3), (), range(5), jobs=1, out=tmp_path, progress=lambda totals: None
    )
    found = report.to_json()
    assert found["violations"] == len(report.totals.failed) > 0
    path = report.transcripts[0]
    seed = int(path.stem.removeprefix("seed-"))
    text = path.read_text()
    assert text.startswith(report.totals.failed[seed][0])
    assert f"again: bt simulate --schedules 1 --seed {seed} --faults none --peers 3" in text
    assert "VIOLATION: trains on" in text
    assert soak.write_transcript(Setup(peers=3), (), seed, tmp_path / "2").read_text() == text


def test_the_command_exits_with_1_and_names_the_transcript(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unweighted(monkeypatch)
    asked = ["--schedules", "4", "--peers", "3", "--faults", "none", "--out", str(tmp_path)]
    ended = CliRunner().invoke(app, ["simulate", *asked, "--json"])
    assert ended.exit_code == 1
    found = json.loads(ended.stdout)
    assert found["schedules"] == 4
    assert found["violations"] == len(found["failed"]) > 0
    first = Path(found["transcripts"][0])
    assert first.parent == tmp_path
    assert "VIOLATION: trains on" in first.read_text()
    assert str(first) in ended.stderr.replace("\n", "")
    seed = first.stem.removeprefix("seed-")
    again = CliRunner().invoke(app, ["simulate", *asked[2:], "--schedules", "1", "--seed", seed])
    assert again.exit_code == 1
    assert str(first) in again.stdout.replace("\n", "")
