"""Whatever arrives, nothing but MessageError gets out of decode."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.transports.samples import LIMITS, MESSAGES, file, joined, opened
from transports.messages import MessageError, decode

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


def survives(frames):
    try:
        decode(frames, limits=LIMITS)
    except MessageError as exc:
        line = str(exc)
        assert "\n" not in line
        assert len(line) < 400


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_fuzz_bytes(frames):
    survives(frames)


@given(st.binary(max_size=300), st.binary(max_size=30))
def test_fuzz_header_bytes(header, tail):
    survives([len(header).to_bytes(8, "little") + header + tail])


@given(anything, anything)
def test_fuzz_json(metadata, table):
    header = json.dumps({"__metadata__": metadata, "a": table}).encode()
    survives([len(header).to_bytes(8, "little") + header])


@given(st.sampled_from(MESSAGES), st.data())
def test_fuzz_fields(message, data):
    fields, table, tail = opened(joined(message))
    if table and data.draw(st.booleans()):
        key = data.draw(st.sampled_from(["dtype", "shape", "data_offsets", "more"]))
        table["range"][key] = data.draw(anything)
    else:
        name = data.draw(st.sampled_from([*fields, "more"]))
        fields[name] = data.draw(anything)
    survives([file(fields, table, tail)])


@given(st.sampled_from(MESSAGES), st.data())
def test_fuzz_flipped_bytes(message, data):
    raw = bytearray(joined(message))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    survives([raw])
