"""What a peer serves, to whom, for how long, and whose memory that is."""

from __future__ import annotations

import resource
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bt.shelf import MOST_BYTES, PATIENCE_S, Shelf
from bt.weights import FlatWeights
from transports import image, messages
from transports.schema import Schema, TensorSpec

SCHEMA = Schema.of([TensorSpec("w", "F32", (300,)), TensorSpec("n", "I64", ())])
SIZE = image.nbytes(SCHEMA)
NOBODY = "0" * 32


def filled(value: int, schema: Schema = SCHEMA) -> tuple[FlatWeights, weakref.ref[np.ndarray]]:
    """A model of these bytes, and a way to see whether its memory was freed."""
    memory = np.full(image.nbytes(schema), value, np.uint8)
    body = torch.from_numpy(memory)[image.header_bytes(schema) :]
    return FlatWeights(schema, body), weakref.ref(memory)


def put(shelf: Shelf, number: int) -> tuple[str, weakref.ref[np.ndarray]]:
    weights, memory = filled(number)
    return shelf.put(image.Model("b", (0, number), 3), weights), memory


def read(
    shelf: Shelf,
    digest: str,
    offset: int = 0,
    length: int = SIZE,
    reader: str = "a",
    now: float = 0.0,
) -> messages.Weights:
    return shelf.read(messages.Pull(reader, digest, offset, length), "b", now)


def serves(shelf: Shelf, digest: str, now: float = 0.0) -> bool:
    """Whether that image is there; asking for what is beyond its end makes nobody a reader."""
    return read(shelf, digest, offset=SIZE, reader="somebody", now=now).size > 0


# --- what is served


@given(st.lists(st.integers(0, SIZE), max_size=5))
def test_the_ranges_are_the_image(cuts: list[int]) -> None:
    shelf = Shelf()
    weights, _ = filled(7)
    model = image.Model("b", (1, 2), 3)
    digest = shelf.put(model, weights)
    came = b""
    for end in [*sorted(cuts), SIZE]:
        if end > len(came):
            part = read(shelf, digest, len(came), end - len(came))
            assert (part.sender, part.digest, part.size) == ("b", digest, SIZE)
            assert (part.offset, part.encoding) == (len(came), "none")
            came += part.data
    assert came == image.encode(model, SCHEMA) + bytes([7]) * SCHEMA.nbytes
    assert image.digest(memoryview(came)) == digest
    assert shelf.version_of(digest) == (1, 2)


def test_no_more_than_is_asked_for_or_there() -> None:
    shelf = Shelf()
    digest, _ = put(shelf, 1)
    for offset, length, nbytes in (
        (0, 1, 1),
        (5, 10, 10),
        (SIZE - 3, 10, 3),
        (SIZE - 1, 2**53 - 1, 1),
        (SIZE, 1, 0),
        (SIZE + 1, 1, 0),
        (2**53 - 1, 2**53 - 1, 0),
    ):
        part = read(shelf, digest, offset, length)
        assert part.data.nbytes == nbytes
        assert part.size == SIZE, "it is not gone"
        assert part.offset == min(offset, SIZE)


def test_one_answer_has_bounds() -> None:
    schema = Schema.of([TensorSpec("w", "U8", (MOST_BYTES + 10,))])
    shelf = Shelf()
    weights, _ = filled(1, schema)
    digest = shelf.put(image.Model("b", (0, 1), 3), weights)
    assert read(shelf, digest, 0, 2**53 - 1).data.nbytes == MOST_BYTES
    assert read(shelf, digest, 100, 2**53 - 1).data.nbytes == MOST_BYTES


def test_what_is_not_there_has_no_size_and_no_data() -> None:
    shelf = Shelf()
    for _ in range(2):
        part = read(shelf, NOBODY, 5, 10)
        assert part == messages.Weights("b", NOBODY, 0, 5, memoryview(b""))
        put(shelf, 1)


def test_a_model_without_room_for_its_header_is_not_served() -> None:
    body = FlatWeights.from_body(SCHEMA, bytes(SCHEMA.nbytes))
    with pytest.raises(ValueError, match="no room"):
        Shelf().put(image.Model("b", (0, 1), 3), body)


# --- for how long


def test_the_current_image_is_served_for_ever() -> None:
    shelf = Shelf()
    digest, _ = put(shelf, 1)
    assert read(shelf, digest, now=0.0).data
    assert read(shelf, digest, now=1e9).data
    assert serves(shelf, digest, now=2e9)


def test_an_older_image_that_nobody_reads_goes_at_once() -> None:
    shelf = Shelf()
    first, memory = put(shelf, 1)
    second, _ = put(shelf, 2)
    assert memory() is None
    assert not serves(shelf, first)
    assert serves(shelf, second)


def test_an_older_image_stays_until_its_last_range_was_read() -> None:
    shelf = Shelf()
    first, memory = put(shelf, 1)
    read(shelf, first, 0, 10)
    put(shelf, 2)
    put(shelf, 3)
    assert read(shelf, first, SIZE - 10, 9).data == b"\1" * 9
    read(shelf, first, 0, SIZE - 1)
    assert serves(shelf, first)
    assert read(shelf, first, SIZE - 1, 1).data.nbytes == 1
    assert not serves(shelf, first)
    assert memory() is None


def test_it_stays_for_every_one_of_its_readers() -> None:
    shelf = Shelf()
    first, _ = put(shelf, 1)
    read(shelf, first, 0, 10, reader="a")
    read(shelf, first, 0, 10, reader="c")
    put(shelf, 2)
    read(shelf, first, 10, SIZE, reader="a")
    assert serves(shelf, first)
    read(shelf, first, 0, 20, reader="d")
    read(shelf, first, 10, SIZE, reader="c")
    assert serves(shelf, first), "who came late reads it as well"
    read(shelf, first, 20, SIZE, reader="d")
    assert not serves(shelf, first)


def test_who_reads_another_has_done_with_it() -> None:
    shelf = Shelf()
    first, _ = put(shelf, 1)
    read(shelf, first, 0, 10)
    second, _ = put(shelf, 2)
    read(shelf, second, 0, 10)
    assert not serves(shelf, first)
    assert not serves(shelf, NOBODY)
    assert serves(shelf, second)


def test_asking_for_what_never_was_does_not_end_a_reading() -> None:
    shelf = Shelf()
    first, _ = put(shelf, 1)
    read(shelf, first, 0, 10)
    put(shelf, 2)
    read(shelf, NOBODY)
    assert serves(shelf, first)


def test_patience_with_a_reader_ends() -> None:
    shelf = Shelf()
    first, memory = put(shelf, 1)
    read(shelf, first, 0, 10, now=100.0)
    second, _ = put(shelf, 2)
    assert serves(shelf, first, now=100.0 + PATIENCE_S - 1)
    read(shelf, first, 10, 10, now=150.0)
    assert serves(shelf, first, now=150.0 + PATIENCE_S - 1)
    assert not serves(shelf, first, now=150.0 + PATIENCE_S)
    assert memory() is None
    assert serves(shelf, second, now=1e9)


def test_one_reader_at_a_time_keeps_one_image_at_most() -> None:
    shelf = Shelf()
    memories = []
    for number in range(1, 20):
        digest, memory = put(shelf, number)
        read(shelf, digest, 0, 1)
        memories.append(memory)
    assert sum(memory() is not None for memory in memories) <= 2


def test_the_same_image_again_is_the_current_one() -> None:
    shelf = Shelf()
    first, _ = put(shelf, 1)
    again, _ = put(shelf, 1)
    assert again == first
    assert serves(shelf, first, now=1e9)
    read(shelf, first, 0, 10)
    second, _ = put(shelf, 2)
    assert put(shelf, 1)[0] == first
    assert serves(shelf, first, now=2e9)
    assert not serves(shelf, second)
    assert shelf.version_of(first) == (0, 1)


# --- whose memory


def test_readers_get_views() -> None:
    shelf = Shelf()
    weights, _ = filled(1)
    digest = shelf.put(image.Model("b", (0, 1), 3), weights)
    part = read(shelf, digest)
    assert np.shares_memory(np.frombuffer(part.data, np.uint8), weights.buffer.numpy())
    assert part.data.readonly
    _, sent = messages.encode(part)
    assert np.shares_memory(np.frombuffer(sent, np.uint8), weights.buffer.numpy())


def test_memory_is_freed_with_the_last_view() -> None:
    shelf = Shelf()
    digest, memory = put(shelf, 1)
    views = [read(shelf, digest, offset, 10).data for offset in (0, SIZE - 10)]
    put(shelf, 2)
    assert not serves(shelf, digest)
    assert bytes(views.pop()) == b"\1" * 10
    assert memory() is not None
    views.clear()
    assert memory() is None


def test_models_larger_than_4_gb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never read as a whole, but for the digest."""
    monkeypatch.setattr(image, "digest", lambda data: NOBODY)
    schema = Schema.of([TensorSpec("big", "F32", (5 << 28,)), TensorSpec("last", "I8", (7,))])
    size = image.nbytes(schema)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tracemalloc.start()
    memory = np.memmap(tmp_path / "sparse", np.uint8, "w+", shape=(size,))
    memory[-7:] = 7
    weights = FlatWeights(schema, torch.from_numpy(memory)[image.header_bytes(schema) :])
    shelf = Shelf()
    model = image.Model("b", (0, 1), 3)
    digest = shelf.put(model, weights)
    assert image.decode(read(shelf, digest, 0, 1 << 20).data, schema) == model
    part = read(shelf, digest, size - 10, 1 << 20)
    assert (part.size, part.offset, bytes(part.data)) == (size, size - 10, b"\0" * 3 + b"\7" * 7)
    assert read(shelf, digest, (5 << 30) - 1, 2**53 - 1).data.nbytes == size - (5 << 30) + 1
    (run,) = weights.floats((5 << 30) - (1 << 16))
    assert (run.begin, run.values.numel()) == ((5 << 30) - (1 << 16), 1 << 14)
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before  # in KiB
    assert grown < 64 << 10
