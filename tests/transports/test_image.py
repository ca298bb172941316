"""A model's image is a safetensors file in ranges, and only our own model's is believed."""

from __future__ import annotations

import json
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize, safe_open

from tests.transports.samples import (
    DIGEST,
    HASH,
    LIMITS,
    MODEL,
    SCHEMA,
    VALUES,
    body,
    file,
    picture,
    sparse,
)
from tests.transports.test_schema import schemas
from transports import image, messages
from transports.header import Malformed, MessageError, TooLarge, WrongProtocol, WrongSchema
from transports.schema import DTYPES, Schema, TensorSpec

HEADER = image.header_bytes(SCHEMA)
parts = st.integers(0, 2**31 - 1)
models = st.builds(
    image.Model,
    st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True),
    st.tuples(parts, parts),
    st.integers(1, 2**53 - 1),
)
LONGEST = image.Model("x" * 64, (2**31 - 1, 2**31 - 1), 2**53 - 1)

# --- what should work


@given(models, schemas)
def test_the_schema_alone_decides_the_length_of_the_header(model, schema):
    for each in (model, LONGEST):
        written = image.encode(each, schema)
        assert len(written) == image.header_bytes(schema)
        assert image.decode(memoryview(written), schema) == each
    assert image.nbytes(schema) == len(written) + schema.nbytes


@given(schemas)
def test_the_body_begins_at_a_cache_line(schema):
    assert image.header_bytes(schema) % 64 == 0


def test_the_length_is_fixed_for_good():
    """Peers of different releases must agree on it."""
    assert HEADER == 960
    assert image.header_bytes(Schema.of([])) == 576


@given(models, schemas, st.randoms(use_true_random=False))
def test_header_and_body_are_a_safetensors_file(model, schema, random):
    content = random.randbytes(schema.nbytes)
    whole = image.encode(model, schema) + content
    tensors = dict(deserialize(whole))
    assert tensors.keys() == schema.offsets.keys()
    for spec in schema.specs:
        begin, end = schema.offsets[spec.name]
        found = tensors[spec.name]
        assert (found["dtype"], tuple(found["shape"])) == (spec.dtype, spec.shape)
        assert bytes(found["data"]) == content[begin:end]


def test_scalars_and_empty_tensors_of_every_dtype():
    shapes = {"scalar": (), "empty": (0, 3), "three": (3,)}
    schema = Schema.of(
        TensorSpec(f"{dtype}.{name}", dtype, shape)
        for dtype in DTYPES
        for name, shape in shapes.items()
    )
    content = bytes(at % 251 for at in range(schema.nbytes))
    tensors = dict(deserialize(image.encode(MODEL, schema) + content))
    assert len(tensors) == 3 * len(DTYPES)
    for name, (begin, end) in schema.offsets.items():
        assert bytes(tensors[name]["data"]) == content[begin:end]


def test_any_safetensors_library_opens_it(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(picture())
    with safe_open(path, "numpy") as library:
        assert list(library.metadata()) == ["bt"]
        about = json.loads(library.metadata()["bt"])
        for name in VALUES.keys() - {"brain"}:  # numpy has no bfloat16
            tensor = library.get_tensor(name)
            assert tensor.tobytes() == VALUES[name].tobytes()
            assert tensor.shape == VALUES[name].shape
    assert list(about) == sorted(about)
    assert about == {
        "protocol": 3,
        "kind": "model",
        "sender": "site-b",
        "version": [0, 3],
        "samples": 4,
        "schema": SCHEMA.hash,
    }


@given(st.lists(st.integers(0, len(picture())), max_size=6), st.randoms(use_true_random=False))
def test_its_ranges_put_together_are_it(cuts, order):
    whole = picture()
    ranges = list(pairwise([0, *sorted(cuts), len(whole)]))
    order.shuffle(ranges)
    came = bytearray(len(whole))
    for begin, end in ranges:
        sent = messages.Weights("site-b", DIGEST, len(whole), begin, memoryview(whole)[begin:end])
        raw = b"".join(messages.encode(sent))
        got = messages.decode([raw], limits=LIMITS)
        came[got.offset : got.offset + got.data.nbytes] = got.data
    assert came == whole


def test_what_comes_after_the_header_is_not_looked_at():
    for after in (b"", b"x", body(), bytes(9999)):
        raw = memoryview(image.encode(MODEL, SCHEMA) + after)
        assert image.decode(raw, SCHEMA) == MODEL


ABOUT = {
    "protocol": 3,
    "kind": "model",
    "sender": "site-b",
    "version": [0, 3],
    "samples": 4,
    "schema": SCHEMA.hash,
}


def by_hand(about=ABOUT, table=None, length=HEADER):
    """The header of an image, not written by image.encode."""
    raw = file(about, SCHEMA.header_entries() if table is None else table)
    padded = raw[8:] + b" " * (length - len(raw))
    return len(padded).to_bytes(8, "little") + padded


def test_the_order_of_the_table_does_not_matter():
    turned = dict(reversed(SCHEMA.header_entries().items()))
    for table in (None, turned):
        assert image.decode(memoryview(by_hand(table=table)), SCHEMA) == MODEL


# --- what must not


def refused(raw, schema=SCHEMA):
    with pytest.raises(MessageError) as caught:
        image.decode(memoryview(raw), schema)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    return caught


def of(*specs):
    """An image's header with a table of these tensors."""
    schema = Schema.of(specs)
    return image.encode(MODEL, schema)


def but(name, *specs):
    """Our tensors less the one of this name, and these."""
    return of(*(spec for spec in SCHEMA.specs if spec.name != name), *specs)


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (but("conv.bias", TensorSpec("conv.bias", "F32", (5,))), "is F32 [5], expected F32 [4]"),
        (but("conv.bias", TensorSpec("conv.bias", "I32", (4,))), "is I32 [4], expected F32 [4]"),
        (but("conv.bias", TensorSpec("conv.bias", "F32", (4, 1))), "is F32 [4, 1], expected F32"),
        (but("conv.bias"), "tensor 'conv.bias' (F32 [4]) is missing"),
        (but("conv.weight"), "tensor 'conv.weight' (F32 [4, 3]) is missing"),
        (but("conv.bias", TensorSpec("conv.boas", "F32", (4,))), "'conv.bias' (F32 [4]) is miss"),
        (but("", TensorSpec("new", "F32", (4,))), "tensor 'new' is unknown"),
        (but("", TensorSpec("aaa", "U64", (1,))), "tensor 'aaa' is unknown"),
        (but("", TensorSpec("zzz", "BOOL", ())), "tensor 'zzz' is unknown"),
        (of(), "tensor 'steps' (I64 []) is missing"),
    ],
)
def test_another_schema_is_named_by_its_first_tensor(raw, line):
    caught = refused(raw)
    assert caught.type is WrongSchema
    assert line in str(caught.value)


def test_an_extra_tensor_before_our_table_is_seen():
    """The tail of the header is exactly our table, and still it is not our schema."""
    raw = image.encode(MODEL, SCHEMA)
    extra = b'"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},'
    text = raw[8:].rstrip().replace(SCHEMA.table, extra + SCHEMA.table)
    assert extra in text
    text = text.ljust(HEADER - 8)
    caught = refused(len(text).to_bytes(8, "little") + text)
    assert caught.type is WrongSchema
    assert "tensor 'x' is unknown" in str(caught.value)


def test_nothing_is_named_twice():
    """Also not what stands in our table, which is not looked at again."""
    text = image.encode(MODEL, SCHEMA)[8:].rstrip()
    metadata = text[1 : text.index(b',"steps"')]
    steps = SCHEMA.table[: SCHEMA.table.index(b',"double"')]
    for twice, line in ((metadata, "names something twice"), (steps, "'steps' is unknown")):
        raw = (b"{" + twice + b"," + text[1:]).ljust(HEADER - 8)
        assert len(raw) == HEADER - 8
        assert line in str(refused(len(raw).to_bytes(8, "little") + raw).value)


def test_an_object_that_only_our_table_would_close_is_none():
    for head in (b"{", b'{"__metadata__":{', b"", b"{}", b'{"__metadata__":{"bt":"{}"}}'):
        text = (head + b"," + SCHEMA.table + b"}").ljust(HEADER - 8)
        assert refused(len(text).to_bytes(8, "little") + text).type is Malformed


def test_tensors_lie_where_the_schema_says():
    table = SCHEMA.header_entries()
    begin, end = table["half"]["data_offsets"]
    for offsets in ([begin + 2, end + 2], [end, begin], [0, 6], [begin], None, "x"):
        changed = table | {"half": table["half"] | {"data_offsets": offsets}}
        caught = refused(by_hand(table=changed))
        assert caught.type is WrongSchema
        assert "'half'" in str(caught.value)


def test_the_claimed_hash_is_not_believed():
    caught = refused(by_hand(ABOUT | {"schema": HASH}))
    assert caught.type is WrongSchema
    assert "claims schema '0123" in str(caught.value)
    others = Schema.of([TensorSpec("x", "F32", (4,))])
    raw = by_hand(ABOUT, others.header_entries())  # says our hash
    assert refused(raw).type is WrongSchema


@pytest.mark.parametrize(
    "value",
    [None, True, -1, 2**53, 1.5, "", "a b", "a" * 65, "../x", [], [0], [0, True], [0, 1, 2],
     [0, -1], [0, 2**31], {}, [[[[0]]]], "\ud800", "\n"],
    ids=repr,
)  # fmt: skip
def test_every_field_is_looked_at(value):
    for name in ABOUT:
        refused(by_hand(ABOUT | {name: value}))
        refused(by_hand({key: ABOUT[key] for key in ABOUT if key != name}))
    refused(by_hand(ABOUT | {"more": value}))


def test_no_model_is_trained_on_nothing():
    with pytest.raises(Malformed, match="samples 0: expected an integer from 1"):
        image.Model("a", (0, 1), 0)
    assert "samples 0" in str(refused(by_hand(ABOUT | {"samples": 0})).value)


def test_another_kind_or_protocol_is_named():
    caught = refused(by_hand(ABOUT | {"kind": "weights"}))
    assert caught.type is Malformed
    assert str(caught.value) == "an image of kind 'weights' is no model"
    caught = refused(by_hand(ABOUT | {"protocol": 4}))
    assert caught.type is WrongProtocol
    assert str(caught.value) == "protocol 4: this peer speaks 3"


def test_cut_short():
    raw = image.encode(MODEL, SCHEMA)
    for end in range(len(raw)):
        caught = refused(raw[:end])
        assert caught.type is Malformed
        assert "too few" in str(caught.value)


@pytest.mark.parametrize("length", [0, HEADER - 1, HEADER + 1, HEADER + 64, 2 * HEADER])
def test_padded_differently(length):
    caught = refused(by_hand(length=length) + bytes(HEADER))
    assert caught.type is Malformed
    assert f"bytes, expected {HEADER}" in str(caught.value)


def test_nothing_is_allocated_on_a_claim():
    tracemalloc.start()
    for claim in (2**63, 2**24 + 1, 4096):
        refused(claim.to_bytes(8, "little") + b"{}")
    huge = {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    refused(by_hand(table=huge))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_header_beyond_all_measure(tmp_path):
    with sparse(tmp_path, 2**25, (2**24 + 1).to_bytes(8, "little")) as raw:
        assert refused(raw).type is TooLarge


# --- whatever arrives, nothing but MessageError gets out


def survives(raw):
    for schema in (SCHEMA, Schema.of([])):
        try:
            image.decode(memoryview(raw), schema)
        except MessageError as exc:
            line = str(exc)
            assert "\n" not in line
            assert len(line) < 2000


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@given(st.binary(max_size=200), st.booleans())
def test_fuzz_bytes(raw, framed):
    survives(len(raw).to_bytes(8, "little") + raw if framed else raw)


@given(st.data())
def test_fuzz_fields(data):
    about, table = dict(ABOUT), SCHEMA.header_entries()
    if data.draw(st.booleans()):
        entry = data.draw(st.sampled_from(sorted(table)))
        key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
        table[entry][key] = data.draw(anything)
    else:
        about[data.draw(st.sampled_from([*about, "more"]))] = data.draw(anything)
    survives(by_hand(about, table))


@given(st.data())
def test_fuzz_flipped_bytes(data):
    raw = bytearray(image.encode(MODEL, SCHEMA))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    survives(raw)


# --- more than 4 GB


def test_models_larger_than_4_gb(tmp_path):
    schema = Schema.of([TensorSpec("big", "F32", (5 << 28,)), TensorSpec("last", "I8", (7,))])
    whole = image.nbytes(schema)
    assert whole > 5 << 30
    begin = whole - 7
    with sparse(tmp_path, whole, image.encode(MODEL, schema), b"the end") as data:
        tracemalloc.start()
        assert image.decode(data, schema) == MODEL
        sent = messages.Weights("a", DIGEST, data.nbytes, begin, data[begin:])
        got = messages.decode(messages.encode(sent), limits=LIMITS)
        assert (got.offset, bytes(got.data)) == (begin, b"the end")
        pull = messages.Pull("a", DIGEST, begin, 7)
        assert messages.decode(messages.encode(pull), limits=LIMITS) == pull
        everything = messages.Weights("a", DIGEST, data.nbytes, 0, data)
        frames = messages.encode(everything)
        got = messages.decode(frames, limits=messages.Limits(max_message_bytes=2 * whole))
        assert got.data.nbytes == whole
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 100_000
