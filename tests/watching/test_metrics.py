"""A peer's numbers, as Prometheus gets them."""

from __future__ import annotations

import urllib.request
from dataclasses import replace

import pytest

from benchmarks.peers import free_port
from bt.config import ConfigError
from bt.watching.metrics import place_of, serving
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
