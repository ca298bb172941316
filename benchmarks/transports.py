"""A pull of 14 MB, asked for, received, checked and decoded, against the bytes over raw TCP."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable

import torch

from benchmarks.timing import interleaved
from bt.weights import FlatWeights
from transports import messages
from transports.base import Frame, PeerGone
from transports.zeromq import ZeroMQTransport

_LIMIT = 1 << 28


def run() -> dict[str, float]:
    """Median seconds by case."""
    model = FlatWeights.of({f"layer{i:03}": torch.randn(35_000) for i in range(100)})
    weights = messages.Weights("b", (0, 1), 1, model.schema, model.body())
    served = messages.encode(weights)
    size = sum(len(frame) for frame in served)
    stop = threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        pulls = {
            "ZeroMQ ipc, checked and decoded": _pull(f"ipc://{folder}/", served, model, stop),
            "ZeroMQ tcp, checked and decoded": _pull("tcp://127.0.0.1:", served, model, stop),
            "raw TCP, bytes only": _raw_tcp(size),
        }
        try:
            return interleaved(pulls)
        finally:
            stop.set()


def _pull(
    place: str, served: tuple[Frame, ...], model: FlatWeights, stop: threading.Event
) -> Callable[[], object]:
    """A function that pulls the model once from a serving thread."""
    tcp = place.startswith("tcp")
    server = ZeroMQTransport("b", place + ("0" if tcp else "b"), {"a": None})
    client = ZeroMQTransport("a", place + ("0" if tcp else "a"), {"b": server.endpoint})
    limits = messages.Limits(_LIMIT)
    question = messages.encode(messages.Pull("a", (0, 0)))

    def serve() -> None:
        while not stop.is_set():
            if server.recv(0.1) is not None:
                server.send("a", served)
        server.close(0)

    threading.Thread(target=serve, daemon=True).start()

    def asked() -> bool:
        try:
            client.send("b", question)
        except PeerGone:
            return False
        return True

    def pull() -> messages.Message:
        while not asked():
            client.recv(0.01)  # not connected yet
        received = client.recv(10)
        if received is None:
            raise TimeoutError("no answer to a pull within 10 s")
        return messages.decode(received.frames, limits=limits, schema=model.schema)

    return pull


def _raw_tcp(size: int) -> Callable[[], object]:
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    server, _ = listener.accept()
    data = bytes(size)
    into = bytearray(size)

    def serve() -> None:
        while server.recv(1):
            server.sendall(data)

    threading.Thread(target=serve, daemon=True).start()

    def pull() -> int:
        client.sendall(b"?")
        return client.recv_into(into, size, socket.MSG_WAITALL)

    return pull
