"""What goes into the protocol (events) and what comes out of it (instructions)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bt.versions import Version
from transports import messages


# Events ---------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class RoundDue:
    """Start a round now. Only when `Peer.ready`."""


@dataclass(frozen=True, slots=True)
class Received:
    """A valid message; its sender is the peer it came from. `published`: on another way than
    answers come, so it does not tell that they do."""

    message: messages.Message
    published: bool = False


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The transport can't reach `peer` now; `refused`: and trying again soon is no use."""

    peer: str
    reason: str = "not reachable"
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Rejected:
    """`peer` sent something that can't be accepted."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class Merged:
    """All of the model of `peer` was merged; `refused` says why if a Merge was not carried out.

    `kept` is the digest of that model if it is kept, for differences from it. `late`: it was
    refused as the answer to an earlier question, and can be asked for again.
    """

    peer: str
    refused: str | None = None
    kept: str | None = None
    late: bool = False


@dataclass(frozen=True, slots=True)
class Trained:
    """The Train instruction was carried out; its weights are the snapshot to serve from now."""


@dataclass(frozen=True, slots=True)
class Persisted:
    """The Persist instruction was carried out; the image of the snapshot has this digest."""

    digest: str


@dataclass(frozen=True, slots=True)
class Tick:
    """`Peer.deadline` has passed."""


@dataclass(frozen=True, slots=True)
class Leave:
    """This peer is asked to stop before it is done."""


@dataclass(frozen=True, slots=True)
class Met:
    """There is one more peer."""

    peer: str


Event = (
    RoundDue | Received | PeerGone | Rejected | Merged | Trained | Persisted | Tick | Leave | Met
)


# Instructions ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Send:
    """Send a small message to one peer."""

    to: str
    message: messages.Ping | messages.Version | messages.Pull


@dataclass(frozen=True, slots=True)
class Serve:
    """Answer a Pull with Weights."""

    pull: messages.Pull


@dataclass(frozen=True, slots=True)
class Publish:
    """Announce a version to everybody."""

    message: messages.Version


@dataclass(frozen=True, slots=True)
class Merge:
    """Fold a range of a peer's model into this round's running mean, which starts from one's own.

    Ranges come in order. `announced` is what the peer said of this model, `weight` what it counts.
    `own_weight` 0: one's own weights are still random and stay out. `base`: they are the
    difference from that model, which was kept. `keep`: the model may be the base of the next.
    """

    weights: messages.Weights
    announced: messages.Version
    weight: float
    own_weight: float
    base: str | None = None
    keep: bool = False


@dataclass(frozen=True, slots=True)
class StartOver:
    """A model was merged in part only: forget this round's running mean."""


@dataclass(frozen=True, slots=True)
class Train:
    """Load the running mean, if there is one, and fine-tune.

    `update` counts this peer's fine-tunes, from 0, or from those the others had behind them when
    it came: a late peer goes on from their model at their learning rate.
    """

    update: int
    merged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Persist:
    """Write version, vector and weights to disk before anybody hears of them."""


@dataclass(frozen=True, slots=True)
class Aggregate:
    """The running mean is the aggregated model of this peer and those merged: keep it."""

    merged: Mapping[str, Version]


@dataclass(frozen=True, slots=True)
class Note:
    """Something a person may want to know: event is "gone" or "reject"."""

    event: str
    peer: str
    reason: str


Instruction = Send | Serve | Publish | Merge | StartOver | Train | Persist | Aggregate | Note
