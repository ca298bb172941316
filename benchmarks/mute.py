"""A relay of TCP connections that can go mute: half-open links, without root."""

from __future__ import annotations

import selectors
import socket
import threading
import time

from benchmarks.peers import free_port

_MOST_RECORDED = 1 << 16


class Relay:
    """Carries TCP connections to a port of this machine; `mute`: nothing more, and no goodbye.

    `record`: keeps what is said over each connection by whoever made it, up to a limit.
    """

    def __init__(self, to: str, *, record: bool = False) -> None:
        self._record = record
        self._said: dict[socket.socket, bytes] = {}
        self._to = int(to.rpartition(":")[2])
        self._server = socket.create_server(("127.0.0.1", free_port()))
        self.address = f"tcp://127.0.0.1:{self._server.getsockname()[1]}"
        self.mute = threading.Event()
        self._ended = threading.Event()
        self._pairs: dict[socket.socket, socket.socket] = {}
        self._ready = selectors.DefaultSelector()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Hang up on everybody."""
        self._ended.set()
        self._thread.join()

    def recorded(self) -> bytes:
        """The longest conversation until now."""
        return max(self._said.values(), key=len, default=b"")

    def _serve(self) -> None:
        with self._ready, self._server:
            self._ready.register(self._server, selectors.EVENT_READ)
            while not self._ended.is_set():
                if self.mute.is_set():
                    time.sleep(0.05)
                    continue
                for key, _ in self._ready.select(0.05):
                    one = key.fileobj
                    if one is self._server:
                        self._accept()
                    elif one in self._pairs:
                        assert isinstance(one, socket.socket)
                        self._carry(one)
            for end in self._pairs:
                end.close()

    def _accept(self) -> None:
        near, _ = self._server.accept()
        try:
            far = socket.create_connection(("127.0.0.1", self._to))
        except OSError:  # nobody is there yet
            near.close()
            return
        self._pairs |= {near: far, far: near}
        if self._record:
            self._said[near] = b""
        for end in (near, far):
            self._ready.register(end, selectors.EVENT_READ)

    def _carry(self, one: socket.socket) -> None:
        other = self._pairs[one]
        try:
            data = one.recv(1 << 16)
            other.sendall(data)
            if one in self._said and len(self._said[one]) < _MOST_RECORDED:
                self._said[one] += data
        except OSError:
            data = b""
        if not data:
            for end in (one, other):
                del self._pairs[end]
                self._ready.unregister(end)
                end.close()
