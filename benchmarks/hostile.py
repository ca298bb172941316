"""What strangers and harmful members can do: real `bt peer` processes, attacked over tcp.

A and B train together, with keys and a roster; M is a member of the roster too, played by this
process. A is attacked. Memory is A's resident set; an answer is what one attempt got back, in
bytes, beyond what every connection gets (the greeting of ZeroMQ).
"""

from __future__ import annotations

import os
import random
import resource
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import zmq

from benchmarks.children import Failed, Unavailable
from benchmarks.mute import Relay
from benchmarks.peers import Federation, Site, free_port, wait_for
from benchmarks.results import Attack, Found
from bt.roster import Member, roster_of
from transports import messages
from transports.keys import KeyPair

GREETING_BYTES = 64
CURVE = b"\xff" + bytes(7) + b"\x01\x7f\x03\0CURVE" + bytes(47)
PLAIN = b"\xff" + bytes(7) + b"\x01\x7f\x03\0NULL" + bytes(48)
OPTIONS = (
    *("--precision", "float32", "--device", "cpu", "--view", "sagittal", "--filters", "4"),
    *("--epochs", "1", "--scans-per-peer", "1", "--test-scans", "2", "--rounds", "100000"),
)
NOISE = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    bytes.fromhex("16030100c8010000c40303") + bytes(200),
    b"\0" * 4096,
    random.Random(0).randbytes(1 << 16),
    CURVE + b"\x06" + b"\x7f" * 8 + bytes(1 << 16),  # a command without end
)
ENDLESS_MB = 512


def run(quick: bool, progress: Callable[[str], None], data: Path) -> Found:
    """Cases hostile/ATTACK."""
    found = Found()
    if not data.is_dir():
        found.trouble("hostile", Unavailable(f"no folder {data}: --data DIR, of labelled scans"))
        return found
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with tempfile.TemporaryDirectory(prefix="bt-hostile-") as folder:
            options = [*OPTIONS, "--data", str(data.resolve())]
            _with_keys(found, Path(folder), options, progress, 10 if quick else 1)
            progress("a member that never ends a message")
            _without_keys(found, Path(folder) / "plain", options)
    except Failed as exc:
        found.trouble("hostile", exc)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return found


class _Siege:
    """A peer under attack, and whether it goes on training and merging with the other."""

    def __init__(self, victim: Site, other: Site, address: str) -> None:
        self.victim = victim
        self.other = other
        self.port = int(address.rpartition(":")[2])
        self.let_in = 0  # most descriptors of the peer while it was crowded

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.victim.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 1e6

    def of(
        self, attempts: int, attack: Callable[[int], int], effect: str | Callable[[], str]
    ) -> Attack:
        """`attack` returns the bytes of the largest answer."""
        self._goes_on()
        before, peak, began = self.rss_mb(), 0.0, time.time()
        updates = self.victim.count
        answer = attack(attempts)
        peak = self.rss_mb()
        seconds = time.time() - began
        updates = self.victim.count - updates
        self._goes_on()
        if self.victim.code is not None:
            raise Failed(f"the peer ended: {self.victim.said()[-300:]}")
        return Attack(
            attempts=attempts,
            seconds=round(seconds, 1),
            answer_bytes=max(0, answer - GREETING_BYTES),
            memory_before_mb=round(before),
            memory_at_end_mb=round(peak),
            memory_after_mb=round(self.rss_mb()),
            updates_meanwhile=updates,
            effect=effect if isinstance(effect, str) else effect(),
        )

    def _goes_on(self) -> None:
        """Both train, and merge each other."""
        now = time.time()
        for one in (self.victim, self.other):
            wait_for(
                lambda one=one: any(event["time"] > now for event in one.events("merge")),
                f"{one.name} merges",
            )

    def connect(self) -> socket.socket:
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        raw.settimeout(0.1)
        return raw

    # Attacks of strangers: each returns the size of the largest answer -------------------------
    def say(self, *what: Sequence[bytes]) -> Callable[[int], int]:
        """Each of these in turn: piece by piece, with time for an answer to each."""

        def attack(attempts: int) -> int:
            most = 0
            for number in range(attempts):
                with closing(self.connect()) as raw:
                    got = 0
                    for piece in what[number % len(what)]:
                        with suppress(OSError):
                            raw.sendall(piece)
                        got += len(_answer(raw))
                    most = max(most, got)
            return most

        return attack

    def scan(self, attempts: int) -> int:
        for number in range(attempts):
            raw = self.connect()
            if number % 2:  # half of them end with a reset
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            raw.close()
        return 0

    def drip(self, attempts: int) -> int:
        """Slow loris: byte by byte, for half a minute."""
        with ExitStack() as stack:
            held = [stack.enter_context(closing(self.connect())) for _ in range(attempts)]
            for number in range(60):
                for raw in held:
                    with suppress(OSError):
                        raw.sendall(CURVE[number : number + 1])
                time.sleep(0.5)
            return max(len(_answer(raw)) for raw in held[::20])

    def crowd(self, attempts: int) -> int:
        """All at once, and held for 20 s."""
        with ExitStack() as stack:
            held = []
            for _ in range(attempts):
                raw = stack.enter_context(closing(socket.socket()))
                raw.setblocking(False)
                with suppress(OSError):
                    raw.connect(("127.0.0.1", self.port))
                held.append(raw)
            end = time.monotonic() + 20
            while time.monotonic() < end:
                self.let_in = max(self.let_in, len(os.listdir(f"/proc/{self.victim.pid}/fd")))
                time.sleep(0.1)
            answers = [len(_answer(raw)) for raw in held[:: max(1, attempts // 50)]]
        return max(answers)

    def with_new_keys(self, server_key: str, me: str) -> Callable[[int], int]:
        """As peers connect, with keys that are not in the roster."""

        def attack(attempts: int) -> int:
            most = 0
            with zmq.Context() as context:
                for _ in range(attempts):
                    with dealer(context, KeyPair.new(), server_key, me) as stranger:
                        stranger.connect(f"tcp://127.0.0.1:{self.port}")
                        stranger.send_multipart([b"m", *messages.encode(messages.Ping("M"))])
                        if stranger.poll(100):
                            most = max(most, sum(map(len, stranger.recv_multipart())))
            return most and most + GREETING_BYTES

        return attack


@contextmanager
def dealer(
    context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, server_key: str, me: str
) -> Iterator[zmq.Socket[bytes]]:
    made = context.socket(zmq.DEALER)
    made.linger = 0
    made.setsockopt_string(zmq.ROUTING_ID, me)
    made.setsockopt_string(zmq.CURVE_PUBLICKEY, keys.public)
    made.setsockopt_string(zmq.CURVE_SECRETKEY, keys.secret)
    made.setsockopt_string(zmq.CURVE_SERVERKEY, server_key)
    with made:
        yield made


def _answer(raw: socket.socket) -> bytes:
    raw.settimeout(0.05)
    got = b""
    with suppress(OSError):
        while data := raw.recv(4096):
            got += data
    return got


def _with_keys(
    found: Found, folder: Path, options: Sequence[str], progress: Callable[[str], None], less: int
) -> None:
    keys = {name: KeyPair.new() for name in "ABM"}
    with ExitStack() as stack:
        federation = stack.enter_context(Federation(folder, "AB", options))
        relay = stack.enter_context(closing(Relay(federation.addresses["A"], record=True)))
        members = {
            name: Member(name, federation.addresses.get(name), (keys[name].public,), 1000)
            for name in "ABM"
        }
        for name, site in federation.sites.items():
            keys[name].write(folder / f"{name}.key")
            # B reaches A through a relay that records what it says
            seen = members | {"A": Member("A", relay.address, (keys["A"].public,), 1000)}
            text = roster_of((seen if name == "B" else members).values()).to_toml()
            (folder / f"{name}.toml").write_text(text)
            site.argv = ["peer", "--roster", str(folder / f"{name}.toml")]
            site.argv += ["--keys", str(folder / f"{name}.key"), "--out", str(folder / name)]
            site.argv += ["--part", f"{'AB'.index(name) + 1}/2", *options]
        # A has an address in its own roster; B listens at its own
        federation.start_together()
        federation.wait_for_updates(2)
        siege = _Siege(federation["A"], federation["B"], federation.addresses["A"])
        public = keys["A"].public
        recorded = wait_for(lambda: relay.recorded(), "B has talked to A")
        ready = b"\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x01B"
        null = PLAIN, b"\x04" + bytes([len(ready)]) + ready
        handshake = GREETING_BYTES, GREETING_BYTES + 202  # what B said: greeting, HELLO, the rest
        begin, hello, rest = (
            recorded[a:b] for a, b in zip((0, *handshake), (*handshake, None), strict=True)
        )
        attacks: dict[str, tuple[int, Callable[[int], int], str | Callable[[], str]]] = {
            "no key, as B": (1000, siege.say(null), "hung up on"),
            "a key that is not in the roster": (
                200,
                siege.with_new_keys(public, "B"),
                "refused",
            ),
            "a recorded conversation of B, replayed": (
                200,
                siege.say((begin, hello, rest), (begin, rest)),
                "one WELCOME to a HELLO; nothing is read",
            ),
            "http, tls and noise": (1000, siege.say(*([noise] for noise in NOISE)), "hung up on"),
            "a port scanner": (5000, siege.scan, "nothing"),
            "slow handshakes, a byte each half second": (500, siege.drip, "closed after 10 s"),
            "10,000 connections at once": (
                10_000,
                siege.crowd,
                lambda: f"the port shut at {siege.let_in} descriptors, and opened again",
            ),
        }
        for name, (attempts, attack, effect) in attacks.items():
            progress(name)
            found.cases[f"hostile/{name}"] = siege.of(max(1, attempts // less), attack, effect)
        _by_a_member(found, siege, keys, progress, less)


def _by_a_member(
    found: Found,
    siege: _Siege,
    keys: dict[str, KeyPair],
    progress: Callable[[str], None],
    less: int,
) -> None:
    schema = "0" * 64

    def flood(*frames: Sequence[bytes | memoryview], wait_s: float = 1.0) -> Callable[[int], int]:
        def attack(attempts: int) -> int:
            got = 0
            with zmq.Context() as context, dealer(context, keys["M"], keys["A"].public, "x") as m:
                m.connect(f"tcp://127.0.0.1:{siege.port}")
                for number in range(attempts):
                    m.send_multipart([b"m", *frames[number % len(frames)]])
                until = time.monotonic() + wait_s
                while (left := until - time.monotonic()) > 0:
                    if m.poll(left * 1000):
                        got += sum(map(len, m.recv_multipart()))
            return got + GREETING_BYTES

        return attack

    lies = [
        [bytes(part) for part in messages.encode(message)]
        for message in (
            messages.Ping("B"),
            messages.Version("B", (0, 10**6), 1, schema, "training"),
            messages.Pull("B", "0" * 32, 0, 1 << 20),
        )
    ]
    ping = [bytes(part) for part in messages.encode(messages.Ping("M"))]
    chance = random.Random(0)
    attacks = {
        "a member that says it is B": (1000, flood(*lies), "set aside, named in the log"),
        "a member that sends garbage": (
            1000,
            flood(*([chance.randbytes(size)] for size in (1, 100, 10_000, 1 << 20))),
            "set aside, named in the log",
        ),
        "a member's 100,000 pings": (100_000, flood(ping, wait_s=3.0), "100 a second answered"),
        "messages of 10,000 parts": (
            100,
            flood([b"x"] * 10_000, wait_s=3.0),
            "set aside, named in the log",
        ),
    }
    for name, (attempts, attack, effect) in attacks.items():
        progress(name)
        found.cases[f"hostile/{name}"] = siege.of(max(1, attempts // less), attack, effect)
    told = {event.get("peer") for event in siege.victim.events("reject", "limit")}
    if told != {"M"}:
        raise Failed(f"rejected were {told}, expected M alone")


def _without_keys(found: Found, folder: Path, options: Sequence[str]) -> None:
    """What goes over an encrypted connection is the same; this one is easier to write by hand."""
    with Federation(folder, "AB", options) as federation:
        site = federation["A"]
        site.argv += ["--peer", f"M=tcp://127.0.0.1:{free_port()}"]
        federation.start_together()
        federation.wait_for_updates(2)
        siege = _Siege(site, federation["B"], federation.addresses["A"])

        sent_mb = 0

        def attack(attempts: int) -> int:
            nonlocal sent_mb
            with closing(siege.connect()) as raw:
                raw.settimeout(2)
                mine = b"\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\x01M"
                raw.sendall(PLAIN)
                raw.recv(64, socket.MSG_WAITALL)
                raw.sendall(b"\x04" + bytes([6 + len(mine)]) + b"\x05READY" + mine)
                raw.recv(raw.recv(2, socket.MSG_WAITALL)[1], socket.MSG_WAITALL)
                part = b"\x03" + (1 << 20).to_bytes(8, "big") + bytes(1 << 20)
                with suppress(OSError):
                    for _ in range(attempts):
                        raw.sendall(part)
                        sent_mb += 1
                        time.sleep(0.01)  # as over 1 Gbit/s
            return GREETING_BYTES

        case = siege.of(ENDLESS_MB, attack, "hung up on, and named")
        if "hung up on" not in site.said():
            raise Failed("nobody noticed a message without end")
        name = f"hostile/a member's message without end, of {sent_mb} MB"
        found.cases[name] = replace(case, attempts=1)
