"""Federate a model that sees no images: two sites learn a diagnosis from blood values.

In two terminals:

    python examples/tabular.py A
    python examples/tabular.py B

The patients are simulated. Each site has too few of them to tell 40 values that matter from those
that don't; the average of both models does better.
"""

import sys

import torch
from torch import Tensor, nn

import bt

ADDRESSES = {"A": "tcp://127.0.0.1:7301", "B": "tcp://127.0.0.1:7302"}
VALUES = 40


def patients(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Blood values (n, VALUES) and who is ill (n,)."""
    weights = torch.randn(VALUES, generator=torch.Generator().manual_seed(0))  # nature's
    chance = torch.Generator().manual_seed(seed)
    values = torch.randn(count, VALUES, generator=chance)
    luck = 2.0 * torch.randn(count, generator=chance)
    return values, (values @ weights + luck > 0).long()


def main(me: str) -> None:
    """Be site A or B until both are done."""
    values, truth = patients(100, seed=ord(me))
    torch.manual_seed(0)  # the same first weights at every site
    model = nn.Linear(VALUES, 2)
    batches = list(zip(values.split(20), truth.split(20), strict=True))
    others = {name: address for name, address in ADDRESSES.items() if name != me}
    federation = bt.Federation(me, ADDRESSES[me], others, out=f"runs/tabular-{me}", rounds=8)
    loss = nn.functional.cross_entropy
    outcome = federation.train(model, batches, loss, samples=len(values), learning_rate=1e-2)
    test, expected = patients(1000, seed=0)
    right = (model(test).argmax(dim=1) == expected).float().mean()
    print(f"{me}, own model  right {right:.0%}")
    if outcome.aggregated is not None:
        outcome.aggregated.load_into(model)
        right = (model(test).argmax(dim=1) == expected).float().mean()
        print(f"{me}, average of {' and '.join(outcome.aggregated_of)}  right {right:.0%}")


if __name__ == "__main__":
    main(sys.argv[1])
