"""ZeroMQ endpoints: which are ours alone, which a stranger can reach, which are free to bind."""

from __future__ import annotations

import ipaddress
import socket
from dataclasses import dataclass
from pathlib import Path

from transports.base import TransportError

MAX_IPC_BYTES = 103  # of the 107 a Unix socket's path may have; ".pub" takes 4


@dataclass(frozen=True)
class Tcp:
    """tcp://host:port; the host of an IPv6 address is kept without its brackets."""

    host: str
    port: int  # 0: any free one

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp://{host}:{self.port or '*'}"

    def to_bind(self) -> Tcp:
        """The same with a literal address: ZeroMQ binds to no host names."""
        if self.host == "*":
            return self
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return self  # perhaps the name of a network interface
        found.sort(key=lambda item: item[0] != socket.AF_INET)  # IPv4 first
        return Tcp(str(found[0][4][0]), self.port)

    @property
    def is_one_place(self) -> bool:
        """Whether others can connect to it: one host, not all of this machine's, and one port."""
        return self.host not in ("*", "0.0.0.0", "::") and self.port > 0

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it: every address behind the host is loopback."""
        try:
            found = socket.getaddrinfo(self.host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return False
        return self.host != "*" and all(
            ipaddress.ip_address(str(item[4][0]).partition("%")[0]).is_loopback for item in found
        )


@dataclass(frozen=True)
class Ipc:
    """ipc://path: a Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"ipc://{self.path}"

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        return True

    @property
    def pub(self) -> Ipc:
        """Where the same peer publishes."""
        return Ipc(self.path + ".pub")

    def is_served(self) -> bool:
        """Whether a process listens there now. A file without one is a killed peer's, and stale.

        ZeroMQ itself would take the path away from a living peer without a word.
        """
        if not Path(self.path).is_socket():
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(self.path)
            except ConnectionRefusedError:
                return False
            except OSError:
                return True  # busy, or not ours to look into: leave it alone
            return True


def parse(address: str) -> Tcp | Ipc:
    """tcp://HOST:PORT (PORT 0 or *: any free one) or ipc://PATH. Raises TransportError."""
    scheme, found, rest = address.partition("://")
    if found and scheme == "ipc":
        if not rest or "\0" in rest:
            raise TransportError(f"{address!r}: expected ipc://PATH")
        if len(rest.encode(errors="surrogateescape")) > MAX_IPC_BYTES:
            raise TransportError(
                f"ipc path of more than {MAX_IPC_BYTES} bytes, choose a shorter folder: {rest}"
            )
        return Ipc(rest)
    host, colon, port = rest.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if found and scheme == "tcp" and bare and colon and not (":" in bare and bare == host):
        if port == "*":
            return Tcp(bare, 0)
        if port.isascii() and port.isdigit() and int(port) < 65536:
            return Tcp(bare, int(port))
    raise TransportError(f"{address!r} is no address: expected tcp://HOST:PORT or ipc://PATH")
