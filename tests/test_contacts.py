"""Whom a peer meets: by addresses alone, or by a roster that may change while it runs."""

from __future__ import annotations

import pytest

from bt import contacts
from bt.config import ConfigError

LISTEN = "tcp://127.0.0.1:7301"
B = "B=tcp://127.0.0.1:7302"


def addresses(
    *peers: str, name: str = "A", listen: str = LISTEN, announce: str | None = None
) -> dict[str, str]:
    return contacts.addresses_of(name, listen, announce, list(peers), insecure=False)


def test_addresses_of_the_others_by_name() -> None:
    assert addresses(B, "C=ipc:///tmp/c") == {"B": B[2:], "C": "ipc:///tmp/c"}
    assert addresses(B, listen="tcp://127.0.0.1:*", announce="tcp://localhost:0") == {"B": B[2:]}
    far = {"listen": "tcp://0.0.0.0:7301", "announce": "tcp://*:7303", "peers": [B]}
    assert contacts.addresses_of("A", **far, insecure=True) == {"B": B[2:]}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"peers": ["B"]}, "--peer B: expected NAME=ADDRESS"),
        ({"peers": ["B="]}, "expected NAME=ADDRESS"),
        ({"peers": [B, B]}, "--peer B is given twice"),
        ({"peers": ["a b=tcp://127.0.0.1:7302"]}, "'a b' can't name a peer"),
        ({"name": "Zürich"}, "'Zürich' can't name a peer"),
        ({"name": "B"}, "--peer B: that is this peer itself"),
        ({"peers": ["B=127.0.0.1:7302"]}, "--peer: '127.0.0.1:7302' is no address"),
        ({"peers": ["B=tcp://127.0.0.1:*"]}, "expected one host and port"),
        ({"peers": ["B=tcp://*:7302"]}, "expected one host and port"),
        ({"peers": [f"B={LISTEN}"]}, "this peer itself listens there"),
        ({"peers": [B, f"C={B[2:]}"]}, "--peer C=tcp://127.0.0.1:7302: B listens there"),
        ({"listen": "tcp://127.0.0.1"}, "--listen: 'tcp://127.0.0.1' is no address"),
        ({"listen": "tcp://*:7301"}, "--listen tcp://*:7301: other machines can reach that"),
        ({"announce": "tcp://0.0.0.0:7303"}, "--announce tcp://0.0.0.0:7303: other machines"),
        ({"announce": "ipc:///tmp/a"}, "--announce goes with --listen tcp://"),
        ({"listen": "ipc:///tmp/a", "announce": LISTEN}, "--announce goes with --listen tcp://"),
    ],
)
def test_addresses_that_cant_work(asked: dict[str, object], says: str) -> None:
    peers = asked.pop("peers", [B])
    with pytest.raises(ConfigError) as caught:
        addresses(*peers, **asked)  # type: ignore[arg-type, misc]
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
