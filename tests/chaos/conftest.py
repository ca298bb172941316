"""Federations of real `bt peer` processes on tiny scans, on a disk of their own where needed."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from benchmarks.peers import Federation

SMALL = (
    *("--filters", "2", "--epochs", "1", "--slice-step", "3", "--precision", "float32"),
    *("--device", "cpu", "--test-scans", "2", "--scans-per-peer", "1"),
)


@pytest.fixture(scope="module")
def federate(
    cohort: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Federation]]:
    """federate("A", "B", rounds=9): not started yet; all have ended at the end."""
    with ExitStack() as stack:

        def make(
            *names: str,
            rounds: int,
            more: Sequence[str] = (),
            folder: Path | None = None,
            hosts: Sequence[str] | None = None,
        ) -> Federation:
            options = [*SMALL, "--data", str(cohort), "--rounds", str(rounds), *more]
            folder = folder or tmp_path_factory.mktemp("federation")
            return stack.enter_context(Federation(folder, names, options, hosts))

        yield make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("a full disk needs root, to mount a small tmpfs")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "bt-chaos", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)
