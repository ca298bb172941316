"""Two peers train a torch model of one's own on slices of one's own, without the bt command.

In one terminal:  python examples/own_model.py A
In another:       python examples/own_model.py B

The data are made up here: bright discs in noise, which each peer finds in other places. What a
lab would put in their place is what `images_and_classes` and `network` return.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from bt.config import Config, change
from bt.data.labels import table_of_names
from bt.data.slices import Slices
from bt.node import Node
from bt.runner import Outcome
from bt.trainer import SegmentationTrainer
from transports.zeromq import ZeroMQTransport

ADDRESSES = {"A": "tcp://127.0.0.1:7301", "B": "tcp://127.0.0.1:7302"}


def images_and_classes(
    seed: int, slices: int = 32
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Images (n, 1, H, W) and what is on them, (n, H, W): 1 in a disc, else 0."""
    random = np.random.default_rng(seed)
    rows, columns = np.indices((32, 32))
    centres = random.uniform(8, 24, (slices, 2, 1, 1))
    classes = np.hypot(rows - centres[:, 0], columns - centres[:, 1]) < 5
    images = classes + random.normal(0, 0.5, classes.shape)
    return images[:, None].astype(np.float32), classes.astype(np.uint8)


def network() -> nn.Module:
    """(B, 1, H, W) to logits (B, 2, H, W). The same weights at every peer, as averaging needs."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 5, padding=2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Conv2d(16, 2, 5, padding=2),
    )


def take_part(me: str, addresses: dict[str, str], out: Path, rounds: int = 4) -> Outcome:
    """Be the peer `me` until the end. `addresses`: of all peers, by name."""
    images, classes = images_and_classes(seed=sorted(addresses).index(me))
    others = {name: address for name, address in addresses.items() if name != me}
    trainer = SegmentationTrainer(
        network(), Slices(images, classes), samples=12, structures=["disc"], view="axial"
    )
    config = change(Config(), {"rounds": rounds})
    node = Node(me, sorted(others), out, config, table_of_names("discs", {1: "disc"}))
    return node.run(
        trainer,
        lambda limit: ZeroMQTransport(me, addresses[me], others, max_message_bytes=limit),
    )


if __name__ == "__main__":
    name = sys.argv[1]
    outcome = take_part(name, ADDRESSES, Path("runs") / f"own-model-{name}")
    merged = int(outcome.totals["merged"])
    sys.stdout.write(f"{name}: merged {merged} models; average of {outcome.aggregated_of}\n")
