from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from bt.data import cache, volumes
from bt.data.cache import cache_folder, load_volumes
from bt.data.labels import known_table, table_of_names
from bt.data.scan import Scan
from bt.data.volumes import Volume
from tests.data.conftest import Write, head, labels

TABLE = table_of_names("test", {1: "one", 2: "two"})


@pytest.fixture
def scan(write: Write) -> Scan:
    return Scan("x", write("image.nii.gz", head()), write("label.nii.gz", labels((1, 2, 9))))


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Ids of the scans that were preprocessed, not taken from the cache."""
    made: list[str] = []

    def prepare(scan: Scan, *rest: object) -> Volume:
        made.append(scan.id)
        return volumes.prepare(scan, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cache, "prepare", prepare)
    return made


def same(one: Volume, other: Volume) -> bool:
    return (
        np.array_equal(one.image, other.image)
        and np.array_equal(one.classes, other.classes)  # type: ignore[arg-type]
        and np.array_equal(one.stored.affine, other.stored.affine)
        and (one.stored.shape, one.spacing_mm) == (other.stored.shape, other.spacing_mm)
        and one.unknown_ids == other.unknown_ids
    )


def test_the_second_time_comes_from_the_cache(
    scan: Scan, prepared: list[str], tmp_path: Path
) -> None:
    first = load_volumes([scan], TABLE, cache=tmp_path / "c")
    second = load_volumes([scan], TABLE, cache=tmp_path / "c")
    assert prepared == ["x"]
    assert same(first.volumes[0], second.volumes[0])
    assert first.unknown_ids == second.unknown_ids == (9,)


def test_content_and_parameters_decide_names_do_not(
    scan: Scan, prepared: list[str], tmp_path: Path, write: Write
) -> None:
    folder = tmp_path / "c"
    load_volumes([scan], TABLE, cache=folder)
    copy = tmp_path / "copy.nii.gz"
    copy.write_bytes(scan.image.read_bytes())
    renamed = load_volumes([Scan("y", copy, scan.label_map)], TABLE, cache=folder)
    assert renamed.volumes[0].id == "y"
    assert prepared == ["x"]
    load_volumes([scan], TABLE, 2.0, cache=folder)
    load_volumes([scan], None, cache=folder)
    load_volumes([scan], table_of_names("test", {2: "two"}), cache=folder)
    assert prepared == ["x"] * 4
    write("image.nii.gz", head() + 1)
    load_volumes([scan], TABLE, cache=folder)
    assert prepared == ["x"] * 5


@pytest.mark.parametrize("spoil", ["empty", "half", "flipped", "garbage", "folder"])
def test_a_corrupted_entry_is_made_again(
    spoil: str, scan: Scan, prepared: list[str], tmp_path: Path
) -> None:
    first = load_volumes([scan], TABLE, cache=tmp_path / "c").volumes[0]
    (entry,) = (tmp_path / "c").iterdir()
    content = bytearray(entry.read_bytes())
    if spoil == "folder":
        entry.unlink()
        entry.mkdir()
    elif spoil == "flipped":
        content[-100] ^= 0x10
        entry.write_bytes(content)
    else:
        half = content[: len(content) // 2]
        entry.write_bytes({"empty": b"", "half": half, "garbage": b"\xff" * 999}[spoil])
    for _ in range(2):
        assert same(first, load_volumes([scan], TABLE, cache=tmp_path / "c").volumes[0])
    # A folder in the entry's place can't be replaced: then the cache is of no use, that's all.
    assert len(prepared) == (3 if spoil == "folder" else 2)


def test_a_cache_that_cannot_be_written_costs_time_only(scan: Scan, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert load_volumes([scan], TABLE, cache=tmp_path / "file" / "c").volumes


def test_too_little_memory_to_keep_an_entry_costs_time_only(
    scan: Scan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise MemoryError

    monkeypatch.setattr(cache, "save", fail)
    assert load_volumes([scan], TABLE, cache=tmp_path / "c").volumes


def test_entries_are_nobody_elses_to_read(scan: Scan, tmp_path: Path) -> None:
    load_volumes([scan], TABLE, cache=tmp_path / "c")
    (entry,) = (tmp_path / "c").iterdir()
    assert entry.stat().st_mode & 0o777 == 0o600


def test_many_at_once(scan: Scan, tmp_path: Path) -> None:
    found: list[Volume] = []

    def load() -> None:
        found.extend(load_volumes([scan], TABLE, cache=tmp_path / "c").volumes)

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(same(found[0], other) for other in found)
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    monkeypatch.delenv("BT_CACHE", raising=False)
    assert cache_folder() == Path("/x/braintorrent")
    monkeypatch.setenv("BT_CACHE", "/y")
    assert cache_folder() == Path("/y")


def test_the_key_knows_the_whole_table(scan: Scan, prepared: list[str], tmp_path: Path) -> None:
    for name in ("freesurfer", "neuromorphometrics"):
        load_volumes([scan], known_table(name), cache=tmp_path / "c")
    assert len(prepared) == 2
