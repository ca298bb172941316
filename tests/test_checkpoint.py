"""What a peer must not lose comes back exactly."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bt.checkpoint import Checkpoint, CheckpointFile
from bt.modelfile import BadModelFile, read_model, write_model
from bt.simulation.disk import VirtualDisk
from bt.versions import Version
from bt.weights import FlatWeights

WEIGHTS = FlatWeights.of({"w": torch.tensor([0.1, -0.0])})
CHECKPOINT = Checkpoint(
    WEIGHTS,
    Version(1, 7),
    {"b": Version(0, 3), "c": Version(2, 0)},
    {"merged": 12.0, "seconds": 0.1 + 0.2},
    {"view": "axial"},
    joined_at=2,
)
NO_COUNTS = (-1, 2**31, 10**400, True, 1.0, float("nan"), "1", None)
NO_NAMES = ("", "a b", "b\n", "x" * 65, "../b")
NO_AMOUNTS = (-1, float("nan"), float("inf"), 10**400, True, "1", None)


def test_everything_comes_back(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "peer-1" / "checkpoint.safetensors")
    assert file.load() is None
    file.save(CHECKPOINT)
    found = file.load()
    assert found is not None
    assert found.weights.buffer.equal(WEIGHTS.buffer)
    assert isinstance(found.version, Version)
    assert all(isinstance(version, Version) for version in found.vector.values())
    assert replace(found, weights=WEIGHTS) == CHECKPOINT


def test_a_checkpoint_is_a_model_file(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(CHECKPOINT)
    weights, description = read_model(file.path)
    assert weights.buffer.equal(WEIGHTS.buffer)
    assert description["view"] == "axial"


@pytest.mark.parametrize(
    "peer",
    [
        None,
        {"version": [1], "vector": {}, "totals": {}},
        {"version": [0, 1], "vector": [], "totals": {}},
        {"version": [0, "x"], "vector": {}, "totals": {}},
        {"version": [0, 1], "vector": {"b": 3}, "totals": {}},
        *({"version": [0, odd], "vector": {}, "totals": {}} for odd in NO_COUNTS),
        *({"version": [odd, 1], "vector": {}, "totals": {}} for odd in NO_COUNTS),
        *({"version": [0, 1], "vector": {"b": [0, odd]}, "totals": {}} for odd in NO_COUNTS),
        *({"version": [0, 1], "vector": {odd: [0, 1]}, "totals": {}} for odd in NO_NAMES),
        *({"version": [0, 1], "vector": {}, "totals": {}, "name": odd} for odd in NO_NAMES if odd),
        *({"version": [0, 1], "vector": {}, "totals": {"merged": odd}} for odd in NO_AMOUNTS),
        {"version": [0, 1], "vector": {}, "totals": {"reason": 1}},
        {"version": [0, 1], "vector": {}, "totals": {}, "name": ["b"]},
        *({"version": [0, 1], "vector": {}, "totals": {}, "joined_at": odd} for odd in NO_COUNTS),
        {"version": [0, 1], "vector": {}},
        [],
    ],
)
def test_another_file_in_its_place_is_refused_in_one_line(tmp_path: Path, peer: object) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    write_model(
        file.path, WEIGHTS, {"view": "axial"} | ({"peer": peer} if peer is not None else {})
    )
    with pytest.raises(BadModelFile, match="not a peer's checkpoint; move it away") as caught:
        file.load()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_not_gone_on_with(tmp_path: Path, value: float) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(replace(CHECKPOINT, weights=FlatWeights.of({"w": torch.tensor([0.1, value])})))
    with pytest.raises(BadModelFile, match=r"checkpoint\.safetensors is damaged.*move it away"):
        file.load()


def test_a_truncated_checkpoint_says_what_to_do(tmp_path: Path) -> None:
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(CHECKPOINT)
    file.path.write_bytes(file.path.read_bytes()[:-1])
    with pytest.raises(BadModelFile, match=r"not a readable safetensors file.*move it away"):
        file.load()


OLDER = replace(CHECKPOINT, version=Version(1, 6))


def same(one: Checkpoint, other: Checkpoint) -> bool:
    weights = one.weights.buffer.equal(other.weights.buffer)
    return weights and replace(one, weights=WEIGHTS) == replace(other, weights=WEIGHTS)


@pytest.fixture
def two(tmp_path: Path) -> CheckpointFile:
    """Version 1.7, and 1.6 before it."""
    file = CheckpointFile(tmp_path / "checkpoint.safetensors")
    file.save(OLDER)
    file.save(CHECKPOINT)
    return file


def test_a_flipped_bit_anywhere_is_found_and_the_checkpoint_before_is_used(
    two: CheckpointFile,
) -> None:
    good = two.path.read_bytes()
    chance = random.Random(0)
    places = [*range(0, len(good), 7), *range(len(good) - 8, len(good))]  # the last ones: weights
    used_before = 0
    for place in places:
        flipped = bytearray(good)
        flipped[place] ^= 1 << chance.randrange(8)
        two.path.write_bytes(flipped)
        found = two.load()
        assert found is not None
        if two.damage is None:  # a space of the padding became another one
            assert same(found, CHECKPOINT), place
        else:
            used_before += 1
            assert same(found, replace(OLDER, version=Version(2, 6)))
            assert str(two.path) in two.damage
    assert used_before > 0.9 * len(places)


class Dies(Exception):
    """A process, at this moment."""


@pytest.mark.parametrize("dies_before", ["the new one is renamed", "the folder is synced"])
@pytest.mark.parametrize("seed", range(10))
def test_power_lost_after_a_start_changes_nothing(
    tmp_path: Path, dies_before: str, seed: int
) -> None:
    """What a peer has gone on with, and told others of, is there at the next start, too."""
    steps = ["rename", "rename", "sync folder"]  # the first one keeps the checkpoint before
    left = steps[: 2 if "renamed" in dies_before else 3]
    done: list[str] = []

    def step(what: str) -> None:
        done.append(what)
        if [each for each in done if each in steps] == left:
            raise Dies

    def start() -> Checkpoint:
        disk.put_out(file.path)
        disk.put_out(file.previous)
        found = file.load()
        assert found is not None
        return found

    disk = VirtualDisk(lambda what: None)
    file = CheckpointFile(tmp_path / "checkpoint.safetensors", disk)
    file.save(OLDER)
    disk.step = step
    with pytest.raises(Dies):
        file.save(CHECKPOINT)
    disk.step = lambda what: None
    gone_on_with = start().version
    disk.lose_power(random.Random(seed))
    assert start().version == gone_on_with


@pytest.mark.parametrize("size", [0, 7, 100, -1])
def test_a_truncated_checkpoint_gives_way_to_the_one_before(
    two: CheckpointFile, size: int
) -> None:
    two.path.write_bytes(two.path.read_bytes()[:size])
    found = two.load()
    assert found is not None
    assert found.version == Version(2, 6), "others may know 1.7: it is never made twice"
    assert "not a readable" in (two.damage or "")


def test_a_damaged_checkpoint_is_kept_and_does_not_take_the_place_of_the_good_one(
    two: CheckpointFile,
) -> None:
    two.path.write_bytes(b"damaged")
    two.load()
    two.save(replace(CHECKPOINT, version=Version(2, 7)))
    assert two.damaged.read_bytes() == b"damaged"
    assert two.load() is not None
    assert two.damage is None
    two.path.unlink()  # what a crash between two renames leaves
    found = two.load()
    assert found is not None
    assert found.version == Version(2, 6)
    assert "is missing" in (two.damage or "")


def test_two_damaged_checkpoints_are_both_named(two: CheckpointFile) -> None:
    for path in (two.path, two.previous):
        path.write_bytes(b"damaged")
    with pytest.raises(
        BadModelFile, match=r"checkpoint\.safe.*checkpoint\.previous\.safe"
    ) as told:
        two.load()
    assert "\n" not in str(told.value)


def test_a_checkpoint_without_a_checksum_is_damaged(two: CheckpointFile) -> None:
    two.path.write_bytes(two.path.read_bytes().replace(b"xxh3_128", b"xxh3_129"))
    two.load()
    assert "does not have its checksum" in (two.damage or "")
