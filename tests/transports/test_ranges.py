"""Headers in one stroke: the same bytes as the long way, and nothing that it would not take."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transports import header, ranges
from transports.messages import ENCODINGS

NUMBERS = st.integers(0, header.MAX_INTEGER)
NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
DIGESTS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
CODINGS = st.sampled_from(ENCODINGS)


@given(NAMES, DIGESTS, NUMBERS, NUMBERS, CODINGS, st.none() | DIGESTS)
def test_a_pull_is_written_as_any_message(sender, digest, offset, length, encoding, base):
    written = ranges.write_pull(sender, digest, offset, length, encoding, base)
    about = {"sender": sender, "digest": digest, "offset": offset, "length": length}
    about |= {"kind": "pull", "encoding": encoding, "base": base}
    assert written == header.write(about)
    assert ranges.read_pull(written[8:]) == (sender, digest, offset, length, encoding, base)
    assert ranges.read_range(written[8:]) is None


@given(NAMES, DIGESTS, NUMBERS, NUMBERS, NUMBERS, CODINGS)
def test_a_range_is_written_as_any_message(sender, digest, size, offset, nbytes, encoding):
    written = ranges.write_range(sender, digest, size, offset, nbytes, encoding)
    about = {"sender": sender, "digest": digest, "size": size, "offset": offset}
    table = b'"range":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}' % (nbytes, nbytes)
    assert written == header.write(about | {"kind": "weights", "encoding": encoding}, table)
    assert ranges.read_range(written[8:]) == (sender, digest, size, offset, nbytes, encoding)
    assert ranges.read_pull(written[8:]) is None


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        (b'protocol\\":%d' % header.PROTOCOL, b'protocol\\":%d' % (header.PROTOCOL + 1)),
        (b'offset\\":8', b'offset\\":-8'),
        (b'offset\\":8', b'offset\\":08'),
        (b'offset\\":8', b'offset\\":8.0'),
        (b'offset\\":8', b'offset\\":99999999999999999'),
        (b"[0,4]", b"[0,5]"),
        (b"[4]", b"[4,1]"),
        (b'"U8"', b'"I8"'),
        (b'sender\\":\\"a', b'sender\\":\\"\\u0061'),
        (b'"range"', b'"other"'),
        (b'"}', b'","and":"more"}'),
        (b"}}", b"}} x"),
    ],
)
def test_anything_else_goes_the_long_way(written, instead):
    head = ranges.write_range("a", "0" * 32, 100, 8, 4, "none")[8:]
    assert ranges.read_range(head) is not None
    assert written in head
    assert ranges.read_range(head.replace(written, instead, 1)) is None
