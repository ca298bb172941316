"""A peer from Python, in a few lines: any torch module, any data, no bt command.

federation = bt.Federation("A", "tcp://127.0.0.1:7301", {"B": "tcp://127.0.0.1:7302"})
outcome = federation.train(model, batches, loss, samples=len(data))
outcome.aggregated.load_into(model)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from bt import contacts
from bt.config import Config, change
from bt.node import Node
from bt.outcome import Outcome
from bt.trainer import FitMetrics, Stopped, Trainer
from bt.weights import FlatWeights


class ModuleTrainer:
    """Fine-tunes `model` on `batches` of (inputs, targets), by `loss(model(inputs), targets)`.

    `batches` is iterated once an epoch: a DataLoader, or a list. `samples` is what this peer
    weighs in averages. All peers must start from the same weights.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        samples: int,
        *,
        learning_rate: float = 1e-3,
        halve_every: int = 4,
    ) -> None:
        self.model = model
        self.batches = batches
        self.loss = loss
        self.samples = samples
        self.learning_rate = learning_rate
        self.halve_every = halve_every  # updates, as in the paper's section 3

    def weights(self) -> FlatWeights:
        """A copy of the model now."""
        return FlatWeights.of(self.model)

    def load(self, weights: FlatWeights) -> None:
        """Go on from these weights."""
        weights.load_into(self.model)

    def fit(self, epochs: int, update: int, stop: Callable[[], bool]) -> FitMetrics:
        """`epochs` passes over the batches with a fresh Adam. Raises Stopped."""
        started = time.perf_counter()
        rate = self.learning_rate * 0.5 ** (update // self.halve_every)
        adam = torch.optim.Adam(self.model.parameters(), lr=rate)
        losses = []
        self.model.train()
        for _ in range(epochs):
            for inputs, targets in self.batches:
                if stop():
                    raise Stopped
                loss = self.loss(self.model(inputs), targets)
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
                losses.append(loss.item())
        mean = sum(losses) / max(1, len(losses))
        return FitMetrics(mean, None, time.perf_counter() - started, len(losses))

    def evaluate(self, stop: Callable[[], bool]) -> None:
        """Scores are the user's business: the model is in `Outcome.aggregated`."""


@dataclass
class Federation:
    """One peer, called `name`, of a federation.

    With the files `roster` and `keys` everything is encrypted, and the others are who the roster
    says (docs/security.rst). Without, on one machine, `peers` are their addresses by name. `out`
    is runs/NAME if not given.
    """

    name: str
    listen: str | None = None
    peers: Mapping[str, str] = field(default_factory=dict)
    out: Path | str | None = None
    roster: Path | str | None = None
    keys: Path | str | None = None
    rounds: int = 8
    epochs: int = 2
    insecure: bool = False

    def train(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss: Callable[[Tensor, Tensor], Tensor],
        samples: int,
        *,
        learning_rate: float = 1e-3,
    ) -> Outcome:
        """`join` with a ModuleTrainer of these."""
        trainer = ModuleTrainer(model, batches, loss, samples, learning_rate=learning_rate)
        return self.join(trainer)

    def join(self, trainer: Trainer) -> Outcome:
        """Be this peer until all are done; called again with the same `out`, go on.

        Raises ConfigError and TransportError where an address, a key or the roster can't be used.
        """
        roster = None if self.roster is None else Path(self.roster)
        keys = None if self.keys is None else Path(self.keys)
        addresses = [f"{other}={address}" for other, address in self.peers.items()]
        own = contacts.of(
            roster, keys, self.name, self.listen, addresses, None, insecure=self.insecure
        )
        own.check_samples(trainer.samples)
        config = change(Config(), {"rounds": self.rounds, "epochs": self.epochs})
        folder = Path("runs") / self.name if self.out is None else Path(self.out)
        others = sorted(own.others)
        node = Node(
            self.name, others, folder, config, samples_of=own.samples_of, serves=own.serves
        )
        return node.run(trainer, own.connect)
