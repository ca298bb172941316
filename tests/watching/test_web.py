"""The dashboard: who may read it, what it says, and how it looks in a real browser."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bt.config import ConfigError
from bt.outside import NoAnswer
from bt.watching.federation import Federation
from bt.watching.simulated import Simulated
from bt.watching.web import Dashboard, page, to_page
from tests.browser import PROGRAM, Browser
from tests.waiting import wait_until
from tests.watching.test_federation import A, B

HOSTILE = "</script><img src=x onerror=document.title='hacked'>"
needs_browser = pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed")


class Fixed:
    """Two peers that answer, and one that does not, for a reason that is no HTML."""

    label, simulated, closed = HOSTILE, False, False

    def __init__(self) -> None:
        self.looks = 0
        self.answers: dict[str, Any] = {"a": A, "b": B, "c": NoAnswer(HOSTILE)}

    def look(self, now: float) -> dict[str, Any]:
        self.looks += 1
        return self.answers

    def close(self) -> None: ...


@pytest.fixture
def source() -> Fixed:
    return Fixed()


@pytest.fixture
def dashboard(source: Fixed) -> Iterator[Dashboard]:
    made = Dashboard(source, 0, every_s=0.05)
    yield made
    made.close()


def get(
    dashboard: Dashboard, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", host or f"127.0.0.1:{dashboard.port}")
    connection.endheaders()
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer.status, dict(answer.headers), body


def test_it_serves_a_page_and_what_was_seen(dashboard: Dashboard, source: Fixed) -> None:
    status, headers, body = get(dashboard, f"/{dashboard.token}/")
    assert status == 200
    (nonce,) = set(re.findall(rb'nonce="([^"]+)"', body))
    assert f"script-src 'nonce-{nonce.decode()}'" in headers["Content-Security-Policy"]
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert not re.search(rb'(src|href)="(?!data:)', body), "nothing from elsewhere"
    assert source.looks == 0, "nobody has looked yet: no peer is asked"
    path = f"/{dashboard.token}/state"
    wait_until(lambda: len(json.loads(get(dashboard, path)[2])["peers"]) == 3)
    found = json.loads(get(dashboard, path)[2])
    assert found["late"] == {"a": [None, 2, 0], "b": [None, None, None], "c": None}
    assert found["peers"]["c"]["no_answer"] == HOSTILE
    assert found["events"][-1]["event"] == "merge"


@pytest.mark.parametrize(("closed", "names"), [(True, "abc"), (False, "abcx")])
def test_who_is_shown(source: Fixed, closed: bool, names: str) -> None:
    source.closed = closed
    source.answers["a"] = replace(A, others={"x": A.others["b"]})
    dashboard = Dashboard(source, 0, every_s=0.05)
    try:
        wait_until(lambda: bool(json.loads(dashboard.state())["peers"]))
        assert list(json.loads(dashboard.state())["peers"]) == [*names]
    finally:
        dashboard.close()


@pytest.mark.parametrize(
    ("path", "method", "host", "status"),
    [
        ("/", "GET", None, 403),
        ("/state", "GET", None, 403),
        ("/wrong/state", "GET", None, 403),
        ("/TOKEN/", "GET", "evil.example", 403),
        ("/TOKEN/state", "GET", "127.0.0.1.evil.example", 403),
        ("/TOKEN/state", "GET", "localhost:1", 200),  # a port that was forwarded
        ("/TOKEN/../secret", "GET", None, 404),
        ("/TOKEN/slice/1/axial/2/prediction.png", "GET", None, 404),
        ("/TOKEN/state", "POST", None, 501),
        ("/TOKEN/state", "DELETE", None, 501),
    ],
)
def test_who_may_read_it(
    dashboard: Dashboard, path: str, method: str, host: str | None, status: int
) -> None:
    assert get(dashboard, path.replace("TOKEN", dashboard.token), method, host)[0] == status


def test_it_listens_on_this_machine_alone(dashboard: Dashboard) -> None:
    assert dashboard._server.server_address[0] == "127.0.0.1"


def test_a_port_that_is_taken(dashboard: Dashboard, source: Fixed) -> None:
    with pytest.raises(ConfigError, match=r"can't be listened at: .*; another --port, or 0"):
        Dashboard(source, dashboard.port)


def test_peers_are_asked_only_while_somebody_looks(
    source: Fixed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bt.watching.web._OPEN_S", 0.2)
    dashboard = Dashboard(source, 0, every_s=0.02)
    try:
        dashboard.state()
        wait_until(lambda: source.looks > 2)
        wait_until(lambda: not dashboard.is_looking)
        before = source.looks
        dashboard.state()
        wait_until(lambda: source.looks > before)
    finally:
        dashboard.close()


def test_of_200_peers_it_stays_small_enough_to_send_every_second() -> None:
    source, federation = Simulated(200, ahead_s=60.0), Federation()
    for now in (100.0, 101.0):
        federation.take(source.look(now), now)
    found = json.dumps(to_page(federation, source, 101.0), separators=(",", ":"))
    assert len(found) < 500_000


def test_the_page_has_no_place_for_html_of_others() -> None:
    assert b"innerHTML" not in page("x")
    assert b"document.write" not in page("x")


@needs_browser
@pytest.mark.parametrize("peers", [2, 200])
def test_in_a_real_browser(tmp_path: Path, peers: int) -> None:
    dashboard = Dashboard(Simulated(peers, ahead_s=60.0), 0, every_s=0.2)
    browser = Browser(tmp_path)
    try:
        browser.open(dashboard.url, dark=peers == 2)
        browser.until("state !== null && document.querySelectorAll('tbody tr').length > 0")
        assert browser.run("names.length") == peers
        assert browser.run("document.querySelectorAll('tbody tr').length") == peers
        assert browser.run("!document.getElementById('simulated').hidden")
        assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        drawn = "[...document.querySelectorAll('canvas')].every(c => c.getContext('2d')"
        drawn += ".getImageData(0, 0, c.width, c.height).data.some(v => v))"
        assert browser.run(drawn), "graph, curves and matrix"
        browser.run("choose(names[1])")
        assert browser.run("document.querySelector('tr.chosen').textContent").startswith("peer-")
        browser.run("document.querySelector('[data-what=loss]').click()")
        before = browser.run("state.peers[names[0]].seconds_up")
        browser.until(f"state.peers[names[0]].seconds_up > {before}")
        assert browser.log == [], "no complaints of the page or its policy"
        assert browser.picture().startswith(b"\x89PNG")
    finally:
        browser.close()
        dashboard.close()


@needs_browser
def test_a_peer_may_have_a_name_that_objects_have(
    tmp_path: Path, source: Fixed, dashboard: Dashboard
) -> None:
    """As one that has not told; a member can invent any in what it says it knows of others."""
    known = {"constructor": A.others["b"], "toString": A.others["c"]}
    source.answers["a"] = replace(A, others=known)
    browser = Browser(tmp_path, 900, 700)
    try:
        browser.open(dashboard.url)
        browser.until("state !== null && document.querySelectorAll('tbody tr').length > 0")
        browser.until("document.getElementById('state').textContent === 'live'")
        assert browser.log == []
    finally:
        browser.close()


@needs_browser
def test_texts_of_others_stay_texts(tmp_path: Path, dashboard: Dashboard) -> None:
    browser = Browser(tmp_path, 900, 700)
    try:
        browser.open(dashboard.url)
        browser.until("state !== null")
        assert browser.run("document.title") == f"BrainTorrent: {HOSTILE}"
        assert browser.run("document.querySelector('td.note').textContent") == HOSTILE
        assert browser.run("document.querySelectorAll('img').length") == 0
        assert browser.log == []
    finally:
        browser.close()
