"""The models that one round fetches, a few at a time: every one whole, or not at all.

They are merged while they come in. So if one fails half-way, the merge is spoilt, and those that
were merged before it are fetched again, without it. Pure, as protocol.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bt.events import Send
from bt.others import Other
from bt.transfer import MOST_CREDIT, Link, Transfer
from bt.versions import Version, VersionVector
from transports import messages


@dataclass
class Pulls:
    """What is to be fetched, on its way, and merged."""

    me: str
    image_bytes: int
    header_bytes: int
    at_once: int
    choose: Callable[[Link], str]  # an encoding
    waiting: list[str] = field(default_factory=list)
    running: dict[str, Transfer] = field(default_factory=dict)
    merging: VersionVector = field(default_factory=dict)  # all here, not yet confirmed
    merged: VersionVector = field(default_factory=dict)

    @property
    def done(self) -> bool:
        """Whether nothing more will be merged."""
        return not (self.waiting or self.running or self.merging)

    def begin(self, peers: list[str]) -> None:
        """Fetch the models of these."""
        self.waiting = peers
        self.running, self.merging, self.merged = {}, {}, {}

    def ask(
        self, others: Mapping[str, Other], wanted: Callable[[str, float], bool], now: float
    ) -> list[Send]:
        """Start transfers of those still `wanted`; ask for what the links have room for.

        All together never have more on its way than one alone on a fast link. Who has least of
        it comes first: a fast one must not keep the others waiting until they count as silent.
        """
        while self.waiting and len(self.running) < self.at_once:
            peer = self.waiting.pop(0)
            known = others[peer].known
            if known is not None and wanted(peer, now):
                sizes, link = (self.image_bytes, self.header_bytes), others[peer].link
                transfer = Transfer(self.me, known, *sizes, link, now, self.choose(link))
                if transfer.encoding != messages.PLAIN:
                    transfer.base = others[peer].base
                self.running[peer] = transfer
        room = MOST_CREDIT - sum(transfer.coming for transfer in self.running.values())
        sends = []
        for peer, transfer in sorted(self.running.items(), key=lambda item: item[1].coming):
            sends += [Send(peer, pull) for pull in transfer.ask(now, max(room, 0))]
            room = MOST_CREDIT - sum(transfer.coming for transfer in self.running.values())
        return sends

    def take(self, weights: messages.Weights, now: float) -> Transfer | None:
        """The transfer that this range is the next one of, if any. Raises Gone, Misfit."""
        sender = weights.sender
        transfer = self.running.get(sender)
        if transfer is None or not transfer.take(weights, now):
            return None  # too late, too early, or never asked for
        if transfer.done:
            self.merging[sender] = Version(*transfer.announced.version)
            del self.running[sender]
        return transfer

    def drop(self, peer: str) -> bool:
        """Nothing more comes from `peer`; whether the merge has to start over, without it."""
        transfer = self.running.pop(peer, None)
        in_part = transfer is not None and transfer.arrived > 0
        if not in_part and self.merging.pop(peer, None) is None:
            return False
        self.begin(sorted({*self.waiting, *self.running, *self.merging, *self.merged}))
        return True

    def confirm(self, peer: str) -> bool:
        """The model of `peer` was merged; False if that was before the merge started over."""
        if peer not in self.merging:
            return False
        self.merged[peer] = self.merging.pop(peer)
        return True
