"""Slow links between two network namespaces of this machine, which root alone can make.

A link has a rate, a round trip and a share of lost packets; each way has the whole rate, half of
the round trip, and the loss. Where the kernel has netem, a veth pair joins the namespaces and
netem shapes what leaves either end; elsewhere relay.py does the same in user space. Addresses
and names exist inside the namespaces only: nothing of the machine's own network changes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from benchmarks.children import Child, Failed, Unavailable

NEAR, FAR = "10.77.0.1", "10.77.0.2"
DEVICE = "wire"  # at either end
_OURS = re.compile(r"btlink-(\d+)-\d+-(?:near|far)")  # with the process that made it
# Netem's queue, in packets: 1.5 GB, more than TCP ever has under way. It drops by itself nothing.
_QUEUE_PACKETS = 1_000_000
_numbers = count(1)


@dataclass(frozen=True)
class Link:
    """Megabits a second each way, milliseconds there and back, share of packets lost each way."""

    rate_mbit: float
    round_trip_ms: float
    loss: float = 0.0

    def __str__(self) -> str:
        fast = self.rate_mbit >= 1000
        rate = f"{self.rate_mbit / 1000:g}Gbit" if fast else f"{self.rate_mbit:g}Mbit"
        lossy = f"-{self.loss:.0%}loss" if self.loss else ""
        return f"{rate}-{self.round_trip_ms:g}ms{lossy}"


@dataclass(frozen=True)
class Ends:
    """What to put before a command to run it at either end, at 10.77.0.1 and 10.77.0.2."""

    near: tuple[str, ...]
    far: tuple[str, ...]
    shaped_by: str  # netem or a relay


def why_not() -> str | None:
    """Why there can be no links here, in one line; None if there can."""
    if os.geteuid() != 0:
        return "slow links need root, to make network namespaces"
    if shutil.which("ip") is None:
        return "slow links need the command ip (iproute2)"
    try:
        namespace = _name("near")
        _ip("netns", "add", namespace)
        _ip("netns", "delete", namespace)
    except Failed as exc:
        return f"no network namespaces here: {exc}"
    return None


@contextmanager
def joined(link: Link) -> Iterator[Ends]:
    """Two namespaces joined by `link`, as long as the context lasts. Raises Unavailable."""
    if (reason := why_not()) is not None:
        raise Unavailable(reason)
    sweep()
    names = _name("near"), _name("far")
    with ExitStack() as stack:
        for name in names:
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "delete", name)
            _ip("-n", name, "link", "set", "lo", "up")
        try:
            _join_by_netem(link, names)
            shaped_by = "netem"
        except Failed as no_netem:
            try:
                stack.enter_context(_join_by_relay(link, names))
            except (OSError, Failed) as exc:
                raise Unavailable(f"neither netem ({no_netem}) nor TUN devices ({exc})") from exc
            shaped_by = "a relay"
        for name, address in zip(names, (NEAR, FAR), strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", DEVICE)
            _ip("-n", name, "link", "set", DEVICE, "up")
        near, far = (("ip", "netns", "exec", name) for name in names)
        yield Ends(near, far, shaped_by)


def sweep() -> None:
    """Delete namespaces of processes that were killed before they could."""
    for line in _ip("netns", "list").splitlines():
        name = line.split()[0]
        if (ours := _OURS.fullmatch(name)) and not Path(f"/proc/{ours[1]}").exists():
            _ip("netns", "delete", name)


def _join_by_netem(link: Link, names: tuple[str, str]) -> None:
    near, far = names
    ends = ("name", DEVICE, "netns", near, "type", "veth", "peer", "name", DEVICE, "netns", far)
    _ip("link", "add", *ends)
    shape = f"rate {link.rate_mbit}mbit delay {link.round_trip_ms / 2}ms loss {link.loss:%}"
    try:
        for name in names:
            # packets as on a wire: netem would drop, delay and count a whole 64 KB as one
            _ip("-n", name, "link", "set", DEVICE, "gso_max_segs", "1")
            netem = ("root", "netem", *shape.split(), "limit", str(_QUEUE_PACKETS))
            _run("tc", "-n", name, "qdisc", "add", "dev", DEVICE, *netem)
    except Failed:
        _ip("-n", near, "link", "delete", DEVICE)  # and with it the other end
        raise


@contextmanager
def _join_by_relay(link: Link, names: tuple[str, str]) -> Iterator[None]:
    # unique, because they are made outside; they stay the relay's when moved, and end with it
    devices = [f"bt{os.getpid()}-{next(_numbers)}" for _ in names]
    with Child(
        "benchmarks.relay:relay",
        devices=devices,
        rate_mbit=link.rate_mbit,
        delay_ms=link.round_trip_ms / 2,
        loss=link.loss,
    ) as relay:
        relay.hear()
        for name, device in zip(names, devices, strict=True):
            # the device's own queue must not overflow when the relay gets no processor for a while
            _ip("link", "set", device, "txqueuelen", "20000")
            _ip("link", "set", device, "netns", name, "name", DEVICE)
        yield


def _name(end: str) -> str:
    return f"btlink-{os.getpid()}-{next(_numbers)}-{end}"


def _ip(*arguments: str) -> str:
    return _run("ip", *arguments)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    except FileNotFoundError as exc:
        raise Failed(f"no command {command[0]}") from exc
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise Failed(f"{' '.join(command)}: {said[0]}")
    return done.stdout
