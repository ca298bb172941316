"""The command line of the benchmarks: python -m benchmarks, and `app` to mount elsewhere.

Heavy imports stay inside the commands.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

RESULTS = Path(__file__).parent / "results"
BENCHMARKS = {  # the module whose run() does it
    "transports": "benchmarks.transports",
    "merge": "benchmarks.merge",
    "round": "benchmarks.round",
    "links": "benchmarks.slow",
    "beside": "benchmarks.beside",
    "trainer": "benchmarks.trainer",
    "memory": "benchmarks.peaks",
}
ON_REQUEST = {  # need scans, and time
    "dice": "benchmarks.compression_dice",
    "liars": "benchmarks.liars",
    "chaos": "benchmarks.chaos",
    "hostile": "benchmarks.hostile",
}
HIPPOCAMPUS = Path(__file__).parents[2] / "shared" / "data" / "Task04_Hippocampus"
app = typer.Typer(
    name="bench",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="What training, moving and merging models costs, beside ceilings and the obvious ways.",
)
Json = Annotated[
    bool, typer.Option("--json", help="Results on standard output, all else on standard error.")
]
Scans = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder of labelled scans.", show_default=False)
]
Quick = Annotated[bool, typer.Option("--quick", help="Only small models: each within a minute.")]


@app.callback(invoke_without_command=True)
def everything(ctx: typer.Context, quick: Quick = False, as_json: Json = False) -> None:
    """All benchmarks; the results go to benchmarks/results/NAME.json."""
    if ctx.invoked_subcommand is None:
        _finish(bench(list(BENCHMARKS), quick=quick, as_json=as_json, into=RESULTS))


@app.command()
def transports(quick: Quick = False, as_json: Json = False) -> None:
    """Pull a model and merge it: tcp, ipc, curve, MPI; and pings."""
    _finish(bench(["transports"], quick=quick, as_json=as_json))


@app.command()
def merge(quick: Quick = False, as_json: Json = False) -> None:
    """Merge nine models, over tcp and without a transport, and publish one."""
    _finish(bench(["merge"], quick=quick, as_json=as_json))


@app.command(name="round")
def a_round(
    quick: Quick = False,
    as_json: Json = False,
    peers: Annotated[int, typer.Option(min=2, help="How many processes.")] = 5,
    of_run: Annotated[
        Path | None,
        typer.Option(
            "--run", metavar="DIR", help="Also the share of this run that was not training."
        ),
    ] = None,
) -> None:
    """Rounds of several processes without training: where the seconds go."""
    _finish(bench(["round"], quick=quick, as_json=as_json, peers=peers, real=of_run))


@app.command()
def beside(quick: Quick = False, as_json: Json = False) -> None:
    """Serving beside training: what each costs the other."""
    _finish(bench(["beside"], quick=quick, as_json=as_json))


@app.command()
def trainer(
    quick: Quick = False,
    as_json: Json = False,
    scans: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also prepare and evaluate the first of these scans."),
    ] = None,
    accuracy: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also train on these in each precision; takes minutes."),
    ] = None,
) -> None:
    """Training steps beside plain PyTorch; memory; preparing and evaluating scans."""
    _finish(bench(["trainer"], quick=quick, as_json=as_json, scans=scans, accuracy=accuracy))


@app.command()
def memory(quick: Quick = False, as_json: Json = False) -> None:
    """The most memory of who merges 1, 4 and 9 models, and of who serves as many at once."""
    _finish(bench(["memory"], quick=quick, as_json=as_json))


@app.command()
def links(quick: Quick = False, as_json: Json = False) -> None:
    """Pull a model over slow links. Needs root."""
    _finish(bench(["links"], quick=quick, as_json=as_json))


@app.command()
def chaos(
    data: Scans = HIPPOCAMPUS,
    seeds: Annotated[int, typer.Option(min=1, help="Of the runs whose Dice is compared.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Each fault once, and no Dice.")] = False,
    only: Annotated[
        Literal["faults", "dice"] | None, typer.Option(help="One of its halves.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Kill, stop and cut off real peers: what it costs the others, and the Dice in the end."""
    into = None if quick or only else RESULTS
    options = {"data": data, "seeds": seeds, "only": only or ""}
    _finish(bench(["chaos"], quick=quick, as_json=as_json, into=into, **options))


@app.command()
def hostile(
    data: Scans = HIPPOCAMPUS,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of the attempts.")] = False,
    as_json: Json = False,
) -> None:
    """Attack a real peer, as strangers and as a member: answers, memory, and training."""
    into = None if quick else RESULTS
    _finish(bench(["hostile"], quick=quick, as_json=as_json, into=into, data=data))


@app.command(context_settings={"ignore_unknown_options": True})
def dice(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of labelled scans.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0.")] = 3,
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[OPTIONS OF bt train]", help="They win.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny: only to see that it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What compression costs in Dice, by training. Hours; not among the others."""
    _finish(
        bench(
            ["dice"], quick=quick, as_json=as_json, data=data, seeds=seeds, options=options or []
        )
    )


@app.command()
def liars(
    data: Annotated[Path, typer.Option(metavar="DIR", help="Folder of labelled scans.")],
    seeds: Annotated[int, typer.Option(min=1, help="How many, from 0.")] = 1,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at a time.")] = 1,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny: only to see that it runs.")
    ] = False,
    as_json: Json = False,
) -> None:
    """What one liar among five does to the aggregated model, by merge rule; by training."""
    _finish(bench(["liars"], quick=quick, as_json=as_json, data=data, seeds=seeds, jobs=jobs))


@app.command()
def fuzz(
    decodes: Annotated[int, typer.Option(min=1, help="How many messages.")] = 10_000_000,
    seed: Annotated[int, typer.Option(min=0, help="It decides what they are.")] = 0,
    jobs: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    as_json: Json = False,
) -> None:
    """Decode millions of messages that are almost right: nothing but refusals may come of it."""
    from benchmarks.fuzzing.decodes import Tally, run
    from benchmarks.fuzzing.decodes import show as show_tally
    from bt.console import make_console

    console = make_console(to_stderr=as_json)
    with console.status("Decoding") as status:

        def progress(tally: Tally) -> None:
            status.update(f"Decoding: {tally.decodes:,} of {decodes:,} messages")

        found = run(decodes, seed, jobs, progress)
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    else:
        show_tally(console, found)
    _finish(not found["escapes"])


def bench(
    names: list[str],
    *,
    quick: bool,
    as_json: bool,
    into: Path | None = None,
    **options: object,
) -> bool:
    """Run benchmarks and show what they find; whether all that can be measured here was."""
    import importlib

    import torch

    from benchmarks.results import Found
    from benchmarks.table import show
    from bt.console import make_console

    torch.set_num_threads(1)  # as in the servers: on few cores more would only disturb them
    console = make_console(to_stderr=as_json)
    everything = Found()
    for name in names:
        with console.status(f"Measuring: {name}") as status:
            found: Found = importlib.import_module((BENCHMARKS | ON_REQUEST)[name]).run(
                quick, lambda now: status.update(now), **options
            )
        show(console, name, found)
        everything.add(found)
        if into is not None:
            into.mkdir(exist_ok=True)
            (into / f"{name}.json").write_text(json.dumps(found.as_json(), indent=2) + "\n")
    if as_json:
        typer.echo(json.dumps(everything.as_json(), indent=2))
    return not everything.failed


def _finish(all_well: bool) -> None:
    if not all_well:
        raise typer.Exit(1)
