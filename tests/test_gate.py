"""What of a peer's messages comes in."""

from __future__ import annotations

import pytest

from bt.gate import Gate
from transports import messages
from transports.base import Received

DIGEST, SCHEMA = "0" * 32, "0" * 64


def received(message: messages.Message, sender: str = "b") -> Received:
    return Received(sender, tuple(map(memoryview, messages.encode(message))))


class Watched(Gate):
    """A gate, and what it told."""

    def __init__(self, **limits: object) -> None:
        self.lines: list[tuple[str, str]] = []
        limited = messages.Limits(1 << 20, **limits)  # type: ignore[arg-type]
        super().__init__(limited, lambda peer, reason: self.lines.append((peer, reason)))


@pytest.mark.parametrize(
    ("message", "what"),
    [
        (messages.Ping("b"), "more than 10 pings a second"),
        (messages.Pull("b", DIGEST, 0, 8), "more than 10 pulls a second"),
        (messages.Ask("b"), "more than 10 questions a second"),
    ],
)
def test_a_flood_is_answered_up_to_the_limit_and_told_once(
    message: messages.Message, what: str
) -> None:
    gate = Watched(pings_per_s=10, pulls_per_s=10)
    came = sum(gate.take(received(message), now=t / 1000) is not None for t in range(5000))
    assert 10 + 49 <= came <= 10 + 50  # ten at once, and ten a second for five seconds
    assert gate.lines == [("b", what)]


def test_a_flood_costs_no_one_else_and_nothing_else() -> None:
    gate = Watched(pings_per_s=2, pulls_per_s=2)
    ping = messages.Ping("b")
    assert [gate.take(received(ping), 0.0) for _ in range(3)] == [ping, ping, None]
    assert gate.take(received(messages.Ping("c"), "c"), 0.0) == messages.Ping("c")
    pull = messages.Pull("b", DIGEST, 0, 8)
    assert gate.take(received(pull), 0.0) == pull
    version = messages.Version("b", (0, 1), 3, SCHEMA, "training")
    assert all(gate.take(received(version), 0.0) == version for _ in range(9))
    assert gate.take(received(ping), 0.6) == ping, "who floods is heard again"


def test_a_healthy_peer_is_never_limited() -> None:
    gate = Watched()
    for number in range(1000):  # two a second
        assert gate.take(received(messages.Ping("b")), number / 2) is not None
    assert gate.lines == []


def test_a_peer_claims_as_many_samples_as_the_roster_allows() -> None:
    allowed = {"b": 5}
    gate = Watched(samples_of=allowed, max_samples=100)

    def claim(samples: int, name: str = "b") -> messages.Message | None:
        version = messages.Version(name, (0, 1), samples, SCHEMA, "training")
        return gate.take(received(version, name), 0.0)

    assert claim(5) is not None
    with pytest.raises(messages.TooLarge, match="claims 6 samples, the roster allows it 5: raise"):
        claim(6)
    assert claim(100, "c") is not None
    with pytest.raises(messages.TooLarge, match="claims 101 samples, at most 100"):
        claim(101, "c")
    allowed["b"] = 6  # the roster was read again
    assert claim(6) is not None


def test_a_message_in_another_name_is_refused() -> None:
    with pytest.raises(messages.Malformed, match="claims to be c"):
        Watched().take(received(messages.Ping("c"), "b"), 0.0)
