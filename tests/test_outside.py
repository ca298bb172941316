"""A running federation asked from outside: real sockets, peers whose training never ends."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import free_port
from bt import contacts, outside, roster
from bt.checkpoint import CheckpointFile
from bt.config import ConfigError
from bt.eventlog import EventLog
from bt.others import Timing
from bt.outside import NoAnswer, Outside
from bt.protocol import Peer
from bt.roster import Member, Observer
from bt.runner import Runner
from tests.test_runner import LIMITS, SCHEMA, TIMEOUT_S, FakeTrainer
from transports import image, messages
from transports.keys import KeyPair

LARGE_S = 20.0  # enough for every answer that comes at all


class Federation:
    """Peers A and B with keys, in threads; an observer that may have models, and one that may not.

    C of the roster has an address and is never started; D has none.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        pairs = {name: KeyPair.new() for name in (*"ABCD", "office", "screen")}
        for name, pair in pairs.items():
            pair.write(folder / f"{name}.key")
        members = [
            Member(n, f"tcp://127.0.0.1:{free_port()}", (pairs[n].public,), 9) for n in "ABC"
        ]
        members.append(Member("D", None, (pairs["D"].public,), 9))
        watching = [Observer(n, (pairs[n].public,), n == "office") for n in ("office", "screen")]
        self.roster = folder / "roster.toml"
        self.roster.write_text(roster.roster_of(members, watching).to_toml())
        self.logs: dict[str, Path] = {}
        for name, samples in (("A", 1), ("B", 3)):
            self._start(name, samples, stack)

    def _start(self, name: str, samples: int, stack: ExitStack) -> None:
        own = contacts.from_roster(self.roster, self.folder / f"{name}.key")
        trainer, nothing = FakeTrainer(samples, step=float(samples)), threading.Event()

        def train_on(update: int, stop: Any) -> None:
            while len(trainer.updates) > 1 and not stop():
                nothing.wait(0.01)

        trainer.during_fit = train_on
        sizes = image.nbytes(SCHEMA), image.header_bytes(SCHEMA)
        timing = Timing(ping_s=1.0)
        peer = Peer(name, sorted(own.others), samples, SCHEMA.hash, 9, *sizes, timing=timing)
        self.logs[name] = self.folder / name / "events.jsonl"
        log = EventLog(self.logs[name])
        transport = own.connect(LIMITS.max_message_bytes)
        checkpoints = CheckpointFile(self.folder / name / "checkpoint.safetensors")
        runner = Runner(
            peer, transport, trainer, checkpoints, log, epochs=1, limits=LIMITS, serves=own.serves
        )
        thread = threading.Thread(target=runner.run)
        thread.start()
        for close in (log.close, transport.close, lambda: thread.join(TIMEOUT_S)):
            stack.callback(close)
        stack.callback(runner.stop, "the test is over")

    def seen_by(self, who: str) -> Outside:
        return outside.of(self.roster, self.folder / f"{who}.key")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    with ExitStack() as stack:
        yield Federation(tmp_path_factory.mktemp("federation"), stack)


@pytest.mark.parametrize("who", ["office", "screen", "A", "C"])
def test_versions_of_whoever_answers_and_why_the_others_do_not(
    federation: Federation, who: str
) -> None:
    """An observer, a peer that runs at the same time, and one that does not."""
    seen = federation.seen_by(who)
    with seen.connected() as transport:
        ping = messages.Ping(seen.name)
        first = outside.ask(seen, transport, "AB", ping, messages.Version, LARGE_S)
        found = first | outside.ask(seen, transport, "CD", ping, messages.Version, 0.3)
    assert list(found) == [*"ABCD"]
    for name, samples in (("A", 1), ("B", 3)):
        version = found[name]
        assert isinstance(version, messages.Version)
        assert (version.sender, version.samples, version.schema) == (name, samples, SCHEMA.hash)
        assert version.seen is None
    assert isinstance(found["C"], NoAnswer)
    assert found["C"].reason.startswith("not reachable at tcp://127.0.0.1:")
    assert found["D"] == NoAnswer("has no address: it can't be asked from outside")


@pytest.mark.parametrize("who", ["screen", "A"])
def test_how_each_peer_is_doing(federation: Federation, who: str) -> None:
    seen = federation.seen_by(who)
    with seen.connected() as transport:
        found = outside.ask(
            seen, transport, "AB", messages.Ask(seen.name), messages.Report, LARGE_S
        )
    for name, samples in (("A", 1), ("B", 3)):
        report = found[name]
        assert isinstance(report, messages.Report)
        assert (report.sender, report.samples, report.rounds) == (name, samples, 9)
        assert report.events[0].event == "start"
        assert report.others.keys() == {*"ABCD"} - {name}, "who asks is no peer"


def test_a_key_that_no_peer_knows_is_told_so(federation: Federation, tmp_path: Path) -> None:
    KeyPair.new().write(tmp_path / "x.key")
    text = federation.roster.read_text()
    new = Observer("x", (KeyPair.read(tmp_path / "x.key").public,))
    (tmp_path / "r.toml").write_text(text + roster.checked(new).to_toml())
    found = outside.of(tmp_path / "r.toml", tmp_path / "x.key").versions(1.0)
    assert found["A"] == NoAnswer("refused by A: is the key of this peer in A's roster?")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "whom to ask?"),
        ({"roster": "roster.toml"}, "--roster and --keys go together"),
        ({"keys": "A.key"}, "--roster and --keys go together"),
        ({"roster": "roster.toml", "keys": "A.key", "peers": ["B=tcp://x:1"]}, "--peer is for"),
        ({"roster": "roster.toml", "keys": "stranger.key"}, "neither a peer nor an observer"),
        ({"peers": ["B"]}, "--peer B: where is it? --peer B=ADDRESS"),
        ({"peers": ["B=tcp://10.0.0.2:7302"]}, "that is another machine"),
    ],
)
def test_whom_one_can_not_ask(federation: Federation, options: Any, says: str) -> None:
    stranger = federation.folder / "stranger.key"
    if not stranger.exists():
        KeyPair.new().write(stranger)
    files = {
        n: federation.folder / options[n] if n in options else None for n in ("roster", "keys")
    }
    with pytest.raises(ConfigError) as caught:
        outside.of(**files, peers=options.get("peers", []))
    assert says in str(caught.value)


def test_peers_without_keys_are_asked_by_address() -> None:
    seen = outside.of(None, None, [f"A=tcp://127.0.0.1:{free_port()}"])
    (only,) = seen.versions(0.2).values()
    assert isinstance(only, NoAnswer)
    assert only.reason.startswith("not reachable")
