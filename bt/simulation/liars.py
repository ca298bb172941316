"""Peers that lie: what they would have sent truly is changed on its way out."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from bt.simulation.network import VirtualTransport
from transports import messages
from transports.base import Frame
from transports.header import MAX_INTEGER, MAX_VERSION
from transports.messages import Message, Pull, Version, Weights

LIE = 0.3  # of all messages


class LyingTransport(VirtualTransport):
    """Sends lies among the truth, as long as `world.lies`."""

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        super().send(to, self._changed(frames))

    def publish(self, frames: Sequence[Frame]) -> None:
        super().publish(self._changed(frames))

    def _changed(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        world = self._network.world
        if not world.lies or world.chance.random() >= LIE:
            return frames
        if world.chance.random() < 0.2:
            return garbled(frames, world.chance)
        limits = messages.Limits(max_message_bytes=1 << 30)
        return messages.encode(lie(messages.decode(frames, limits=limits), world.chance))


def garbled(frames: Sequence[Frame], chance: random.Random) -> list[Frame]:
    """Other bytes, or fewer."""
    data = bytearray(b"".join(frames))
    match chance.randrange(3):
        case 0:
            del data[chance.randrange(len(data)) :]
        case 1:
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        case _:
            data = bytearray(chance.randbytes(chance.randrange(64)))
    return [bytes(data)]


def lie(message: Message, chance: random.Random) -> Message:
    """Well-formed, and wrong."""
    match message:
        case Version():
            return _about_itself(message, chance)
        case Weights():
            return _about_weights(message, chance)
        case Pull():
            return chance.choice(
                (
                    replace(message, digest=_digest(chance)),
                    replace(message, offset=chance.randrange(MAX_INTEGER)),
                    replace(message, length=chance.randint(1, MAX_INTEGER)),
                    replace(message, encoding="int8", base=_digest(chance)),
                )
            )
        case _:
            return replace(message, sender="peer-1")


def _about_itself(told: Version, chance: random.Random) -> Version:
    incarnation, count = told.version
    match chance.randrange(7):
        case 0:
            higher = chance.choice((incarnation + 1, MAX_VERSION))
            return replace(told, version=(higher, count), digest=_digest(chance))
        case 1:
            higher = chance.choice((count + 1, MAX_VERSION))
            return replace(told, version=(incarnation, higher), digest=_digest(chance))
        case 2:
            return replace(told, version=(0, 0))
        case 3:
            return replace(told, samples=chance.choice((0, 1, 1_000_000, MAX_INTEGER)))
        case 4:
            return replace(told, state=chance.choice(messages.STATES))
        case 5:
            return replace(told, schema=chance.randbytes(32).hex())
        case _:
            seen = chance.choice(((0, 1), (0, 3), (1, 0), (2, 2), (MAX_VERSION, MAX_VERSION)))
            return replace(told, seen=seen)


def _about_weights(weights: Weights, chance: random.Random) -> Weights:
    data = bytearray(weights.data)
    match chance.randrange(5):
        case 0 if data:  # NaN, infinity, absurd, or just another number
            at = chance.randrange(0, len(data), 4)
            value = chance.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff" * 4, b"\0" * 4))
            data[at : at + 4] = value
            return replace(weights, data=memoryview(data[: weights.data.nbytes]))
        case 1:
            return replace(weights, data=memoryview(b""))
        case 2:
            half = memoryview(data)[: len(data) // 2]
            return replace(weights, data=half)
        case 3 if weights.offset:
            return replace(weights, offset=weights.offset - 1)
        case _:
            return replace(weights, digest=_digest(chance))


def _digest(chance: random.Random) -> str:
    return chance.randbytes(16).hex()
