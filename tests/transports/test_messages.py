"""Messages are safetensors files, come back as they were, and nothing bad gets in."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from tests.transports.samples import (
    DIGEST,
    EACH,
    HASH,
    LIMITS,
    MESSAGES,
    SCHEMA,
    body,
    file,
    joined,
    opened,
    weights,
)
from transports.header import PROTOCOL
from transports.messages import (
    ENCODINGS,
    STATES,
    Limits,
    Malformed,
    MessageError,
    Ping,
    Pull,
    TooLarge,
    Version,
    Weights,
    WrongProtocol,
    decode,
    encode,
)

each = pytest.mark.parametrize("message", MESSAGES, ids=EACH)

# --- what should work


@each
def test_comes_back_as_it_was(message):
    assert decode(encode(message), limits=LIMITS) == message


@each
def test_any_safetensors_library_opens_a_captured_message(message, tmp_path):
    captured = tmp_path / "captured.safetensors"
    captured.write_bytes(joined(message))
    with safe_open(captured, "numpy") as library:
        assert list(library.metadata()) == ["bt"]
        fields = json.loads(library.metadata()["bt"])
        tensors = {name: library.get_tensor(name) for name in library.keys()}
    assert list(fields) == sorted(fields)
    assert fields["protocol"] == PROTOCOL
    assert fields["kind"] == type(message).__name__.lower()
    assert fields["sender"] == message.sender
    if isinstance(message, Weights):
        assert tensors.keys() == {"range"}
        assert tensors["range"].dtype == np.uint8
        assert tensors["range"].tobytes() == bytes(message.data)
    else:
        assert not tensors


def test_data_is_copied_neither_way():
    content = np.arange(200, dtype=np.uint8)
    sent = encode(Weights("a", DIGEST, 1 << 20, 7, memoryview(content)))
    assert np.shares_memory(np.frombuffer(sent[1], np.uint8), content)
    got = decode(sent, limits=LIMITS)
    assert np.shares_memory(np.frombuffer(got.data, np.uint8), content)
    assert got.data.readonly


def test_a_message_in_one_frame_is_not_copied_either():
    whole = np.frombuffer(joined(weights()), np.uint8).copy()
    got = decode([memoryview(whole)], limits=LIMITS)
    assert np.shares_memory(np.frombuffer(got.data, np.uint8), whole)
    assert got.data.readonly


def test_data_of_any_format_travels_as_bytes():
    content = memoryview(np.arange(6, dtype="<f4").reshape(2, 3))
    got = decode(encode(Weights("a", DIGEST, 24, 0, content)), limits=LIMITS)
    assert bytes(got.data) == content.tobytes()
    assert got.data.format == "B"


@given(st.lists(st.integers(0, len(joined(weights()))), max_size=6))
def test_only_the_concatenation_counts(cuts):
    raw = joined(weights())
    ends = [0, *sorted(cuts), len(raw)]
    frames = [raw[a:b] for a, b in pairwise(ends)]
    assert decode(frames, limits=LIMITS) == weights()


@each
def test_the_header_ends_at_a_multiple_of_8(message):
    assert len(encode(message)[0]) % 8 == 0


def test_the_order_and_spacing_of_the_header_do_not_matter():
    fields, table, data = opened(joined(weights()))
    text = json.dumps(
        {"range": table["range"], "__metadata__": {"bt": json.dumps(fields, indent=3)}}, indent=2
    ).encode()
    raw = len(text).to_bytes(8, "little") + text + data
    assert decode([raw], limits=LIMITS) == weights()


# --- what must not


def refused(raw, limits=LIMITS):
    with pytest.raises(MessageError) as caught:
        decode([raw], limits=limits)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught


@each
def test_cut_short_or_with_something_added(message):
    raw = joined(message)
    for end in range(len(raw)):
        assert refused(raw[:end]).type is Malformed
    assert refused(raw + b"\0").type is Malformed


def test_nothing_at_all():
    with pytest.raises(Malformed, match="0 bytes are too few"):
        decode([], limits=LIMITS)
    refused(b"")


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (b"", "not JSON"),
        (b"[]", "expected a JSON object"),
        (b"{", "not JSON"),
        (b"\xff\xfe{\0}\0", "not JSON"),
        (b'{"a": NaN}', "only integers"),
        (b'{"a": 1.5}', "only integers"),
        (b'{"a": -Infinity}', "only integers"),
        (b'{"a": ' + b"9" * 5000 + b"}", "out of range"),
        (b'{"a": 1, "a": 1}', "twice"),
        (b"[" * 50_000, "nested too deeply"),
        (b'{"a":' * 10_000, "nested too deeply"),
        (b"{}", "__metadata__"),
        (b'{"__metadata__": {}}', "__metadata__"),
        (b'{"__metadata__": []}', "__metadata__"),
        (b'{"__metadata__": {"bt": "{}", "more": ""}}', "__metadata__"),
        (b'{"__metadata__": {"bt": 1}}', "expected JSON text"),
        (b'{"__metadata__": {"bt": "[[[]"}}', "not JSON"),
        (b'{"__metadata__": {"bt": "[]"}}', "expected a JSON object"),
    ],
)
def test_broken_headers(header, line):
    caught = refused(len(header).to_bytes(8, "little") + header)
    assert caught.type is Malformed
    assert line in str(caught.value)


ODD = [None, True, -1, 2**53, 1.5, "", "x", "a b", "a" * 65, "F" * 32, "f" * 31, "f" * 33,
       "../x", [], [0], [0, True], [0, 1, 2], [0, -1], [0, 2**31], {}, [[[[0]]]], "\ud800",
       "\n"]  # fmt: skip
MEANT = [("sender", "x"), ("sender", "F" * 32), ("sender", "f" * 31), ("sender", "f" * 33),
         ("digest", None), ("seen", None), ("base", None), ("others", {}), ("pulling", []),
         ("aside", {}), ("fits", []), ("events", [])]  # fmt: skip


@each
@pytest.mark.parametrize("value", ODD, ids=repr)
def test_every_field_is_looked_at(message, value):
    fields, table, data = opened(joined(message))
    for name in fields:
        if (name, value) in MEANT and not (name == "digest" and type(message) is not Version):
            continue
        refused(file(fields | {name: value}, table, data))
        without = {key: fields[key] for key in fields if key != name}
        refused(file(without, table, data))
    refused(file(fields | {"more": value}, table, data))
    assert decode([file(fields, table, data)], limits=LIMITS) == message


@pytest.mark.parametrize(
    "table",
    [
        {},
        {"other": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}},
        {"range": None},
        {"range": []},
        {"range": {}},
        {"range": {"dtype": "U8", "shape": [3]}},
        {"range": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3], "more": 1}},
        {"range": {"dtype": "I8", "shape": [3], "data_offsets": [0, 3]}},
        {"range": {"dtype": ["U8"], "shape": [3], "data_offsets": [0, 3]}},
        {"range": {"dtype": "U8", "shape": [2], "data_offsets": [0, 3]}},
        {"range": {"dtype": "U8", "shape": [3, 1], "data_offsets": [0, 3]}},
        {"range": {"dtype": "U8", "shape": 3, "data_offsets": [0, 3]}},
        {"range": {"dtype": "U8", "shape": [3], "data_offsets": [0, 2]}},
        {"range": {"dtype": "U8", "shape": [3], "data_offsets": [1, 3]}},
        {"range": {"dtype": "U8", "shape": [3], "data_offsets": [False, 3]}},
        {"range": {"dtype": "U8", "shape": ["3"], "data_offsets": [0, 3]}},
    ],
    ids=str,
)
def test_its_tensors_must_be_one_range_of_just_these_bytes(table):
    fields, good, data = opened(joined(Weights("a", DIGEST, 3, 0, memoryview(b"abc"))))
    assert decode([file(fields, good, data)], limits=LIMITS).data == b"abc"
    assert "one range of 3 bytes" in str(refused(file(fields, table, data)).value)
    both = good | {"more": {"dtype": "U8", "shape": [0], "data_offsets": [3, 3]}}
    assert "one range of 3 bytes" in str(refused(file(fields, both, data)).value)


def test_the_line_stays_short_whatever_a_field_holds():
    fields, _, _ = opened(joined(Pull("a", DIGEST, 0, 1)))
    inner = "y" * 80
    for _ in range(3):
        inner = {"k" * 70 + str(number): inner for number in range(4)}
    with pytest.raises(MessageError) as caught:
        decode([file(fields | {"length": inner})], limits=LIMITS)
    assert len(str(caught.value)) < 1000


def test_another_protocol_is_named():
    fields, _, _ = opened(joined(Ping("a")))
    caught = refused(file(fields | {"protocol": 1}))
    assert caught.type is WrongProtocol
    assert str(caught.value) == "protocol 1: this peer speaks 3"
    assert refused(file(fields | {"protocol": "3", "kind": "gift"})).type is WrongProtocol
    assert refused(file({})).type is WrongProtocol


def test_unknown_kinds_and_tensors_where_none_belong():
    assert "unknown kind 'gift'" in str(
        refused(file({"protocol": PROTOCOL, "kind": "gift"})).value
    )
    assert "unknown kind None" in str(refused(file({"protocol": PROTOCOL})).value)
    for message in MESSAGES:
        if not isinstance(message, Weights):
            fields, _, _ = opened(joined(message))
            for raw in (
                file(fields, SCHEMA.header_entries(), body()),
                file(fields, {"range": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}),
                file(fields, tail=b"x"),
            ):
                assert "carries no tensors" in str(refused(raw).value)


def test_an_image_is_no_message():
    assert "one range" not in str(refused(bytes(weights().data)).value)


def test_sizes():
    raw = joined(weights())
    assert decode([raw], limits=Limits(max_message_bytes=len(raw))) == weights()
    assert refused(raw, Limits(max_message_bytes=len(raw) - 1)).type is TooLarge
    header = int.from_bytes(raw[:8], "little")
    exact = Limits(max_message_bytes=1 << 20, max_header_bytes=header)
    assert decode([raw], limits=exact) == weights()
    tight = Limits(max_message_bytes=1 << 20, max_header_bytes=header - 1)
    assert refused(raw, tight).type is TooLarge
    several = Version("a", (0, 1), 4, HASH, "done")
    exact = Limits(max_message_bytes=1 << 20, max_samples=4)
    assert decode(encode(several), limits=exact) == several
    tight = Limits(max_message_bytes=1 << 20, max_samples=3)
    assert refused(joined(several), tight).type is TooLarge


def test_nothing_is_allocated_on_a_claim():
    fields, _, _ = opened(joined(weights()))
    claims = (
        (2**63).to_bytes(8, "little") + b"{}",
        (900_000).to_bytes(8, "little") + b"{}",
        file(fields, {"range": {"dtype": "U8", "shape": [2**42], "data_offsets": [0, 2**42]}}),
        file(fields, {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
    )
    tracemalloc.start()
    for claim in claims:
        refused(claim)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


@pytest.mark.parametrize(
    ("mistake", "line"),
    [
        (lambda: Ping("no name"), "'no name' is no name"),
        (lambda: Version("a", (0, 0), 1, HASH, "tired"), "state 'tired'"),
        (lambda: Version("a", [0, 0], 1, HASH, "done"), r"version \[0, 0\]"),
        (lambda: Version("a", (0, 2**31), 1, HASH, "done"), "at most 2147483647"),
        (lambda: Version("a", (0, 0), -1, HASH, "done"), "samples -1"),
        (lambda: Version("a", (0, 0), 1, HASH[1:], "done"), "schema '1234"),
        (lambda: Version("a", (0, 0), 1, HASH, "done", HASH), "digest '0123"),
        (lambda: Version("a", (0, 0), 1, HASH, "done", seen=(0,)), r"seen \(0,\)"),
        (lambda: Pull("a", None, 0, 1), "digest None"),
        (lambda: Pull("a", DIGEST, -1, 1), "offset -1"),
        (lambda: Pull("a", DIGEST, 0, 0), "length 0: expected an integer from 1"),
        (lambda: Weights("a", DIGEST + "\n", 0, 0, memoryview(b"")), "digest"),
        (lambda: Weights("a", DIGEST, 0, 2**53, memoryview(b"")), "offset 9007199254740992"),
        (lambda: Weights("a", DIGEST, -1, 0, memoryview(b"")), "size -1"),
        (lambda: Weights("a", DIGEST, 3, 1, memoryview(b"abc")), "ends beyond the 3 bytes"),
        (lambda: Weights("a", DIGEST, 0, 0, memoryview(b"a")), "ends beyond the 0 bytes"),
        (lambda: Weights("a", DIGEST, 3, 0, memoryview(b"abc"), "gzip"), "encoding 'gzip'"),
        (lambda: Pull("a", DIGEST, 0, 1, None), "encoding None: expected one of none, fp16"),
        (lambda: Pull("a", DIGEST, 0, 1, "int8", HASH), "digest '0123"),
    ],
)
def test_local_mistakes_are_refused_too(mistake, line):
    with pytest.raises(Malformed, match=line):
        mistake()


def test_every_state_and_encoding_can_be_told():
    told = [Version("a", (0, 0), 1, HASH, state) for state in STATES]
    told += [Pull("a", DIGEST, 0, 1, encoding) for encoding in ENCODINGS]
    told += [Weights("a", DIGEST, 1, 0, memoryview(b"x"), encoding) for encoding in ENCODINGS]
    for message in told:
        assert decode(encode(message), limits=LIMITS) == message


def test_the_same_header_means_the_same_however_often_it_comes():
    """Also if it was accepted before with other limits, or other data."""
    several = encode(Version("a", (0, 1), 9, HASH, "done"))
    assert decode(several, limits=LIMITS).samples == 9
    tight = Limits(max_message_bytes=1 << 20, max_samples=8)
    assert refused(several[0], tight).type is TooLarge
    head, _ = encode(Weights("a", DIGEST, 3, 0, memoryview(b"abc")))
    for data in (b"abc", b"xyz"):
        assert decode([head, data], limits=LIMITS).data == data
    refused(head)
    refused(head + b"ab")
    ping = joined(Ping("a"))
    assert decode([ping], limits=LIMITS) == Ping("a")
    refused(ping + b"x")
