"""How a peer's run ended."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bt.versions import NEVER_TRAINED, Version
from bt.weights import FlatWeights


class Diverged(Exception):
    """A fine-tune ended in a model that can't be used; the last good one is on disk."""


@dataclass
class Outcome:
    """How a peer's run ended."""

    reason: str  # "finished", or why it stopped early
    totals: dict[str, float]
    weights: FlatWeights  # of the last finished fine-tune
    version: Version = NEVER_TRAINED
    samples: int = 0
    aggregated: FlatWeights | None = None
    aggregated_of: dict[str, str] = field(default_factory=dict)  # peer -> version, own included
    evaluation: Any = None  # what Trainer.evaluate returned for `weights`
