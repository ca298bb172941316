"""What a site is shown: its checks, its roster, and who is in an aggregated model."""

from __future__ import annotations

from collections.abc import Iterable
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
    from bt.roster import Roster

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


def print_roster(console: Console, roster: Roster, doubts: Iterable[str]) -> None:
    """Who is in a roster, what to look at, and what to compare.

    It is read aloud: an address or a key is never broken, however narrow the terminal.
    """

    def show(
        name: str, keys: Iterable[str], about: tuple[str, str], *more: tuple[str, object]
    ) -> None:
        console.print(Text(name, "bold"), soft_wrap=True)
        for what, value in (about, *(("public key", key) for key in keys), *more):
            console.print(f"  {what:11}  {value}", soft_wrap=True)
        console.print()

    for peer in roster.members.values():
        address = peer.address or "none, it connects to the others"
        show(peer.name, peer.keys, ("address", address), ("max_samples", peer.max_samples))
    for observer in roster.observers.values():
        may = "may fetch models" if observer.models else "may not fetch models"
        show(observer.name, observer.keys, ("observer", may))
    for doubt in doubts:
        console.print(f"look: {doubt}", style="yellow", soft_wrap=True)
    console.print(f"fingerprint: {roster.fingerprint}", soft_wrap=True)
