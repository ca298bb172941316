"""Peers over ZeroMQ, on every kind of address, with and without keys; and in a folder."""

from __future__ import annotations

from contextlib import ExitStack, suppress

import pytest

from tests.transports.sockets import NAMES, tcp_addresses
from transports.base import TransportError
from transports.folder import FolderTransport
from transports.keys import KeyPair
from transports.live import LiveTransport


@pytest.fixture(params=["ipc", "tcp", "ipc-curve", "tcp-curve"])
def wire(request):
    return request.param


@pytest.fixture
def addresses(wire, tmp_path):
    if wire.startswith("ipc"):
        return {name: f"ipc://{tmp_path}/{name}" for name in NAMES}
    return tcp_addresses()


@pytest.fixture
def keys(wire):
    """A pair of everyone's; of nobody's without CURVE."""
    return {name: KeyPair.new() for name in NAMES} if wire.endswith("curve") else {}


@pytest.fixture
def join(addresses, keys):
    """Make transports; all are closed at the end."""
    with ExitStack() as stack:

        def joined(me, peers=None, **options):
            if peers is None:
                peers = {name: address for name, address in addresses.items() if name != me}
            if keys:
                theirs = {name: {keys[name].public} for name in peers}
                options = {"keys": keys[me], "peer_keys": theirs, **options}
            options = {"listen": addresses[me], **options}
            transport = LiveTransport(me, peers=peers, **options)
            stack.callback(transport.close, linger_s=0)
            return transport

        yield joined


@pytest.fixture
def shared(tmp_path):
    folder = tmp_path / "shared"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def join_folder(shared):
    """The same in a shared folder."""
    joined = []

    def make(me, peers=(), **options):
        joined.append(FolderTransport(me, shared, peers, **options))
        return joined[-1]

    yield make
    for each in joined:
        with suppress(TransportError):
            each.close()
