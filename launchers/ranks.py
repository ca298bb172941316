"""One script for all ranks of a job: mpirun or srun starts it N times, and each is another peer.

The folder it lies in, and those in it, are ones that all nodes see.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launchers import lifeline
from launchers.base import Command
from launchers.shell import expanded, text_of

_HEAD = f"""\
#!/bin/sh
# Rank R of a job is one peer: mpirun or srun starts this once for every rank.
unset {lifeline.VARIABLE} {lifeline.PATIENCE}
case "${{OMPI_COMM_WORLD_RANK-${{PMI_RANK-${{SLURM_PROCID-}}}}}}" in
"""
_TAIL = """\
*)
    echo "there is no peer for this rank: neither mpirun nor srun started this" >&2
    exit 2 ;;
esac
"""


def in_order(commands: tuple[Command, ...]) -> tuple[Command, ...]:
    """By rank: those of one host beside each other, as hostfiles deal ranks out."""
    hosts = list(dict.fromkeys(command.host for command in commands))
    return tuple(sorted(commands, key=lambda command: hosts.index(command.host)))


def script(commands: tuple[Command, ...]) -> str:
    """The text of the script; `commands` by rank."""
    cases = []
    for rank, command in enumerate(commands):
        output = None if command.log is None else str(command.log)
        text = text_of(replace(command, files={}), output=output)
        cases.append(f"{rank})  # {command.name}\n    {text} ;;\n")
    return _HEAD + "".join(cases) + _TAIL


def files(commands: tuple[Command, ...], path: Path) -> dict[Path, str]:
    """The script, and what the commands want to be written."""
    wanted = {
        Path(expanded(command.folder or ""), expanded(name)): text
        for command in commands
        for name, text in command.files.items()
    }
    return {**wanted, path: script(commands)}


def slots(commands: tuple[Command, ...]) -> dict[str, int]:
    """How many ranks each named host takes, in order; empty if none is named."""
    counts: dict[str, int] = {}
    for command in commands:
        if command.host is not None:
            counts[command.host] = counts.get(command.host, 0) + 1
    return counts
