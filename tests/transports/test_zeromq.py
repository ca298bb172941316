"""ZeroMQ: peers that come, go and come back, strangers, and addresses that can't be used."""

from __future__ import annotations

import socket

import pytest

from transports.base import PeerGone, TransportError
from transports.testing import CHECKS, check_group
from transports.zeromq import ZeroMQTransport

NAMES = ("a", "b", "c")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(params=["ipc", "tcp"])
def addresses(request, tmp_path):
    if request.param == "ipc":
        return {name: f"ipc://{tmp_path}/{name}" for name in NAMES}
    return {name: f"tcp://127.0.0.1:{free_port()}" for name in NAMES}


def join(me, addresses, **options):
    others = {name: address for name, address in addresses.items() if name != me}
    return ZeroMQTransport(me, addresses[me], others, **options)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check, addresses):
    check_group([join(name, addresses) for name in NAMES], [check])
