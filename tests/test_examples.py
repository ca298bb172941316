"""README's Python block, word for word, is two peers: as it stands, and with A and B swapped."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 200  # for two processes to import torch and train a tiny network


def readme_block() -> str:
    """The Python block of README, over ipc:// instead of fixed ports."""
    text = (ROOT / "README.rst").read_text(encoding="utf-8")
    block = re.search(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert block is not None, "README shows no Python"
    lines = re.sub(r"^    ", "", block[1], flags=re.MULTILINE)
    for address, path in (("tcp://127.0.0.1:7301", "A"), ("tcp://127.0.0.1:7302", "B")):
        assert address in lines
        lines = lines.replace(address, f"ipc://{path}")
    return lines


def swapped(block: str) -> str:
    """The same for the other peer."""
    other = {"A": "B", "B": "A"}
    return re.sub(r"(?<=[\"/])[AB](?=\")", lambda name: other[name[0]], block)


@pytest.mark.processes
@pytest.mark.timeout(TIMEOUT_S + 20)
def test_the_readme_block_is_two_peers(tmp_path: Path) -> None:
    block = readme_block()
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for program in (block, swapped(block))
    ]
    try:
        said = [peer.communicate(timeout=TIMEOUT_S)[1] for peer in peers]
    finally:
        for peer in peers:
            peer.kill()
            peer.wait()
    assert [peer.returncode for peer in peers] == [0, 0], said
    results = [json.loads((tmp_path / "runs" / me / "results.json").read_text()) for me in "AB"]
    assert [one["version"] for one in results] == [8, 8]
    assert [set(one["aggregated_of"]) for one in results] == [{"A", "B"}, {"A", "B"}]
    assert sum(one["merged"] for one in results) >= 1  # one may be done before the other starts
