"""The logs of many peers as one: every line with its peer's name, in its peer's colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bt.wording import printable

_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "bright_cyan", "bright_magenta")
_LONGEST_LINE = 500
_MOST_AT_ONCE = 1 << 20  # bytes of one log


class Logs:
    """What is appended to `files` from now on."""

    def __init__(self, console: Console, files: Mapping[str, Path]) -> None:
        self._console = console
        self._files = files
        self._read = {name: _size(path) for name, path in files.items()}
        self._width = max(map(len, files), default=0)

    def update(self) -> None:
        """Show the lines that are whole by now."""
        for number, (name, path) in enumerate(self._files.items()):
            for line in self._new(name, path):
                self._show(name, line, _COLOURS[number % len(_COLOURS)])

    def _new(self, name: str, path: Path) -> list[str]:
        try:
            with path.open("rb") as file:
                file.seek(self._read[name])
                data = file.read(_MOST_AT_ONCE)
        except OSError:
            return []  # not there yet
        whole = data.rpartition(b"\n")[0] if len(data) < _MOST_AT_ONCE else data
        if not whole:
            return []
        self._read[name] += len(whole) + (len(data) < _MOST_AT_ONCE)
        return whole.decode(errors="replace").split("\n")

    def _show(self, name: str, line: str, colour: str) -> None:
        said = line.rstrip("\r").rpartition("\r")[2]
        said = said.removeprefix(f"{name}  ").rstrip()  # a peer names itself in its progress
        if said:
            parts = ((f"{name:{self._width}}", colour), (" │ ", "dim"))
            text = printable(said[:_LONGEST_LINE])
            self._console.print(Text.assemble(*parts, text), soft_wrap=True)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
