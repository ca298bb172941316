"""The commands of a site: bt init, check, join, and bt aggregate (docs/federation.rst)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bt import options as opt
from bt.config import ConfigError

if TYPE_CHECKING:
    from bt.findings import Finding

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
    if out.exists():  # before PyTorch is loaded
        raise ConfigError(f"{out} exists already; choose another name with -o")
    from json import dumps

    from bt import aggregate as forming
    from bt import outside, site
    from bt.config import Config, change
    from bt.console import make_console
    from bt.console_site import print_aggregate
    from bt.modelfile import write_model

    by_address = peer is not None and roster is None and keys is None
    given = {"roster": roster, "keys": keys, "out": None, "config": config}
    if not by_address:
        given["config"] = site.here(config)
    filled, settings = site.filled(given)
    timeouts = {"ping_timeout_s": ping_timeout, "pull_timeout_s": pull_timeout}
    settings = change(settings or Config(), timeouts)
    own = outside.of(filled["roster"], filled["keys"], peer or (), insecure=insecure)
    federation = settings.federation
    console = make_console(to_stderr=json)
    with console.status("Asking the peers") as status:
        if like is None and filled["out"] is not None and forming.in_folder(filled["out"]):
            like = filled["out"]
        made = forming.aggregate(
            own,
            forming.like_file(like) if like is not None else forming.like_site(settings),
            ping_s=federation.ping_timeout_s,
            pull_s=federation.pull_timeout_s,
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


def check(
    config: ConfigFile = None,
    wait: Annotated[
        float,
        typer.Option(
            "--wait",
            min=0.0,
            metavar="S",
            help="Wait so long for peers that don't answer yet, and answer their checks: before "
            "the first start, have all sites check at the same time.",
        ),
    ] = 0.0,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """See whether this site can take part: what is green, what is red, and what to do about it.

    Config, keys, roster, scans, disk, clock, port; each peer that answers, whether it trains the
    same model, and how fast a model comes from it. A running federation does not notice.

    [bold]bt check --wait 300[/]

    Exit code 1 if anything is red.
    """
    from json import dumps

    from bt.findings import to_json

    found = _examined(config, wait, as_json=json)
    if json:
        typer.echo(dumps(to_json(found), indent=2))
    raise typer.Exit(1 if any(each.state == "red" for each in found) else 0)


def join(
    config: ConfigFile = None,
    wait: Annotated[
        float,
        typer.Option("--wait", min=0.0, metavar="S", help="Wait so long for the first answers."),
    ] = 10.0,
) -> None:
    """Check, and take part: start from the average of the peers' models, and go on as a peer.

    For a site that comes to a running federation, or comes back to it. The first start of all is
    bt peer --config federation.toml at every site. Peers that don't answer are no obstacle as long
    as one does.

    [bold]bt join[/]
    """
    file = _needed(config)  # before PyTorch is loaded
    from bt import contacts, site
    from bt import peer as one_peer
    from bt.console import make_console

    found = _examined(config, wait, as_json=False)
    peers = [each for each in found if each.topic.startswith("peer ")]
    # Nothing in a federation depends on what time it is.
    stops = [each for each in found if not each.silent and each.topic != "clock"]
    if any(each.state == "red" for each in stops):
        raise typer.Exit(1)
    console = make_console()
    if not any(each.state == "green" for each in peers):
        console.print("No peer answers: there is nothing to join yet.", style="red")
        raise typer.Exit(1)
    own, settings = site.read(file)
    assert own.roster is not None
    assert own.keys is not None
    assert own.out is not None
    meets = contacts.from_roster(own.roster, own.keys, None, own.listen, own.announce)
    if (own.out / "checkpoint.safetensors").exists():
        console.print(f"{meets.name} goes on from its checkpoint in {own.out}", soft_wrap=True)
    else:
        console.print(f"{meets.name} starts from the average of the models of those that answer")
    raise typer.Exit(one_peer.run(settings, meets, None, own.out, console))


def _needed(config: Path | None) -> Path:
    from bt import site

    file = site.here(config)
    if file is None:
        raise ConfigError(f"no {site.FILE} here: bt init writes one, or name it with --config")
    return file


def _examined(config: Path | None, wait_s: float, *, as_json: bool) -> list[Finding]:
    """The findings, shown one by one unless as JSON."""
    file = _needed(config)  # before PyTorch is loaded
    from bt.console import make_console
    from bt.console_site import print_finding
    from bt.preflight import examine

    console = make_console(to_stderr=as_json)
    with console.status("Looking") as status:
        return examine(
            file,
            wait_s=wait_s,
            tell=lambda finding: None if as_json else print_finding(console, finding),
            progress=status.update,
        )


def init(
    name: Annotated[
        str | None, typer.Option(help="This site's name, as the others will see it.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the others reach it: tcp://HOST:PORT. Without: no open port.",
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Folder of this site's scans, or a TSV manifest."),
    ] = None,
    max_samples: Annotated[
        int | None,
        typer.Option(help="How many scans it may say that it trains on. Default: all it has now."),
    ] = None,
    test_scans: Annotated[
        int | None, typer.Option(help="Scans of this site to hold out for testing. Default: 0.")
    ] = None,
    filters: opt.Filters = None,
    rounds: opt.Rounds = None,
    folder: Annotated[
        Path, typer.Option("--folder", metavar="DIR", help="Where to write.")
    ] = Path(),
) -> None:
    """Make this site's federation.toml, keys and roster entry; asks for what isn't given.

    What it writes has comments. Nothing that exists is overwritten; keys that exist are used.

    [bold]bt init --name hospital-a --address tcp://bt.a.example:7301 --data scans[/]
    """
    import sys

    from bt import founding
    from bt.console import make_console, print_paths

    answers = founding.Answers(name, address, data, max_samples, test_scans, filters, rounds)
    founding.refuse_existing(folder)
    if sys.stdin.isatty():
        answers = founding.asked(answers, typer.prompt)
    made = founding.write(answers, folder)
    console = make_console()
    print_paths(
        console,
        [
            ("settings", made.config),
            ("keys, which stay here", made.keys),
            ("for the others", made.entry),
        ],
    )
    console.print(
        f"Send {made.entry} to the other sites. With theirs: "
        f"bt roster make {made.roster} {made.entry} THEIRS.toml ..., compare the fingerprints by "
        "telephone, then bt check.",
        soft_wrap=True,
    )
