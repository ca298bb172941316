"""What README and the documentation show can be typed: every command, every option exists."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bt.cli import app

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
