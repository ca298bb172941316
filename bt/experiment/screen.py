"""What a person sees of an experiment: its plan, how far it is, and the paper's tables."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from rich import box
from rich import progress as bars
from rich.console import Console
from rich.table import Table

from bt.console import duration
from bt.experiment.costs import Costs
from bt.experiment.plan import Part
from bt.wording import counted


def print_plan(
    console: Console, parts: Sequence[Part], todo: Sequence[Part], costs: Costs, jobs: int
) -> None:
    """A line per division and method: how many are done already, how long the others take."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("clients x scans")
    table.add_column("method")
    for heading in ("seeds", "done", "to run", "time each"):
        table.add_column(heading, justify="right")
    before = None
    for group in dict.fromkeys((part.division, part.method) for part in parts):
        mine = [part for part in parts if (part.division, part.method) == group]
        left = [part for part in mine if part in todo]
        division, method = group
        if before not in (None, division):
            table.add_section()
        shown = division.replace("-", "\N{EN DASH}") if division != before else ""
        before = division
        counts = map(str, (len(mine), len(mine) - len(left), len(left)))
        table.add_row(shown, method, *counts, duration(costs.seconds(mine[0])))
    console.print(table)
    print_estimate(console, todo, costs, jobs)


def print_estimate(console: Console, todo: Sequence[Part], costs: Costs, jobs: int) -> None:
    """How long all that is to run will take."""
    if not todo:
        console.print("Every part is done already.")
        return
    parallel = min(jobs, len(todo))
    seconds = sum(costs.seconds(part) for part in todo) / parallel
    console.print(
        f"{counted(len(todo), 'part')} to run, {parallel} at a time: about {duration(seconds)}, "
        f"at {costs.step_s * 1e3:.0f} ms a training step and {costs.volume_s:.2g} s a test scan "
        f"({costs.precision.name} on {costs.precision.device})",
        soft_wrap=True,
    )


class Progress:
    """Bars with the time left on a terminal, a line per finished part elsewhere."""

    def __init__(self, console: Console, seconds: Sequence[float]) -> None:
        self._console = console
        self._count, self._total_s = len(seconds), sum(seconds)
        self._ended, self._ended_s = 0, 0.0
        self._running: dict[str, tuple[bars.TaskID, float]] = {}
        self._done: dict[str, float] = {}  # of the estimated seconds of each
        self._started = time.monotonic()
        self._bars = bars.Progress(
            bars.TextColumn("{task.description}"),
            bars.BarColumn(bar_width=None),
            bars.TaskProgressColumn(),
            bars.TimeElapsedColumn(),
            bars.TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
            expand=True,
        )
        self._all = self._bars.add_task("all", total=self._total_s, left="")

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bars.stop()

    def start(self, name: str, seconds: float) -> None:
        """`name` runs now, and is expected to take so long."""
        task = self._bars.add_task(name, total=seconds, left="")
        self._running[name] = task, seconds
        self._done[name] = 0.0

    def update(self, name: str, done_s: float) -> None:
        """So much of that is behind it."""
        task, seconds = self._running[name]
        self._done[name] = min(done_s, 0.99 * seconds)
        self._bars.update(task, completed=self._done[name])
        left = duration(self._left_s())
        self._bars.update(self._all, completed=self._done_s(), left=left and f"about {left} left")

    def finish(self, name: str, result: Mapping[str, Any]) -> None:
        """It has ended with this result."""
        task, seconds = self._running.pop(name)
        self._ended += 1
        self._ended_s += seconds
        self._bars.update(task, completed=seconds, visible=False)
        of_clients = [dice for dice in result["clients"].values() if dice is not None]
        said = [f"{self._ended}/{self._count}  {name}"]
        if result["aggregated"] is not None:
            said.append(f"Dice {result['aggregated']:.3f} aggregated")
        if of_clients:
            said.append(f"{mean(of_clients):.3f} mean of clients")
        said.append(duration(result["seconds"]))
        left = duration(self._left_s()) if self._ended < self._count else ""
        said += [f"about {left} left"] if left else []
        self._bars.console.print("  ".join(said), soft_wrap=True)

    def _done_s(self) -> float:
        """Of the estimated seconds, of all parts."""
        return self._ended_s + sum(self._done[name] for name in self._running)

    def _left_s(self) -> float | None:
        """At the speed so far, whatever the estimate was."""
        done_s = self._done_s()
        if not done_s:
            return None
        return (self._total_s - done_s) * (time.monotonic() - self._started) / done_s


def print_results(console: Console, content: Mapping[str, Any]) -> None:
    """The paper's tables, from the content of experiment.json."""
    for one in (content, *content["also"]):
        settings = one["settings"]
        sizes = settings["scans_per_client"]
        scans = counted(sizes[0], "scan") + " each" if len(set(sizes)) == 1 else _listed(sizes)
        seeds = counted(len(settings["seeds"]), "seed")
        table = Table(
            title=f"{settings['clients']} clients, {scans}; {settings['test_scans']} test scans, "
            f"{settings['rounds']} rounds, {seeds}: mean Dice ± standard deviation over seeds",
            title_justify="left",
            box=box.SIMPLE_HEAD,
            pad_edge=False,
        )
        table.add_column("method")
        for heading in ("mean of clients", "aggregated", "MB moved", "training"):
            table.add_column(heading, justify="right")
        for name, method in one["methods"].items():
            of_clients = [mean(c) for c in method["clients"] if c and None not in c]
            table.add_row(
                name,
                spread(of_clients),
                spread(method["aggregated"]),
                f"{mean(method['bytes']) / 1e6:.1f}",
                duration(mean(method["seconds"])),
            )
        console.print(table)
        for line in comparisons(one["comparisons"]):
            console.print(line, soft_wrap=True)
        console.print()


def comparisons(found: Iterable[Mapping[str, Any]]) -> list[str]:
    """A line for each that there are scans for."""
    return [
        f"{one['a']} less {one['b']}, {one['what']}: {one['difference']:+.4f}, p = {one['p']:.2g} "
        f"({one['test']}, {one['scans']})"
        for one in found
        if one["difference"] is not None
    ]


def spread(values: Sequence[float | None]) -> str:
    """ "0.812 ± 0.004", or what there is."""
    known = [value for value in values if value is not None]
    if not known:
        return "\N{EN DASH}"
    return f"{mean(known):.3f}" + (f" ± {stdev(known):.3f}" if len(known) > 1 else "")


def _listed(sizes: Sequence[int]) -> str:
    return "with " + ", ".join(map(str, sizes)) + " scans"
