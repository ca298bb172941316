"""The part of bt check that needs the others: who answers, and trains the same; how fast it comes.

They are asked from outside (bt/outside.py), which changes nothing at a running peer. While this
site's peer does not run, its check answers the checks of the others in its place.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from bt import outside
from bt.aggregate import Like
from bt.config import Config
from bt.contacts import Contacts
from bt.desk import Desk
from bt.findings import Findings
from bt.node import message_limit
from bt.outside import NoAnswer, Outside
from bt.protocol import Peer
from bt.reporting import Reporter
from bt.shelf import Shelf
from bt.site import Site
from bt.transfer import Gone, Link, Misfit, Transfer
from bt.wording import counted
from transports import image, messages, reports
from transports.base import PeerGone, Transport, TransportError
from transports.messages import Limits
from transports.zeromq import ZeroMQTransport

_TRANSFER_S = 3.0  # a test transfer takes no longer
_QUIET_S = 2.0  # who has asked and asks no more for so long has its answers


def look(
    site: Site,
    config: Config,
    own: Contacts,
    model: tuple[Like | None, int],
    wait_s: float,
    found: Findings,
    progress: Callable[[str], None],
) -> None:
    """The own port, and every other peer: `model` is what it should train, on how many scans."""
    like, samples = model
    asking = outside.of(site.roster, site.keys)
    timeout_s = max(wait_s, config.federation.ping_timeout_s)
    limits = Limits(
        asking.limits.max_message_bytes if like is None else message_limit(like.weights)
    )
    with _answering(own, like, samples, found) as heard, asking.connected(limits) as transport:
        running = _own_port(asking, transport, own, heard, found)
        progress(f"Asking the others, up to {timeout_s:g} s")
        until = time.monotonic() + timeout_s
        ping = messages.Ping(asking.name)
        answers = outside.ask(
            asking, transport, sorted(own.others), ping, messages.Version, timeout_s
        )
        for name, answer in answers.items():
            if isinstance(answer, messages.Version):
                progress(f"Trying the line to {name}")
                _peer(asking, transport, answer, like, found)
        # Those that check as well have to get their answers, too.
        callers = {
            name
            for name, answer in answers.items()
            if asking.peers[own.name] is not None  # else nobody can call here
            and (own.others[name] is None or getattr(answer, "state", "") == "leaving")
        }
        while heard is not None and wait_s and time.monotonic() < until:
            quiet_since = time.monotonic() - _QUIET_S
            late = [name for name in callers if heard.get(name, until) > quiet_since]
            if not late:
                break
            progress(f"Waiting for the checks of {', '.join(sorted(late))}")
            time.sleep(0.1)
        for name, answer in answers.items():
            if isinstance(answer, messages.Version):
                continue
            if own.others[name] is not None:
                to_do = "is its peer, or bt check --wait, running? is its port open from here?"
                found.add(f"peer {name}", "red", answer.reason, to_do, silent=True)
            elif name in own.apart():
                to_do = "an address for one of the two, or a folder that all share"
                says = "neither it nor this site has an address: they can't meet, nobody relays"
                found.add(f"peer {name}", "red", says, to_do, silent=True)
            elif heard and name in heard:
                found.add(f"peer {name}", "green", "has no address, and has called here")
            elif running is not None:
                caller(name, running, found)
            else:
                found.add(f"peer {name}", "note", "has no address: it will call, if it can")


def _own_port(
    asking: Outside,
    transport: Transport,
    own: Contacts,
    heard: dict[str, float] | None,
    found: Findings,
) -> reports.Report | None:
    """What this site's own peer tells, if it is running and can be asked."""
    if asking.peers[own.name] is None:
        found.add("port", "note", "this site has no address: it only connects to the others")
        return None
    if heard is not None:
        found.add("port", "green", f"{own.listen} is free; whether others reach it, they see")
        return None
    question = messages.Ask(asking.name)
    (answer,) = outside.ask(asking, transport, [own.name], question, reports.Report, 2.0).values()
    if isinstance(answer, reports.Report):
        found.add("port", "green", f"this site's peer is running at {own.listen}")
        return answer
    to_do = "stop what listens there, or another address in the rosters"
    found.add("port", "red", f"{own.listen} can't be listened at, and no peer answers", to_do)
    return None


def caller(name: str, running: reports.Report, found: Findings) -> None:
    """A peer without an address, as this site's running one knows it."""
    known = running.others.get(name)
    if known is None or known.ago_s is None or known.gone:
        ago = "" if known is None or known.ago_s is None else f" for {known.ago_s} s"
        says = f"has no address, and has not called this site's peer{ago}"
        found.add(f"peer {name}", "note", says, "is its peer running?")
        return
    version = "" if known.heard is None else f", version {known.heard[1]}"
    says = f"has no address, and is connected to this site's peer{version}"
    found.add(f"peer {name}", "green", says)


@contextmanager
def _answering(
    own: Contacts, like: Like | None, samples: int, found: Findings
) -> Iterator[dict[str, float] | None]:
    """Answer others' checks meanwhile, as this site's peer; who has asked, and when
    last. None: it can't."""
    limit = 1 << 24 if like is None else message_limit(like.weights)
    try:
        transport = own.answering(limit)
    except TransportError:
        yield None
        return
    heard: dict[str, float] = {}
    ended = threading.Event()
    thread = threading.Thread(
        target=_answer, args=(transport, own, like, samples, heard, ended), daemon=True
    )
    thread.start()
    try:
        yield heard
    finally:
        ended.set()
        thread.join()
        transport.close(linger_s=1.0)


class _Unlogged:
    def write(self, event: str, **fields: Any) -> bool:
        """There is no folder yet to write to."""
        return True


def _answer(
    transport: ZeroMQTransport,
    own: Contacts,
    like: Like | None,
    samples: int,
    heard: dict[str, float],
    ended: threading.Event,
) -> None:
    desk = None
    if like is not None:
        schema, shelf = like.weights.schema, Shelf(differences=False)
        sizes = image.nbytes(schema), image.header_bytes(schema)
        peer = Peer(own.name, [], samples, like.schema, 1, *sizes)
        peer.state = "leaving"  # nobody should wait for it
        # The weights that all begin with, for a test transfer.
        peer.digest = shelf.put(image.Model(own.name, (0, 0), samples), like.weights)
        limits = Limits(message_limit(like.weights))
        told = Reporter(_Unlogged(), peer, {}, time.monotonic)
        desk = Desk(peer, shelf, transport, limits, told, own.serves)
    while not ended.is_set():
        received = transport.recv(0.1)
        if received is not None and received.reply_to is not None:
            heard[received.sender] = time.monotonic()
            if desk is not None:
                desk.answer(received, time.monotonic())


def _peer(
    asking: Outside,
    transport: Transport,
    version: messages.Version,
    like: Like | None,
    found: Findings,
) -> None:
    """One that has answered: the same models, and how fast they come."""
    name = version.sender
    topic = f"peer {name}"
    if like is None:
        found.add(topic, "note", "answers; without data here nobody knows if its models fit")
        return
    if version.schema != like.schema:
        to_do = "network, filters, structures in order, view, spacing, seed: the same everywhere"
        found.add(topic, "red", "trains another model than this site would", to_do)
        return
    most = asking.samples_of.get(name, version.samples)
    if version.samples > most:
        says = f"claims {version.samples} scans, the roster here allows it {most}"
        found.add(topic, "red", says, "max_samples of its entry, at every site")
        return
    asked = time.monotonic()
    ping = messages.Ping(asking.name)
    (again,) = outside.ask(asking, transport, [name], ping, messages.Version, 2.0).values()
    if isinstance(again, NoAnswer):
        found.add(topic, "red", "answered once, and then no more", "is it still running?")
        return
    says = f"answers in {1000 * (time.monotonic() - asked):.0f} ms, same model, "
    count = version.version[1]
    if version.state == "leaving":
        says += "checks as well"
    else:
        says += f"version {count}, {counted(version.samples, 'scan')}"
    if version.digest is None:
        found.add(topic, "green", f"{says}; nothing to transfer yet")
        return
    bytes_per_s = _transfer(asking, transport, version, like)
    if bytes_per_s is None:
        found.add(
            topic, "red", f"{says}; but no test transfer came", "try again, then look at its log"
        )
        return
    size = image.nbytes(like.weights.schema)
    found.add(
        topic,
        "green",
        f"{says}; test transfer {bytes_per_s / 1e6:.1f} MB/s, a model in "
        f"{size / bytes_per_s:.1f} s",
    )


def _transfer(
    asking: Outside, transport: Transport, version: messages.Version, like: Like
) -> float | None:
    """Pull as much of a model as comes in a few seconds; bytes per second."""
    schema = like.weights.schema
    sizes = image.nbytes(schema), image.header_bytes(schema)
    began = time.monotonic()
    transfer = Transfer(asking.name, version, *sizes, Link(), began)
    limits = Limits(message_limit(like.weights))
    while not transfer.done and time.monotonic() < began + _TRANSFER_S:
        with suppress(PeerGone):
            for pull in transfer.ask(time.monotonic()):
                transport.send(version.sender, messages.encode(pull))
        received = transport.recv(0.2)
        if received is None or received.sender != version.sender:
            continue
        try:
            message = messages.decode(received.frames, limits=limits)
            if isinstance(message, messages.Weights):
                transfer.take(message, time.monotonic())
        except (messages.MessageError, Gone, Misfit):
            return None
    taken = time.monotonic() - began
    return transfer.arrived / taken if transfer.arrived else None
