"""Transfers ask for the right ranges, and take only those."""

from __future__ import annotations

import random
from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bt.transfer import (
    GRAIN,
    LARGEST_RANGE,
    LEAST_CREDIT,
    MOST_CREDIT,
    Gone,
    Link,
    Misfit,
    Transfer,
)
from transports import messages

HASH = "0" * 64
DIGEST = "1" * 32
BASE = "2" * 32
HEADER = 960
SIZE = HEADER + 10 * GRAIN + 100
ANNOUNCED = messages.Version("b", (0, 1), 1, HASH, "training", DIGEST)
ZEROS = memoryview(bytes(MOST_CREDIT))


def transfer(size: int = SIZE, credit: int = LEAST_CREDIT, **options: object) -> Transfer:
    return Transfer("a", ANNOUNCED, size, HEADER, Link(credit), 0.0, **options)  # type: ignore[arg-type]


def answer(pull: messages.Pull, size: int = SIZE, encoding: str = "none") -> messages.Weights:
    data = ZEROS[: max(min(pull.length, size - pull.offset), 0)]
    return messages.Weights("b", pull.digest, size, pull.offset, data, encoding)


# --- what is asked for


@given(
    size=st.integers(1, 40 * GRAIN),
    header=st.integers(1, 3 * GRAIN),
    credits=st.lists(st.integers(LEAST_CREDIT, MOST_CREDIT), min_size=1, max_size=9),
    seed=st.integers(0, 99),
)
def test_the_credit_is_kept_and_ranges_are_grains_of_the_body(
    size: int, header: int, credits: list[int], seed: int
) -> None:
    """No more than the credit is on its way when more is asked for, the header aside."""
    chance = random.Random(seed)
    coming = Transfer("a", ANNOUNCED, header + size, header, Link(), 0.0)
    asked: list[messages.Pull] = []
    waiting: deque[messages.Pull] = deque()
    while not coming.done:
        coming.link.credit = chance.choice(credits)
        for pull in coming.ask(0.0):
            most = coming.link.range_bytes + (0 if pull.offset else header)
            assert 0 < pull.length <= most
            waiting.append(pull)
            extra = 0 if waiting[0].offset else header
            assert sum(other.length for other in waiting) - extra <= coming.link.credit
            asked.append(pull)
        assert coming.take(answer(waiting.popleft(), coming.size), 1.0)
    assert not waiting
    assert (asked[0].offset, asked[-1].offset + asked[-1].length) == (0, header + size)
    for before, after in pairwise(asked):
        assert before.offset + before.length == after.offset
        assert (after.offset - header) % GRAIN == 0


def test_who_has_nothing_on_its_way_takes_what_room_there_is() -> None:
    coming = transfer(size=HEADER + MOST_CREDIT, credit=MOST_CREDIT)
    assert coming.ask(0.0, 0) == []
    (first,) = coming.ask(0.0, 3 * GRAIN + 5)
    assert (first.offset, first.length) == (0, HEADER + 3 * GRAIN)
    assert coming.ask(0.0, 3 * GRAIN) == [], "the next one waits for room for all of it"


def test_an_empty_body_is_one_range() -> None:
    coming = transfer(size=HEADER)
    (pull,) = coming.ask(0.0)
    assert (pull.offset, pull.length) == (0, HEADER)
    assert coming.take(answer(pull, HEADER), 1.0)
    assert coming.done
    assert coming.ask(1.0) == []


def test_who_asks_for_what_is_said() -> None:
    first, *_ = transfer(encoding="int8", base=BASE).ask(0.0)
    assert first == messages.Pull("a", DIGEST, 0, HEADER + GRAIN, "int8", BASE)
    first, second = transfer().ask(0.0)
    assert first == messages.Pull("a", DIGEST, 0, HEADER + GRAIN)
    assert second == messages.Pull("a", DIGEST, HEADER + GRAIN, GRAIN)


@given(st.integers(0, 1 << 30))
def test_a_range_is_about_a_third_of_the_credit(credit: int) -> None:
    nbytes = Link(credit).range_bytes
    assert nbytes % GRAIN == 0
    assert GRAIN <= nbytes <= LARGEST_RANGE
    assert nbytes == GRAIN or 3 * nbytes <= credit
    assert nbytes == LARGEST_RANGE or nbytes.bit_count() == 1


# --- what is taken


def test_only_the_next_range_is_taken() -> None:
    coming = transfer(credit=4 * GRAIN)
    pulls = coming.ask(0.0)
    assert len(pulls) == 4
    assert not coming.take(answer(pulls[1]), 1.0), "too early"
    assert coming.arrived == 0
    assert coming.take(answer(pulls[0]), 2.0)
    assert not coming.take(answer(pulls[0]), 3.0), "once more"
    assert not coming.take(answer(pulls[2]), 3.0), "too early"
    assert (coming.arrived, coming.progress_at) == (HEADER + GRAIN, 2.0)
    assert coming.take(answer(pulls[1]), 4.0)
    assert coming.progress_at == 4.0


def test_a_range_must_be_just_what_was_asked_for() -> None:
    coming = transfer()
    pull, *_ = coming.ask(0.0)
    for length in (1, pull.length - 1, pull.length + 1):
        wrong = messages.Weights("b", DIGEST, SIZE, 0, ZEROS[:length])
        assert not coming.take(wrong, 1.0)
    other = messages.Weights("b", BASE, SIZE, 0, ZEROS[: pull.length])
    assert not coming.take(other, 1.0), "of another image"
    none = messages.Weights("b", DIGEST, SIZE, 0, ZEROS[:0])
    assert not coming.take(none, 1.0)
    assert coming.arrived == 0
    assert coming.take(answer(pull), 1.0)


def test_nothing_is_taken_that_was_not_asked_for() -> None:
    coming = transfer()
    assert not coming.take(messages.Weights("b", DIGEST, SIZE, 0, ZEROS[:GRAIN]), 0.0)
    for pull in coming.ask(0.0):
        coming.take(answer(pull), 1.0)
    beyond = messages.Weights("b", DIGEST, SIZE, coming.arrived, ZEROS[:GRAIN])
    assert not coming.take(beyond, 2.0)


def test_what_is_missing_is_asked_for_again() -> None:
    coming = transfer(credit=4 * GRAIN)
    lost = coming.ask(0.0)
    assert coming.take(answer(lost[0]), 1.0)
    coming.link.credit = 4 * GRAIN
    coming.ask(1.0)
    coming.rewind(7.0)
    assert coming.asked_at == 7.0
    coming.link.credit = 4 * GRAIN
    again = coming.ask(7.0)
    assert [pull.offset for pull in again[:3]] == [pull.offset for pull in lost[1:]]
    assert coming.take(answer(lost[1]), 7.5), "it was only late"
    assert not coming.take(answer(again[0]), 8.0), "once more"
    assert coming.take(answer(again[1]), 8.0)


def test_nothing_came_yet_and_all_is_asked_for_again() -> None:
    coming = transfer()
    lost = coming.ask(0.0)
    coming.rewind(5.0)
    coming.link.credit = LEAST_CREDIT
    assert coming.ask(5.0) == lost


@given(st.integers(0, 999), st.floats(0, 0.5))
def test_whatever_is_lost_late_or_doubled_all_arrives_once(seed: int, loss: float) -> None:
    chance = random.Random(seed)
    coming = transfer(size=HEADER + 30 * GRAIN + 1)
    flying: list[messages.Pull] = []
    taken: list[tuple[int, int]] = []
    now = 0.0
    while not coming.done:
        now += 0.1
        flying += coming.ask(now)
        if not flying:
            coming.rewind(now)
            continue
        at = min(chance.choice([0, 0, 0, 1, 2]), len(flying) - 1)
        pull = flying[at] if chance.random() < 0.1 else flying.pop(at)
        if chance.random() >= loss and coming.take(answer(pull, coming.size), now):
            taken.append((pull.offset, pull.offset + pull.length))
    assert [begin for begin, _ in taken] == [0, *(end for _, end in taken[:-1])]
    assert taken[-1][1] == coming.size


def test_an_image_that_is_gone_is_told() -> None:
    coming = transfer()
    pulls = coming.ask(0.0)
    gone = messages.Weights("b", DIGEST, 0, pulls[1].offset, ZEROS[:0])
    assert not coming.take(gone, 1.0), "the first may still come"
    assert coming.take(answer(pulls[0]), 1.0)
    with pytest.raises(Gone):
        coming.take(gone, 1.0)
    with pytest.raises(Gone):
        transfer().take(messages.Weights("b", DIGEST, 0, 0, ZEROS[:0]), 1.0)


@pytest.mark.parametrize(
    ("size", "encoding"), [(SIZE + 1, "none"), (SIZE - 1, "none"), (1, "none")]
)
def test_an_image_of_another_size_is_none_of_ours(size: int, encoding: str) -> None:
    for arrived in (0, 1):
        coming = transfer()
        pulls = coming.ask(0.0)
        for pull in pulls[:arrived]:
            assert coming.take(answer(pull), 1.0)
        pull = pulls[arrived]
        if size > pull.offset:
            with pytest.raises(Misfit, match=f"sent a model of {size} bytes, expected {SIZE}"):
                coming.take(answer(pull, size, encoding), 1.0)


# --- differences


def test_of_a_difference_first_the_size_is_learned() -> None:
    coming = transfer(credit=4 * GRAIN, encoding="int8", base=BASE)
    pulls = coming.ask(0.0)
    assert len(pulls) == 1
    assert coming.ask(0.0) == []
    size = HEADER + 3 * GRAIN - 7
    taken = 0
    while pulls:
        for pull in pulls:
            assert (pull.encoding, pull.base) == ("int8", BASE)
            assert coming.take(answer(pull, size, "int8"), 1.0)
            taken += 1
        pulls = coming.ask(1.0)
    assert coming.done
    assert (coming.arrived, coming.size) == (size, size)
    assert taken == 3 if coming.link.credit < 8 * GRAIN else taken > 1


def test_a_difference_may_be_smaller_than_one_range() -> None:
    coming = transfer(encoding="fp16", base=BASE)
    (pull,) = coming.ask(0.0)
    assert coming.take(answer(pull, 100, "fp16"), 1.0)
    assert coming.done
    assert coming.ask(1.0) == []


def test_it_may_come_plainly_instead() -> None:
    coming = transfer(encoding="fp16", base=BASE)
    (pull,) = coming.ask(0.0)
    assert coming.take(answer(pull), 1.0)
    assert coming.base is None
    while pulls := coming.ask(1.0):
        for pull in pulls:
            assert (pull.encoding, pull.base) == ("fp16", None)
            assert coming.take(answer(pull), 1.0)
    assert coming.done


def test_a_difference_must_be_smaller_and_stay_as_it_is() -> None:
    for size, encoding in ((SIZE, "fp16"), (SIZE + 1, "fp16"), (100, "none")):
        coming = transfer(encoding="fp16", base=BASE)
        (pull,) = coming.ask(0.0)
        with pytest.raises(Misfit):
            coming.take(answer(pull, size, encoding), 1.0)
    for size, encoding in ((SIZE - 2, "fp16"), (SIZE, "none")):
        coming = transfer(encoding="fp16", base=BASE)
        (pull,) = coming.ask(0.0)
        assert coming.take(answer(pull, SIZE - 1, "fp16"), 1.0)
        pull, *_ = coming.ask(1.0)
        lost = encoding == "none"  # its base: the peer was restarted
        with pytest.raises(Gone if lost else Misfit):
            coming.take(answer(pull, size, encoding), 1.0)


# --- the speed of a link


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 40), st.floats(0, 1e6, allow_subnormal=True)), max_size=20
    )
)
def test_the_credit_stays_within_bounds(measurements: list[tuple[int, float]]) -> None:
    link = Link()
    for nbytes, seconds in measurements:
        link.measured(nbytes, seconds)
        assert LEAST_CREDIT <= link.credit <= MOST_CREDIT


def full(link: Link, rate: float, round_trip_s: float) -> None:
    """All that the credit allows is on its way, again and again: ranges queue behind others."""
    link.measured(link.range_bytes, round_trip_s + link.range_bytes / rate)  # none before it
    for _ in range(50):
        link.measured(link.credit, round_trip_s + link.credit / rate)


@pytest.mark.parametrize("rate", [2e6, 5e6, 1e7])
def test_what_is_on_its_way_takes_a_quarter_of_a_second_and_a_round_trip(rate: float) -> None:
    link = Link()
    full(link, rate, 0.1)
    assert 0.1 <= link.credit / rate <= 0.1 + 0.25 + GRAIN / rate
    assert link.bytes_per_s == pytest.approx(rate, rel=0.5)


@pytest.mark.parametrize(("rate", "credit"), [(1e9, MOST_CREDIT), (1e3, LEAST_CREDIT)])
def test_very_fast_and_very_slow_links(rate: float, credit: int) -> None:
    link = Link(credit=LEAST_CREDIT)
    full(link, rate, 0.01)
    assert link.credit == pytest.approx(credit, rel=0.01)


# --- more than 4 GB


def test_models_larger_than_4_gb() -> None:
    size = HEADER + (5 << 30) + 12
    coming = transfer(size=size, credit=MOST_CREDIT)
    offsets = []
    while not coming.done:
        for pull in coming.ask(0.0):
            offsets.append(pull.offset)
            assert coming.take(answer(pull, size), 1e-3)
    assert offsets[-1] + LARGEST_RANGE >= size > 5 << 30
    assert (offsets[-1] - HEADER) % GRAIN == 0
    assert coming.arrived == size
