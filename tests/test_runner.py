"""The loop around the protocol: threads over in-process queues, a trainer that does as told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from bt.checkpoint import CheckpointFile
from bt.eventlog import EventLog
from bt.others import Timing
from bt.outcome import Outcome
from bt.protocol import Peer
from bt.runner import Runner
from bt.trainer import FitMetrics, Stopped
from bt.versions import Version
from bt.weights import FlatWeights
from transports import image, messages
from transports.base import PeerGone
from transports.inproc import InprocTransport, Network

ABC = ("a", "b", "c")
LIMITS = messages.Limits(max_message_bytes=10_000)
SCHEMA = FlatWeights.of({"w": torch.zeros(3)}).schema
TIMEOUT_S = 30  # of a test that hangs

Stop = Callable[[], bool]


class FakeTrainer:
    """A model of three numbers; each fine-tune adds `step` at once."""

    def __init__(self, samples: int = 1, step: float = 1.0) -> None:
        self.samples = samples
        self.step = step
        self.values = torch.zeros(3)
        self.updates: list[int] = []
        self.during_fit: Callable[[int, Stop], None] = lambda update, stop: None

    def weights(self) -> FlatWeights:
        return FlatWeights.of({"w": self.values})

    def load(self, weights: FlatWeights) -> None:
        self.values = weights.tensors()["w"].clone()

    def fit(self, epochs: int, update: int, stop: Stop) -> FitMetrics:
        self.updates.append(update)
        self.during_fit(update, stop)
        self.values += self.step
        return FitMetrics(loss=1.0, dice=None, seconds=0.0, steps=epochs)

    def evaluate(self, stop: Stop) -> list[float]:
        return self.values.tolist()


class Peers:
    """Runners of one network, each in a thread of its own, files in `folder`."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ABC, **timing: float) -> None:
        self.folder = folder
        self.names = names
        self.network = Network(names)
        self.timing = Timing(**{"heartbeat_s": 0.02, "retry_s": 0.02, **timing})
        self.runners: dict[str, Runner] = {}
        self._pool = ThreadPoolExecutor(len(names))
        self._logs: list[EventLog] = []

    def start(
        self,
        name: str,
        trainer: FakeTrainer,
        rounds: int = 2,
        save: Callable[[Any], None] | None = None,
    ) -> Future[Outcome]:
        others = [other for other in self.names if other != name]
        sizes = image.nbytes(SCHEMA), image.header_bytes(SCHEMA)
        peer = Peer(name, others, trainer.samples, SCHEMA.hash, rounds, *sizes, timing=self.timing)
        log = EventLog(self.folder / name / "events.jsonl")
        self._logs.append(log)
        transport = self.network.join(name)
        checkpoint = self.checkpoint(name)
        if save is not None:
            checkpoint.save = save  # type: ignore[method-assign]
        runner = Runner(peer, transport, trainer, checkpoint, log, epochs=1, limits=LIMITS)
        self.runners[name] = runner

        def run() -> Outcome:
            try:
                return runner.run()
            finally:
                transport.close()

        return self._pool.submit(run)

    def checkpoint(self, name: str) -> CheckpointFile:
        return CheckpointFile(self.folder / name / "checkpoint.safetensors")

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        lines = (self.folder / name / "events.jsonl").read_text().splitlines()
        return [found for line in lines if (found := json.loads(line))["event"] == event]

    def close(self) -> None:
        for runner in self.runners.values():
            runner.stop("the test is over")
        self._pool.shutdown()
        for log in self._logs:
            log.close()


@pytest.fixture
def peers(tmp_path: Path) -> Any:
    started: list[Peers] = []

    def make(names: tuple[str, ...] = ABC, **timing: float) -> Peers:
        started.append(Peers(tmp_path, names, **timing))
        return started[-1]

    yield make
    for each in started:
        each.close()


def result(future: Future[Outcome]) -> Outcome:
    return future.result(TIMEOUT_S)


def ask(transport: InprocTransport, to: str, message: messages.Message) -> messages.Message:
    """Send `message`; the first answer that is neither a ping nor of an earlier question."""
    transport.send(to, messages.encode(message))
    while received := transport.recv(TIMEOUT_S):
        answer = messages.decode(received.frames, limits=LIMITS)
        if not isinstance(answer, messages.Ping | messages.Pull):
            return answer
    raise AssertionError(f"{to} does not answer")


def test_a_federation_ends_with_one_model_the_weighted_mean(peers: Any) -> None:
    federation = peers()
    samples = {"a": 1, "b": 2, "c": 5}
    futures = [federation.start(n, FakeTrainer(samples[n], step=samples[n])) for n in ABC]
    outcomes = dict(zip(ABC, map(result, futures), strict=True))
    mean = sum(samples[n] * outcomes[n].weights.tensors()["w"] for n in ABC) / 8
    for name, outcome in outcomes.items():
        assert outcome.reason == "finished"
        assert outcome.aggregated is not None
        torch.testing.assert_close(outcome.aggregated.tensors()["w"], mean)
        assert outcome.aggregated_of == dict.fromkeys(ABC, "2")
        assert outcome.evaluation == outcome.weights.tensors()["w"].tolist()
        assert outcome.totals["bytes_out"] > 0
        assert [e["version"] for e in federation.events(name, "fit")] == ["1", "2"]
        ended = federation.events(name, "end")
        assert [e["reason"] for e in ended] == ["finished"]
    merged = sum(outcome.totals["merged"] for outcome in outcomes.values())
    assert merged > 0


def test_a_restarted_peer_goes_on_from_its_checkpoint(peers: Any) -> None:
    federation = peers(("a", "b"), ping_s=0.1)
    first, blocked = FakeTrainer(), threading.Event()

    def block(update: int, stop: Stop) -> None:
        if update == 2:
            blocked.set()
            while not stop():
                threading.Event().wait(0.001)
            raise Stopped

    first.during_fit = block
    future = federation.start("a", first, rounds=4)
    assert blocked.wait(TIMEOUT_S)
    federation.runners["a"].stop("left")
    assert result(future).reason == "left"
    saved = federation.checkpoint("a").load()
    assert saved is not None
    assert saved.version == Version(0, 2)

    second = FakeTrainer()
    futures = [federation.start("a", second, rounds=4), federation.start("b", FakeTrainer(), 1)]
    resumed, _ = map(result, futures)
    assert second.updates == [2, 3]
    assert [e["version"] for e in federation.events("a", "start")] == ["0", "2"]
    assert resumed.aggregated_of == {"a": "4", "b": "1"}
    assert resumed.totals["seconds"] >= saved.totals["seconds"]


def image_of(
    values: list[float], version: tuple[int, int] = (0, 5), samples: int = 1
) -> memoryview:
    weights = FlatWeights.of({"w": torch.tensor(values, dtype=torch.float32)})
    return weights.image(image.encode(image.Model("c", version, samples), SCHEMA))


def announce(
    sender: str = "c",
    schema: str = SCHEMA.hash,
    served: memoryview | None = None,
    digest: str | None = None,
) -> tuple[Any, ...]:
    if served is not None and digest is None:
        digest = image.digest(served)
    return messages.encode(messages.Version(sender, (0, 5), 1, schema, "training", digest))


NAN = image_of([1, float("nan"), 1])
OLD = image_of([1, 1, 1], version=(0, 4))
GREEDY = image_of([1, 1, 1], samples=999_999)
GOOD = image_of([1, 1, 1])
FLIPPED = memoryview(bytearray(GOOD))
FLIPPED[-1] ^= 1


@pytest.mark.parametrize(
    ("to_ping", "served", "why"),
    [
        ([b"PK\x03\x04 no safetensors"], None, ""),
        ([bytes(20_000)], None, "bytes"),
        (announce("b"), None, "claims to be b"),
        (announce(schema="0" * 64), None, "trains another model"),
        (announce(served=NAN), NAN, "tensor 'w' holds NaN"),
        (announce(served=OLD), OLD, "announced"),
        (announce(served=GREEDY), GREEDY, "announced"),
        (announce(served=GOOD), FLIPPED, "checksum"),
        (announce(served=GOOD), memoryview(b"PK" * 2000), "of 4000 bytes"),
        (announce(served=GOOD), memoryview(b"PK" * (len(GOOD) // 2)), "header"),
    ],
    ids="garbage size name model NaN version samples damaged large nonsense".split(),
)
def test_a_peer_that_sends_nonsense_is_set_aside_and_the_others_finish(
    peers: Any, to_ping: Any, served: memoryview | None, why: str
) -> None:
    federation = peers(ping_s=TIMEOUT_S)  # nobody may be waited for instead
    stranger = federation.network.join("c")
    futures = [federation.start(name, FakeTrainer()) for name in ("a", "b")]
    while not all(future.done() for future in futures):
        received = stranger.recv(0.01)
        if received is None:
            continue
        asked, answer = messages.decode(received.frames, limits=LIMITS), None
        if isinstance(asked, messages.Ping):
            answer = to_ping
        elif isinstance(asked, messages.Pull) and served is not None:
            data = served[asked.offset : asked.offset + asked.length]
            answer = messages.encode(
                messages.Weights("c", asked.digest, served.nbytes, asked.offset, data)
            )
        if answer:
            with suppress(PeerGone):  # it may have left by now
                stranger.send(received.sender, answer)
    for name, future in zip(("a", "b"), futures, strict=True):
        outcome = result(future)
        assert outcome.reason == "finished"
        assert set(outcome.aggregated_of) == {"a", "b"}
        assert outcome.weights.tensors()["w"].isfinite().all()
        rejected = federation.events(name, "reject")
        assert {e["peer"] for e in rejected} == {"c"}
        assert all(why in e["reason"] for e in rejected), rejected


def test_a_trainers_error_surfaces_and_the_peer_leaves(peers: Any) -> None:
    federation = peers(("a", "b"), ping_s=0.1)
    other = federation.network.join("b")
    trainer = FakeTrainer()

    def fail(update: int, stop: Stop) -> None:
        raise ZeroDivisionError("no steps")

    trainer.during_fit = fail
    future = federation.start("a", trainer)
    with pytest.raises(ZeroDivisionError, match="no steps"):
        result(future)
    states = []
    while received := other.recv(0.0):
        message = messages.decode(received.frames, limits=LIMITS)
        if isinstance(message, messages.Version):
            states.append(message.state)
    assert states[-1] == "leaving"
    assert federation.checkpoint("a").load() is None
    assert [event["reason"] for event in federation.events("a", "end")] == ["failed"]


def test_others_are_answered_from_the_last_model_while_it_trains(peers: Any) -> None:
    federation = peers(("a", "b"), ping_s=0.05)
    other = federation.network.join("b")
    trainer = FakeTrainer()
    training, go_on = [threading.Event() for _ in range(2)], threading.Event()

    def block(update: int, stop: Stop) -> None:
        trainer.values += 100  # half-trained
        training[update].set()
        assert update == 1 or go_on.wait(TIMEOUT_S)
        while update == 1 and not stop():
            threading.Event().wait(0.001)
        if update == 1:
            raise Stopped
        trainer.values -= 100

    trainer.during_fit = block
    future = federation.start("a", trainer)
    assert training[0].wait(TIMEOUT_S)
    answer = ask(other, "a", messages.Ping("b"))
    assert isinstance(answer, messages.Version)
    assert (answer.version, answer.samples, answer.state) == ((0, 0), 1, "training")
    assert answer.digest is None, "random weights are served to nobody"

    go_on.set()
    assert training[1].wait(TIMEOUT_S)
    while answer.digest is None:  # the announcement, late answers
        answer = ask(other, "a", messages.Ping("b"))
        assert isinstance(answer, messages.Version)
    assert answer.version == (0, 1)
    served = ask(other, "a", messages.Pull("b", answer.digest, 0, 1 << 20))
    while isinstance(served, messages.Version):
        served = ask(other, "a", messages.Pull("b", answer.digest, 0, 1 << 20))
    assert isinstance(served, messages.Weights)
    assert image.digest(served.data) == answer.digest
    assert image.decode(served.data, SCHEMA) == image.Model("a", (0, 1), 1)
    body = served.data[image.header_bytes(SCHEMA) :]
    assert FlatWeights.from_body(SCHEMA, body).tensors()["w"].tolist() == [1, 1, 1]

    federation.runners["a"].stop("left")
    outcome = result(future)
    assert outcome.reason == "left"
    assert outcome.aggregated is None
    assert outcome.weights.tensors()["w"].tolist() == [1, 1, 1]
    saved = federation.checkpoint("a").load()
    assert saved is not None
    assert saved.version == Version(0, 1)
    assert saved.weights.tensors()["w"].tolist() == [1, 1, 1]


def test_a_model_that_ruins_the_training_is_left_out_and_the_peer_goes_on(peers: Any) -> None:
    federation = peers(("a", "b"))
    sensitive = FakeTrainer()

    def diverge(update: int, stop: Stop) -> None:
        if sensitive.values.abs().max() > 100:
            sensitive.values = torch.full((3,), float("nan"))

    sensitive.during_fit = diverge
    futures = [
        federation.start("a", sensitive, rounds=3),
        federation.start("b", FakeTrainer(samples=9, step=200.0), rounds=3),
    ]
    outcome, _ = map(result, futures)
    assert outcome.reason == "finished"
    assert outcome.weights.tensors()["w"].tolist() == [3, 3, 3]
    assert federation.events("a", "diverged")[0]["peers"] == ["b"]
