"""The command line of bt status and bt dashboard."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_WHO = "Whom to look at"
Folder = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", show_default=False, help="Folder of a run on this machine."),
]
RosterFile = Annotated[
    Path | None,
    typer.Option(
        "--roster", metavar="FILE", rich_help_panel=_WHO, help="Who takes part; with --keys."
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--keys", metavar="FILE", rich_help_panel=_WHO, help="Key of an observer, or of a peer."
    ),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="NAME=ADDRESS",
        rich_help_panel=_WHO,
        help="A peer without keys, on this machine; repeat it for each.",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure", rich_help_panel=_WHO, help="Ask peers without keys on other machines too."
    ),
]
Simulate = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=2,
        max=400,
        rich_help_panel=_WHO,
        help="A made-up federation of N peers, to see what this looks like.",
    ),
]
Timeout = Annotated[float, typer.Option(min=0.1, metavar="S", help="Wait so long for answers.")]
Every = Annotated[float, typer.Option(min=0.2, metavar="S", help="Between two looks.")]


def status(
    run: Folder = None,
    roster: RosterFile = None,
    keys: KeyFile = None,
    peer: Peers = None,
    insecure: Insecure = False,
    simulate: Simulate = None,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay, and show what changes. Ctrl-C ends it.")
    ] = False,
    every: Every = 1.0,
    timeout: Timeout = 2.0,
    json: Annotated[
        bool, typer.Option("--json", help="Print it as JSON; with --watch, a line for each look.")
    ] = False,
) -> None:
    """How a running federation is doing: who has merged whom, how stale, how good, what moves.

    It asks each peer a small question that changes nothing there. Exit code 1 if nobody answers.

    [bold]bt status runs/demo --watch[/]

    [bold]bt status --roster roster.toml --keys office.key[/]

    [bold]bt status --peer A=tcp://127.0.0.1:7301 --peer B=tcp://127.0.0.1:7302[/]
    """
    from bt.watching import source
    from bt.watching.show import show

    found = source.of(run, roster, keys, peer or [], simulate, timeout, insecure=insecure)
    try:
        raise typer.Exit(show(found, every, watch=watch, as_json=json))
    finally:
        found.close()


def dashboard(
    run: Folder = None,
    roster: RosterFile = None,
    keys: KeyFile = None,
    peer: Peers = None,
    insecure: Insecure = False,
    simulate: Simulate = None,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, metavar="PORT", help="To listen on, on 127.0.0.1; 0: any free one."
        ),
    ] = 8760,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Scans to show predictions of; a run's own test scans if not given.",
        ),
    ] = None,
    every: Every = 1.0,
    timeout: Timeout = 2.0,
) -> None:
    """The same as a web page on this machine: network, learning curves, versions, events.

    With the folder of a run it also shows what the newest model makes of a test scan. Peers are
    asked only while the page is open. Ctrl-C ends it.

    [bold]bt dashboard runs/demo[/]

    [bold]bt dashboard --roster roster.toml --keys office.key[/]
    """
    from contextlib import suppress
    from importlib.util import find_spec
    from threading import Event

    from bt.console import make_console
    from bt.watching import source
    from bt.watching.web import Dashboard

    found = source.of(run, roster, keys, peer or [], simulate, timeout, insecure=insecure)
    slices = None
    if run is not None and find_spec("matplotlib") is not None:
        from bt.watching.slices import Slices

        slices = Slices(run, data)
    served = Dashboard(found, port, every, slices)
    try:
        make_console().print(
            f"Open {served.url}\nOnly this machine can. Ctrl-C ends it.", soft_wrap=True
        )
        with suppress(KeyboardInterrupt):
            Event().wait()
    finally:
        served.close()
        found.close()
        if slices is not None:
            slices.close()
