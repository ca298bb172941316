"""The command line of bt launch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bt import options as opt

_AFTER = "A detached run"


def launch(
    hosts: Annotated[
        Path | None, typer.Argument(metavar="HOSTS.toml", help="Who, where, with which scans.")
    ] = None,
    via: Annotated[
        str,
        typer.Option(
            help="local: processes here; ssh: a peer on every host; mpirun: ranks of a job; "
            "slurm: srun inside an allocation, otherwise sbatch."
        ),
    ] = "local",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be written and run, and end.")
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start the peers, leave them running, and end.")
    ] = False,
    collect: Annotated[
        bool,
        typer.Option(
            "--collect",
            rich_help_panel=_AFTER,
            help="Fetch and show what there is of its results.",
        ),
    ] = False,
    stop: Annotated[
        bool,
        typer.Option("--stop", rich_help_panel=_AFTER, help="Tell its peers to leave."),
    ] = False,
    example: Annotated[
        bool, typer.Option("--example", help="Print a HOSTS.toml to start from, and end.")
    ] = False,
    out: opt.Out = None,
    json: opt.Json = False,
) -> None:
    """Start a peer on every host, follow them, stop them, collect their results.

    [bold]bt launch --example > hosts.toml[/]

    [bold]bt launch hosts.toml --via ssh --dry-run[/]

    Ctrl-C ends all peers and keeps their checkpoints: the same command goes on from them. They
    also end when the launcher or the link to it dies, unless started with --detach.
    """
    from bt.config import ConfigError
    from bt.launch import hosts as described

    if example:
        typer.echo(described.EXAMPLE, nl=False)
        return
    if hosts is None:
        raise ConfigError("launch what? bt launch HOSTS.toml; bt launch --example shows one")
    if via not in described.VIAS:
        raise ConfigError(f"--via {via}: expected one of {', '.join(described.VIAS)}")
    if (dry_run, collect, stop).count(True) > 1:
        raise ConfigError("--dry-run, --collect and --stop: one of them")
    if (collect or stop) and via == "mpirun":
        raise ConfigError("--collect and --stop are for detached runs, which mpirun has none of")
    from bt.console import make_console
    from bt.launch import run

    console = make_console(to_stderr=json)
    description = described.read(hosts)
    later = collect or stop
    job = run.prepare(description, via, out, detach=detach or later, start=not (dry_run or later))
    if dry_run:
        plan = job.launcher().plan(job.commands)
        typer.echo(run.as_json(plan) if json else plan)
    elif stop:
        raise typer.Exit(run.stop(job, console))
    elif collect:
        raise typer.Exit(run.collect(job, "finished", 0.0, console, as_json=json))
    else:
        raise typer.Exit(run.launch(job, console, as_json=json))
