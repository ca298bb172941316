"""Addresses: what they may be, and whether strangers could reach them."""

from __future__ import annotations

import socket

import pytest

from transports.base import TransportError
from transports.endpoints import Ipc, Tcp, parse


@pytest.mark.parametrize(
    ("address", "parsed", "text"),
    [
        ("tcp://127.0.0.1:7301", Tcp("127.0.0.1", 7301), "tcp://127.0.0.1:7301"),
        ("tcp://hospital-a.example:80", Tcp("hospital-a.example", 80), None),
        ("tcp://[::1]:7301", Tcp("::1", 7301), "tcp://[::1]:7301"),
        ("tcp://*:*", Tcp("*", 0), "tcp://*:*"),
        ("tcp://localhost:0", Tcp("localhost", 0), "tcp://localhost:*"),
        ("ipc:///run/a b", Ipc("/run/a b"), "ipc:///run/a b"),
    ],
)
def test_addresses(address, parsed, text):
    assert parse(address) == parsed
    assert str(parsed) == (text or address)


@pytest.mark.parametrize(
    "address",
    ["", "7301", "127.0.0.1:7301", "tcp://", "tcp://:1", "tcp://a", "tcp://a:", "tcp://a:-1",
     "tcp://a:65536", "tcp://a:1x", "tcp://::1:5", "udp://a:1", "inproc://a", "ipc://", "ipc"],
)  # fmt: skip
def test_what_is_no_address(address):
    with pytest.raises(TransportError, match="expected"):
        parse(address)


def test_a_path_too_long_for_a_socket():
    parse("ipc://" + "x" * 103)
    with pytest.raises(TransportError, match="choose a shorter folder"):
        parse("ipc://" + "x" * 104)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("localhost", True),
        ("*", False),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("8.8.8.8", False),
        ("eth0", False),
        ("", False),
        ("x" * 300, False),
    ],
)
def test_what_only_this_machine_can_reach(host, loopback):
    assert Tcp(host, 1).is_loopback is loopback


def test_a_name_with_one_public_address_is_public(monkeypatch):
    def resolve(*_, **__):
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        ]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not Tcp("both.example", 1).is_loopback
    assert Tcp("both.example", 1).to_bind() == Tcp("127.0.0.1", 1)


def test_a_served_path_and_a_stale_one(tmp_path):
    address = Ipc(str(tmp_path / "a"))
    assert not address.is_served()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address.path)
        server.listen()
        assert address.is_served()
    assert not address.is_served()  # the file is still there
    assert (tmp_path / "a").exists()
