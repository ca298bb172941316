"""bt simulate: schedules of faults against the real peers, in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def simulate(
    peers: Annotated[
        int | None, typer.Option(min=2, help="How many. Default: 2 to 4, as the seed has it.")
    ] = None,
    schedules: Annotated[int, typer.Option(min=1, help="How many, each of its own seed.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; it decides everything.")] = 0,
    faults: Annotated[
        str,
        typer.Option(
            metavar="LIST",
            help="all, none, or some, with commas: delay, loss, twice, order, cut, crash, wipe, "
            "full, slow, clock, late, leave, liar.",
        ),
    ] = "all",
    fanout: Annotated[
        int | None, typer.Option(min=1, help="A round asks so many random peers. Default: all.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    spread: Annotated[
        bool,
        typer.Option(
            "--spread",
            help="Instead: among 10, 30, 100 ... --peers, what rounds cost and how many it takes "
            "until all have an update. No faults.",
        ),
    ] = False,
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Where transcripts of violations go.")
    ] = Path("runs/simulation"),
    json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Simulate federations that suffer: crashes, cuts, torn files, lost disks, liars.

    [bold]bt simulate --schedules 1000 --jobs 2[/]

    The peers are the real ones; network, clocks, disks and training are simulated. What must
    never happen is looked for after every event. A violation is written down as a transcript,
    and its seed repeats it exactly. Exit code 1 if there is one.
    """
    if spread:
        _spread(peers or 100, fanout, seed, as_json=json)
        return
    from json import dumps

    from bt.console import make_console, progress_bar
    from bt.simulation.faults import chosen
    from bt.simulation.soak import Totals, soak
    from bt.simulation.world import Setup
    from bt.wording import counted

    kinds = chosen(faults)
    console = make_console(to_stderr=json)
    with progress_bar(console) as bar:
        task = bar.add_task("Simulating", total=schedules)

        def progress(totals: Totals) -> None:
            failed = f", {counted(len(totals.failed), 'violation')}" if totals.failed else ""
            bar.update(task, completed=totals.schedules, description=f"Simulating{failed}")

        setup = Setup(peers=peers, fanout=fanout)
        seeds = range(seed, seed + schedules)
        report = soak(setup, kinds, seeds, jobs=jobs, out=out, progress=progress)
    found = report.to_json()
    if json:
        typer.echo(dumps(found, indent=2))
    else:
        console.print(
            f"{counted(schedules, 'schedule')}, {counted(report.totals.events, 'event')} in "
            f"{report.seconds:.1f} s ({found['events_per_second']} events/s): "
            f"{counted(len(report.totals.failed), 'violation')}",
            highlight=False,
        )
    for path in report.transcripts:
        failed = int(path.stem.removeprefix("seed-"))
        console.print(f"seed {failed}: {report.totals.failed[failed][0]}", style="red")
        console.print(f"  {path}", soft_wrap=True)
    raise typer.Exit(1 if report.totals.failed else 0)


def _spread(peers: int, fanout: int | None, seed: int, *, as_json: bool) -> None:
    from json import dumps

    from bt.console import make_console
    from bt.simulation.spread import measure, sizes, table

    console = make_console(to_stderr=as_json)
    found = []
    for size in sizes(peers):
        with console.status(f"Simulating {size} peers"):
            found.append(measure(size, fanout, seed))
    if as_json:
        typer.echo(dumps({"spread": [one.to_json() for one in found]}, indent=2))
    else:
        console.print(table(found))
    raise typer.Exit(1 if any(one.violations for one in found) else 0)
