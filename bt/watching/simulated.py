"""A simulated federation to look at: reports as real peers make them, of peers that are none.

For looking at bt status and bt dashboard, and for measuring them. It follows the algorithm's
shape (ask, pull, merge, fine-tune), not its code: bt/simulation does that, and at 200 peers needs
minutes for what has to go on in real time here. Models, Dice and bytes are made up.
"""

from __future__ import annotations

import math
import random
from collections import deque
from dataclasses import dataclass, field

from bt.outside import NoAnswer
from bt.versions import Version
from transports.reports import (
    MILLION,
    MOST_EVENTS,
    MOST_FITS,
    MOST_OTHERS,
    Aside,
    Fit,
    Happened,
    Known,
    Report,
)

ROUNDS = 40
MODEL_BYTES = 14_118_712
_STEP_S = 0.25
_ASK_AT_MOST = 6  # of many
_LIE = "tensor 'encoder.1.conv.weight' holds NaN or infinite values"


@dataclass
class _Peer:
    name: str
    samples: int
    pace: float  # seconds of a fine-tune
    best: float  # Dice it ends at
    link: float  # bytes a second
    starts_at: float
    away: tuple[float, float] | None = None  # when it does not answer
    lies: bool = False
    phase: str = "training"
    until: float = 0.0
    count: int = 0
    merged: dict[str, int] = field(default_factory=dict)
    heard: dict[str, tuple[int, float]] = field(default_factory=dict)  # count, when
    gone: set[str] = field(default_factory=set)
    pulling: tuple[str, ...] = ()
    aside: dict[str, float] = field(default_factory=dict)  # until
    fits: deque[Fit] = field(default_factory=lambda: deque(maxlen=MOST_FITS))
    events: deque[tuple[int, float, str, str | None, str]] = field(
        default_factory=lambda: deque(maxlen=MOST_EVENTS)
    )
    number: int = 0
    merges: int = 0
    bytes_in: float = 0.0
    bytes_out: float = 0.0
    training_s: float = 0.0

    def note(self, now: float, event: str, peer: str | None, text: str) -> None:
        self.number += 1
        self.events.append((self.number, now, event, peer, text))


class Simulated:
    """`peers` of them; `look(now)` gives their reports at `now`, `ahead_s` after they began."""

    simulated = closed = True

    def __init__(self, peers: int, seed: int = 1, ahead_s: float = 150.0) -> None:
        chance = self._chance = random.Random(seed)
        self.label = f"simulated federation of {peers} peers"
        self._peers: dict[str, _Peer] = {}
        digits = len(str(peers))
        for name in (f"peer-{number:0{digits}}" for number in range(1, peers + 1)):
            slow = 3.0 if chance.random() < 0.08 else 1.0
            peer = _Peer(
                name,
                chance.randint(4, 60),
                chance.uniform(9, 16) * slow,
                chance.uniform(0.74, 0.86),
                chance.choice((4e6, 12e6, 40e6)),
                0.0 if chance.random() < 0.8 else chance.uniform(0, 100),
            )
            peer.until = peer.starts_at + chance.uniform(0.3, 1) * peer.pace
            self._peers[name] = peer
        several = list(self._peers.values())
        for peer in chance.sample(several[1:], max(1, peers // 40)):
            peer.away = ahead_s - 15, math.inf
        for peer in chance.sample([p for p in several if not p.away], max(1, peers // 100)):
            peer.lies = True
        self._ahead_s = ahead_s
        self._began: float | None = None
        self._now = 0.0

    def look(self, now: float) -> dict[str, Report | NoAnswer]:
        """What each would answer."""
        if self._began is None:
            self._began = now - self._ahead_s
        while self._now + _STEP_S <= now - self._began:
            self._now += _STEP_S
            for peer in self._peers.values():
                self._step(peer)
        return {
            name: self._report(peer) if self._is_there(peer) else NoAnswer("silent for 2 s")
            for name, peer in self._peers.items()
        }

    def close(self) -> None:
        """Nothing is open."""

    def _is_there(self, peer: _Peer) -> bool:
        if self._now < peer.starts_at:
            return False
        return peer.away is None or not peer.away[0] <= self._now < peer.away[1]

    # A step of one peer -----------------------------------------------------------------------
    def _step(self, peer: _Peer) -> None:
        now = self._now
        if not self._is_there(peer) or peer.phase == "idle":
            return
        if not peer.number:
            peer.note(now, "start", None, "v0")
        if peer.phase == "pulling":
            moved = peer.link * _STEP_S
            peer.bytes_in += moved
            for name in peer.pulling:
                self._peers[name].bytes_out += moved / len(peer.pulling)
        if now < peer.until:
            return
        if peer.phase == "training":
            self._finish_fit(peer)
        elif peer.phase == "pinging":
            self._start_pulls(peer)
        else:
            self._merge(peer)

    def _finish_fit(self, peer: _Peer) -> None:
        now, chance = self._now, self._chance
        peer.count += 1
        peer.training_s += peer.pace
        grown = 1 - math.exp(-0.16 * peer.count - 0.02 * min(peer.merges, 40))
        dice = min(0.99, max(0.02, peer.best * grown + chance.gauss(0, 0.012)))
        loss = max(0.02, 1.15 - dice + chance.gauss(0, 0.02))
        peer.fits.append(Fit(peer.count, round(loss * MILLION), round(dice * MILLION)))
        peer.note(now, "fit", None, f"v{peer.count}")
        if peer.count >= ROUNDS:
            peer.phase = "idle"
            return
        peer.phase, peer.until = "pinging", now + chance.uniform(0.2, 0.6)
        others = [name for name in self._peers if name != peer.name]
        for name in chance.sample(others, min(_ASK_AT_MOST, len(others))):
            other = self._peers[name]
            if self._is_there(other):
                peer.heard[name] = other.count, now
                peer.gone.discard(name)
            elif name not in peer.gone:
                peer.gone.add(name)
                peer.note(now, "gone", name, "silent for 5 s")

    def _start_pulls(self, peer: _Peer) -> None:
        now = self._now
        news = [
            name
            for name, (count, at) in peer.heard.items()
            if count > peer.merged.get(name, 0)
            and name not in peer.gone
            and now >= peer.aside.get(name, 0)
            and now - at < 2
        ]
        peer.pulling = tuple(news[:4])
        peer.phase = "pulling" if news else "training"
        seconds = len(peer.pulling) * MODEL_BYTES / peer.link
        peer.until = now + (seconds if news else peer.pace)

    def _merge(self, peer: _Peer) -> None:
        now = self._now
        for name in peer.pulling:
            if self._peers[name].lies and self._chance.random() < 0.7:
                peer.aside[name] = now + 60
                peer.note(now, "reject", name, _LIE)
                continue
            peer.merged[name] = peer.heard[name][0]
            peer.merges += 1
            peer.note(now, "merge", name, f"v{peer.merged[name]}")
        peer.pulling, peer.phase = (), "training"
        peer.until = now + peer.pace * self._chance.uniform(0.9, 1.1)

    # What it would tell -----------------------------------------------------------------------
    def _report(self, peer: _Peer) -> Report:
        now = self._now
        up_s = now - peer.starts_at
        state = "done" if peer.count >= ROUNDS else "training"
        known = {name: self._known(peer, name) for name in self._peers if name != peer.name}
        return Report(
            peer.name,
            state,
            peer.phase,
            (0, peer.count),
            ROUNDS,
            peer.samples,
            dict(list(known.items())[:MOST_OTHERS]),
            peer.pulling,
            {n: Aside(round(end - now), _LIE) for n, end in peer.aside.items() if end - now >= 1},
            tuple(peer.fits),
            tuple(
                Happened(number, round((now - at) * 1000), event, other, text)
                for number, at, event, other, text in peer.events
            ),
            peer.merges,
            round(peer.bytes_in),
            round(peer.bytes_out),
            round(peer.training_s * 1000),
            max(0, round((up_s - peer.training_s) * 1000)),
            round(up_s * 1000),
        )

    def _known(self, peer: _Peer, name: str) -> Known:
        merged, heard = peer.merged.get(name), peer.heard.get(name)
        return Known(
            None if merged is None else Version(0, merged),
            None if heard is None else Version(0, heard[0]),
            None if heard is None else "training",
            None if heard is None else round(self._now - heard[1]),
            name in peer.gone,
        )
