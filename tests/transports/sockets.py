"""Ports nobody has, and conversations that take as long as they need."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

import zmq

from benchmarks.peers import free_port
from transports.base import PeerGone

NAMES = ("a", "b", "c")
PATIENCE_S = 20.0


def tcp_addresses():
    return {name: f"tcp://127.0.0.1:{free_port()}" for name in NAMES}


def connected(address):
    """A plain socket to where a transport listens."""
    scheme, _, place = address.partition("://")
    raw = socket.socket(socket.AF_UNIX if scheme == "ipc" else socket.AF_INET)
    raw.settimeout(PATIENCE_S)
    raw.connect(place if scheme == "ipc" else ("127.0.0.1", int(place.split(":")[1])))
    return raw


def zmtp_null(address, me):
    """A plain socket that has said what a DEALER called `me` without keys says at first."""
    raw = connected(address)
    mine = b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity" + len(me).to_bytes(4, "big") + me
    greeting = b"\xff" + bytes(7) + b"\x01\x7f\x03\0NULL" + bytes(48)
    raw.sendall(greeting)
    raw.recv(64, socket.MSG_WAITALL)  # libzmq hangs up on who does not wait
    raw.sendall(b"\x04" + bytes([6 + len(mine)]) + b"\x05READY" + mine)
    raw.recv(raw.recv(2, socket.MSG_WAITALL)[1], socket.MSG_WAITALL)  # its READY
    return raw


def equipped(dealer, me, keys=None, server_key=""):
    """Make a DEALER claim to be `me`, with keys if there are some."""
    dealer.linger = 0
    dealer.setsockopt_string(zmq.ROUTING_ID, me)
    if keys is not None:
        dealer.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
        dealer.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
        dealer.setsockopt_string(zmq.CURVE_SERVERKEY, server_key)
    return dealer


def deliver(sender, receiver, frames):
    """Send until the receiver has it; what else arrives is dropped."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(PeerGone):
            sender.send(receiver.me, frames)
            while (message := receiver.recv(0.5)) is not None:
                if [bytes(f) for f in message.frames] == list(frames):
                    return message
        sender.recv(0.01)
    raise AssertionError(f"{sender.me} could not reach {receiver.me}")


def heard_before(end, transport, sender):
    """What `transport` receives until `sender` gets `end` through to it."""
    heard = []
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        with suppress(PeerGone):
            sender.send(transport.me, [end])
        sender.recv(0)
        while (message := transport.recv(0.05)) is not None:
            frames = [bytes(frame) for frame in message.frames]
            if frames == [end]:
                return heard
            heard.append((message.sender, frames))
    raise AssertionError(f"{sender.me} could not reach {transport.me}")


def announce(publisher, subscriber, frames):
    """Publish until the subscriber hears it."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        publisher.publish(frames)
        publisher.recv(0.01)
        message = subscriber.recv(0.05)
        if message is not None and [bytes(f) for f in message.frames] == list(frames):
            return message
    raise AssertionError(f"{subscriber.me} never heard {publisher.me}")


def until_gone(sender, name, frames=(b"there?",), times=1):
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            for _ in range(times):
                sender.send(name, frames)
        except PeerGone:
            return
        sender.recv(0.01)
    raise AssertionError(f"{name} never became PeerGone")
