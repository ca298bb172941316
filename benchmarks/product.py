"""BrainTorrent's own ways: the functions that every other file here measures.

Servers run in processes of their own, one for each peer; clients run where the clock is. Both are
the product's runner with its protocol, codec, checks and merge; only trainer, disk and log do
nothing. `place` is tcp://HOST:0, ipc://PATH or curve://HOST:0 (tcp with CURVE); what a server says
is the place a client gets: address, name, and with CURVE the keys that it made for both.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from benchmarks import model
from benchmarks.apart import Prepared
from benchmarks.harness import Pull, Say
from benchmarks.latency import Pinger
from bt import events
from bt.checkpoint import Checkpoint
from bt.delta import chooser
from bt.merge import WeightedMean
from bt.others import Timing
from bt.protocol import Peer, Phase
from bt.runner import Runner
from bt.trainer import FitMetrics
from bt.transfer import Link
from bt.versions import Version
from bt.weights import FlatWeights, schema_of
from transports import image, messages
from transports.base import PeerGone, Received, Transport
from transports.keys import KeyPair
from transports.schema import Schema
from transports.zeromq import ZeroMQTransport

_R = TypeVar("_R", bound=Runner)
CLIENT = "a"
STEP = 0.08  # of the weights' own size: what one update changed them by, where it was measured
MOST_BYTES = 1 << 24
_PATIENCE_S = 30.0
_FOREVER = 10**6


class Nothing:
    """A trainer that trains nothing, a disk that keeps nothing but what it began with, a log."""

    samples = 1
    path = Path("nowhere")
    damage: str | None = None

    def __init__(self, name: str, weights: FlatWeights) -> None:
        self.served = 0  # models, whole
        self.trouble = ""  # with a peer, the latest
        self._weights = weights
        self._kept = Checkpoint(weights, Version(0, 1), {}, {}, {}, name)

    def weights(self) -> FlatWeights:
        return self._weights

    def load(self, weights: FlatWeights) -> None:
        pass

    def load_of(self, peer: str, schema: Schema) -> Checkpoint:
        return self._kept

    def save(self, checkpoint: Checkpoint) -> None:
        pass

    def write(self, event: str, **fields: object) -> None:
        self.served += event == "weights" and "peer" in fields
        if fields.get("reason"):
            self.trouble = f": {fields.get('peer', '')} {fields['reason']}"

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        return FitMetrics(0.0, None, 0.0, 0)

    def evaluate(self, stop: Callable[[], bool]) -> None:
        return None


class Puller(Runner):
    """A peer that always has the same model, and merges without training."""

    merged: tuple[FlatWeights | None, int] = None, 0
    answer: Received | None = None  # to a ping, the last that is awaited: with it pulling begins

    def ask(self) -> None:
        """A round, up to where everybody has said which version it has."""
        self.peer.vector.clear()
        self._feed(events.RoundDue())
        while self.peer.phase is Phase.PINGING and self.answer is None:
            self._step()

    def pull_all(self) -> FlatWeights:
        """From there to where training would begin."""
        if self.peer.phase is Phase.IDLE:
            self.ask()
        if self.answer is not None:
            answer, self.answer = self.answer, None
            super()._receive(answer)
        while self.peer.phase is not Phase.TRAINING:
            self._step()
        self._feed(events.Trained())
        (merged, count), self.merged = self.merged, (None, 0)
        if merged is None or count != len(self.peer.others):
            log: Any = self._trainer  # a Nothing
            raise RuntimeError(f"merged {count} of {len(self.peer.others)} models{log.trouble}")
        return merged

    def _receive(self, received: Received) -> None:
        last = self.peer.phase is Phase.PINGING and [*self.peer._awaited] == [received.sender]
        if last and self.answer is None and not received.published:
            message = messages.decode(received.frames, limits=messages.Limits(MOST_BYTES))
            if isinstance(message, messages.Version):
                self.answer = received
                return
        super()._receive(received)

    def _carry_out(self, instruction: events.Instruction) -> None:
        match instruction:
            case events.Train(merged=peers):
                merge = self._merged()
                self.merged = None if merge is None else merge(), len(peers)
            case events.Persist():
                self._feed(events.Persisted("0" * 32))  # as if; it stays as it was
            case events.Publish():
                pass
            case _:
                super()._carry_out(instruction)


def weights(nbytes: int, seed: int) -> FlatWeights:
    """`model.values`, as the product holds them; not a byte more."""
    made = FlatWeights.empty(_schema(nbytes))
    ((_, values),) = made.floats()
    np.random.default_rng(seed).standard_normal(dtype=np.float32, out=values.numpy())
    return made


def _schema(nbytes: int) -> Schema:
    return schema_of(model.tensors(torch.empty(nbytes // 4, device="meta")))


def runner_of(
    kind: type[_R],
    transport: Transport,
    trainer: Nothing,
    rounds: int,
    choose: Callable[[Link], str] = lambda link: messages.PLAIN,
    *,
    waits: bool = True,
    **real: object,
) -> _R:
    """A runner whose disk and log are nothing unless `real`; `waits`: for peers not yet there."""
    schema = trainer.weights().schema
    peer = Peer(
        transport.me,
        transport.peers,
        samples=1,
        schema=schema.hash,
        rounds=rounds,
        image_bytes=image.nbytes(schema),
        header_bytes=image.header_bytes(schema),
        # a busy machine is no dead peer
        timing=Timing(patience_s=1e9, ping_s=60.0 if waits else 0.1, pull_s=600.0),
        choose=choose,
    )
    doing: dict[str, Any] = {"checkpoints": trainer, "log": trainer, **real}
    any_rate = {"pings_per_s": 1 << 31, "pulls_per_s": 1 << 31}  # measured is what it can do
    limits = messages.Limits(MOST_BYTES, **any_rate)
    runner = kind(peer, transport, trainer, epochs=1, limits=limits, **doing)
    return runner


@contextmanager
def client(places: Sequence[str], me: str = CLIENT) -> Iterator[Transport]:
    """A transport connected to all `places`, of which every one has answered."""
    told = [place.split(" ") for place in places]
    peers: dict[str, str | None] = {name: address for address, name, *_ in told}
    secure = {name: keys for _, name, *keys in told if keys}
    with tempfile.TemporaryDirectory() as folder:
        transport = ZeroMQTransport(
            me,
            f"ipc://{folder}/{me}",
            peers,
            max_message_bytes=MOST_BYTES,
            # who serves has made our keys
            keys=KeyPair(*next(iter(secure.values()))[1:]) if secure else None,
            peer_keys={name: [keys[0]] for name, keys in secure.items()} if secure else None,
        )
        with closing(transport):
            for name in peers:
                _wait_for(transport, name, me)
            yield transport


def _wait_for(transport: Transport, name: str, me: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(PeerGone):
            transport.send(name, messages.encode(messages.Ping(me)))
            return
        transport.recv(0.01)
    raise TimeoutError(f"{name} can't be reached")


def models_served(runner: Runner) -> int:
    """How many whole models it has sent."""
    log: Any = runner._trainer  # a Nothing
    served: int = log.served
    return served


class Server(Runner):
    """A peer that is done and stays."""

    def forever(self) -> None:
        self._resume()
        while True:
            self._step()


class _Trainee(Runner):
    """A peer that has another model as soon as somebody has got the last one."""

    served = 0

    def alternate(self, step: FlatWeights) -> None:
        """Between the model it has and that plus `step`, for ever."""
        self._resume()
        models = [self._snapshot, self._snapshot.copy()]
        for (_, values), (_, change) in zip(models[1].floats(), step.floats(), strict=True):
            values.add_(change, alpha=STEP)
        while True:
            self._step()
            if (served := models_served(self)) > self.served:
                self.served = served
                self._snapshot = models[served % 2]
                self.peer.version = self.peer.version.next()
                self.peer.digest = self._put_on_shelf()


def serve(place: str, nbytes: int, say: Say, clients: Sequence[str] = (CLIENT,)) -> None:
    """A peer: answers pings and pulls of one published model, until killed."""
    transport = listen(place, clients, say)
    theirs = Nothing(transport.me, weights(nbytes, model.THEIRS))
    runner_of(Server, transport, theirs, rounds=1).forever()


def serve_changing(place: str, nbytes: int, say: Say) -> None:
    """The same, of a model that has changed by each time that it is asked for."""
    transport = listen(place, [CLIENT], say)
    theirs = Nothing(transport.me, weights(nbytes, model.THEIRS))
    runner_of(_Trainee, transport, theirs, rounds=1, differences=True).alternate(
        weights(nbytes, model.OWN)
    )


def listen(place: str, clients: Sequence[str], say: Say) -> Transport:
    """A transport that listens there; `say` hears the place a client needs to know."""
    name, curve = f"b{os.getpid()}", place.startswith("curve")
    mine, theirs = KeyPair.new(), KeyPair.new()
    transport = ZeroMQTransport(
        name,
        place.replace("curve://", "tcp://"),
        dict.fromkeys(clients),
        max_message_bytes=MOST_BYTES,
        insecure=True,
        keys=mine if curve else None,
        peer_keys={CLIENT: [theirs.public]} if curve else None,
    )
    keys = [mine.public, theirs.public, theirs.secret] if curve else []
    say(" ".join([transport.endpoint, name, *keys]))
    return transport


@contextmanager
def pull_and_merge(places: Sequence[str], nbytes: int, me: str = CLIENT) -> Iterator[Pull]:
    """A peer connected to those at `places`: each call pulls from all and merges into own.

    Own weights stay as they are, so that every call does the same. Returns the merged values in
    pieces, in order: [flat float32 array].
    """
    with client(places, me) as transport:
        yield pulling(transport, nbytes)


def pulling(transport: Transport, nbytes: int) -> Pull:
    own = weights(nbytes, model.OWN)
    puller = runner_of(Puller, transport, Nothing(transport.me, own), _FOREVER)
    puller._resume()
    return Prepared(
        lambda: [values.numpy() for _, values in puller.pull_all().floats()], puller.ask
    )


def _pull_coded(setting: str) -> Callable[[Sequence[str], int], AbstractContextManager[Pull]]:
    """As pull_and_merge, with --compression; from `serve_changing`. Nothing to verify: lossy."""

    @contextmanager
    def coded(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
        with client(places) as transport:
            choose = chooser(setting, nbytes)
            own = weights(nbytes, model.OWN)
            puller = runner_of(Puller, transport, Nothing(transport.me, own), _FOREVER, choose)
            puller._resume()
            puller.pull_all()  # plainly: there is no base yet

            def once() -> None:
                puller.pull_all()

            yield Prepared(once, puller.ask)

    return coded


pull_none = _pull_coded("none")
pull_fp16 = _pull_coded("fp16")
pull_fp16_zstd = _pull_coded("fp16+zstd")
pull_int8 = _pull_coded("int8")
pull_int8_zstd = _pull_coded("int8+zstd")
pull_auto = _pull_coded("auto")


@contextmanager
def ping(places: Sequence[str], nbytes: int) -> Iterator[Pinger]:
    """A peer connected to the one at `places`: asks which version it has, hears the answer."""
    limits = messages.Limits(MOST_BYTES)
    with client(places) as transport:
        (to,) = transport.peers

        def ask() -> None:
            transport.send(to, messages.encode(messages.Ping(CLIENT)))

        def answer() -> None:
            while True:
                received = transport.recv(_PATIENCE_S)
                if received is None:
                    raise TimeoutError("no answer to a ping")
                if isinstance(messages.decode(received.frames, limits=limits), messages.Version):
                    return

        yield Pinger(ask, answer)


@contextmanager
def merge(places: Sequence[str], nbytes: int, peers: int = 9) -> Iterator[Pull]:
    """Merge `peers` models, each of them in the same buffer; no server, `places` is empty."""
    own, theirs = weights(nbytes, model.OWN), weights(nbytes, model.THEIRS).body()
    rule = WeightedMean()

    def once() -> list[model.Floats]:
        rule.start(own, 1)
        for _ in range(peers):
            rule.add("other", 0, theirs, 1)
        return [values.numpy() for _, values in rule.finish().floats()]

    yield once


@contextmanager
def publish(places: Sequence[str], nbytes: int) -> Iterator[Pull]:
    """Make a state dict ready to be served; no server, `places` is empty."""
    own = model.tensors(model.tensor(model.values(nbytes, model.OWN)))

    def once() -> None:
        FlatWeights.of(own)

    yield once
