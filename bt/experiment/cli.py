"""The command line of bt experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bt import options as opt

_PANEL = "Experiment"
_DEFAULT = ("braintorrent", "fedavg", "pooled", "only-client", "cyclic")
_OWN = ("clients", "bands", "by", "scans_per_client", "methods", "seeds", "jobs", "dry_run")
_CHOICES = ("adam", "batch_norm", "start", "fanout", "evaluate_clients")


class Command(opt.Command):
    """Options that can be repeated also take several values at once: --clients 4 6 12."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        several = {
            name for param in self.params if getattr(param, "multiple", False)
            for name in param.opts
        }  # fmt: skip
        spelt, current = [], None
        for arg in args:
            if arg.startswith("-"):
                current = name if (name := arg.partition("=")[0]) in several else None
                first = "=" not in arg
            elif current is not None:
                if not first:
                    spelt.append(current)
                first = False
            spelt.append(arg)
        rest: list[str] = super().parse_args(ctx, spelt)
        return rest


app = typer.Typer(
    cls=opt.Group,
    no_args_is_help=True,
    help="The paper's experiments: BrainTorrent and other ways, each with the same budget.",
)

Methods = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME...",
        rich_help_panel=_PANEL,
        help="Some of braintorrent, braintorrent-async, fedavg, pooled, only-client, cyclic. "
        "Default: all but the second.",
    ),
]
Seeds = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=_PANEL, help="Train with seeds 0 to N-1.")
]
Jobs = Annotated[int, typer.Option(rich_help_panel=_PANEL, help="Trainings at a time.")]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", rich_help_panel=_PANEL, help="Say what would run, and how long."),
]
ScansPerClient = Annotated[
    list[int] | None,
    typer.Option(
        metavar="N...",
        rich_help_panel=_PANEL,
        help="Training scans each: a number, or one per number of clients. Default: all, divided.",
    ),
]
Adam = Annotated[
    str, typer.Option(metavar="fresh|kept", rich_help_panel=_PANEL, help="Moments, across merges.")
]
BatchNorm = Annotated[
    str,
    typer.Option(
        metavar="averaged|local", rich_help_panel=_PANEL, help="These layers, in merges."
    ),
]
Start = Annotated[
    str,
    typer.Option(
        metavar="common|own", rich_help_panel=_PANEL, help="Initial weights of the clients."
    ),
]
StaleWeight = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_PANEL,
        help="What a model a round old counts in braintorrent. Default: 1, like a new one.",
    ),
]
Fanout = Annotated[
    int | None,
    typer.Option(
        metavar="K",
        rich_help_panel=_PANEL,
        help="A round of BrainTorrent asks K random peers. Default: all.",
    ),
]
EvaluateClients = Annotated[
    bool,
    typer.Option(
        "--evaluate-clients",
        rich_help_panel=_PANEL,
        help="Score the clients' models after every round, not only at the end.",
    ),
]


@app.command(cls=Command)
def uniform(
    ctx: typer.Context,
    data: opt.DataOrDemo = None,
    clients: Annotated[
        list[int] | None,
        typer.Option(metavar="N...", rich_help_panel=_PANEL, help="How many clients. Default: 5."),
    ] = None,
    scans_per_client: ScansPerClient = None,
    methods: Methods = None,
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    out: opt.Out = None,
    adam: Adam = "fresh",
    batch_norm: BatchNorm = "averaged",
    start: Start = "common",
    fanout: Fanout = None,
    evaluate_clients: EvaluateClients = False,
    test_scans: opt.TestScans = None,
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
    stale_weight: StaleWeight = None,
    merge: opt.Merge = None,
    config: opt.ConfigFile = None,
    json: opt.Json = False,
) -> None:
    """Experiment 1 of the paper: scans divided evenly (its tables 1 and 2).

    Interrupted, it goes on when the same command is given again.

    Later, more --seeds, --clients or --methods add to what is there.

    [bold]bt experiment uniform --data Task04_Hippocampus --clients 5 10 20
    --scans-per-client 4 2 1 --test-scans 40 --filters 16 --out runs/uniform[/]
    """
    _run("uniform", ctx, clients, {})


@app.command(cls=Command)
def bands(
    ctx: typer.Context,
    by: Annotated[
        str,
        typer.Option(
            metavar="COLUMN", rich_help_panel=_PANEL, help="Of participants.tsv, with numbers."
        ),
    ],
    data: opt.Data = None,
    bands: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N...", rich_help_panel=_PANEL, help="How many; each is a client. Default: 5."
        ),
    ] = None,
    scans_per_client: ScansPerClient = None,
    methods: Methods = None,
    seeds: Seeds = 3,
    jobs: Jobs = 1,
    dry_run: DryRun = False,
    out: opt.Out = None,
    adam: Adam = "fresh",
    batch_norm: BatchNorm = "averaged",
    start: Start = "common",
    fanout: Fanout = None,
    evaluate_clients: EvaluateClients = False,
    test_scans: opt.TestScans = None,
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
    stale_weight: StaleWeight = None,
    merge: opt.Merge = None,
    config: opt.ConfigFile = None,
    json: opt.Json = False,
) -> None:
    """Experiment 2 of the paper: each client has a band of ages, or of another column.

    They are cut where the values lie furthest apart, and differ in size.

    [bold]bt experiment bands --data brains --by ventricle_ml --bands 5 --out runs/bands[/]
    """
    _run("bands", ctx, bands, {"split": "bands", "bands_by": by})


@app.command(hidden=True)
def part(
    folder: Annotated[Path, typer.Argument(help="With a part.json.")],
    threads: Annotated[int, typer.Option()] = 1,
) -> None:
    """Run one part of an experiment; started by the others."""
    from bt.experiment.part import run_part

    run_part(folder, threads)


def _run(name: str, ctx: typer.Context, clients: list[int] | None, split: dict[str, Any]) -> None:
    from bt.config import ConfigError
    from bt.console import make_console
    from bt.experiment.plan import Choices
    from bt.experiment.run import Experiment, run

    given = ctx.params
    settings = {key: v for key, v in given.items() if key not in (*_OWN, *_CHOICES)}
    config = opt.to_config(settings | split, opt.defaults(given["data"], given["config"], 1))
    if name == "bands" and config.data.path is None:
        raise ConfigError("bt experiment bands needs --data, with a participants.tsv or the like")
    experiment = Experiment(
        name,
        config,
        tuple(clients or (5,)),
        tuple(given["scans_per_client"] or ()),
        tuple(given["methods"] or _DEFAULT),
        given["seeds"],
        Choices(**{key: given[key] for key in _CHOICES}),
    )
    code = run(
        experiment,
        given["out"],
        given["jobs"],
        make_console(to_stderr=given["json"]),
        dry_run=given["dry_run"],
        as_json=given["json"],
    )
    raise typer.Exit(code)
