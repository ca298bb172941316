"""Differences as files, and who has which base: from shelf to intake, as on the wire."""

from __future__ import annotations

import pytest
import safetensors.torch
import torch

from bt import delta, events
from bt.intake import Bases, Intake, Refused
from bt.merge import WeightedMean
from bt.shelf import Shelf
from bt.transfer import Link
from bt.weights import FlatWeights
from transports import image, messages

every_encoding = pytest.mark.parametrize("encoding", messages.ENCODINGS[1:])


def model(seed: int) -> FlatWeights:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(40_000, generator=random) + 0.01 * seed
    return FlatWeights.of({"w": values, "steps": torch.tensor(seed)})


SCHEMA = model(0).schema


class Pair:
    """a pulls from b, in ranges, and merges into a mean that starts without its own."""

    def __init__(self, encoding: str) -> None:
        self.encoding = encoding
        self.shelf = Shelf()
        self.bases = Bases()
        self.base: str | None = None
        self.moved = 0

    def publish(self, count: int, weights: FlatWeights) -> messages.Version:
        digest = self.shelf.put(image.Model("b", (0, count), 3), weights)
        return messages.Version("b", (0, count), 3, SCHEMA.hash, "training", digest)

    def pull(self, announced: messages.Version, flip: int | None = None) -> FlatWeights:
        intake = Intake(WeightedMean, model(99), 0, self.bases)
        merged, offset, size, self.moved = None, 0, 1, 0
        while offset < size:
            length = 70_000 - 70_000 % (1 << 16) + (0 if offset else image.header_bytes(SCHEMA))
            what = announced.digest, offset, length, self.encoding, self.base
            answer = self.shelf.read(messages.Pull("a", *what), "b", 0.0)
            if flip is not None and offset <= flip < offset + len(answer.data):
                data = bytearray(answer.data)
                data[flip - offset] ^= 1
                fields = answer.digest, answer.size, offset, memoryview(data), answer.encoding
                answer = messages.Weights("b", *fields)
            coded = answer.encoding != messages.PLAIN
            base = self.base if coded else None
            merged = intake.take(
                events.Merge(answer, announced, announced.samples, 0, base, keep=True)
            )
            offset, size = offset + len(answer.data), answer.size
            self.moved += len(answer.data)
        assert merged is not None
        self.base = merged.kept
        return intake.finish()


@every_encoding
def test_the_first_model_comes_plainly_the_next_as_differences_that_do_not_drift(
    encoding: str,
) -> None:
    pair, true = Pair(encoding), model(0)
    pair.pull(pair.publish(1, true))
    for count in range(2, 12):
        step = 0.01 * model(count).tensors()["w"]
        true = FlatWeights.of({"w": true.tensors()["w"] + step, "steps": torch.tensor(count)})
        merged = pair.pull(pair.publish(count, true))
        error = (merged.tensors()["w"] - true.tensors()["w"]).norm() / step.norm()
        assert error < 0.02, "one rounding of one step, however many there were"
        assert pair.moved < image.nbytes(SCHEMA) * 0.6


def test_who_has_lost_the_base_gets_the_plain_model() -> None:
    pair = Pair("int8")
    pair.pull(pair.publish(1, model(0)))
    pair.base = "0" * 32  # never had
    merged = pair.pull(pair.publish(2, model(1)))
    assert merged.tensors()["w"].equal(model(1).tensors()["w"])
    pair.shelf = Shelf()  # the sender was restarted
    merged = pair.pull(pair.publish(3, model(2)))
    assert merged.tensors()["w"].equal(model(2).tensors()["w"])


def test_the_base_of_a_transfer_that_failed_is_still_the_base() -> None:
    pair = Pair("int8")
    pair.pull(pair.publish(1, model(0)))
    kept = pair.base
    announced = pair.publish(2, model(1))
    with pytest.raises(Refused):
        pair.pull(announced, flip=pair.moved // 8)
    assert pair.base == kept
    pair.pull(announced)
    assert pair.moved < image.nbytes(SCHEMA) / 3
    pair.pull(pair.publish(3, model(2)))
    assert pair.moved < image.nbytes(SCHEMA) / 3


@every_encoding
def test_a_flipped_bit_anywhere_is_found(encoding: str) -> None:
    pair = Pair(encoding)
    pair.pull(pair.publish(1, model(0)))
    announced = pair.publish(2, model(1))
    pair.pull(announced)
    size = pair.moved
    pair.base = None
    pair.pull(pair.publish(1, model(0)))
    announced = pair.publish(2, model(1))
    for flip in range(9, size, size // 40):
        with pytest.raises(Refused, match=r"\A.*\Z"):
            pair.pull(announced, flip)


@every_encoding
def test_a_difference_is_a_safetensors_file(encoding: str) -> None:
    about = image.Model("b", (0, 2), 3)
    file, rebuilt = delta.pack(about, model(1), model(0), "0" * 32, encoding)
    assert safetensors.torch.load(bytes(file)).keys() <= {"scales", "delta", "exact", "zstd"}
    found, weights, digest = delta.unpack(file, model(0), "0" * 32, encoding)
    assert found == about
    assert weights.buffer.equal(rebuilt.buffer)
    assert digest == image.digest(rebuilt.body())


def test_auto_compresses_on_slow_links_only() -> None:
    choose = delta.chooser("auto", 14_000_000)
    assert choose(Link()) != messages.PLAIN, "unknown: be ready"
    assert choose(Link(bytes_per_s=5e9)) == messages.PLAIN
    assert choose(Link(bytes_per_s=1e5)) == "int8+zstd"
    assert choose(Link(bytes_per_s=1e5, round_trip_s=0.5)) == "int8+zstd"
    assert choose(Link(bytes_per_s=1e7, round_trip_s=5.0)) == messages.PLAIN
    assert delta.chooser("fp16", 1)(Link(bytes_per_s=5e9)) == "fp16"
