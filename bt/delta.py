"""A model on the wire as its difference from an earlier one: a file, and who has which base.

The file is safetensors: a header that says what it is the difference of, and the tensors of
compression.py. Both ends keep the model as the receiver has it; its digest names it as a base.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from bt.compression import ENCODINGS, BadEncoding, Costs, Encoded, choose, decode, encode
from bt.transfer import Link
from bt.weights import FlatWeights
from transports import header, image, messages
from transports.schema import Schema, SchemaError

_MAX_HEADER_BYTES = 4096


class OtherBase(messages.Malformed):
    """What answers an earlier question for the same image, asked from another base."""


def chooser(setting: str, nbytes: int) -> Callable[[Link], str]:
    """How to code models of `nbytes` for a link: `setting`, or, for "auto", what is fastest."""
    if setting != "auto":
        return lambda link: setting
    costs = Costs.measure()

    def fastest(link: Link) -> str:
        if link.bytes_per_s is None:  # the first model comes plainly; be ready for the second
            return ENCODINGS[-1]
        # The first range of a difference is asked for alone: one round trip more.
        wait_s = link.round_trip_s if math.isfinite(link.round_trip_s) else 0.0
        return choose(link.bytes_per_s, nbytes, costs, wait_s)

    return fastest


def digest_of_body(weights: FlatWeights) -> str:
    """What names a rebuilt model."""
    return image.digest(weights.body())


def pack(
    model: image.Model, current: FlatWeights, base: FlatWeights, named: str, encoding: str
) -> tuple[memoryview, FlatWeights]:
    """The file, and the model as its receiver will have it. Raises BadEncoding."""
    encoded, rebuilt = encode(current, base, encoding)
    about = {
        "kind": "delta",
        "sender": model.sender,
        "version": model.version,
        "samples": model.samples,
        "schema": current.schema.hash,
        "encoding": encoding,
        "base": named,
        "result": digest_of_body(rebuilt),
    }
    head = header.write(about, encoded.schema.table)
    return memoryview(b"".join([head, encoded.body])), rebuilt


def unpack(
    file: memoryview, base: FlatWeights, named: str, encoding: str
) -> tuple[image.Model, FlatWeights, str]:
    """What the file says of its model, the model, and its digest. Raises MessageError."""
    head, rest = header.split([file], _MAX_HEADER_BYTES)
    about, table = header.read(head)
    kind, sender, version, samples, schema, coding, of, result = header.fields(
        about, "kind", "sender", "version", "samples", "schema", "encoding", "base", "result"
    )
    if (kind, schema, coding) != ("delta", base.schema.hash, encoding):
        raise messages.Malformed("not the difference that was asked for")
    if of != named:
        raise OtherBase("a difference from another model than the one named")
    body = rest[0] if rest else memoryview(b"")
    try:
        weights = decode(Encoded(Schema.from_header(table), body), base, encoding)
    except (SchemaError, BadEncoding) as exc:
        raise messages.Malformed(str(exc)) from exc
    if digest_of_body(weights) != result:
        raise messages.Malformed("its weights were damaged on the way: the checksum is wrong")
    return image.Model(sender, header.pair(version), samples), weights, result


@dataclass
class Reader:
    """What one peer has of our models, as far as we know: what it may name as a base."""

    has: dict[str, FlatWeights] = field(default_factory=dict)
    _asked: tuple[str, str, str] | None = None  # image, base, encoding,
    _file: memoryview | None = None  # and the answer

    def keep(self, digest: str, weights: FlatWeights) -> None:
        """It got this model; whether it took it, the base it names next will tell."""
        self.has.pop(digest, None)
        self.has[digest] = weights
        while len(self.has) > 2:  # the base it has, and what it may have by now
            del self.has[next(iter(self.has))]

    def file(
        self, pull: messages.Pull, model: image.Model, current: FlatWeights
    ) -> memoryview | None:
        """The image it asks for as a difference; None if that can't be, or is no gain."""
        if pull.base is None or pull.base not in self.has:
            return None
        asked = (pull.digest, pull.base, pull.encoding)
        if self._asked is not None and self._asked != asked and self._asked[0] == pull.digest:
            return None  # coding costs: each image once
        if asked != self._asked:
            base = self.has[pull.base]
            self.has = {pull.base: base}
            self._asked, self._file = asked, None
            with suppress(BadEncoding):
                file, rebuilt = pack(model, current, base, pull.base, pull.encoding)
                if file.nbytes < image.nbytes(current.schema):
                    self._file = file
                    self.keep(digest_of_body(rebuilt), rebuilt)
        return self._file
