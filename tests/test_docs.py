"""What README and the documentation show can be typed: every command, every option exists.

The Python of docs/using.rst is run word for word (that of README: test_examples.py).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bt import exporting
from bt.cli import app
from bt.config import Config
from bt.data.labels import known_table
from bt.modelfile import write_model
from bt.models import build, describe
from bt.weights import FlatWeights

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.rst", *sorted((ROOT / "docs").rglob("*.rst")), ROOT / "CONTRIBUTING.rst"]
COMMAND = re.compile(r"(?:^\s+(?:\$ )?(?:mpirun .*? |srun )?|``)(bt [a-z][^`]*?)(?:``|$)")
FREE = {"bench"}  # takes its options from elsewhere


def commands_in(page: Path) -> Iterator[str]:
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for line in text.splitlines():
        for found in COMMAND.finditer(line):
            yield found[1].partition("  #")[0].partition(" #")[0].strip()


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that these words begin with, and the words after it."""
    command: Any = typer.main.get_command(app)
    words = words[1:]
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_is_shown_can_be_typed(page: Path) -> None:
    for shown in commands_in(page):
        words = shlex.split(shown.replace("...", "").replace("'", " "))
        command, rest = command_of(words)
        if command.name in FREE:
            continue
        assert not getattr(command, "commands", None) or not rest, f"no such command: {shown}"
        known = {name for param in command.params for name in param.opts} | {"--help", "-h"}
        options = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert options <= known, f"{shown}: {options - known}"


def test_commands_are_found() -> None:
    found = [*commands_in(ROOT / "README.rst")]
    assert len(found) > 20
    assert any(shown.startswith("bt train --data brains --rounds 10") for shown in found)


PYTHON = re.compile(r"^\.\. code-block:: python\n\n((?:    .*\n|\n)+)", re.MULTILINE)
AS_BT_DOES = """
from pathlib import Path
from bt.data.scan import Scan
from bt.data.volumes import prepare
from bt.evaluation import segment
X, Y, Z = volume.shape
found = logits.argmax(1)[0, :X, :, :Z].numpy()
assert (found == segment(network, prepare(Scan("T1", Path("T1.nii.gz"))), "coronal")).mean() > 0.99
"""


@pytest.mark.parametrize("page", ["plain", "monai", "python"])
def test_the_python_of_using_runs(tmp_path: Path, cohort: Path, page: str) -> None:
    plain, monai, python = PYTHON.findall((ROOT / "docs" / "using.rst").read_text())
    if page == "monai" and find_spec("monai") is None:
        pytest.skip("MONAI is not installed")
    (tmp_path / "scans").mkdir()
    for copy in ("T1.nii.gz", "scans/T1.nii.gz"):
        shutil.copy(cohort / "imagesTr" / "blob_0.nii.gz", tmp_path / copy)
    config, labels = Config(), known_table("freesurfer")
    weights = FlatWeights.of(build(config.model, labels.classes, 0))
    model = tmp_path / "aggregated.safetensors"
    write_model(model, weights, describe(config, labels))
    exporting.export(model, tmp_path / "plain.safetensors")
    blocks = {"plain": [plain], "monai": [plain, monai, AS_BT_DOES], "python": [python]}[page]
    ended = subprocess.run(
        [sys.executable, "-c", "".join(map(textwrap.dedent, blocks))],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    if page == "python":
        assert ended.stdout.startswith("T1 {")
