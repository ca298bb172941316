"""README's Python block and the programs in examples/, word for word, are two peers each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 100  # for two processes to import torch and train a tiny network


def over_ipc(program: str) -> str:
    """The same over Unix sockets, instead of fixed ports."""
    for address, path in (("tcp://127.0.0.1:7301", "A"), ("tcp://127.0.0.1:7302", "B")):
        assert address in program
        program = program.replace(address, f"ipc://{path}")
    return program


def readme_block() -> str:
    """The Python block of README: peer A."""
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    block = re.search(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert block is not None, "README shows no Python"
    return over_ipc(re.sub(r"^    ", "", block[1], flags=re.MULTILINE))


def swapped(block: str) -> str:
    """The same for the other peer."""
    other = {"A": "B", "B": "A"}
    return re.sub(r"(?<=[\"/])[AB](?=\")", lambda name: other[name[0]], block)


def run_both(folder: Path, *commands: tuple[str, ...]) -> list[str]:
    """What two programs say that run at the same time."""
    peers = [
        subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for command in commands
    ]
    try:
        said = [peer.communicate(timeout=TIMEOUT_S)[0] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()
    assert [peer.returncode for peer in peers] == [0, 0], said
    return said


@pytest.mark.processes
def test_the_readme_block_is_two_peers(tmp_path: Path) -> None:
    block = readme_block()
    run_both(tmp_path, ("-c", block), ("-c", swapped(block)))
    results = [json.loads((tmp_path / "runs" / me / "results.json").read_text()) for me in "AB"]
    assert [one["version"] for one in results] == [8, 8]
    assert [set(one["aggregated_of"]) for one in results] == [{"A", "B"}, {"A", "B"}]
    assert sum(one["merged"] for one in results) >= 1  # one may be done before the other starts


@pytest.mark.processes
@pytest.mark.parametrize(
    ("example", "least"),
    [("tabular", 70), pytest.param("volumes_3d", 0.6, marks=pytest.mark.slow)],
)
def test_an_example_is_two_peers_that_learn(tmp_path: Path, example: str, least: float) -> None:
    program = over_ipc((ROOT / "examples" / f"{example}.py").read_text(encoding="utf-8"))
    (tmp_path / "example.py").write_text(program)
    said = run_both(tmp_path, ("example.py", "A"), ("example.py", "B"))
    for me, lines in zip("AB", said, strict=True):
        found = re.search(rf"{me}, average of [AB] and [AB]  \w+ ([\d.]+)", lines)
        assert found is not None, lines
        assert float(found[1]) >= least
