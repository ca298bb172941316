"""A peer from Python, in a few lines: any torch module, any data, no bt command.

trainer = ModuleTrainer(model, batches, loss, samples=len(data))
outcome = join("A", trainer, "tcp://127.0.0.1:7301", {"B": "tcp://127.0.0.1:7302"}, "runs/A")
outcome.aggregated.load_into(model)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from bt.config import Config, change
from bt.node import Node
from bt.runner import Outcome
from bt.trainer import FitMetrics, Stopped, Trainer
from bt.weights import FlatWeights
from transports.zeromq import ZeroMQTransport


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


def join(
    name: str,
    trainer: Trainer,
    listen: str,
    peers: Mapping[str, str],
    out: Path | str,
    *,
    rounds: int = 8,
    epochs: int = 2,
    insecure: bool = False,
) -> Outcome:
    """Be the peer `name` until all are done; called again with the same `out`, go on.

    `peers` are the others' addresses by name. Raises TransportError where an address can't be
    used, for one that other machines can reach unless `insecure`.
    """
    config = change(Config(), {"rounds": rounds, "epochs": epochs})
    return Node(name, sorted(peers), Path(out), config).run(
        trainer,
        lambda limit: ZeroMQTransport(
            name, listen, peers, max_message_bytes=limit, insecure=insecure
        ),
    )
