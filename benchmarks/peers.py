"""Real `bt peer` processes over tcp that can be killed, stopped and started again, and their logs.

What happened is read from each peer's events.jsonl, as anybody could.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from benchmarks.children import ROOT, Failed
from bt.eventlog import EventReader

POLL_S = 0.05
PATIENCE_S = 280.0  # for anything to happen, on a busy machine


def _ports() -> Iterator[int]:
    """Not among those that systems give to outgoing connections; tests that run side by side
    each have some of their own, as who asks for one may be long in listening at it."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    mine = range(10_000 + worker % 10 * 2_000, 12_000 + worker % 10 * 2_000)
    start = random.SystemRandom().randrange(len(mine))
    return itertools.cycle([*mine[start:], *mine[:start]])


_next_ports = _ports()


def free_port() -> int:
    """One to listen at that was not given before."""
    while True:
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", next(_next_ports)))
            return int(probe.getsockname()[1])


def wait_for(so: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    """What `so` returns once that is something. Raises Failed."""
    deadline = time.monotonic() + seconds
    while not (found := so()):
        if time.monotonic() > deadline:
            raise Failed(f"after {seconds:g} s still not: {what}")
        time.sleep(POLL_S)
    return found


@dataclass
class Site:
    """One peer through all its starts."""

    name: str
    folder: Path
    argv: list[str]
    prefix: Sequence[str] = ()  # goes before the command
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    _seen: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._log = EventReader(self.folder / "events.jsonl")

    def start(self) -> None:
        """Start it, or start it again with the same command."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        with self.output.open("ab") as output:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "bt", *self.argv],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    @property
    def output(self) -> Path:
        """What it printed, over all its starts; beside its folder, which may be full."""
        return self.folder.with_name(f"{self.folder.name}.txt")

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """To a process that may have ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """kill -9, and wait until it is dead."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def kill_while_saving(self) -> None:
        """kill -9 while it stands still with a checkpoint half written. Raises Failed."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self.code is None:
            if not self._saves():
                continue  # without a pause: it takes milliseconds
            self.signal(signal.SIGSTOP)
            wait_for(lambda: self.code is not None or self._stands, f"{self.name} stands still")
            if self._saves():
                self.kill()
                return
            self.signal(signal.SIGCONT)  # it had just got done
        raise Failed(f"{self.name} was not caught saving: {self.said()[-300:]}")

    def kill_while_sending(self) -> None:
        """kill -9 as soon as somebody has asked it for its model. Raises Failed."""
        before = len(self._asked())
        wait_for(lambda: len(self._asked()) > before, f"somebody asks {self.name} for its model")
        self.kill()

    def _asked(self) -> list[dict[str, Any]]:
        return [event for event in self.events("pull") if "from" in event]

    def _saves(self) -> bool:
        return any(name.endswith(".partial") for name in os.listdir(self.folder))

    @property
    def _stands(self) -> bool:
        """Each thread: one may still be about to rename what it wrote."""
        try:
            stats = [path.read_text() for path in Path(f"/proc/{self.pid}/task").glob("*/stat")]
        except OSError:  # one has just ended
            return False
        return all(stat.rpartition(")")[2].split()[0] == "T" for stat in stats)

    @property
    def code(self) -> int | None:
        """Its exit code; None while it lives."""
        return None if self.process is None else self.process.poll()

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Of all its starts, in order."""
        self._seen += self._log.new()
        return [event for event in self._seen if not kinds or event["event"] in kinds]

    @property
    def count(self) -> int:
        """Updates that are on its disk, by its log."""
        saved = self.events("persist")
        return int(str(saved[-1]["version"]).rpartition(".")[2]) if saved else 0

    @property
    def resumed(self) -> int:
        """Updates that it had when it last started."""
        return int(str(self.events("start")[-1]["version"]).rpartition(".")[2])

    def said(self) -> str:
        """All it printed."""
        return self.output.read_text(errors="replace") if self.output.exists() else ""


class Federation:
    """Peers by name; `options` of `bt peer` are the same for all. None outlives the context.

    `hosts` are theirs, in order; default: this machine, by loopback.
    """

    def __init__(
        self,
        folder: Path,
        names: Sequence[str],
        options: Sequence[str],
        hosts: Sequence[str] | None = None,
    ) -> None:
        self.folder = folder
        hosts = hosts or ["127.0.0.1"] * len(names)
        self.addresses = {
            name: f"tcp://{host}:{free_port()}" for name, host in zip(names, hosts, strict=True)
        }
        self.sites = {
            name: Site(name, folder / name, self._command(name, number, options))
            for number, name in enumerate(names, start=1)
        }

    def _command(self, name: str, number: int, options: Sequence[str]) -> list[str]:
        argv = ["peer", "--name", name, "--listen", self.addresses[name]]
        for other, address in self.addresses.items():
            if other != name:
                argv += ["--peer", f"{other}={address}"]
        part = ["--part", f"{number}/{len(self.addresses)}"]
        return [*argv, *part, "--out", str(self.folder / name), *options]

    def reach(self, name: str, others: Mapping[str, str]) -> None:
        """`name` calls these at other addresses than their own: those of relays."""
        argv = self.sites[name].argv
        for other, address in others.items():
            argv[argv.index(f"{other}={self.addresses[other]}")] = f"{other}={address}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for site in self.sites.values():
            if site.process is not None:
                site.kill()

    def __getitem__(self, name: str) -> Site:
        return self.sites[name]

    def start(self, *names: str) -> None:
        """Start these, or all."""
        for name in names or self.sites:
            self.sites[name].start()

    def start_together(self) -> None:
        """Start all; who is up first stands still until the last one is."""
        before = {name: len(site.events("start")) for name, site in self.sites.items()}
        self.start()
        for name, site in self.sites.items():
            wait_for(
                lambda site=site, name=name: (
                    len(site.events("start")) > before[name] or site.code is not None
                ),
                f"{name} has started",
            )
            site.signal(signal.SIGSTOP)
        for site in self.sites.values():
            site.signal(signal.SIGCONT)

    def wait_for_updates(self, count: int, *names: str) -> None:
        """Until each of these (or all) has so many on its disk. Raises Failed."""
        for name in names or self.sites:
            site = self.sites[name]
            wait_for(
                lambda site=site: site.count >= count or site.code is not None,
                f"{name} has {count} updates; it said: {site.said()[-300:]}",
            )
            if site.count < count:
                raise Failed(f"{name} ended with {site.code}: {site.said()[-300:]}")

    def finish(self, seconds: float = PATIENCE_S) -> dict[str, int]:
        """Wait for all to end; exit codes by name. Raises Failed."""
        codes = {}
        for name, site in self.sites.items():
            wait_for(lambda site=site: site.code is not None, f"{name} has ended", seconds)
            codes[name] = int(site.code or 0)
        return codes


def rounds_of(site: Site) -> list[tuple[float, float]]:
    """When each of its rounds could begin (unix seconds), and the seconds from then to the start
    of training: what the others cost it."""
    found, began = [], None
    for event in site.events("start", "persist", "fit"):
        if event["event"] != "fit":
            began = event["time"]
        elif began is not None:
            found.append((began, event["time"] - event["seconds"] - began))
            began = None
    return found


def waits_s(site: Site, since: float = 0.0) -> list[float]:
    """Of each round that began after `since` (unix seconds)."""
    return [waited_s for began, waited_s in rounds_of(site) if began >= since]
