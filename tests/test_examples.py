"""The Python examples run: README's block, word for word, trains with examples/own_model.py."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.rst"
TIMEOUT_S = 200  # for two processes to import torch and train a tiny network

MY_LAB = """
from own_model import images_and_classes, network
images, classes = images_and_classes(seed=0, slices=8)
model = network()
"""

OWN_MODEL = """
from pathlib import Path
from own_model import take_part
take_part("B", {"A": "ipc://A", "B": "ipc://B"}, Path("runs/B"), rounds=8)
"""


def readme_block() -> str:
    """The Python block of README, over ipc:// instead of fixed ports."""
    text = README.read_text(encoding="utf-8")
    block = re.search(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", text, re.MULTILINE)
    assert block is not None, "README shows no Python"
    lines = re.sub(r"^    ", "", block[1], flags=re.MULTILINE)
    for address, path in (("tcp://127.0.0.1:7301", "A"), ("tcp://127.0.0.1:7302", "B")):
        assert address in lines
        lines = lines.replace(address, f"ipc://{path}")
    return lines


@pytest.mark.processes
@pytest.mark.timeout(TIMEOUT_S + 20)
def test_the_readme_block_trains_with_own_model(tmp_path: Path) -> None:
    (tmp_path / "my_lab.py").write_text(MY_LAB)
    search = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "examples")))
    peers = [
        subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for program in (readme_block(), OWN_MODEL)
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
