"""The bt command: parse, call, print. Heavy imports stay inside the commands."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from bt import __version__
from bt import options as opt
from bt.cli_keys import keys_app, roster_app
from bt.cli_model import evaluate, export, predict
from bt.cli_site import aggregate, check, init, join
from bt.config import Config, ConfigError
from bt.experiment.cli import app as experiment_app
from bt.launch.cli import launch
from bt.report.cli import report
from bt.simulation.cli import simulate
from bt.watching.cli import dashboard, status
from bt.wording import line_of

# The groups that bt --help shows.
TRAIN, SITE, WATCH, USE, REST = "Train", "A site", "Watch", "Use a model", "Scans and tools"

app = typer.Typer(
    name="bt",
    cls=opt.Group,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train one segmentation network together, peer to peer, with no server.\n\n"
    "[bold]bt train[/] tries it on this machine, with simulated scans. Several sites: "
    "[bold]bt init[/] at each, [bold]bt roster make[/], [bold]bt check[/], [bold]bt peer[/].",
)


def main() -> None:
    """Entry point: errors a person can act on become one line and exit code 1."""
    try:
        app()
    except KeyboardInterrupt:
        typer.echo("bt: interrupted", err=True)
        sys.exit(130)
    except Exception as exc:
        from bt.data.scan import DataError
        from transports.base import TransportError

        # The common ones without bt.errors: it loads PyTorch, which takes seconds.
        if isinstance(exc, ConfigError | DataError | OSError | TransportError):
            _end(line_of(exc), 2 if isinstance(exc, ConfigError) else 1)
        from bt.errors import in_one_line

        if (line := in_one_line(exc)) is None:
            raise
        _end(line, 1)


def _end(line: str, code: int) -> NoReturn:
    typer.secho(f"bt: {line}", fg="red", err=True)
    sys.exit(code)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"braintorrent {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    pass


@app.command(cls=opt.Command, rich_help_panel=TRAIN)
def train(
    ctx: typer.Context,
    data: opt.DataOrDemo = None,
    peers: Annotated[
        int | None, typer.Option(help="How many peers. Default: 5, or the number of MPI ranks.")
    ] = None,
    scans_per_peer: opt.ScansPerPeer = None,
    test_scans: opt.TestScans = None,
    split: opt.SplitBy = None,
    bands_by: opt.BandsBy = None,
    spacing: opt.Spacing = None,
    view: opt.View = None,
    slice_step: opt.SliceStep = None,
    margin: opt.Margin = None,
    skip_bad: opt.SkipBad = None,
    model: opt.Model = None,
    filters: opt.Filters = None,
    epochs: opt.Epochs = None,
    batch_size: opt.BatchSize = None,
    learning_rate: opt.LearningRate = None,
    halve_every: opt.HalveEvery = None,
    crop: opt.Crop = None,
    precision: opt.PrecisionName = None,
    device: opt.Device = None,
    rounds: opt.Rounds = None,
    schedule: opt.ScheduleName = None,
    transport: Annotated[
        str | None,
        typer.Option(
            help="zmq (default): a process per peer; mpi: a rank per peer, chosen under mpirun; "
            "inproc: threads of one process; folder:DIR: processes that share a folder."
        ),
    ] = None,
    ping_timeout: opt.PingTimeout = None,
    pull_timeout: opt.PullTimeout = None,
    longest_wait: opt.LongestWait = None,
    compression: opt.Compression = None,
    fanout: opt.Fanout = None,
    stale_weight: opt.StaleWeight = None,
    merge: opt.Merge = None,
    seed: opt.Seed = None,
    out: opt.Out = None,
    config: opt.ConfigFile = None,
    json: opt.Json = False,
) -> None:
    """Train a whole federation: processes on this machine, or the ranks of an mpirun.

    An interrupted run goes on when the same command is given again.

    [bold]bt train --data Task04_Hippocampus --peers 5 --filters 16[/]

    [bold]mpirun -n 4 bt train --data brains --rounds 10[/]

    Without --data and --config it simulates a demo cohort of brains and trains on it as if told
    [bold]--scans-per-peer 4 --margin 0 --filters 16 --epochs 1 --rounds 9[/]
    """
    from transports.mpi import launched_size

    ranks = launched_size() or 1

    def settings() -> Config:
        return opt.to_config(ctx.params, opt.defaults(data, config, ranks))

    if ranks > 1 or (here := settings()).federation.transport == "mpi":
        from bt.mpijob import train_under_mpi

        raise typer.Exit(train_under_mpi(settings, out, as_json=json))
    from bt.console import make_console
    from bt.train import train as train_here

    raise typer.Exit(train_here(here, out, make_console(to_stderr=json), as_json=json))


@app.command(cls=opt.Command, rich_help_panel=TRAIN)
def peer(
    ctx: typer.Context,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="This peer's folder. Needed, if not in --config."),
    ] = None,
    roster: opt.RosterFile = None,
    keys: opt.KeyFile = None,
    name: opt.PeerName = None,
    listen: opt.Listen = None,
    peer: opt.Peers = None,
    announce: opt.Announce = None,
    insecure: opt.Insecure = False,
    metrics: opt.Metrics = None,
    metrics_public: opt.MetricsPublic = False,
    data: opt.Data = None,
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Take the I-th of N parts of the scans. Default: all of them."
        ),
    ] = None,
    scans_per_peer: opt.ScansPerPeer = None,
    test_scans: opt.TestScans = None,
    split: opt.SplitBy = None,
    bands_by: opt.BandsBy = None,
    spacing: opt.Spacing = None,
    view: opt.View = None,
    slice_step: opt.SliceStep = None,
    margin: opt.Margin = None,
    skip_bad: opt.SkipBad = None,
    model: opt.Model = None,
    filters: opt.Filters = None,
    epochs: opt.Epochs = None,
    batch_size: opt.BatchSize = None,
    learning_rate: opt.LearningRate = None,
    halve_every: opt.HalveEvery = None,
    crop: opt.Crop = None,
    precision: opt.PrecisionName = None,
    device: opt.Device = None,
    rounds: opt.Rounds = None,
    schedule: opt.ScheduleName = None,
    transport: opt.PeerTransport = None,
    ping_timeout: opt.PingTimeout = None,
    pull_timeout: opt.PullTimeout = None,
    longest_wait: opt.LongestWait = None,
    compression: opt.Compression = None,
    fanout: opt.Fanout = None,
    stale_weight: opt.StaleWeight = None,
    merge: opt.Merge = None,
    seed: opt.Seed = None,
    config: opt.ConfigFile = None,
    launched_by: opt.LaunchedBy = None,
) -> None:
    """Run one peer, by hand, in any terminal or at any site.

    SIGTERM is a clean leave. SIGHUP reads the roster again: who is new is met, a key that is gone
    is out.

    [bold]bt peer --roster roster.toml --keys hospital-a.key --data scans --out runs/a[/]

    On one machine it goes without keys:

    [bold]bt peer --name A --listen tcp://127.0.0.1:7301 --peer B=tcp://127.0.0.1:7302
    --data scans-of-A --test-scans 2 --out runs/A[/]
    """
    from bt import contacts
    from bt import peer as one_peer
    from bt import site as sites
    from bt.config import folder_of
    from bt.console import make_console

    said, settings = sites.filled(ctx.params)
    roster, keys, listen, announce = (said[n] for n in ("roster", "keys", "listen", "announce"))
    if (out := said["out"]) is None:
        raise typer.BadParameter("--out is needed, or --config federation.toml, which names it")
    numbers = None
    if metrics is not None:
        from bt.watching.metrics import place_of

        numbers = place_of(metrics, public=metrics_public)
    here = ("part", "config", "launched_by", "metrics", "metrics_public", *opt.CONTACTS)
    given: dict[str, Any] = {key: v for key, v in ctx.params.items() if key not in here}
    if part is None and config is None and test_scans is None:
        given["test_scans"] = 0  # all scans are this peer's own
    settings = opt.to_config(given, settings)
    if settings.federation.transport == "mpi":
        from bt.mpijob import peer_of_job

        raise typer.Exit(peer_of_job(settings, said))
    folder = folder_of(settings.federation.transport)
    if folder is None and settings.federation.transport != "zmq":
        raise typer.BadParameter("bt peer speaks zmq or folder:DIR, and under mpirun mpi")
    who = roster, keys, name, listen, peer or [], announce
    own = contacts.of(*who, insecure=insecure, folder=folder)
    raise typer.Exit(one_peer.run(settings, own, part, out, make_console(), launched_by, numbers))


app.command(cls=opt.Command, rich_help_panel=TRAIN)(launch)
app.add_typer(experiment_app, name="experiment", rich_help_panel=TRAIN)
app.command(cls=opt.Command, rich_help_panel=SITE)(init)
app.command(cls=opt.Command, rich_help_panel=SITE)(check)
app.command(cls=opt.Command, rich_help_panel=SITE)(join)
app.add_typer(keys_app, name="keys", rich_help_panel=SITE)
app.add_typer(roster_app, name="roster", rich_help_panel=SITE)
app.command(cls=opt.Command, rich_help_panel=WATCH)(status)
app.command(cls=opt.Command, rich_help_panel=WATCH)(dashboard)
app.command(cls=opt.Command, rich_help_panel=WATCH)(report)
app.command("eval", cls=opt.Command, rich_help_panel=USE)(evaluate)
app.command(cls=opt.Command, rich_help_panel=USE)(predict)
app.command(cls=opt.Command, rich_help_panel=USE)(export)
app.command(cls=opt.Command, rich_help_panel=USE)(aggregate)

data_app = typer.Typer(
    cls=opt.Group, no_args_is_help=True, help="Scans: make the demo cohort, look at a folder."
)
app.add_typer(data_app, name="data", rich_help_panel=REST)


@data_app.command(cls=opt.Command)
def demo(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    subjects: Annotated[int, typer.Option(help="How many.")] = 25,
    seed: Annotated[int, typer.Option(help="Another seed, other subjects.")] = 0,
) -> None:
    """Write simulated brains: random warps of an atlas and its template (BIDS layout, 2 mm)."""
    from bt.console import make_console, print_paths, progress_bar
    from bt.data.demo import write_demo_cohort
    from bt.wording import counted

    console = make_console()
    with progress_bar(console) as bar:
        task = bar.add_task("Simulating subjects", total=subjects)
        write_demo_cohort(
            out,
            subjects=subjects,
            seed=seed,
            progress=lambda done: bar.update(task, completed=done),
        )
    print_paths(console, [(counted(subjects, "simulated subject"), out)])


@data_app.command(cls=opt.Command)
def show(
    data: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of scans, or a manifest.")],
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What bt sees in a folder: layout, scans, structures, and what can't be used."""
    from json import dumps

    from bt.console import Seen, make_console, print_cohort, progress_bar
    from bt.data.cache import load_volumes
    from bt.data.layouts import find_scans

    console = make_console(to_stderr=json)
    cohort = find_scans(data)
    seen = Seen()
    with progress_bar(console) as bar:
        for scan in bar.track(cohort.scans, description="Reading scans"):
            seen.add(load_volumes([scan], cohort.labels))
    if json:
        typer.echo(dumps(seen.to_json(cohort), indent=2))
    else:
        print_cohort(console, cohort, seen)
    raise typer.Exit(1 if seen.bad else 0)


@app.command(cls=opt.Command, rich_help_panel=REST)
def doctor(
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Look at this installation: versions, MPI, threads, precision, and what is in the way."""
    from json import dumps

    from bt.console import make_console, print_findings
    from bt.doctor import examine

    console = make_console(to_stderr=json)
    with console.status("Trying MPI, and some training steps"):
        report = examine()
    if json:
        typer.echo(dumps(report.to_json(), indent=2))
    else:
        print_findings(console, report)
    raise typer.Exit(1 if report.problems else 0)


app.command(cls=opt.Command, rich_help_panel=REST)(simulate)


@app.command(
    rich_help_panel=REST,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def bench(ctx: typer.Context) -> None:
    """Measure pulling, merging and rounds on this machine, beside ceilings. From a checkout.

    [bold]bt bench transports --quick[/]
    """
    from importlib import import_module

    try:
        benchmarks = import_module("benchmarks.cli")
    except ImportError as exc:
        raise ConfigError(
            f"the benchmarks can't be loaded ({exc}): they come with a checkout of the source and "
            "its dev extra, not with the installed package"
        ) from exc
    benchmarks.app(ctx.args, prog_name="bt bench")
