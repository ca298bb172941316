"""The methods that are compared: each a few lines over the same clients and the same average.

A method is a generator that trains a round and yields what there is after it. BrainTorrent is in
simulation.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bt.experiment import plan
from bt.experiment.clients import Clients
from bt.experiment.simulation import Federation
from bt.schedule import Async, Sequential
from bt.weights import FlatWeights
from transports import image


@dataclass(frozen=True)
class Round:
    """After every client was updated once more (on average, where they take turns)."""

    aggregated: FlatWeights | None
    clients: Mapping[str, FlatWeights] = field(default_factory=dict)  # after their own fine-tune
    nbytes: int = 0  # moved between clients, or clients and server, so far


Method = Callable[[Clients, int, int | None], Iterator[Round]]


def fedavg(clients: Clients, seed: int, fanout: int | None) -> Iterator[Round]:
    """The paper's FLS: all train, the server averages by number of scans, all take that back."""
    models = {name: clients.initial(name) for name in clients.names}
    average: FlatWeights | None = None
    nbytes = 0
    for _ in range(clients.rounds):
        for name in clients.names:
            models[name] = clients.fit(name, average)
            nbytes += 2 * image.nbytes(models[name].schema)  # up, and the average down
        average = clients.average(models)
        yield Round(average, dict(models), nbytes)


def only_client(clients: Clients, seed: int, fanout: int | None) -> Iterator[Round]:
    """No federation: the lower bound."""
    for _ in range(clients.rounds):
        yield Round(None, {name: clients.fit(name, None) for name in clients.names})


def pooled(clients: Clients, seed: int, fanout: int | None) -> Iterator[Round]:
    """One model on all scans: the upper bound. `clients` is one that has them all."""
    (name,) = clients.names
    for _ in range(clients.rounds):
        yield Round(clients.fit(name, None))


def cyclic(clients: Clients, seed: int, fanout: int | None) -> Iterator[Round]:
    """One model goes from client to client; in each round it visits all of them once."""
    model: FlatWeights | None = None
    nbytes = 0
    for _ in range(clients.rounds):
        for name in clients.names:
            nbytes += image.nbytes(model.schema) if model is not None else 0
            model = clients.fit(name, model)
        yield Round(model, {}, nbytes)


def braintorrent(clients: Clients, seed: int, fanout: int | None) -> Iterator[Round]:
    """The paper's schedule: all train locally, then a random client at a time initiates."""
    schedule = Sequential(clients.names, clients.rounds, seed, clients.stale_weight)
    yield from _rounds(Federation(clients, schedule, seed, fanout))


def braintorrent_async(clients: Clients, seed: int, fanout: int | None) -> Iterator[Round]:
    """Nobody waits: clients train side by side, equally fast, in simulated time."""
    yield from _rounds(Federation(clients, Async(), seed, fanout))


def _rounds(federation: Federation) -> Iterator[Round]:
    """A round is as many updates as there are clients."""
    clients = federation.clients
    for number, _ in enumerate(federation.updates(), start=1):
        if number % len(clients.names) == 0:
            models = dict(federation.models)
            yield Round(clients.average(models, clients.merge), models, federation.nbytes)


STRATEGIES: dict[str, Method] = {
    plan.BRAINTORRENT: braintorrent,
    plan.ASYNC: braintorrent_async,
    plan.FEDAVG: fedavg,
    plan.POOLED: pooled,
    plan.ONLY_CLIENT: only_client,
    plan.CYCLIC: cyclic,
}
