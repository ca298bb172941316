"""BrainTorrent's peers in one process: the product's protocol, merge and messages, no sockets.

Time is simulated. Messages take none; a fine-tune takes as long as it has steps, for all peers
are equally fast. So peers train side by side and finish in an order that depends on nothing but
the settings, ties by name; in truth one after the other is computed. The bytes counted are those
of the messages, as they would be sent.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Iterator

from bt import events
from bt.experiment.clients import Clients
from bt.fanout import Fanout
from bt.intake import Bases, Intake
from bt.protocol import Peer
from bt.robust import LEAST_MODELS, rule_named
from bt.schedule import Schedule
from bt.shelf import Shelf
from bt.weights import FlatWeights
from transports import image, messages

_NOW = 0.0  # for the protocol: nobody is ever late


class Federation:
    """Runs all clients to their end. `models` has the last fine-tune of each."""

    def __init__(
        self, clients: Clients, schedule: Schedule, seed: int, most: int | None = None
    ) -> None:
        self.clients = clients
        self.models = {name: clients.initial(name) for name in clients.names}
        self.nbytes = 0
        fanout = Fanout(most, random.Random(f"fanout/{seed}"))
        self._flying: deque[tuple[str, messages.Message]] = deque()  # to whom, what
        self._training: list[tuple[int, str]] = []  # a heap: when it ends, who
        self._starts: dict[str, FlatWeights | None] = {}
        self._intakes: dict[str, Intake] = {}
        self._rules = {name: rule_named(clients.merge) for name in clients.names}
        self._bases = Bases()  # stays empty: nothing is compressed
        self._shelves = {name: Shelf(differences=False) for name in clients.names}
        schema = next(iter(self.models.values())).schema
        self._peers = {
            name: Peer(
                name,
                [other for other in clients.names if other != name],
                clients.samples[name],
                schema.hash,
                clients.rounds,
                image.nbytes(schema),
                image.header_bytes(schema),
                schedule=schedule,
                pulls_at_once=1,  # in order of names: sums depend on their order
                fanout=fanout,
                least_models=LEAST_MODELS[clients.merge],
            )
            for name in clients.names
        }

    def updates(self) -> Iterator[str]:
        """Yields the client's name after each fine-tune, until all have had theirs."""
        clock = 0
        while True:
            for name, peer in self._peers.items():
                if peer.ready:
                    self._feed(name, events.RoundDue())
                    self._deliver_all()
                if name in self._starts and all(name != other for _, other in self._training):
                    heapq.heappush(self._training, (clock + self.clients.steps[name], name))
            if not self._training:
                return
            clock, name = heapq.heappop(self._training)
            self.models[name] = self.clients.fit(name, self._starts.pop(name))
            self._feed(name, events.Trained())
            if all(peer.state != "training" for peer in self._peers.values()):
                yield name
                return  # how each forms the aggregated model for itself is not part of the budget
            self._deliver_all()
            yield name

    def published(self, name: str) -> FlatWeights:
        """What a client serves to others."""
        return self.models[name]

    def _deliver_all(self) -> None:
        while self._flying:
            to, message = self._flying.popleft()
            self.nbytes += sum(len(frame) for frame in messages.encode(message))
            self._feed(to, events.Received(message))

    def _feed(self, name: str, event: events.Event) -> None:
        waiting = deque([event])
        while waiting:
            for instruction in self._peers[name].handle(waiting.popleft(), _NOW):
                waiting += self._carry_out(name, instruction)

    def _carry_out(self, name: str, instruction: events.Instruction) -> list[events.Event]:
        """What comes of it at once."""
        peer = self._peers[name]
        match instruction:
            case events.Send(to, message):
                self._flying.append((to, message))
            case events.Publish(message):
                self._flying += [(to, message) for to in peer.others]
            case events.Serve(pull):
                self._flying.append((pull.sender, self._shelves[name].read(pull, name, _NOW)))
            case events.Merge():
                if name not in self._intakes:
                    own, weight = self.models[name], instruction.own_weight
                    self._intakes[name] = Intake(self._rules[name], own, weight, self._bases)
                merged = self._intakes[name].take(instruction)
                return [] if merged is None else [merged]
            case events.StartOver():
                self._intakes.pop(name, None)
            case events.Train():
                intake = self._intakes.pop(name, None)
                self._starts[name] = None if intake is None else intake.finish()
            case events.Persist():
                model = image.Model(name, peer.version, peer.samples)
                return [events.Persisted(self._shelves[name].put(model, self.published(name)))]
            case _:
                raise RuntimeError(f"{name}: {instruction} in a federation where nothing fails")
        return []
