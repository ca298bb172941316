"""The layout of a model's body is the one safetensors itself writes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save

from transports.schema import DTYPES, FloatRun, Schema, SchemaError, TensorSpec

NUMPY = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "U16": "<u2",
    "F16": "<f2",
    "I32": "<i4",
    "U32": "<u4",
    "F32": "<f4",
    "F64": "<f8",
    "I64": "<i8",
    "U64": "<u8",
}

specs = st.builds(
    TensorSpec,
    st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF), min_size=1, max_size=9).filter(
        str.isprintable
    ),
    st.sampled_from(sorted(DTYPES)),
    st.lists(st.integers(0, 4), max_size=3).map(tuple),
)
schemas = st.lists(specs, max_size=8, unique_by=lambda s: s.name).map(Schema.of)


def test_order_and_offsets():
    schema = Schema.of(
        [
            TensorSpec("b.weight", "F32", (2, 3)),
            TensorSpec("count", "I64", ()),
            TensorSpec("a.weight", "F32", (4,)),
            TensorSpec("half", "F16", (3,)),
        ]
    )
    assert [spec.name for spec in schema.specs] == ["count", "a.weight", "b.weight", "half"]
    assert schema.offsets == {
        "count": (0, 8),
        "a.weight": (8, 24),
        "b.weight": (24, 48),
        "half": (48, 54),
    }
    assert schema.nbytes == 54
    assert schema.float_runs == (FloatRun("F32", 8, 48), FloatRun("F16", 48, 54))


@given(st.lists(specs.filter(lambda s: s.dtype != "BF16"), unique_by=lambda s: s.name))
def test_layout_is_that_of_safetensors(specs):
    written = save({spec.name: np.zeros(spec.shape, NUMPY[spec.dtype]) for spec in specs})
    length = int.from_bytes(written[:8], "little")
    header = json.loads(written[8 : 8 + length])
    schema = Schema.of(specs)
    assert schema.header_entries() == header
    assert list(schema.header_entries()) == list(header)
    assert schema.nbytes == len(written) - 8 - length
    assert Schema.from_header(header) == schema


@given(schemas)
def test_no_holes_and_all_aligned(schema):
    at = 0
    for spec in schema.specs:
        begin, end = schema.offsets[spec.name]
        assert begin == at
        width = spec.nbytes // max(1, int(np.prod(spec.shape)))
        assert width == 0 or begin % width == 0
        at = end
    assert at == schema.nbytes


@given(schemas)
def test_float_runs_hold_every_float_and_nothing_else(schema):
    covered = set()
    for run in schema.float_runs:
        covered |= set(range(run.begin, run.end))
    floats = set()
    for spec in schema.specs:
        if spec.dtype in ("F16", "BF16", "F32", "F64"):
            floats |= set(range(*schema.offsets[spec.name]))
    assert covered == floats


@given(st.permutations(["a", "b", "c", "d"]))
def test_hash_does_not_depend_on_the_order_given(names):
    schema = Schema.of(TensorSpec(name, "F32", (2,)) for name in names)
    assert schema == Schema.of(TensorSpec(name, "F32", (2,)) for name in "abcd")
    # Fixed for good: peers of different releases compare it.
    assert schema.hash == "daf82cbcc8243ea10ed09912186acb4e15ec3b5614f42982ea7e40fbf99c2629"


@pytest.mark.parametrize(
    ("other", "line"),
    [
        ([], "tensor 'a' (F32 [2]) is missing"),
        ([TensorSpec("a", "F32", (3,))], "tensor 'a' is F32 [3], expected F32 [2]"),
        ([TensorSpec("a", "F64", (2,))], "tensor 'a' is F64 [2], expected F32 [2]"),
        ([TensorSpec("a", "F32", (2,)), TensorSpec("b", "U8", ())], "tensor 'b' is unknown"),
        ([TensorSpec("a", "F32", (2,))], None),
    ],
)
def test_difference_names_the_first_tensor(other, line):
    schema, other = Schema.of([TensorSpec("a", "F32", (2,))]), Schema.of(other)
    assert schema.difference(other) == line
    assert (schema.hash == other.hash) == (line is None)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("", "F32", ()), "printable characters"),
        (("a\nb", "F32", ()), "printable characters"),
        (("x" * 257, "F32", ()), "printable characters"),
        ((7, "F32", ()), "printable characters"),
        (("__metadata__", "F32", ()), "reserved"),
        (("a", "F128", ()), "unknown dtype 'F128'"),
        (("a", ["F32"], ()), "unknown dtype"),
        (("a", "F32", (-1,)), "sizes"),
        (("a", "F32", (True,)), "sizes"),
        (("a", "F32", (2.0,)), "sizes"),
        (("a", "F32", (2**53,)), "sizes"),
        (("a", "F32", (1,) * 17), "sizes"),
    ],
)
def test_impossible_tensors(arguments, line):
    with pytest.raises(SchemaError, match=line) as caught:
        TensorSpec(*arguments)
    assert "\n" not in str(caught.value)


def test_impossible_models():
    with pytest.raises(SchemaError, match="same name"):
        Schema.of([TensorSpec("a", "F32", ()), TensorSpec("a", "F64", ())])
    with pytest.raises(SchemaError, match="larger"):
        Schema.of([TensorSpec("a", "F64", (2**52,))])


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 8], "more": 1},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 9]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "F32", "shape": [2], "data_offsets": [False, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": None},
    ],
)
def test_headers_that_are_no_layout(entry):
    with pytest.raises(SchemaError, match="'a'"):
        Schema.from_header({"a": entry})
