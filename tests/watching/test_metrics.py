"""A peer's numbers, as Prometheus gets them."""

from __future__ import annotations

import http.client
import socket
import urllib.request
from contextlib import ExitStack
from dataclasses import replace

import pytest

from benchmarks.peers import free_port
from bt.config import ConfigError
from bt.watching.metrics import _MOST_CONNECTIONS, place_of, serving
from tests.waiting import wait_until
from tests.watching.test_federation import A
from transports.reports import Report

pytest.importorskip("prometheus_client", reason="prometheus_client is not installed")


def scraped(place: tuple[str, int]) -> dict[str, float]:
    with urllib.request.urlopen("http://{}:{}/metrics".format(*place), timeout=20) as answer:
        lines = answer.read().decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_what_is_served_is_what_the_peer_reports() -> None:
    place = ("127.0.0.1", free_port())
    told: list[Report | None] = [None]
    with serving(place, lambda: told[0]):
        assert scraped(place) == {}, "it has not started yet"
        told[0] = A
        found = scraped(place)
        assert found["bt_version"] == 5
        assert found["bt_training_dice"] == 0.7
        assert found["bt_received_bytes_total"] == 1000
        assert found['bt_state{state="training"}'] == 1
        assert found['bt_state{state="done"}'] == 0
        assert found['bt_phase{phase="pulling"}'] == 1
        assert found['bt_peer_versions_behind{peer="b"}'] == 1
        assert found['bt_peer_gone{peer="c"}'] == 1
        assert found['bt_peer_set_aside{peer="c"}'] == 1
        told[0] = replace(A, version=(0, 6))
        assert scraped(place)["bt_version"] == 6
    with serving(place, lambda: A):
        assert scraped(place)["bt_version"] == 5, "the port was freed"


def test_where() -> None:
    assert place_of("127.0.0.1:9100") == ("127.0.0.1", 9100)
    assert place_of("0.0.0.0:9100", public=True) == ("0.0.0.0", 9100)
    for address, says in (
        ("9100", "expected HOST:PORT"),
        ("127.0.0.1:x", "expected HOST:PORT"),
        ("127.0.0.1:0", "expected HOST:PORT"),
        ("0.0.0.0:9100", "other machines can reach that"),
        ("10.0.0.1:9100", "other machines can reach that"),
    ):
        with pytest.raises(ConfigError, match=says):
            place_of(address)


def test_a_port_that_is_taken() -> None:
    place = ("127.0.0.1", free_port())
    with (
        serving(place, lambda: A),
        pytest.raises(ConfigError, match=f"--metrics 127.0.0.1:{place[1]}: Address already in"),
        serving(place, lambda: A),
    ):
        raise AssertionError


def answers(place: tuple[str, int]) -> bool:
    try:
        return scraped(place)["bt_version"] == 5
    except (OSError, http.client.HTTPException):
        return False


def test_a_few_that_only_connect_keep_nobody_out() -> None:
    place = ("127.0.0.1", free_port())
    with serving(place, lambda: A), ExitStack() as stack:
        for _ in range(_MOST_CONNECTIONS - 1):
            stack.enter_context(socket.create_connection(place, 20))
        assert answers(place)


def test_connections_beyond_a_few_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bt.watching.metrics._PATIENCE_S", 1000.0)
    place = ("127.0.0.1", free_port())
    with serving(place, lambda: A), ExitStack() as stack:
        idle = [socket.create_connection(place, 20) for _ in range(_MOST_CONNECTIONS)]
        for each in idle:
            stack.enter_context(each)
        for _ in range(100):
            with socket.create_connection(place, 20) as further:
                assert further.recv(1) == b""
        idle[0].close()
        wait_until(lambda: answers(place))


def test_who_says_nothing_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bt.watching.metrics._PATIENCE_S", 0.05)
    place = ("127.0.0.1", free_port())
    with serving(place, lambda: A), ExitStack() as stack:
        idle = [socket.create_connection(place, 20) for _ in range(_MOST_CONNECTIONS)]
        for each in idle:
            stack.enter_context(each)
        assert {each.recv(1) for each in idle} == {b""}
        wait_until(lambda: answers(place))


@pytest.mark.parametrize(
    ("where", "host", "status"),
    [
        ("127.0.0.1", "127.0.0.1:9100", 200),
        ("127.0.0.1", "localhost", 200),
        ("127.0.0.1", "[::1]:80", 200),
        ("127.0.0.1", "evil.example:9100", 403),
        ("127.0.0.1", "127.0.0.1.evil.example", 403),
        ("127.0.0.1", "localhost:80@evil.example", 403),
        ("127.0.0.1", None, 403),
        ("0.0.0.0", "monitored.example:9100", 200),
    ],
)
def test_on_this_machine_it_answers_to_no_other_name(
    where: str, host: str | None, status: int
) -> None:
    port = free_port()
    with serving((where, port), lambda: A):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.putrequest("GET", "/metrics", skip_host=True)
        if host is not None:
            connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status == status
        connection.close()
