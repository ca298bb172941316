"""Disks that are full or can't be written to: nobody dies of it, nothing on them is lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from benchmarks.peers import Federation, Site, wait_for
from bt.checkpoint import CheckpointFile

pytestmark = [pytest.mark.processes, pytest.mark.timeout(300)]
ROUNDS = 40


@contextmanager
def filled(disk: Path) -> Iterator[Callable[[], None]]:
    """No byte is left on it, nor in the log's last page, and none again after a call of what
    this yields."""
    ballast = disk / "ballast"

    def fill() -> None:
        for path, page in (ballast, bytes(1 << 12)), (disk / "events.jsonl", b"\n" * (1 << 12)):
            with path.open("ab", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(page)

    fill()
    try:
        yield fill
    finally:
        ballast.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """What is open may still be written to, as a disk that fails late; nothing else."""
    for command in (
        ["mount", "--bind", str(folder), str(folder)],
        ["mount", "-o", "remount,bind,ro", str(folder)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted read-only here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def saved_updates(site: Site) -> int:
    found = CheckpointFile(site.folder / "checkpoint.safetensors").load()
    return found.version.count if found else 0


def test_a_disk_that_is_full_or_read_only_for_a_while(
    federate: Callable[..., Federation], small_disk: Path, tmp_path: Path
) -> None:
    federation = federate("A", "B", rounds=ROUNDS, more=("--ping-timeout", "1"), folder=tmp_path)
    a, b = federation["A"], federation["B"]
    a.folder.symlink_to(small_disk)  # A's folder is on the small disk, B's is not
    federation.start_together()
    federation.wait_for_updates(1)

    with filled(small_disk) as fill:
        wait_for(lambda: fill() or "can't save version" in a.said(), "A tells of it")
        before = saved_updates(a)
        federation.wait_for_updates(ROUNDS, "B")  # it is not held up
        fill()
        assert a.code is None
        assert saved_updates(a) == before, "the last checkpoint is whole, and still there"
    federation.wait_for_updates(before + 2, "A")
    # nothing is missing if all that A had to say found the room of a save that failed
    assert bool(a.events("unlogged")) == ("training goes on without a log" in a.said())

    if a.count < ROUNDS:
        before = len(a.events("unsaved"))
        with read_only(small_disk):
            wait_for(lambda: len(a.events("unsaved")) > before, "A logs that it can't save")
            assert "Read-only file system" in a.events("unsaved")[-1]["reason"]
    assert set(federation.finish().values()) == {0}
    assert saved_updates(a) == ROUNDS
    assert b.events("merge")[-1]["version"] == str(ROUNDS)


def test_a_folder_that_cannot_be_written_to_is_one_line(
    federate: Callable[..., Federation], small_disk: Path, tmp_path: Path
) -> None:
    federation = federate("A", "B", rounds=1, folder=tmp_path)
    a = federation["A"]
    a.folder.symlink_to(small_disk)
    with read_only(small_disk):
        a.start()
        wait_for(lambda: a.code is not None, "A has ended")
    assert a.code == 1
    (line,) = a.said().strip().splitlines()
    assert line.startswith("bt: can't write to ")
    assert "Read-only file system" in line
    assert os.listdir(small_disk) == []
