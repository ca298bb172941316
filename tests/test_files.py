"""Files are replaced whole or not at all, and nobody can wait for them in their place."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from bt.files import remove_leftovers, write_atomic


@pytest.fixture(params=[0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("at", ["write", "rename"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(*(("os.fsync", fail) if at == "write" else (Path, "replace", fail)))
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_follow_the_umask(tmp_path: Path, umask: int) -> None:
    for mode in (0o666, 0o600):
        write_atomic(tmp_path / "new" / "file", b"", mode=mode)
        assert (tmp_path / "new" / "file").stat().st_mode & 0o777 == mode & ~umask


def test_a_link_in_the_temporary_files_place_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def token_hex(size: int) -> str:
        used.append(bytes(size).hex())
        return used[-1]

    monkeypatch.setattr(secrets, "token_hex", token_hex)
    write_atomic(tmp_path / "file", b"old")
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".{used[0]}.partial").symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / f".{used[0]}.partial").is_symlink(), "it was not ours to remove"


def test_temporary_names_are_never_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replaced: list[str] = []

    def replace(temporary: Path, target: Path) -> Path:
        replaced.append(temporary.name)
        return temporary.rename(target)

    monkeypatch.setattr(Path, "replace", replace)
    for _ in range(2):
        write_atomic(tmp_path / "file", b"x")
    assert len(set(replaced)) == 2
    assert not any("file" in name for name in replaced)


@pytest.mark.parametrize("kind", ["folder", "link", "link to a folder", "dead link", "pipe"])
def test_what_is_no_file_is_not_taken_away(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "out", tmp_path / "other"
    match kind:
        case "folder":
            path.mkdir()
        case "link":
            other.write_text("precious")
            path.symlink_to(other)
        case "link to a folder":
            path.symlink_to(tmp_path)
        case "dead link":
            path.symlink_to(other)
        case "pipe":
            os.mkfifo(path)
    before = path.lstat().st_ino
    with pytest.raises(OSError, match=r"can't write .*out: it is a folder, a link or a device"):
        write_atomic(path, b"x")
    assert path.lstat().st_ino == before
    assert not other.exists() or other.read_text() == "precious"
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize("name", ["file/new", "file/new/new", "x" * 300])
def test_a_path_that_cannot_be_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(OSError, match=f"{name}: (File exists|Not a directory|File name too long)"):
        write_atomic(tmp_path / name, b"x")
    assert (tmp_path / "file").read_text() == "precious"
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".0123456789abcdef.partial", ".mine.partial", "0123456789abcdef.partial", "x"):
        (tmp_path / name).write_text("")
    remove_leftovers(tmp_path)
    remove_leftovers(tmp_path / "not there")
    assert {path.name for path in tmp_path.iterdir()} == {
        ".mine.partial", "0123456789abcdef.partial", "x",
    }  # fmt: skip
