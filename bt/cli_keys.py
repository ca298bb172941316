"""The commands bt keys and bt roster: who one is, and who the others are (docs/security.rst)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bt import options as opt
from bt.config import ConfigError

if TYPE_CHECKING:
    from bt.roster import Roster

keys_app = typer.Typer(
    cls=opt.Group, no_args_is_help=True, help="A peer's keys: make a pair, show the public one."
)
roster_app = typer.Typer(
    cls=opt.Group, no_args_is_help=True, help="Who takes part: make, check, compare rosters."
)

Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
KeyFile = Annotated[Path, typer.Argument(metavar="FILE", help="A key file, as bt keys new makes.")]


@keys_app.command(cls=opt.Command)
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The peer's name.")],
) -> None:
    """Make NAME.key, which only you can read, and print the public key.

    The file is never overwritten. It stays on this machine: no other site needs it, and whoever
    has it is this peer.
    """
    from transports.base import valid_name
    from transports.keys import KeyPair

    if not valid_name(name):
        raise ConfigError(
            f"{name!r} can't name a peer: expected up to 64 of A-Z a-z 0-9 . _ -, the first "
            "a letter or digit"
        )
    pair, path = KeyPair.new(), Path(f"{name}.key")
    pair.write(path)
    typer.echo(f"{path}: secret, it stays here. Its public key, for the others:", err=True)
    typer.echo(pair.public)


@keys_app.command("show", cls=opt.Command)
def show_key(file: KeyFile) -> None:
    """Print the public key of a key file, and nothing of the secret one."""
    from transports.keys import KeyPair

    typer.echo(KeyPair.read(file).public)


@roster_app.command(cls=opt.Command)
def make(
    out: Annotated[Path, typer.Argument(metavar="OUT.toml", help="The roster to write.")],
    parts: Annotated[
        list[Path] | None,
        typer.Argument(metavar="PART.toml", help="Rosters to join, one of each site."),
    ] = None,
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Add the peer with this key file.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Its name. Default: that of the key file, without .key.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the others reach it: tcp://HOST:PORT. Without: it only connects to them.",
        ),
    ] = None,
    max_samples: Annotated[
        int | None, typer.Option(help="How many scans it may say that it trains on.")
    ] = None,
    observer: Annotated[
        bool, typer.Option("--observer", help="Add no peer: who may ask, and takes no part.")
    ] = False,
    models: Annotated[
        bool, typer.Option("--models", help="The observer may also fetch models.")
    ] = False,
) -> None:
    """Write a roster: of one's own peer, to send to the others; or of all, from what they sent.

    [bold]bt roster make a.toml --keys hospital-a.key --address tcp://bt.a.example:7301
    --max-samples 200[/]

    [bold]bt roster make office.toml --keys trial-office.key --observer --models[/]

    [bold]bt roster make roster.toml a.toml b.toml c.toml office.toml[/]
    """
    from bt import roster
    from bt.files import write_atomic
    from transports.keys import KeyPair

    if out.exists():
        raise ConfigError(f"{out} exists already; choose another name")
    if keys is None and (name or address or max_samples is not None or observer):
        raise ConfigError(
            "--name, --address, --max-samples and --observer are of the peer with --keys FILE"
        )
    if observer and (address or max_samples is not None):
        raise ConfigError("an observer has neither --address nor --max-samples: it takes no part")
    if models and not observer:
        raise ConfigError("--models is for an --observer: peers fetch models anyway")
    found = [roster.read(part) for part in parts or ()]
    if keys is not None:
        named, public = name or keys.name.removesuffix(".key"), (KeyPair.read(keys).public,)
        if observer:
            found.append(roster.checked(roster.Observer(named, public, models)))
        elif max_samples is None:
            raise ConfigError("--keys goes with --max-samples: the scans it may claim at most")
        else:
            found.append(roster.checked(roster.Member(named, address, public, max_samples)))
    if not found:
        raise ConfigError("nothing to make a roster of: give --keys FILE, or the parts to join")
    made = roster.roster_of(
        (each for part in found for each in part.members.values()),
        (each for part in found for each in part.observers.values()),
    )
    write_atomic(out, made.to_toml().encode())
    _tell(made)


@roster_app.command(cls=opt.Command)
def check(
    file: Annotated[Path, typer.Argument(metavar="ROSTER.toml")],
    keys: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also: which peer is this key file's?")
    ] = None,
    json: Json = False,
) -> None:
    """Who is in a roster, and its fingerprint, which must be the same at every site."""
    from json import dumps

    from bt import roster
    from transports.keys import KeyPair

    found, holder = roster.read(file), None
    if not json:
        _tell(found)
    if keys is not None:
        public = KeyPair.read(keys).public
        holder = found.holder(public) or found.observer(public)
        if holder is None:
            raise ConfigError(f"no peer of {file} has the key of {keys}: {public}")
        if not json:
            typer.echo(f"{keys} is the key of {holder.name}")
    if json:
        whose = {} if holder is None else {"holder": holder.name}
        typer.echo(dumps(found.to_json() | whose, indent=2))


@roster_app.command(cls=opt.Command)
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD.toml")],
    new: Annotated[Path, typer.Argument(metavar="NEW.toml")],
    json: Json = False,
) -> None:
    """What changes from one roster to another."""
    from json import dumps

    from bt import roster

    found = roster.differences(roster.read(old), roster.read(new))
    if json:
        typer.echo(dumps({"differences": found}, indent=2))
        return
    for line in found or ["They say the same."]:
        typer.echo(line)


def _tell(found: Roster) -> None:
    from bt.console import make_console
    from bt.console_site import print_roster
    from bt.roster import doubts

    print_roster(make_console(), found, doubts(found))
