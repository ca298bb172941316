"""bt dashboard: the federation as a local web page, for one person on this machine.

It listens on 127.0.0.1 alone. The address has a secret in it, so that other users of the machine
and other pages in the same browser can't read it; a name of theirs that leads here (DNS rebinding)
is refused. There is nothing to send: it answers GET. Peers are asked only while a page is open.
"""

from __future__ import annotations

import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from bt.config import ConfigError
from bt.watching.federation import PROBLEMS, Federation, lag, to_json
from bt.watching.loopback import names_this_machine
from bt.watching.source import Source
from transports.base import TransportError

_OPEN_S = 15.0  # a page that is open asks more often than this
_MOST_EVENTS = 300  # on the page, and as many problems
_HERE = Path(__file__).parent


class Slices(Protocol):
    """Pictures of current predictions (bt/watching/slices.py)."""

    def about(self) -> dict[str, Any]:
        """What the page has to know of them."""

    def png(self, number: int, plane: str, at: int, overlay: str) -> bytes | None:
        """A picture; None if there is no such one (any more)."""


class Dashboard:
    """Looks at `source` every so often while somebody looks at it; serves what it has seen."""

    def __init__(
        self, source: Source, port: int, every_s: float = 1.0, slices: Slices | None = None
    ) -> None:
        """Raises ConfigError if the port is taken; 0 is any free one."""
        self._source = source
        self._every_s = every_s
        self.slices = slices
        self._federation = Federation(closed=source.closed)
        self._state = json.dumps({"label": source.label, "peers": {}}).encode()
        self._asked_at = float("-inf")
        self._wanted = threading.Condition()
        self._ended = threading.Event()
        self.token = secrets.token_urlsafe(18)
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        except OSError as exc:
            raise ConfigError(
                f"port {port} can't be listened at: {exc.strerror}; another --port, or 0 for any "
                "free one"
            ) from exc
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/{self.token}/"
        self._threads = [
            threading.Thread(target=self._server.serve_forever, name="web", daemon=True),
            threading.Thread(target=self._watch, name="watch", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop listening and looking."""
        self._ended.set()
        with self._wanted:
            self._wanted.notify_all()
        self._server.shutdown()
        self._server.server_close()
        for thread in self._threads:
            thread.join()

    def state(self) -> bytes:
        """What was seen last, as JSON; somebody looks."""
        with self._wanted:
            self._asked_at = time.monotonic()
            self._wanted.notify_all()
        return self._state

    @property
    def is_looking(self) -> bool:
        """Whether a page has asked lately, so that peers are asked."""
        return time.monotonic() <= self._asked_at + _OPEN_S

    def _watch(self) -> None:
        while not self._ended.is_set():
            with self._wanted:
                while not (self.is_looking or self._ended.is_set()):
                    self._wanted.wait()
            if not self._ended.is_set():
                self._look()
            self._ended.wait(self._every_s)

    def _look(self) -> None:
        try:
            answers = self._source.look(time.monotonic())
        except TransportError as exc:
            self._state = json.dumps({"label": self._source.label, "problem": str(exc)}).encode()
            return
        now = time.monotonic()
        self._federation.take(answers, now)
        found = to_page(self._federation, self._source, now)
        if self.slices is not None:
            found["slices"] = self.slices.about()
        self._state = json.dumps(found, separators=(",", ":")).encode()


def to_page(federation: Federation, source: Source, now: float) -> dict[str, Any]:
    """What the page draws: as --json, but how late each merged version is, not which it is."""
    found = to_json(federation, now, simulated=source.simulated)
    newest = federation.newest()
    del found["merged"]
    # Null where it has not told: its name may be one that any object of JavaScript has.
    found["late"] = dict.fromkeys(found["peers"]) | {
        name: [lag(newest[o], vector[o]) if o in vector else None for o in found["peers"]]
        for name, vector in federation.merged().items()
    }
    for event, seen in zip(found["events"], federation.events, strict=True):
        event["id"] = f"{seen.peer} {seen.event} {seen.other} {seen.text} {seen.at:.0f}"
    latest = len(found["events"]) - _MOST_EVENTS
    found["events"] = [
        event
        for number, event in enumerate(found["events"])
        if number >= latest or event["event"] in PROBLEMS
    ][-2 * _MOST_EVENTS :]
    found["label"] = source.label
    return found


@cache
def _file(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def page(nonce: str) -> bytes:
    """The page: one file, its style and script inside."""
    text = _file("page.html").replace("NONCE", nonce)
    text = text.replace("STYLE", _file("page.css")).replace("SCRIPT", _file("page.js"))
    return text.encode()


def _policy(nonce: str) -> str:
    return (
        f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


def _handler(dashboard: Dashboard) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bt", ""
        protocol_version = "HTTP/1.1"
        timeout = 30

        def do_GET(self) -> None:
            _, _, rest = self.path.partition("/")
            token, _, wanted = rest.partition("/")
            if not names_this_machine(self.headers.get("Host")):
                return self._answer(403, b"wrong host\n")
            if not hmac.compare_digest(token.encode(), dashboard.token.encode()):
                return self._answer(403, b"take the whole address that bt dashboard has printed\n")
            nonce = secrets.token_urlsafe(12)
            parts = wanted.split("/")
            if wanted == "":
                return self._answer(200, page(nonce), "text/html; charset=utf-8", nonce)
            if wanted == "state":
                return self._answer(200, dashboard.state(), "application/json")
            if parts[0] == "slice" and (png := _slice(dashboard, parts[1:])) is not None:
                return self._answer(200, png, "image/png")
            return self._answer(404, b"no such thing\n")

        def _answer(
            self, code: int, body: bytes, kind: str = "text/plain", nonce: str = "none"
        ) -> None:
            self.send_response(code)
            for name, value in (
                ("Content-Type", kind),
                ("Content-Length", str(len(body))),
                ("Content-Security-Policy", _policy(nonce)),
                ("X-Content-Type-Options", "nosniff"),
                ("Referrer-Policy", "no-referrer"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("Cache-Control", "no-store"),
            ):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the terminal."""

    return Handler


def _slice(dashboard: Dashboard, parts: list[str]) -> bytes | None:
    """slice/NUMBER/PLANE/AT/OVERLAY.png"""
    if dashboard.slices is None or len(parts) != 4:
        return None
    number, plane, at, file = parts
    if not (number.isascii() and number.isdigit() and at.isascii() and at.isdigit()):
        return None
    return dashboard.slices.png(int(number[:9]), plane, int(at[:9]), file.removesuffix(".png"))
