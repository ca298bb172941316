"""Everything that reads what strangers wrote: how to make such input, and what reading may raise.

A target's `read` raises nothing but `refusals`, each one short line that can be printed.
"""

from __future__ import annotations

import atexit
import functools
import gzip
import json
import shutil
import struct
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import nibabel as nib
import numpy as np
import torch
import zstandard

from benchmarks.fuzzing.edits import HOSTILE, edited, hostile
from benchmarks.fuzzing.forge import KINDS, LIMITS, Forge, good
from bt import config, delta, modelfile, roster
from bt.checkpoint import Checkpoint, CheckpointFile
from bt.config import Config, ConfigError
from bt.data import cache, checks, labels, layouts
from bt.data.scan import DataError, Scan
from bt.modelfile import BadModelFile
from bt.versions import Version
from bt.weights import FlatWeights
from transports import header, image, messages, strictjson
from transports.keys import BadKey, KeyPair
from transports.schema import Schema, SchemaError, TensorSpec

LONGEST_LINE = 1000


class Escape(AssertionError):
    """Something got out that must not."""


@dataclass(frozen=True)
class Target:
    """`seeds` are valid; `edit` makes one of them almost right."""

    seeds: Callable[[], Sequence[bytes]]
    edit: Callable[[Random, bytes], bytes]
    read: Callable[[bytes], object]
    refusals: tuple[type[Exception], ...]

    def check(self, data: bytes) -> bool:
        """Whether it was taken; False: it was refused as it should be. Raises Escape."""
        try:
            self.read(data)
        except self.refusals as exc:
            line = str(exc)
            if "\n" in line or len(line) > LONGEST_LINE:
                raise Escape(f"{type(exc).__name__} is no short line: {line!a:.2000}") from exc
            return False
        except Exception as exc:
            raise Escape(f"{type(exc).__name__}: {exc}"[:1000]) from exc
        return True


_FOLDER = Path(tempfile.mkdtemp(prefix="bt-fuzz-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_MODEL = FlatWeights.of(
    {"a": torch.arange(2000.0), "half": torch.ones(3).half(), "n": torch.tensor([7])}
)
_BASE = FlatWeights.of({name: torch.zeros_like(t) for name, t in _MODEL.tensors().items()})
_NAMED = "f" * 32


def _bytes_of(*words: str) -> Callable[[Random, bytes], bytes]:
    found = [word.encode() for word in (*words, *HOSTILE) if len(word) < 600]
    found += [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\r", b"\n", b"\t", b'"', b"\\", b" " * 9]
    found += [struct.pack("<q", n) for n in (0, -1, 1 << 20, 1 << 40, 2**63 - 1)]
    return lambda chance, data: edited(chance, data, found)


def _file(name: str, data: bytes) -> Path:
    path = _FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


# --- the wire


def _forge(chance: Random, data: bytes) -> bytes:
    return b"".join(bytes(frame) for frame in Forge(chance).frames())


def _messages() -> list[bytes]:
    return [b"".join(messages.encode(each)) for kind in KINDS for each in good(kind)]


def _json_header(data: bytes, change: Callable[[Any], bytes]) -> bytes:
    """A safetensors file with another header."""
    end = 8 + int.from_bytes(data[:8], "little")
    text = change(json.loads(data[8:end]))
    return len(text).to_bytes(8, "little") + text + data[end:]


def _in_header(chance: Random, data: bytes) -> bytes:
    """Something hostile in the table, or in what stands under the one key."""
    how = chance.random()
    if how < 0.3:
        return edited(chance, data, [word.encode() for word in HOSTILE if len(word) < 80])

    def change(table: Any) -> bytes:
        if how < 0.65:
            about = json.loads(table["__metadata__"]["bt"])
            table = {**table, "__metadata__": {"bt": hostile(chance, about)}}
            return json.dumps(table).encode()
        return hostile(chance, table).encode()

    return _json_header(data, change)


def _image() -> list[bytes]:
    return [bytes(_MODEL.image(image.encode(image.Model("a", (0, 3), 4), _MODEL.schema)))]


@functools.cache
def _differences() -> list[bytes]:
    model = image.Model("a", (0, 3), 4)
    return [bytes(delta.pack(model, _MODEL, _BASE, _NAMED, e)[0]) for e in delta.ENCODINGS]


def _unpack(data: bytes) -> None:
    refusal: Exception | None = None
    for encoding in delta.ENCODINGS:
        try:
            delta.unpack(memoryview(data), _BASE, _NAMED, encoding)
            return
        except messages.MessageError as exc:
            refusal = exc
    assert refusal is not None
    raise refusal


def _bombs(chance: Random, data: bytes) -> bytes:
    """Frames of zstd that say, or hold, much more than they should; else as above."""
    if chance.random() > 0.1:
        return _in_header(chance, data)
    size = chance.choice((0, _MODEL.schema.nbytes, 1 << 16, 1 << 22))
    packer = zstandard.ZstdCompressor(write_content_size=chance.random() < 0.5)
    body = packer.compress(bytes(size))
    head, _ = header.split([memoryview(_differences()[-1])], 1 << 16)
    about, _ = header.read(head)
    return header.write(about, Schema.of([TensorSpec("zstd", "U8", (len(body),))]).table) + body


def _schema(data: bytes) -> None:
    try:
        Schema.from_header(strictjson.parse(data))
    except strictjson.JSONError as exc:
        raise SchemaError(str(exc)) from exc


def _tables() -> list[bytes]:
    return [json.dumps(_MODEL.schema.header_entries()).encode()]


# --- files of a peer


def _models() -> list[bytes]:
    path = _FOLDER / "seed.safetensors"
    CheckpointFile(path).save(
        Checkpoint(
            _MODEL, Version(1, 2), {"b": Version(0, 1)}, {"merged": 3}, {"network": "x"}, "a", 1
        )
    )
    return [path.read_bytes()]


def _checkpoint(data: bytes) -> None:
    CheckpointFile(_file("checkpoint.safetensors", data)).load_of("a", _MODEL.schema)


def _model(data: bytes) -> None:
    modelfile.read_model(_file("model.safetensors", data))


def _keys() -> list[bytes]:
    pair = KeyPair.new()
    path = _FOLDER / "seed.key"
    path.unlink(missing_ok=True)
    pair.write(path)
    return [path.read_bytes()]


def _key(data: bytes) -> None:
    path = _file("a.key", data)
    path.chmod(0o600)
    KeyPair.read(path)


def _rosters() -> list[bytes]:
    members = [
        roster.Member("a", "tcp://a.example:7301", (KeyPair.new().public,), 200),
        roster.Member("b", "tcp://[::1]:7302", (KeyPair.new().public, KeyPair.new().public), 9),
        roster.Member("c", None, (KeyPair.new().public,), 1),
    ]
    return [roster.roster_of(members).to_toml().encode()]


def _roster(data: bytes) -> None:
    found = roster.read(_file("roster.toml", data))
    roster.doubts(found)
    if roster.parsed(found.to_toml()) != found:
        raise Escape("a roster says something else once it is written and read")


def _config(data: bytes) -> None:
    found = config.read(_file("config.toml", data))
    if config.parse(config.to_toml(found)) != found:
        raise Escape("a config says something else once it is written and read")


_TOML = (
    *("[[peer]]", "[peer]", "[data]", "[train]", "name", "address", "keys", "max_samples", "="),
    *("tcp://*:1", "ipc:///x", "tcp://a:99999", "inproc://a", "'''", '"""', "2020-01-01", "0x1f"),
    *("inf", "nan", "-inf", "1_000", "{a=1}", "[[", "]]", "a.b.c=1", "fanout = 0", "crop = 2"),
)


# --- scans and what describes them


def _volume() -> Any:
    return np.indices((5, 6, 7)).sum(axis=0).astype(np.int16) % 5


def _scan(kind: Any, ending: str) -> bytes:
    path = _FOLDER / f"seed{ending}"
    nib.save(kind(_volume(), np.diag([1, 1, 2, 1])), path)
    return path.read_bytes()


def _nifti(chance: Random, data: bytes) -> bytes:
    """Something else in a field of the header, or other bytes."""
    packed = data[:2] == b"\x1f\x8b"
    raw = bytearray(gzip.decompress(data) if packed else data)
    fields: dict[str, tuple[np.dtype[Any], int]] = dict(nib.Nifti1Header.template_dtype.fields)
    for _ in range(chance.randint(1, 3)):
        kind, at = fields[chance.choice([*fields])]
        base = kind.base.newbyteorder("<")
        spot = at + base.itemsize * chance.randrange(max(1, kind.itemsize // base.itemsize))
        if base.kind in "iu":
            ends = np.iinfo(base)
            value = chance.choice(
                (0, 1, -1, 2, 3, 7, 64, 256, 2304, 1024, 1536, ends.max, ends.min)
            )
            value = min(max(value, int(ends.min)), int(ends.max))
        elif base.kind == "f":
            value = chance.choice((0.0, -1.0, float("nan"), float("inf"), 1e38, 1e-38, 352.0, 1e9))
        else:
            value = chance.randbytes(base.itemsize)
        raw[spot : spot + base.itemsize] = np.array(value, base).tobytes()
    out = bytes(raw) if chance.random() < 0.8 else edited(chance, bytes(raw), [b"\0" * 40])
    if packed and chance.random() < 0.9:
        return gzip.compress(out, 1)
    return edited(chance, data, [b"\x1f\x8b"]) if packed else out


def _read_scan(ending: str) -> Callable[[bytes], None]:
    def read(data: bytes) -> None:
        path = _file(f"scan{ending}", data)
        checks.read_image(path)
        stored = checks.read_label_map(path)
        try:
            labels.ids_in(stored.data)
        except labels.LabelError as exc:
            raise checks.ScanError(f"{path}: {exc}") from exc

    return read


def _cohort(name: str, *others: tuple[str, bytes]) -> Callable[[bytes], object]:
    """Reads a folder in which the file `name` is the stranger's."""
    folder = _FOLDER / f"cohort-{name}"

    def read(data: bytes) -> object:
        if not folder.exists():
            for other, content in others:
                _file(f"{folder.name}/{other}", content)
        _file(f"{folder.name}/{name}", data)
        return layouts.find_scans(folder)

    return read


def _decathlon() -> list[bytes]:
    training = [{"image": "./imagesTr/a.nii", "label": "./labelsTr/a.nii"}]
    names = {"background": 0, "left": 1, "right": 2}
    stated = {"name": "t", "labels": {"0": "background", "1": "left"}, "training": training}
    nnunet = {"labels": names, "file_ending": ".nii", "channel_names": {"0": "T1"}}
    return [json.dumps(each).encode() for each in (stated, nnunet)]


def _json(chance: Random, data: bytes) -> bytes:
    if chance.random() < 0.3:
        return _bytes_of("labels", "training", "image")(chance, data)
    return hostile(chance, json.loads(data)).encode()


def _cached(data: bytes) -> None:
    cache._read(_file("entry.safetensors", data), "a")


def _cache_entries() -> list[bytes]:
    path = _file("cached.nii", _scan(nib.Nifti1Image, ".nii"))
    cache.load_volume(Scan("a", path), None, None, _FOLDER / "cache")
    return [next((_FOLDER / "cache").glob("*.safetensors")).read_bytes()]


_SCAN = ("a.nii", b"")
_MANIFEST = b"id\timage\tlabel\tsite\tsplit\nx\ta.nii\tl.nii\tA\ttrain\ny\tb.nii\tl.nii\tB\ttest\n"
_PEOPLE = b"participant_id\tage\tsite\tsplit\nsub-01\t33\tA\ttrain\nsub-02\tn/a\tB\ttest\n"
_DSEG = b"index\tname\n0\tbackground\n1\tleft\n2\tright\n"
_TSV = ("\t\t", "\n\n", "image", "label", "sub-01", "sub-../..", "/dev/zero", "../", "\x00", "1e9")


def _nii(name: str) -> tuple[str, bytes]:
    return name, _scan(nib.Nifti1Image, ".nii")


def targets() -> dict[str, Target]:
    """By name."""
    bids = [_nii(f"sub-0{n}/anat/sub-0{n}_{kind}.nii") for n in "12" for kind in ("T1w", "dseg")]
    decathlon = [_nii("imagesTr/a.nii"), _nii("labelsTr/a.nii")]
    data_errors = (DataError,)
    text = _bytes_of(*_TOML)
    tsv = _bytes_of(*_TSV)
    return {
        "messages": Target(_messages, _forge, lambda data: messages.decode([data], limits=LIMITS),
                           (messages.MessageError,)),
        "images": Target(_image, _in_header,
                         lambda data: image.decode(memoryview(data), _MODEL.schema),
                         (messages.MessageError,)),
        "differences": Target(_differences, _bombs, _unpack, (messages.MessageError,)),
        "schemas": Target(_tables, _json, _schema, (SchemaError,)),
        "models": Target(_models, _in_header, _model, (BadModelFile,)),
        "checkpoints": Target(_models, _in_header, _checkpoint, (BadModelFile,)),
        "keys": Target(_keys, _bytes_of('public = "'), _key, (BadKey,)),
        "rosters": Target(_rosters, text, _roster, (ConfigError,)),
        "configs": Target(lambda: [config.to_toml(Config()).encode()], text, _config,
                          (ConfigError,)),
        "nifti": Target(lambda: [_scan(nib.Nifti1Image, ".nii"), _scan(nib.Nifti2Image, ".nii")],
                        _nifti, _read_scan(".nii"), (checks.ScanError,)),
        "nifti-gz": Target(lambda: [_scan(nib.Nifti1Image, ".nii.gz")], _nifti,
                           _read_scan(".nii.gz"), (checks.ScanError,)),
        "mgh": Target(lambda: [_scan(nib.MGHImage, ".mgh")], _bytes_of(), _read_scan(".mgh"),
                      (checks.ScanError,)),
        "manifest": Target(lambda: [_MANIFEST], tsv,
                           _cohort("manifest.tsv", _nii("a.nii"), _nii("b.nii"), _nii("l.nii")),
                           data_errors),
        "dataset": Target(_decathlon, _json, _cohort("dataset.json", *decathlon), data_errors),
        "participants": Target(lambda: [_PEOPLE], tsv, _cohort("participants.tsv", *bids),
                               data_errors),
        "dseg": Target(lambda: [_DSEG], tsv, _cohort("dseg.tsv", *bids), data_errors),
        "cache": Target(_cache_entries, _in_header, _cached, ()),
    }  # fmt: skip
