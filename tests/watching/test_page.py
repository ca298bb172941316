"""What the page's script makes of numbers that peers chose, without a browser."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import bt.watching
from transports.header import MAX_INTEGER
from transports.reports import MILLION

PAGE = Path(bt.watching.__file__).with_name("page.js")
NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")

# A document of which everything is there and does nothing, but that texts drawn are counted.
STUB = """
const nothing = new Proxy(function () {}, {
  get: (_, name) => name === Symbol.toPrimitive ? () => 0
    : name === Symbol.iterator ? undefined
    : name === "clientWidth" ? 800
    : name === "fillText" ? text => drawn.push(String(text))
    : name === "querySelectorAll" ? () => [] : nothing,
  set: () => true, apply: () => nothing,
});
const drawn = [];
Object.assign(globalThis, {
  document: nothing, matchMedia: () => ({matches: true}), devicePixelRatio: 1,
  getComputedStyle: () => nothing, addEventListener() {}, setTimeout() {},
  fetch: async () => { throw new Error(); },
});
"""


def run(peers: dict[str, Any], expression: str) -> Any:
    """The value of some JavaScript in the page of these peers."""
    script = f"""{STUB}{PAGE.read_text(encoding="utf-8")}
state = {{peers: {json.dumps(peers)}}}; names = Object.keys(state.peers);
console.log(JSON.stringify({expression}));"""
    assert NODE is not None
    ended = subprocess.run(
        [NODE, "-"], input=script, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def drawn(curves: list[list[list[float]]], what: str) -> list[str]:
    """The texts beside the learning curves of so many peers."""
    peers = {f"peer-{i}": {"curve": curve} for i, curve in enumerate(curves)}
    found: list[str] = run(peers, f'(what = "{what}", drawCurves(), drawn)')
    return found


def honest(peers: int) -> list[list[list[float]]]:
    return [[[v, 2.0 / v + i / 100, 0.1 * v] for v in range(1, 9)] for i in range(peers)]


def test_curves_of_honest_peers() -> None:
    texts = drawn(honest(20), "dice")
    assert texts[:5] == ["0.2", "0.4", "0.6", "0.8", "1"]


@pytest.mark.parametrize("what", ["dice", "loss"])
@pytest.mark.parametrize("peers", [2, 20])
@pytest.mark.parametrize(
    "lie",
    [
        [MAX_INTEGER, MAX_INTEGER / MILLION, MAX_INTEGER / MILLION],
        [2**31 - 1, 0.0, 0.0],
        [0, MAX_INTEGER / MILLION, 1.02],
    ],
)
def test_numbers_however_large_are_drawn_at_once(lie: list[float], peers: int, what: str) -> None:
    assert len(drawn([*honest(peers), [[1, 0.5, 0.5], lie]], what)) < 40


def test_the_only_dice_may_be_impossible() -> None:
    assert len(drawn([[[1, 0.5, 1.02]]], "dice")) < 40


def test_more_updates_than_a_call_has_arguments() -> None:
    curves = [[[v, 0.5, 0.5] for v in range(4000)] for _ in range(50)]
    assert len(drawn(curves, "dice")) < 40


def test_peers_that_others_tell_of_come_last_however_bad_they_are() -> None:
    fine = {"asked": True, "state": "idle", "set_aside_by": {}}
    peers = {"made-up": fine | {"asked": False, "state": "gone"}, "a": fine}
    peers |= {"silent": fine | {"state": "no answer"}}
    order = "[...names].sort((a, b) => urgency(state.peers[a]) - urgency(state.peers[b]))"
    assert run(peers, order) == ["silent", "a", "made-up"]
