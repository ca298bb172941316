"""bt init: what a site answers becomes its federation.toml, its keys and its roster entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bt import config as configs
from bt import roster
from bt.config import Config, ConfigError
from bt.data.layouts import find_scans
from bt.data.scan import DataError
from bt.files import write_atomic
from bt.site import FILE
from transports.base import valid_name
from transports.keys import KeyPair

ROSTER = "roster.toml"


@dataclass(frozen=True)
class Answers:
    """None: not answered."""

    name: str | None = None
    address: str | None = None
    data: str | None = None
    max_samples: int | None = None
    test_scans: int | None = None
    filters: int | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Made:
    """The files."""

    config: Path
    keys: Path
    entry: Path
    roster: Path  # still to be made, from all sites' entries


def refuse_existing(folder: Path) -> None:
    """Raise ConfigError where there is a federation.toml already: before questions are asked."""
    if (folder / FILE).exists():
        raise ConfigError(f"{folder / FILE} exists already: edit it, or choose another --folder")


def asked(answers: Answers, prompt: Callable[..., Any]) -> Answers:
    """Ask a person for what is missing; what can be known at once to be wrong is asked again."""
    usual = Config()
    found = answers
    if found.name is None:
        found = replace(found, name=_until(prompt, "Name of this site", _name))
    if found.address is None:
        text = "Address the others reach it at, tcp://HOST:PORT (empty: no open port)"
        address = _until(prompt, text, _address, default="", show_default=False)
        found = replace(found, address=address or None)
    if found.data is None:
        found = replace(found, data=_until(prompt, "Folder of scans", _data))
    if found.max_samples is None:
        text = "Scans this site may claim at most"
        found = replace(found, max_samples=prompt(text, default=_scans(found), type=int))
    if found.filters is None:
        text = "Filters of the network (the same at all sites)"
        found = replace(found, filters=prompt(text, default=usual.model.filters, type=int))
    if found.rounds is None:
        text = "Rounds, updates of this site's model"
        found = replace(found, rounds=prompt(text, default=usual.federation.rounds, type=int))
    return found


def _until(prompt: Callable[..., Any], text: str, check: Callable[[str], str], **how: Any) -> str:
    while True:
        try:
            return check(str(prompt(text, **how)).strip())
        except (ConfigError, DataError) as exc:
            text = f"{exc}\n{text.splitlines()[-1]}"


def _name(name: str) -> str:
    if not valid_name(name):
        raise ConfigError(
            f"{name!r} can't name a site: up to 64 of A-Z a-z 0-9 . _ -, the first a letter or "
            "digit"
        )
    return name


def _address(address: str) -> str:
    return roster.address_of("this site", address) if address else ""


def _data(data: str) -> str:
    find_scans(Path(data).expanduser())
    return data


def _scans(answers: Answers) -> int:
    """How many scans there are."""
    if answers.data is None:
        raise ConfigError("--max-samples, or --data to count them")
    return len(find_scans(Path(answers.data).expanduser()).scans)


def write(answers: Answers, folder: Path) -> Made:
    """The files, in `folder`. Raises ConfigError, DataError, BadKey."""
    if answers.name is None:
        raise ConfigError("--name is needed: how the other sites call this one")
    if answers.data is None:
        raise ConfigError("--data is needed: the folder of this site's scans")
    name = _name(answers.name)
    _data(answers.data)
    most = _scans(answers) if answers.max_samples is None else answers.max_samples
    given = {
        "test_scans": answers.test_scans or 0,
        "filters": answers.filters,
        "rounds": answers.rounds,
    }
    config = configs.change(Config(), given)
    made = Made(folder / FILE, folder / f"{name}.key", folder / f"{name}.toml", folder / ROSTER)
    refuse_existing(folder)
    if made.entry.exists():
        raise ConfigError(f"{made.entry} exists already: move it away, or choose another --folder")
    # All that can be wrong is known before the first file is written.
    pair = KeyPair.read(made.keys) if made.keys.exists() else KeyPair.new()
    entry = roster.checked(roster.Member(name, answers.address or None, (pair.public,), most))
    folder.mkdir(parents=True, exist_ok=True)
    if not made.keys.exists():
        pair.write(made.keys)
    write_atomic(made.entry, entry.to_toml().encode())
    write_atomic(made.config, _text(name, answers, config, folder).encode())
    return made


def _text(name: str, answers: Answers, config: Config, folder: Path) -> str:
    data = Path(str(answers.data)).expanduser().resolve()
    here = folder.resolve()
    path = str(data.relative_to(here)) if data.is_relative_to(here) else str(data)
    quoted = json.dumps(path, ensure_ascii=False)
    lines = [
        ("", f"{name} in a federation. Commands that are run here read it (bt peer: --config)."),
        ("", "Paths are relative to this file. All that a run's config.toml has can be set here."),
        ("", ""),
        (f"seed = {config.seed}", "the same at all sites: all start from the same weights"),
        ("", ""),
        ("[site]", ""),
        (f'roster = "{ROSTER}"', f"bt roster make {ROSTER} {name}.toml THEIRS.toml ..."),
        (f'keys = "{name}.key"', "secret; it stays on this machine"),
        (f'out = "runs/{name}"', "checkpoints, log, results"),
        ('# listen = "tcp://0.0.0.0:7301"', "if the roster's address is not of this machine"),
        ("", ""),
        ("[data]", "this site's own"),
        (f"path = {quoted}", ""),
        (f"test_scans = {config.data.test_scans}", "held out, to score models on"),
        ("# skip_bad = true", "go on without scans that can't be used"),
        ("# spacing_mm = 1.0", "the same at all sites, or at none"),
        ('# view = "coronal"', "the same at all sites"),
        ("", ""),
        ("[model]", "the same at all sites"),
        (f"filters = {config.model.filters}", ""),
        ("", ""),
        ("[train]", ""),
        (f"epochs = {config.train.epochs}", "of each update"),
        (f"# batch_size = {config.train.batch_size}", ""),
        ("", ""),
        ("[federation]", ""),
        (f"rounds = {config.federation.rounds}", "updates of this site's model"),
        ('# compression = "auto"', "for slow links"),
        (f"# ping_timeout_s = {config.federation.ping_timeout_s:g}", "silence that means gone"),
    ]
    return "".join(_line(*line) for line in lines)


def _line(setting: str, comment: str) -> str:
    if not comment:
        return f"{setting}\n"
    return f"{setting:<33} # {comment}\n" if setting else f"# {comment}\n"
