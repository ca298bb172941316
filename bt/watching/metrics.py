"""A peer's numbers for those who have a monitoring system: a Prometheus endpoint.

It reads the reports that the peer makes for whoever watches; prometheus_client (the extra
`metrics`) does the rest.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any

from bt.config import ConfigError
from bt.versions import Version
from bt.watching.federation import lag
from bt.watching.loopback import names_this_machine
from transports.base import TransportError
from transports.endpoints import Tcp, parse
from transports.reports import MILLION, PHASES, STATES, Report

_EXTRA = "pip install 'braintorrent[metrics]'"
# Who only connects must not use up the descriptors and threads that the peer itself needs.
_MOST_CONNECTIONS = 8
_PATIENCE_S = 5.0  # for each read and write


def place_of(address: str, *, public: bool = False) -> tuple[str, int]:
    """ "127.0.0.1:9100" -> (host, port). Raises ConfigError for what can't be used, and for an
    address that other machines reach unless `public`."""
    try:
        place = parse(f"tcp://{address}")
    except TransportError:
        place = None
    if not isinstance(place, Tcp) or not place.port:
        raise ConfigError(f"--metrics {address}: expected HOST:PORT, for example 127.0.0.1:9100")
    if not place.is_loopback and not public:
        raise ConfigError(
            f"--metrics {address}: other machines can reach that, and nothing is encrypted; stay "
            "on 127.0.0.1, or allow it with --metrics-public"
        )
    if find_spec("prometheus_client") is None:
        raise ConfigError(f"--metrics needs prometheus_client: {_EXTRA}")
    return place.host, place.port


@contextmanager
def serving(place: tuple[str, int] | None, report: Callable[[], Report | None]) -> Iterator[None]:
    """Serve what `report` gives, from a thread, as long as this lasts. None: nothing.

    Raises ConfigError if the address is taken.
    """
    if place is None:
        yield
        return
    host, port = place
    try:
        server = _Server(Tcp(host, port), report)
    except OSError as exc:
        raise ConfigError(f"--metrics {host}:{port}: {exc.strerror}") from exc
    thread = threading.Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def samples(report: Report) -> Iterator[tuple[str, str, str, dict[str, str], float]]:
    """(kind, name, what it is, labels, value) of each number; "counter" or "gauge"."""
    incarnation, count = report.version
    yield "gauge", "version", "Fine-tunes finished.", {}, count
    yield "gauge", "incarnation", "How often the peer has lost its disk.", {}, incarnation
    yield "gauge", "rounds", "Fine-tunes it means to do.", {}, report.rounds
    yield "gauge", "samples", "Training scans.", {}, report.samples
    if report.fits:
        for name, value in zip(("loss", "dice"), report.fits[-1][1:], strict=True):
            if value is not None:
                about = f"Training {name} of the last fine-tune, on the peer's own slices."
                yield "gauge", f"training_{name}", about, {}, value / MILLION
    yield "counter", "merges", "Models merged.", {}, report.merges
    yield "counter", "received_bytes", "From other peers.", {}, report.bytes_in
    yield "counter", "sent_bytes", "To other peers.", {}, report.bytes_out
    yield "counter", "training_seconds", "Spent on fine-tuning.", {}, report.training_ms / 1000
    yield "counter", "waiting_seconds", "Spent on all else.", {}, report.waiting_ms / 1000
    yield "gauge", "uptime_seconds", "Since it was started.", {}, report.uptime_ms / 1000
    about = "1 for the state it is in."
    for state in STATES:
        yield "gauge", "state", about, {"state": state}, state == report.state
    for phase in PHASES:
        yield "gauge", "phase", "1 for what it does.", {"phase": phase}, phase == report.phase
    for name, known in report.others.items():
        labels = {"peer": name}
        yield "gauge", "peer_gone", "1 if that peer does not answer.", labels, known.gone
        aside = name in report.aside
        yield "gauge", "peer_set_aside", "1 if nothing is taken from that peer.", labels, aside
        if known.heard is not None:
            merged = None if known.merged is None else Version(*known.merged)
            late = lag(Version(*known.heard), merged)
            yield "gauge", "peer_versions_behind", "Of that peer, not merged yet.", labels, late


class _Server(ThreadingHTTPServer):
    """A few connections at once; further ones are closed at once."""

    def __init__(self, place: Tcp, report: Callable[[], Report | None]) -> None:
        found = place.to_bind()
        self.address_family = socket.AF_INET6 if ":" in found.host else socket.AF_INET
        self._free = threading.BoundedSemaphore(_MOST_CONNECTIONS)
        super().__init__((found.host, found.port), _handler(report, local=place.is_loopback))

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            return self.shutdown_request(request)
        try:
            super().process_request(request, client_address)
        except BaseException:  # there is no thread that would do it
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def _handler(
    report: Callable[[], Report | None], *, local: bool
) -> Callable[..., BaseHTTPRequestHandler]:
    from prometheus_client import CollectorRegistry
    from prometheus_client.exposition import choose_encoder

    registry = CollectorRegistry()
    registry.register(_Collector(report))

    class Handler(BaseHTTPRequestHandler):
        server_version, sys_version = "bt", ""
        timeout = _PATIENCE_S

        def do_GET(self) -> None:
            if local and not names_this_machine(self.headers.get("Host")):
                return self.send_error(403, "wrong host")
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            body = encode(registry)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Not on the terminal."""

    return Handler


class _Collector:
    def __init__(self, report: Callable[[], Report | None]) -> None:
        self._report = report

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        report = self._report()
        families: dict[str, Any] = {}
        for kind, name, about, labels, value in () if report is None else samples(report):
            make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
            family = families.setdefault(name, make(f"bt_{name}", about, labels=[*labels]))
            family.add_metric([*labels.values()], float(value))
        yield from families.values()
