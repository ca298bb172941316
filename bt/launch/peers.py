"""What every peer of a description is started with: one bt peer each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import bt
from bt.config import Config, ConfigError, change, folder_of, to_toml
from bt.launch.hosts import Description, Host
from bt.threads import threads_each
from launchers.base import Command

SETTINGS = "settings.toml"  # in a peer's folder: what the launcher tells it


def transport_of(description: Description, via: str) -> str:
    """zmq, mpi or folder:DIR: as stated, or what the way has. Raises ConfigError."""
    jobs = via in ("mpirun", "slurm")
    met = any(host.address or host.roster or host.keys for host in description.hosts)
    transport = description.transport or ("mpi" if jobs and not met else "zmq")
    shared = folder_of(transport) is not None
    if not shared and transport not in (("zmq", "mpi") if jobs else ("zmq",)):
        raise ConfigError(f"transport {transport} does not go with --via {via}")
    return transport


def commands(
    description: Description, via: str, folder: Path, sockets: Path
) -> tuple[Command, ...]:
    """One per host. `folder` is the run's on this machine; local peers meet in `sockets`.

    Raises ConfigError.
    """
    _check_keys(description)
    config = change(description.config, {"transport": transport_of(description, via)})
    return tuple(
        _command(description, host, via, folder.resolve(), sockets, config)
        for host in description.hosts
    )


def _check_keys(description: Description) -> None:
    for host in description.hosts:
        if (host.roster is None) != (host.keys is None):
            raise ConfigError(f"{host.name}: roster and keys go together")
    without = [host.name for host in description.hosts if host.keys is None]
    if 0 < len(without) < len(description.hosts):
        raise ConfigError(f"{without[0]} has no roster and keys, and others have")


def _command(
    description: Description, host: Host, via: str, folder: Path, sockets: Path, config: Config
) -> Command:
    there = f"runs/{folder.name}/{host.name}" if via == "ssh" else str(folder / host.name)
    out = host.out or there
    settings = f"{out}/{SETTINGS}"
    argv = [*_bt(host, via), "peer", "--config", settings, "--out", out]
    argv += ["--launched-by", "launch"]
    if host.data is not None:
        argv += ["--data", host.data]
    else:
        argv += ["--part", description.parts()[host.name]]
    argv += _meeting(description, host, via, sockets, config.federation.transport)
    return Command(
        host.name,
        (*argv, *host.options),
        _env(description, host, via),
        folder / host.name / "log.txt",
        host.host or (host.name if via == "ssh" else None),
        host.folder,
        {settings: to_toml(config, unlike=Config())},
        out,
    )


def _bt(host: Host, via: str) -> tuple[str, ...]:
    # -P: a file called torch.py in the folder one happens to be in must not be imported
    here = ("bt",) if via == "ssh" else (sys.executable, "-P", "-m", "bt")
    return host.bt or here


def _env(description: Description, host: Host, via: str) -> dict[str, str]:
    env = {}
    if via != "ssh" and not host.bt:  # a bare checkout runs too
        source = str(Path(bt.__file__).parents[1])
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
    if via == "local":
        env["OMP_NUM_THREADS"] = str(threads_each(len(description.hosts)))
    return env | dict(host.env)


def _meeting(
    description: Description, host: Host, via: str, sockets: Path, transport: str
) -> list[str]:
    """How a peer finds the others. Raises ConfigError."""
    if transport == "mpi":
        return ["--name", host.name]
    if folder_of(transport) is not None:
        others = [each.name for each in description.hosts if each.name != host.name]
        return ["--name", host.name, *(word for other in others for word in ("--peer", other))]
    if host.roster is not None and host.keys is not None:
        listen = [] if host.listen is None else ["--listen", host.listen]
        return ["--name", host.name, "--roster", host.roster, "--keys", host.keys, *listen]
    addresses = {}
    for each in description.hosts:
        address = each.address or (f"ipc://{sockets / each.name}" if via == "local" else None)
        if address is None:
            raise ConfigError(
                f"{each.name} can't be met: between machines it takes roster and keys "
                "(bt keys new, bt roster make), on one machine an address on 127.0.0.1"
            )
        addresses[each.name] = address
    own = addresses.pop(host.name)
    argv = ["--name", host.name, "--listen", host.listen or own]
    for other, address in addresses.items():
        argv += ["--peer", f"{other}={address}"]
    return argv
