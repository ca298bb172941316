"""The commands of a site: bt init, check, join, and bt aggregate (docs/federation.rst)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bt import options as opt

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="As bt init writes it. Default: federation.toml, if there is one here.",
    ),
]
MERGED_NOBODY = 3  # exit code


def aggregate(
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="FILE.safetensors", help="Where to; a new file."),
    ] = Path("aggregated.safetensors"),
    config: ConfigFile = None,
    like: Annotated[
        Path | None,
        typer.Option(
            "--like",
            metavar="MODEL",
            help="Any model file of this federation, or a peer's folder: it says what the "
            "structures are. Default: what --config and its scans say.",
        ),
    ] = None,
    roster: opt.RosterFile = None,
    keys: opt.KeyFile = None,
    peer: opt.Peers = None,
    insecure: opt.Insecure = False,
    ping_timeout: opt.PingTimeout = None,
    pull_timeout: opt.PullTimeout = None,
    json: Annotated[bool, typer.Option("--json", help="Print what is in it as JSON.")] = False,
) -> None:
    """Average the models of the peers that answer now, by their scans, into a model file.

    What a new peer would start from. The peers go on meanwhile, and need not know who asks but by
    an observer's key in their rosters (docs/security.rst).

    [bold]bt aggregate --roster roster.toml --keys office.key --like a-model.safetensors[/]

    Exit code 3: no peer had a model, and none was written.
    """
    from json import dumps

    from bt import aggregate as forming
    from bt import outside, site
    from bt.config import Config, ConfigError
    from bt.console import make_console, print_aggregate
    from bt.modelfile import write_model

    if out.exists():
        raise ConfigError(f"{out} exists already; choose another name with -o")
    by_address = peer is not None and roster is None and keys is None
    given = {"roster": roster, "keys": keys, "out": None, "config": config}
    if not by_address:
        given["config"] = site.here(config)
    filled, settings = site.filled(given)
    settings = settings or Config()
    own = outside.of(filled["roster"], filled["keys"], peer or (), insecure=insecure)
    federation = settings.federation
    console = make_console(to_stderr=json)
    with console.status("Asking the peers") as status:
        if like is None and filled["out"] is not None and forming.in_folder(filled["out"]):
            like = filled["out"]
        made = forming.aggregate(
            own,
            forming.like_file(like) if like is not None else forming.like_site(settings),
            ping_s=ping_timeout or federation.ping_timeout_s,
            pull_s=pull_timeout or federation.pull_timeout_s,
            tell=status.update,
        )
    if made.weights is not None:
        write_model(out, made.weights, made.description)
    if json:
        written = None if made.weights is None else str(out)
        typer.echo(dumps({"model": written, **made.to_json()}, indent=2))
    else:
        print_aggregate(console, made, out)
    raise typer.Exit(0 if made.weights is not None else MERGED_NOBODY)
