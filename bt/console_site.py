"""What the commands of a site show: the lines of a check, and who is in an aggregated model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bt.console import print_paths
from bt.wording import printable

if TYPE_CHECKING:
    from bt.aggregate import Aggregate
    from bt.findings import Finding

_MARKS = {"green": ("✔", "green"), "red": ("✘", "bold red"), "note": ("–", "dim")}


def print_finding(console: Console, finding: Finding) -> None:
    """One line of bt check, and what to do about it if it is red."""
    mark, style = _MARKS[finding.state]
    line = Table.grid(padding=(0, 1))
    line.add_column(width=1)
    line.add_column(width=18, overflow="fold")
    says = Text(printable(finding.says), style="" if finding.state == "green" else style)
    line.add_row(Text(mark, style), Text(finding.topic, "bold"), says)
    if finding.to_do:
        line.add_row("", "", Text(f"→ {finding.to_do}"))
    console.print(line)


def print_aggregate(console: Console, made: Aggregate, out: Path) -> None:
    """Who is in an aggregated model, and who is not and why."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("peer", "version", "scans", "share", "MB", "s"):
        table.add_column(heading, justify="left" if heading == "peer" else "right")
    samples = sum(part.samples for part in made.of.values())
    for name, part in made.of.items():
        share, mb = f"{part.samples / samples:.0%}", f"{part.bytes / 1e6:.1f}"
        table.add_row(name, part.version, str(part.samples), share, mb, f"{part.seconds:.1f}")
    if made.of:
        console.print(table)
    for name, reason in made.missing.items():
        console.print(f"not in it: {name}, {printable(reason)}", style="yellow", soft_wrap=True)
    if made.of:
        print_paths(console, [("aggregated model", out)])
    else:
        console.print("No peer had a model: nothing was written.", style="red")
