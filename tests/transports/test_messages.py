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
from safetensors.numpy import load

from tests.transports.samples import (
    HASH,
    LIMITS,
    MESSAGES,
    SCHEMA,
    VALUES,
    about,
    body,
    file,
    joined,
    weights,
)
from transports.messages import (
    STATES,
    Limits,
    Malformed,
    MessageError,
    NotFinite,
    Ping,
    TooLarge,
    Version,
    Weights,
    WrongProtocol,
    WrongSchema,
    decode,
    encode,
)
from transports.schema import Schema, TensorSpec

# --- what should work


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_comes_back_as_it_was(message):
    assert decode(encode(message), limits=LIMITS, schema=SCHEMA) == message
    assert decode(encode(message), limits=LIMITS) == message


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_any_safetensors_library_opens_a_captured_message(message, tmp_path):
    captured = tmp_path / "captured.safetensors"
    captured.write_bytes(joined(message))
    with safe_open(captured, "numpy") as opened:
        assert list(opened.metadata()) == ["bt"]
        fields = json.loads(opened.metadata()["bt"])
        names = set(opened.keys())
    assert list(fields) == sorted(fields)
    assert fields["kind"] == type(message).__name__.lower()
    assert fields["sender"] == message.sender
    assert names == (set(VALUES) if isinstance(message, Weights) else set())


def test_tensors_are_where_safetensors_looks_for_them():
    specs = [spec for spec in SCHEMA.specs if spec.dtype != "BF16"]  # numpy has no bfloat16
    schema = Schema.of(specs)
    content = b"".join(VALUES[spec.name].tobytes() for spec in schema.specs)
    tensors = load(joined(Weights("a", (0, 1), 1, schema, memoryview(content))))
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, VALUES[name])
        assert tensor.shape == VALUES[name].shape


def test_the_body_is_copied_neither_way():
    content = np.frombuffer(body(), dtype=np.uint8).copy()
    sent = encode(Weights("a", (0, 1), 1, SCHEMA, memoryview(content)))
    assert np.shares_memory(np.frombuffer(sent[1], dtype=np.uint8), content)
    for schema in (SCHEMA, None):
        got = decode(sent, limits=LIMITS, schema=schema)
        assert np.shares_memory(np.frombuffer(got.body, dtype=np.uint8), content)
        assert got.body.readonly


def test_a_message_in_one_frame_is_not_copied_either():
    whole = np.frombuffer(joined(weights()), dtype=np.uint8).copy()
    got = decode([memoryview(whole)], limits=LIMITS, schema=SCHEMA)
    assert np.shares_memory(np.frombuffer(got.body, dtype=np.uint8), whole)


def test_a_body_at_an_odd_place_is_aligned():
    raw = np.empty(SCHEMA.nbytes + 1, np.uint8)
    raw[1:] = np.frombuffer(body(), np.uint8)
    got = decode([encode(weights())[0], memoryview(raw)[1:]], limits=LIMITS, schema=SCHEMA)
    assert np.frombuffer(got.body, np.uint8).ctypes.data % 8 == 0
    assert bytes(got.body) == body()


@given(st.lists(st.integers(0, len(joined(weights()))), max_size=6))
def test_only_the_concatenation_counts(cuts):
    raw = joined(weights())
    ends = [0, *sorted(cuts), len(raw)]
    frames = [raw[a:b] for a, b in pairwise(ends)]
    assert decode(frames, limits=LIMITS, schema=SCHEMA) == weights()


def test_the_order_of_header_entries_does_not_matter():
    entries = dict(reversed(SCHEMA.header_entries().items()))
    raw = file(about(weights()), entries, body())
    assert decode([raw], limits=LIMITS, schema=SCHEMA) == weights()


# --- what must not


def refused(raw, schema=SCHEMA, limits=LIMITS):
    with pytest.raises(MessageError) as caught:
        decode([raw], limits=limits, schema=schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
def test_cut_short_or_with_something_added(message):
    raw = joined(message)
    for end in range(len(raw)):
        assert refused(raw[:end]).type is Malformed
    assert refused(raw + b"\0").type is Malformed


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
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
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


@pytest.mark.parametrize("message", MESSAGES, ids=lambda m: type(m).__name__)
@pytest.mark.parametrize(
    "value",
    [None, True, -1, 2**53, 1.5, "", "x", "a b", "a" * 65, "../x", [], [0], [0, True], [0, 1, 2],
     [0, -1], {}, [[[[0]]]], "\ud800", "\n"],
    ids=repr,
)  # fmt: skip
def test_every_field_is_looked_at(message, value):
    fields = about(message)
    tables = SCHEMA.header_entries() if isinstance(message, Weights) else {}
    tail = body() if isinstance(message, Weights) else b""
    for name in fields:
        if (name, value) in [("sender", "x"), ("have", None), ("seen", None)]:
            continue
        refused(file(fields | {name: value}, tables, tail))
        without = {key: fields[key] for key in fields if key != name}
        refused(file(without, tables, tail))
    refused(file(fields | {"more": value}, tables, tail))
    assert decode([file(fields, tables, tail)], limits=LIMITS, schema=SCHEMA) == message


def test_another_protocol_is_named():
    caught = refused(file(about(Ping("a")) | {"protocol": 2}))
    assert caught.type is WrongProtocol
    assert str(caught.value) == "protocol 2: this peer speaks 1"


def test_unknown_kinds_and_tensors_where_none_belong():
    assert "unknown kind 'gift'" in str(refused(file({"protocol": 1, "kind": "gift"})).value)
    ping = about(Ping("a"))
    assert "carries no tensors" in str(refused(file(ping, SCHEMA.header_entries(), body())).value)
    assert "carries no tensors" in str(refused(file(ping, tail=b"x")).value)


def test_sizes():
    raw = joined(weights())
    exact = Limits(max_message_bytes=len(raw), max_samples=4)
    assert decode([raw], limits=exact) == weights()
    tight = Limits(max_message_bytes=len(raw) - 1)
    assert refused(raw, limits=tight).type is TooLarge
    header = int.from_bytes(raw[:8], "little")
    tight = Limits(max_message_bytes=1 << 20, max_header_bytes=header - 1)
    assert refused(raw, limits=tight).type is TooLarge
    tight = Limits(max_message_bytes=1 << 20, max_samples=3)
    assert refused(raw, limits=tight).type is TooLarge
    assert refused(joined(Version("a", (0, 1), 4, HASH, "done")), limits=tight).type is TooLarge
    assert refused(file(about(weights()) | {"samples": 0}, SCHEMA.header_entries(), body()))


def test_nothing_is_allocated_on_a_claim():
    claims = (
        (2**63).to_bytes(8, "little") + b"{}",
        (900_000).to_bytes(8, "little") + b"{}",
        file(
            about(weights()),
            {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}},
        ),
    )
    tracemalloc.start()
    for claim in claims:
        for schema in (SCHEMA, None):
            refused(claim, schema)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


def other(name, dtype, shape):
    """Weights of a schema that differs from ours in one tensor."""
    specs = [spec for spec in SCHEMA.specs if spec.name != name]
    schema = Schema.of([*specs, TensorSpec(name, dtype, shape)])
    return joined(Weights("b", (0, 1), 1, schema, memoryview(bytes(schema.nbytes))))


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (other("conv.bias", "F32", (5,)), "'conv.bias' is F32 [5], expected F32 [4]"),
        (other("conv.bias", "I32", (4,)), "'conv.bias' is I32 [4], expected F32 [4]"),
        (other("new", "F32", (4,)), "tensor 'new' is unknown"),
        (other("aaa", "U64", (1,)), "tensor 'aaa' is unknown"),
    ],
)
def test_another_schema_is_named_by_its_first_tensor(raw, line):
    caught = refused(raw)
    assert caught.type is WrongSchema
    assert line in str(caught.value)


def test_a_missing_tensor_is_named():
    schema = Schema.of(spec for spec in SCHEMA.specs if spec.name != "conv.weight")
    raw = joined(Weights("b", (0, 1), 1, schema, memoryview(bytes(schema.nbytes))))
    assert "'conv.weight' (F32 [4, 3]) is missing" in str(refused(raw).value)


def test_an_extra_tensor_before_our_table_is_seen():
    """The tail of the header is exactly our table, and still it is not our schema."""
    raw = encode(weights())[0]
    extra = b'"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    text = raw[8:].rstrip().replace(b'"steps"', extra + b'"steps"')
    assert extra in text
    caught = refused(len(text).to_bytes(8, "little") + text + body())
    assert "tensor 'x' is unknown" in str(caught.value)


def test_the_claimed_hash_is_not_believed():
    for schema in (SCHEMA, None):
        raw = file(about(weights()) | {"schema": HASH}, SCHEMA.header_entries(), body())
        assert refused(raw, schema).type is WrongSchema
    specs = [TensorSpec("x", "F32", (4,))]
    raw = file(about(weights()), Schema.of(specs).header_entries(), bytes(16))
    assert refused(raw).type is WrongSchema


NAN16 = np.array([1, np.nan, 1], "<f2")


@pytest.mark.parametrize(
    ("name", "bad"),
    [
        ("conv.weight", np.where(np.eye(4, 3) > 0, np.nan, 1).astype("<f4")),
        ("conv.bias", np.array([1, 1, 1, -np.inf], "<f4")),
        ("half", NAN16),
        ("half", np.array([1, 1, np.inf], "<f2")),
        ("brain", np.array([0x3F80, 0x7F80], "<u2")),
        ("brain", np.array([0xFFC1, 0x3F80], "<u2")),
        ("double", np.array([1, np.inf], "<f8")),
    ],
)
def test_values_that_are_not_finite(name, bad):
    for schema in (SCHEMA, None):
        caught = refused(joined(weights(**{name: bad})), schema)
        assert caught.type is NotFinite
        assert repr(name) in str(caught.value)


def test_not_finite_far_inside_a_big_tensor():
    schema = Schema.of([TensorSpec("a", "F32", (70_000,)), TensorSpec("b", "F32", (70_000,))])
    limits = Limits(max_message_bytes=1 << 30)
    for at in (0, 65_535, 65_536, 69_999, 70_000, 139_999):
        values = np.ones(140_000, "<f4")
        values[at] = np.nan
        raw = encode(Weights("a", (0, 1), 1, schema, memoryview(values.view(np.uint8))))
        with pytest.raises(NotFinite, match=f"tensor '{'a' if at < 70_000 else 'b'}'"):
            decode(raw, limits=limits, schema=schema)


def test_local_mistakes_are_refused_too():
    with pytest.raises(Malformed, match="'no name' is no name"):
        Ping("no name")
    with pytest.raises(Malformed, match="state 'tired'"):
        Version("a", (0, 0), 1, HASH, "tired")
    with pytest.raises(Malformed, match="samples 0"):
        weights(samples=0)
    with pytest.raises(Malformed, match="the body has 1 bytes"):
        Weights("a", (0, 1), 1, SCHEMA, memoryview(b"x"))
    for state in STATES:
        Version("a", (0, 0), 1, HASH, state)
