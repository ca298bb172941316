"""All terminal output: what a run looks like while it goes on, and its tables at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich import progress as bar
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bt.eventlog import EventReader
from bt.wording import counted, in_short

if TYPE_CHECKING:
    from bt.data.cache import Loaded
    from bt.data.checks import BadScan
    from bt.data.layouts import Cohort
    from bt.doctor import Report

_DISTANCE = "mean_surface_distance_mm"
_TOLD = ("gone", "reject", "diverged", "limit", "unsaved", "unshared", "damaged")
_UNBOUNDED = 10_000  # columns of a terminal
_SPREAD = ("mean of peers", "lowest", "highest")
_STATE_COLOURS = {
    "starting": "dim",
    "pulling": "cyan",
    "training": "green",
    "done": "blue",
    "finished": "bold blue",
}


def make_console(*, to_stderr: bool = False, plain: bool = False) -> Console:
    """The console everything is printed on; stderr when stdout belongs to a program.

    `plain`: never a live display, whatever the output looks like.
    """
    # no markup: names of scans and structures may well contain brackets
    console = Console(
        stderr=to_stderr,
        highlight=False,
        markup=False,
        force_terminal=False if plain else None,
    )
    if not console.is_terminal:
        console.width = 100  # a file has no width; lines longer than this are not broken
    return console


@dataclass
class PeerView:
    """What is known of one peer from its events."""

    name: str
    state: str = "starting"
    version: str = "0"
    loss: float | None = None
    dice: float | None = None
    merged: list[str] = field(default_factory=list)  # "peer-2 v3", of the latest round
    bytes_in: int = 0
    bytes_out: int = 0
    fits: int = 0
    started: float | None = None
    last_fit: float | None = None
    _merging: list[str] = field(default_factory=list)
    _met: set[str] = field(default_factory=set)

    def take(self, event: Mapping[str, Any], rounds: int) -> str | None:
        """Update from one event; a line for plain output, if it is worth one."""
        match event["event"]:
            case "start":
                self.state = "training"
                self.version = str(event["version"])
                self.started = self.last_fit = event["time"]
                return f"starts at version {self.version} with {counted(event['samples'], 'scan')}"
            case "pull" if "peer" in event and self.state == "training":
                self.state = "pulling"
            case "weights":
                if "from" in event:
                    self.bytes_in += event["bytes"]
                else:
                    self.bytes_out += event["bytes"]
            case "merge" if self.state in ("pulling", "training"):
                self.state = "training"
                self._merging.append(f"{event['from']} v{event['version']}")
            case "fit":
                self.version = str(event["version"])
                self.loss, self.dice = event["loss"], event["dice"]
                self.merged, self._merging = self._merging, []
                self.fits += 1
                self.last_fit = event["time"]
                at_end = self.version.rpartition(".")[2] == str(rounds)
                self.state = "done" if at_end else "training"
                return (
                    f"version {self.version}/{rounds}  loss {self.loss:.3f}  "
                    f"Dice {_number(self.dice)} (training slices)  {event['seconds']:.1f} s  "
                    f"merged {', '.join(self.merged) or 'nobody'}"
                )
            case "version":
                self._met.add(event["from"])
            case "gone":
                what = "lost" if event["peer"] in self._met else "has not met"
                return f"{what} {event['peer']}: {event['reason']}"
            case "reject":
                return f"set {event['peer']} aside: {event['reason']}"
            case "diverged":
                whose = ", ".join(event["peers"])
                return f"can't train on what it merged of {whose}: goes on without"
            case "limit":
                return f"answers {event['peer']} no more often: {event['reason']}"
            case "unsaved":
                return f"can't save version {event['version']}, tries again: {event['reason']}"
            case "unshared":
                return f"{event['reason']}; trains on, and tries again"
            case "damaged":
                return f"goes on from the checkpoint before the last: {event['reason']}"
            case "end":
                self.state = event["reason"]
                return f"ends: {event['reason']}"
        return None

    def seconds_left(self, rounds: int, now: float) -> float | None:
        """From the mean length of this peer's rounds so far."""
        if not self.fits or self.started is None or self.last_fit is None:
            return None
        each = (self.last_fit - self.started) / self.fits
        left = rounds - int(self.version.rpartition(".")[2])
        return max(0.0, left * each - (now - self.last_fit)) if left else 0.0


class Progress:
    """Follows the event logs of a run: a live table on a terminal, plain lines elsewhere."""

    def __init__(self, console: Console, folders: Mapping[str, Path], rounds: int) -> None:
        self._console = console
        self._rounds = rounds
        self._readers = {name: EventReader(f / "events.jsonl") for name, f in folders.items()}
        for reader in self._readers.values():
            reader.skip()  # what an earlier, interrupted start of this run wrote
        self._views = {name: PeerView(name) for name in folders}
        self._messages: list[str] = []
        self._live = Live(console=console, auto_refresh=False, transient=False)

    def __enter__(self) -> Progress:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.update()
        if self._console.is_terminal:
            self._live.stop()

    def update(self) -> None:
        """Read what is new and show it."""
        width = max(map(len, self._views))
        for name, reader in self._readers.items():
            for event in reader.new():
                line = self._views[name].take(event, self._rounds)
                if line is None:
                    continue
                if not self._console.is_terminal:
                    self._console.print(f"{name:{width}}  {line}", soft_wrap=True)
                elif event["event"] in _TOLD:
                    self._messages = [m for m in self._messages if m != f"{name} {line}"][-4:]
                    self._messages.append(f"{name} {line}")
        if self._console.is_terminal:
            self._live.update(self._render(), refresh=True)

    def _render(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
        table.add_column("peer", no_wrap=True, min_width=max(map(len, self._views)))
        table.add_column("state", no_wrap=True, min_width=8)
        for heading in ("version", "loss", "Dice*"):
            table.add_column(heading, justify="right", no_wrap=True, min_width=5)
        table.add_column("merged from", overflow="ellipsis", no_wrap=True, ratio=1)
        for heading in ("MB in", "out", "left"):
            table.add_column(heading, justify="right", no_wrap=True, min_width=5)
        now = time.time()
        for view in self._views.values():
            table.add_row(
                view.name,
                Text(view.state, _STATE_COLOURS.get(view.state, "red")),
                f"{view.version}/{self._rounds}",
                "" if view.loss is None else f"{view.loss:.3f}",
                "" if view.loss is None else _number(view.dice),
                ", ".join(view.merged) or ("nobody" if view.fits else ""),
                f"{view.bytes_in / 1e6:.1f}",
                f"{view.bytes_out / 1e6:.1f}",
                duration(view.seconds_left(self._rounds, now)),
            )
        note = Text("* on training slices, while the weights still change", "dim")
        return Group(table, note, *(Text(line, "yellow") for line in self._messages))


def duration(seconds: float | None) -> str:
    """3:07, or 1:02:33; empty if unknown."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


_OF_A_PEER: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "Dice": lambda peer: _number(peer["dice"]),
    "version": lambda peer: str(peer["version"]),
    "scans": lambda peer: str(peer["samples"]),
    "merged": lambda peer: str(peer["merged"]),
    "MB in": lambda peer: f"{peer['bytes_in'] / 1e6:.1f}",
    "out": lambda peer: f"{peer['bytes_out'] / 1e6:.1f}",
    "training": lambda peer: duration(peer["seconds_training"]),
    "waiting": lambda peer: duration(peer["seconds_waiting"]),
}


def print_results(console: Console, results: Mapping[str, Any]) -> None:
    """The tables at the end of a run, from the content of results.json."""
    peers: Mapping[str, Any] = results["peers"]
    if peers:  # none: interrupted before any began
        console.print(_table_of_peers(console, peers))
    aggregated = results["aggregated"]
    if aggregated is None:
        return
    if aggregated["dice"] is None:
        console.print("No Dice: there were no test scans; --test-scans holds some out.")
    else:
        console.print(_table_of_dice(peers, aggregated))
    # of a run its "peers"; a peer alone tells it in its own results
    members = aggregated.get("peers") or next(iter(peers.values())).get("aggregated_of")
    if members:
        told = in_short(f"{name} v{version}" for name, version in sorted(members.items()))
        console.print(f"The aggregated model is made of {told}.", soft_wrap=True)


def _table_of_peers(console: Console, peers: Mapping[str, Mapping[str, Any]]) -> Table:
    """Closer together where it is too wide, then without its last columns: names stay whole."""
    unbounded = console.options.update(max_width=_UNBOUNDED)
    most = len(_OF_A_PEER)
    for close, count in ((False, most), *((True, count) for count in range(most, 0, -1))):
        shown = list(_OF_A_PEER)[:count]
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=close)
        table.add_column("peer", overflow="fold")
        for heading in shown:
            table.add_column(heading, justify="right", no_wrap=True)
        for name, peer in peers.items():
            table.add_row(name, *(_OF_A_PEER[heading](peer) for heading in shown))
        if console.measure(table, options=unbounded).maximum <= console.width:
            break
    return table


def _table_of_dice(peers: Mapping[str, Mapping[str, Any]], aggregated: Mapping[str, Any]) -> Table:
    """Per structure, on the test scans."""
    scored = {name: peer for name, peer in peers.items() if peer["dice"] is not None}
    several = len(scored) > 1  # of one peer, mean, lowest and highest are the same
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Dice on the test scans")
    for heading in ("aggregated", *(_SPREAD if several else scored)):
        table.add_column(heading, justify="right")

    def add(name: str, dice: float | None, of_peers: list[float | None], style: str = "") -> None:
        rest = _spread(of_peers) if several else map(_number, of_peers)
        table.add_row(name, _number(dice), *rest, style=style)

    for structure, dice in aggregated["structures"].items():
        add(structure, dice, [peer["structures"].get(structure) for peer in scored.values()])
    table.add_section()
    add("mean", aggregated["dice"], [peer["dice"] for peer in scored.values()], "bold")
    return table


def progress_bar(console: Console) -> bar.Progress:
    """For long work with a known end; tells the time left."""
    return bar.Progress(
        bar.TextColumn("{task.description}"),
        bar.BarColumn(),
        bar.MofNCompleteColumn(),
        bar.TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_paths(console: Console, paths: Iterable[tuple[str, Path]]) -> None:
    """What was written, and what it is for."""
    table = Table.grid(padding=(0, 2))
    for purpose, path in paths:
        table.add_row(purpose, Text(str(path), overflow="fold"))
    console.print(table)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _spread(values: Sequence[float | None]) -> list[str]:
    found = [value for value in values if value is not None]
    if not found:
        return ["–"] * len(_SPREAD)
    return [_number(sum(found) / len(found)), _number(min(found)), _number(max(found))]


def print_scores(console: Console, scores: Mapping[str, Any]) -> None:
    """What bt eval found: per structure, then the mean; worst and best scan."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("structure")
    table.add_column("Dice", justify="right")
    surface = "hd95_mm" in scores
    if surface:
        table.add_column("HD95, mm", justify="right")
        table.add_column("mean surface distance, mm", justify="right")
    for name, dice in scores["structures"].items():
        row = [name, _number(dice)]
        if surface:
            row += [_number(scores["hd95_mm"][name]), _number(scores[_DISTANCE][name])]
        table.add_row(*row)
    table.add_section()
    table.add_row("mean", _number(scores["dice"]), style="bold")
    console.print(table)
    ranked = sorted((dice, name) for name, dice in scores["scans"].items() if dice is not None)
    if ranked:
        (worst, worst_name), (best, best_name) = ranked[0], ranked[-1]
        least = f"from {worst:.3f} ({worst_name}) to " if len(ranked) > 1 else ""
        of = counted(len(ranked), "scan")
        console.print(f"{of}, {least}{best:.3f} ({best_name})", soft_wrap=True)


@dataclass
class Seen:
    """What reading a cohort showed; not the scans themselves, they may not fit into memory."""

    shapes: list[tuple[int, ...]] = field(default_factory=list)
    spacings_mm: list[tuple[float, ...]] = field(default_factory=list)
    unknown_ids: set[int] = field(default_factory=set)
    bad: list[BadScan] = field(default_factory=list)

    def add(self, loaded: Loaded) -> None:
        """Some more scans."""
        self.shapes += [volume.image.shape for volume in loaded.volumes]
        self.spacings_mm += [volume.spacing_mm for volume in loaded.volumes]
        self.unknown_ids.update(loaded.unknown_ids)
        self.bad += loaded.bad

    def to_json(self, cohort: Cohort) -> dict[str, Any]:
        """What bt data show --json prints; shapes and sizes in mm per usable scan, in order."""
        return {
            "layout": cohort.layout,
            "structures": cohort.labels.structures[1:],
            "taken_as_background": sorted(self.unknown_ids),
            "voxels": self.shapes,
            "spacings_mm": [[float(mm) for mm in each] for each in self.spacings_mm],
            "unusable": {bad.id: bad.reason for bad in self.bad},
        }


def print_cohort(console: Console, cohort: Cohort, seen: Seen) -> None:
    """What bt data show found."""
    table = Table.grid(padding=(0, 2))
    table.add_row("layout", cohort.layout)
    table.add_row("scans", f"{len(seen.shapes)} usable, {len(seen.bad)} not")
    table.add_row("structures", ", ".join(cohort.labels.structures[1:]))
    if seen.unknown_ids:
        table.add_row("taken as background", ", ".join(map(str, sorted(seen.unknown_ids))))
    if seen.shapes:
        table.add_row("voxels", _ranges(seen.shapes))
        table.add_row("voxel size, mm", _ranges(seen.spacings_mm))
    console.print(table)
    for bad in seen.bad:
        console.print(f"unusable: {bad}", style="red", soft_wrap=True)


def _ranges(triples: Sequence[tuple[float, ...]]) -> str:
    """Lowest and highest along each axis: "31–43 × 40–59 × 24–47", "1 × 1 × 1.5"."""
    spans = []
    for values in zip(*triples, strict=True):
        lowest, highest = f"{min(values):.4g}", f"{max(values):.4g}"
        spans.append(lowest if lowest == highest else f"{lowest}–{highest}")
    return " × ".join(spans)


def print_findings(console: Console, report: Report) -> None:
    """What bt doctor found."""
    table = Table.grid(padding=(0, 2))
    for topic, finding in report.findings.items():
        table.add_row(Text(topic, "bold"), Text(finding))
    console.print(table)
    for problem in report.problems:
        console.print(f"problem: {problem}", style="red", soft_wrap=True)
    if not report.problems:
        console.print("No problems found.", style="green")
