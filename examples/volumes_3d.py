"""Federate a 3-D network of one's own: two sites learn to find bright balls in noisy volumes.

In two terminals:

    python examples/volumes_3d.py A
    python examples/volumes_3d.py B

The volumes are simulated. Site A only has small balls, site B only large ones; the test volumes
hold both.
"""

import sys

import torch
from torch import Tensor, nn

import bt

ADDRESSES = {"A": "tcp://127.0.0.1:7301", "B": "tcp://127.0.0.1:7302"}
RADII = {"A": (2.0, 4.0), "B": (5.0, 8.0)}  # voxels
SIDE = 24


def volumes(count: int, radii: tuple[float, float], seed: int) -> tuple[Tensor, Tensor]:
    """Noisy volumes (n, 1, X, Y, Z) and where the ball is (n, X, Y, Z)."""
    chance = torch.Generator().manual_seed(seed)
    radius = torch.rand(count, 1, 1, 1, generator=chance) * (radii[1] - radii[0]) + radii[0]
    centre = torch.rand(count, 3, 1, 1, 1, generator=chance) * (SIDE - 12) + 6
    places = torch.stack(torch.meshgrid(*[torch.arange(SIDE)] * 3, indexing="ij"))
    ball = (places - centre).square().sum(dim=1).sqrt() < radius
    noise = torch.randn(count, SIDE, SIDE, SIDE, generator=chance)
    return (ball + 0.8 * noise)[:, None], ball.long()


def network() -> nn.Module:
    """Logits (n, 2, X, Y, Z); the same first weights at every site."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs in (1, 8, 8):
        layers += [nn.Conv3d(inputs, 8, 3, padding=1), nn.BatchNorm3d(8), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv3d(8, 2, 1))


def dice(model: nn.Module, images: Tensor, truth: Tensor) -> float:
    """Of the ball, over all volumes."""
    model.eval()
    with torch.no_grad():
        found = model(images).argmax(dim=1)
    return float(2 * (found * truth).sum() / (found.sum() + truth.sum()))


def main(me: str) -> None:
    """Be site A or B until both are done."""
    images, truth = volumes(16, RADII[me], seed=ord(me))
    batches = list(zip(images.split(2), truth.split(2), strict=True))
    model = network()
    others = {name: address for name, address in ADDRESSES.items() if name != me}
    federation = bt.Federation(me, ADDRESSES[me], others, out=f"runs/volumes-{me}", rounds=4)
    loss = nn.CrossEntropyLoss(torch.tensor([1.0, 10.0]))
    outcome = federation.train(model, batches, loss, samples=len(images), learning_rate=1e-2)
    small, large = (volumes(8, radii, seed=0) for radii in RADII.values())
    test = [torch.cat(both) for both in zip(small, large, strict=True)]
    print(f"{me}, own model  Dice {dice(model, *test):.3f}")
    if outcome.aggregated is not None:
        outcome.aggregated.load_into(model)
        names = " and ".join(outcome.aggregated_of)
        print(f"{me}, average of {names}  Dice {dice(model, *test):.3f}")


if __name__ == "__main__":
    main(sys.argv[1])
