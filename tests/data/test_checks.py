"""Whatever lies on a disk: one line naming the file, never a traceback."""

from __future__ import annotations

import gzip
import logging
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bt.data.cache import load_volumes
from bt.data.checks import BadScan, ScanError, read_image
from bt.data.labels import LabelTable, table_of_names
from bt.data.scan import Scan
from tests.data.conftest import Write, head, labels

TABLE = table_of_names("test", {1: "one", 2: "two"})


def bad(scan: Scan, table: LabelTable | None, folder: Path, spacing: float | None = None) -> str:
    """The one line about the one scan."""
    loaded = load_volumes([scan], table, spacing, cache=folder)
    assert loaded.volumes == ()
    (found,) = loaded.bad
    assert "\n" not in str(found)
    assert str(found).startswith(f"{scan.id}: ")
    return found.reason


def truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def not_gzip(path: Path) -> None:
    path.write_bytes(gzip.decompress(path.read_bytes()))


def garbage_in_gzip(path: Path) -> None:
    path.write_bytes(gzip.compress(np.random.default_rng(0).bytes(5000)))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def header_only(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:348]))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("content", [b"<GIFTI", b"\x00", b"<?xml version='1.0'?><a/>"])
@pytest.mark.parametrize("which", ["image", "label"])
def test_files_of_other_formats(which: str, content: bytes, write: Write, tmp_path: Path) -> None:
    files = {"image": write("image.nii.gz", head()), "label": write("label.nii.gz", labels())}
    files[which] = tmp_path / f"{which}.gii"
    files[which].write_bytes(content)
    reason = bad(Scan("x", files["image"], files["label"]), TABLE, tmp_path / "cache")
    assert f"{which}.gii: " in reason


def test_a_cifti_header_in_a_nifti_file(write: Write, tmp_path: Path) -> None:
    path = tmp_path / "image.nii"
    image = nib.Nifti2Image(head().reshape(1, 1, 1, 1, -1, 10), np.eye(4))
    image.header.set_intent(3006)
    image.header.extensions.append(nib.nifti1.Nifti1Extension(32, b"<CIFTI"))
    nib.save(image, path)
    assert "image.nii: " in bad(Scan("x", path), None, tmp_path / "cache")


@pytest.mark.parametrize("error", [RecursionError, AttributeError, NotImplementedError])
def test_whatever_the_reader_raises(
    error: type[Exception], write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(path: Path) -> None:
        raise error("of its own\x1b")

    path = write("image.nii.gz", head())
    monkeypatch.setattr(nib, "load", load)
    reason = bad(Scan("x", path), None, tmp_path / "cache")
    assert reason == rf"{path}: unreadable: 'of its own\x1b'"


@pytest.mark.parametrize("where", ["bt.data.checks.np.asanyarray", "bt.data.volumes.normalise"])
def test_too_large_for_the_memory(
    where: str, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    path = write("image.nii.gz", head())
    monkeypatch.setattr(where, fail)
    reason = bad(Scan("x", path), None, tmp_path / "cache")
    assert reason.startswith(f"{path}: ")
    assert reason.endswith("too large for this machine's memory")


def test_a_name_that_no_disk_has(tmp_path: Path) -> None:
    for name in ("x" * 300 + ".nii", "a\0.nii"):
        assert bad(Scan("x", tmp_path / name), None, tmp_path / "cache")
        with pytest.raises(ScanError):
            read_image(tmp_path / name)


@pytest.mark.parametrize("which", ["image", "label"])
@pytest.mark.parametrize(
    "spoil",
    [truncated, garbage, not_gzip, garbage_in_gzip, nothing, header_only, directory,
     Path.unlink],
)  # fmt: skip
def test_unreadable(
    which: str, spoil: Callable[[Path], None], write: Write, tmp_path: Path
) -> None:
    image, label = write("image.nii.gz", head()), write("label.nii.gz", labels())
    spoil({"image": image, "label": label}[which])
    reason = bad(Scan("x", image, label), TABLE, tmp_path / "cache")
    assert which + ".nii.gz" in reason


def test_every_bent_header_byte_is_survived(write: Write, tmp_path: Path) -> None:
    path = write("image.nii", head())
    good = path.read_bytes()
    for position in range(348):
        content = bytearray(good)
        content[position] ^= 0xFF
        path.write_bytes(bytes(content))
        loaded = load_volumes([Scan("x", path)], None, cache=tmp_path / "cache")
        assert len(loaded.volumes) + len(loaded.bad) == 1


@pytest.mark.parametrize(
    ("image", "label", "says"),
    [
        (head()[..., None].repeat(3, 3), labels(), "4-D .12x14x10x3., expected one 3-D"),
        (np.zeros((12, 14, 10), np.float32), labels(), "empty, all intensities"),
        (np.full((12, 14, 10), np.nan, np.float32), labels(), "empty, all intensities"),
        (np.zeros((0, 4, 4), np.float32), labels(), "empty, 0x4x4 voxels"),
        (head(), labels(shape=(12, 14, 11)), "label map of 12x14x11 voxels, image of 12x14x10"),
        (head(), np.zeros((12, 14, 10), np.uint8), "no voxel is labelled"),
        (head(), labels((7, 8)), "no voxel is labelled"),
        (head(), labels() * 0.25, "not a label map: it holds fractions"),
        (head(), -labels(), "not a label map: it holds numbers from -2"),
        (head(), labels()[..., None].repeat(2, 3), "4-D"),
        (head().astype(np.complex64), labels(), "intensities are complex64"),
    ],
)
def test_wrong_content(
    image: np.ndarray, label: np.ndarray, says: str, write: Write, tmp_path: Path
) -> None:
    scan = Scan("x", write("image.nii.gz", image), write("label.nii.gz", label))
    assert re.search(says, bad(scan, TABLE, tmp_path / "cache"))


def test_affines_that_disagree(write: Write, tmp_path: Path) -> None:
    moved = np.eye(4)
    moved[0, 3] = 5.0
    scan = Scan("x", write("image.nii.gz", head()), write("label.nii.gz", labels(), moved))
    assert "5.0 mm from the image" in bad(scan, TABLE, tmp_path / "cache")


def test_singular_affine(write: Write, tmp_path: Path) -> None:
    path = write("image.nii.gz", head())
    image = nib.load(path)
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    content = bytes(image.header.binaryblock) + bytes(4) + head().tobytes("F")
    path.write_bytes(gzip.compress(content))
    assert "singular" in bad(Scan("x", path), None, tmp_path / "cache")


def test_an_affine_beyond_all_numbers_warns_of_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nib.save(nib.Nifti2Image(head(), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    place = nib.Nifti2Header.template_dtype.fields["srow_x"][1]
    content[place : place + 8] = np.float64(1e300).tobytes()
    path.write_bytes(content)
    with np.errstate(all="raise"), pytest.raises(ScanError, match="singular or absurd"):
        read_image(path)


def test_odd_headers_say_nothing(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nibabel has a log that ends up on the terminal."""
    path = write("a.nii", head())
    content = bytearray(path.read_bytes())
    content[254:256] = b"\x07\x00"  # sform_code
    path.write_bytes(content)
    said: list[str] = []
    monkeypatch.setattr(logging.Logger, "handle", lambda self, record: said.append(record.msg))
    for _ in range(2):
        nib.load(path)
    assert said, "it has something to say"
    said.clear()
    read_image(path)
    assert said == []


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mgh", ".mgz", ".img"])
def test_a_claim_of_gigabytes_takes_no_memory(ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a{ending}"
    kind = {"n": nib.Nifti1Image, "m": nib.MGHImage, "i": nib.Nifti1Pair}[ending[1]]
    nib.save(kind(head(), np.eye(4)), path)
    read_image(path)
    header = path.with_suffix(".hdr") if ending == ".img" else path
    content = header.read_bytes()
    packed = content[:2] == b"\x1f\x8b"
    claims = bytearray(gzip.decompress(content) if packed else content)
    if ending.startswith(".m"):
        claims[4:16] = np.array([4096, 4096, 16], ">i4").tobytes()
    else:
        claims[42:48] = np.array([4096, 4096, 16], "<i2").tobytes()
    header.write_bytes(gzip.compress(claims) if packed else claims)
    tracemalloc.start()
    with pytest.raises(ScanError, match=r"claims 1073741824 bytes of voxels, the file has [0-9]+"):
        read_image(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_no_label_map(write: Write, tmp_path: Path) -> None:
    scan = Scan("x", write("image.nii.gz", head()))
    assert bad(scan, TABLE, tmp_path / "cache").endswith("no label map")
    assert load_volumes([scan], None, cache=tmp_path / "cache").volumes


def test_spacing_that_no_memory_holds(write: Write, tmp_path: Path) -> None:
    scan = Scan("x", write("image.nii.gz", head()))
    assert "can't be resampled to 0.001 mm" in bad(scan, None, tmp_path / "cache", 0.001)
    assert "can't be resampled to -1 mm" in bad(scan, None, tmp_path / "cache", -1.0)


def test_one_volume_in_four_dimensions_and_floats_are_fine(write: Write, tmp_path: Path) -> None:
    image = head().astype(np.float64)
    image[0, 0, 0], image[0, 0, 1], image[0, 0, 2] = np.nan, -np.inf, 1e300
    scan = Scan(
        "x",
        write("image.nii.gz", image[..., None]),
        write("label.nii.gz", labels().astype(np.float32)[..., None]),
    )
    loaded = load_volumes([scan], TABLE, cache=tmp_path / "cache")
    assert not loaded.bad
    assert np.isfinite(loaded.volumes[0].image).all()
    assert loaded.volumes[0].image[0, 0, :3].tolist() == [0, 0, 0]


def test_the_rest_goes_on(write: Write, tmp_path: Path) -> None:
    good = write("good.nii.gz", head())
    scans = [Scan("a", good), Scan("b", tmp_path / "gone.nii.gz"), Scan("c", good)]
    loaded = load_volumes(scans, None, cache=tmp_path / "cache")
    assert [volume.id for volume in loaded.volumes] == ["a", "c"]
    assert [scan.id for scan in loaded.bad] == ["b"]
    assert "gone.nii.gz" in str(loaded.bad[0])


def test_what_is_said_of_a_scan_is_printable() -> None:
    bad = BadScan("s", Path("s"), "sub-\x1b[2J.nii: missing")
    assert str(bad) == "s: sub-\\x1b[2J.nii: missing"
