"""hosts.toml: who takes part, where, with which scans, and the settings all of them share."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bt import config as configs
from bt.config import Config, ConfigError
from bt.wording import peer_names
from transports.base import valid_name

VIAS = ("local", "ssh", "mpirun", "slurm")
_MOST_BYTES = 1 << 20

EXAMPLE = """\
# One federation: bt launch hosts.toml --via ssh (or local, mpirun, slurm); first with --dry-run.

name = "knees"                  # results go to runs/knees, or where --out says

# Settings of all peers, the same sections as in the config.toml of a run.
[federation]
rounds = 8

[train]
epochs = 2

[model]
filters = 32

[data]
test_scans = 2                  # each peer holds out so many of its own

# What holds for every host that does not say otherwise.
[all]
folder = "braintorrent"         # to start in; over ssh relative to the home folder there
bt = ".venv/bin/bt"             # or several words: ["apptainer", "exec", "bt.sif", "bt"]
roster = "roster.toml"          # there, as bt roster make wrote it; the same at every host

[[host]]
name = "hospital-a"             # the peer's name, in the roster too
host = "bt@gpu1.hospital-a.example"   # as for ssh; mpirun and Slurm: a node
data = "/data/knees"
keys = "hospital-a.key"         # stays there, and nobody else's

[[host]]
name = "hospital-b"
host = "gpu-b"                  # a Host of ~/.ssh/config, with its port, user and key
data = "~/scans/knee mri"
keys = "hospital-b.key"
options = ["--device", "cuda:1", "--batch-size", "8"]   # of bt peer, here alone
env = { OMP_NUM_THREADS = "8" }

[ssh]
options = []                    # before the host: ["-J", "gateway.example"]

# Also known: out (a host's folder for the peer), listen; without roster and keys, on one machine
# or in one job: address. Without [[host]]: federation.peers peers that share the scans of
# data.path. For clusters:
#   [mpirun]   program = "mpirun", options = []
#   [slurm]    options = ["--partition=gpu", "--time=8:00:00"], setup = ["module load openmpi"],
#              gpus_per_peer = 1 (default: if there are any), mpi = "pmix" (for srun --mpi)
"""


@dataclass(frozen=True)
class Host:
    """One peer: where it runs and what is its own. Paths are those of its host."""

    name: str
    host: str | None = None  # default: its name, over ssh; any, under mpirun and Slurm
    folder: str | None = None
    bt: tuple[str, ...] = ()
    data: str | None = None  # None: a part of [data] path
    out: str | None = None
    roster: str | None = None
    keys: str | None = None
    listen: str | None = None
    address: str | None = None
    options: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Mpirun:
    program: str = "mpirun"
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class Slurm:
    options: tuple[str, ...] = ()
    setup: tuple[str, ...] = ()
    gpus_per_peer: int | None = None
    mpi: str | None = None


@dataclass(frozen=True)
class Description:
    """A whole hosts.toml."""

    name: str
    config: Config
    hosts: tuple[Host, ...]
    ssh_options: tuple[str, ...] = ()
    mpirun: Mpirun = Mpirun()
    slurm: Slurm = Slurm()
    transport: str | None = None  # where it is stated

    def parts(self) -> dict[str, str]:
        """Which part of the shared scans those take that have none of their own: "2/5"."""
        names = [host.name for host in self.hosts if host.data is None]
        return {name: f"{number}/{len(names)}" for number, name in enumerate(names, start=1)}


def read(path: Path) -> Description:
    """Raises ConfigError, which names the file."""
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as exc:
        raise ConfigError(f"can't read {path}: {exc.strerror}; bt launch --example") from exc
    try:
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"more than {_MOST_BYTES} bytes")
        return parsed(content.decode(), path.stem)
    except (ConfigError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except RecursionError as exc:  # of a setting that is to be shown
        raise ConfigError(f"{path}: its tables are nested too deeply") from exc


def parsed(text: str, name: str) -> Description:
    """`name` is the run's where the text has none. Raises ConfigError."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"not valid TOML: {exc}") from exc
    name = content.pop("name", name)
    if not valid_name(name):
        raise ConfigError(f"name = {name!a:.80}: expected up to 64 of A-Z a-z 0-9 . _ -")
    shared = _table(content.pop("all", {}), "[all]", Host)
    for own in ("name", "address"):
        if own in shared:
            raise ConfigError(f"{own} in [all]: every host has its own")
    entries = content.pop("host", [])
    ssh = _table(content.pop("ssh", {}), "[ssh]", _Ssh)
    mpirun = Mpirun(**_table(content.pop("mpirun", {}), "[mpirun]", Mpirun))
    slurm = Slurm(**_table(content.pop("slurm", {}), "[slurm]", Slurm))
    stated = configs.take(content, Config())  # refuses what is unknown
    hosts = _hosts(entries, shared, stated)
    description = Description(
        name, stated, hosts, ssh.get("options", ()), mpirun, slurm,
        content.get("federation", {}).get("transport"),
    )  # fmt: skip
    return replace(description, config=_settled(description, content))


@dataclass(frozen=True)
class _Ssh:
    options: tuple[str, ...] = ()


def _hosts(entries: Any, shared: dict[str, Any], config: Config) -> tuple[Host, ...]:
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError("host is a list of tables, write [[host]]")
    if not entries:
        entries = [{"name": name} for name in peer_names(config.federation.peers)]
    hosts = []
    for number, entry in enumerate(entries, start=1):
        if not valid_name(entry.get("name")):
            raise ConfigError(
                f"host {number} has no valid name: up to 64 of A-Z a-z 0-9 . _ -, the first a "
                "letter or digit"
            )
        own = _table(entry, entry["name"], Host)
        env = {**shared.get("env", {}), **own.get("env", {})}
        hosts.append(Host(**{**shared, **own, "env": env}))
        if any(before.name == hosts[-1].name for before in hosts[:-1]):
            raise ConfigError(f"two hosts are called {hosts[-1].name}")
    if len(hosts) < 2:
        raise ConfigError("a federation needs at least two [[host]]s")
    return tuple(hosts)


def _settled(description: Description, content: Mapping[str, Any]) -> Config:
    """The shared settings, with what follows from the hosts."""
    config, hosts = description.config, description.hosts
    without = description.parts()
    if without and config.data.path is None:
        first = next(iter(without))
        raise ConfigError(f"{first} has no scans: give it data, or all of them [data] path")
    stated = content.get("federation", {})
    if stated.get("peers", len(hosts)) != len(hosts):
        raise ConfigError(f"peers = {stated['peers']}, but there are {len(hosts)} [[host]]s")
    settings: dict[str, Any] = {"peers": len(hosts)}
    if not without and "test_scans" not in content.get("data", {}):
        settings["test_scans"] = 0  # all scans of a peer are its own to train on
    return configs.change(config, settings)


_TEXTS = ("options", "setup", "bt")


def _table(found: Any, where: str, kind: type) -> dict[str, Any]:
    """The settings of one table, checked. Raises ConfigError."""
    if not isinstance(found, dict):
        raise ConfigError(f"{where.strip('[]')} is a table, write {where}")
    known = [each.name for each in fields(kind)]
    settings = {}
    for key, value in found.items():
        if key not in known:
            raise ConfigError(f"{where}: unknown {key!a:.80}; known: {', '.join(known)}")
        settings[key] = _checked(f"{where}: {key}", key, value)
    return settings


def _checked(what: str, key: str, value: Any) -> Any:
    if key == "gpus_per_peer":
        if type(value) is not int or not 0 <= value <= 64:
            raise ConfigError(f"{what} = {value!a:.80}: expected 0 to 64")
        return value
    if key == "env":
        if not isinstance(value, dict) or not all(map(_is_text, value.values())):
            raise ConfigError(f"{what}: expected a table of texts")
        for name in value:
            if not (name.isascii() and name.isidentifier()):
                raise ConfigError(f"{what}: {name!a:.80} can't name a variable")
        return value
    if key in _TEXTS:
        words = [value] if key == "bt" and isinstance(value, str) else value
        if not isinstance(words, list) or not all(map(_is_text, words)):
            raise ConfigError(f"{what}: expected a list of texts")
        return tuple(words)
    if not _is_text(value) or not value:
        raise ConfigError(f"{what} = {value!a:.80}: expected a text of printable characters")
    if value.startswith("-"):  # it would be taken for an option
        raise ConfigError(f"{what} = {value!a:.80}: must not begin with -")
    return value


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value.isprintable()
