"""bt keys and bt roster, and what bt peer makes of them."""

# ruff: noqa: F811, a fixture that is imported

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.test_cli import SMALL, Bt, bt, refused  # noqa: F401
from transports.keys import KeyPair


def make(bt: Bt, name: str, number: int = 1, cap: int = 9) -> str:
    """A key file NAME.key and its roster NAME.toml; the public key."""
    ended = bt("keys", "new", name)
    assert ended.code == 0
    address = f"tcp://127.0.0.{number}:7301"
    options = ("--keys", f"{name}.key", "--address", address, "--max-samples", cap)
    assert bt("roster", "make", f"{name}.toml", *options).code == 0
    return ended.out.strip()


def test_a_key_is_made_once_and_only_its_public_part_shows(bt: Bt) -> None:
    ended = bt("keys", "new", "site-a")
    path = Path("site-a.key")
    pair = KeyPair.read(path)
    assert ended.out == pair.public + "\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert bt("keys", "show", path).out == pair.public + "\n"
    again = bt("keys", "new", "site-a")
    refused(again, "exists already, and a key is never overwritten")
    assert KeyPair.read(path) == pair
    for shown in (ended, again, bt("keys", "show", path)):
        assert pair.secret not in shown.out + shown.err
    path.chmod(0o644)
    refused(bt("keys", "show", path), "chmod 600")
    refused(bt("keys", "show", "nothing.key"), "No such file")
    refused(bt("keys", "new", "../b"), "can't name a peer")


def test_three_sites_make_one_roster(bt: Bt) -> None:
    keys = {name: make(bt, name, number) for number, name in enumerate("ABC", start=1)}
    made = bt("roster", "make", "all.toml", "A.toml", "C.toml", "B.toml")
    assert made.code == 0
    seen = bt("roster", "check", "all.toml", "--keys", "B.key")
    assert seen.code == 0
    assert "B.key is the key of B" in seen.out
    for shown in (*keys, *keys.values(), "tcp://127.0.0.2:7301", "fingerprint: "):
        assert shown in seen.out
    assert made.out.splitlines()[-1] in seen.out, "the same fingerprint"
    assert bt("roster", "diff", "all.toml", "all.toml").out == "They say the same.\n"
    changed = bt("roster", "diff", "all.toml", "A.toml")
    assert changed.out.splitlines() == ["B is out", "C is out"]


def test_rosters_for_programs(bt: Bt) -> None:
    key = make(bt, "A")
    told = json.loads(bt("roster", "check", "A.toml", "--keys", "A.key", "--json").out)
    assert told["peer"] == [
        {"name": "A", "address": "tcp://127.0.0.1:7301", "keys": [key], "max_samples": 9}
    ]
    assert told["holder"] == "A"
    assert told["doubts"] == ["a federation needs at least two peers"]
    assert f"fingerprint: {told['fingerprint']}" in bt("roster", "check", "A.toml").out
    assert json.loads(bt("roster", "diff", "A.toml", "A.toml", "--json").out) == {
        "differences": []
    }


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["make", "A.toml"], "A.toml exists already"),
        (["make", "new.toml"], "nothing to make a roster of"),
        (["make", "new.toml", "A.toml", "A.toml"], "two peers are called A"),
        (["make", "new.toml", "nowhere.toml"], "can't read the roster nowhere.toml"),
        (["make", "new.toml", "--keys", "A.key"], "--keys goes with --max-samples"),
        (["make", "new.toml", "--name", "A"], "are of the peer with --keys"),
        (["make", "new.toml", "--keys", "A.key", "--max-samples", "0"], "max_samples of A"),
        (["make", "new.toml", "--keys", "A.key", "--max-samples", "5", "--address", "x"], "'x'"),
        (["check", "B.key"], "B.key is no roster"),
        (["check", "A.toml", "--keys", "B.key"], "no peer of A.toml has the key of B.key"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_what_rosters_can_not_be_made_of(bt: Bt, args: list[str], says: str) -> None:
    make(bt, "A")
    bt("keys", "new", "B")
    refused(bt("roster", *args), says)
    assert not Path("new.toml").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "--roster FILE and --keys FILE"),
        (["--roster", "AB.toml"], "--roster and --keys go together"),
        (["--keys", "A.key"], "--roster and --keys go together"),
        (["--roster", "AB.toml", "--keys", "C.key"], "no peer of AB.toml has the key of C.key"),
        (["--roster", "AB.toml", "--keys", "A.key", "--name", "B"], "the key of A.key is A's"),
        (["--roster", "AB.toml", "--keys", "A.key", "--insecure"], "--insecure is for peers"),
        (["--roster", "AB.toml", "--keys", "A.key", "--peer", "B=ipc://b"], "--peer is for peers"),
        (["--roster", "A.toml", "--keys", "A.key"], "A is alone in A.toml"),
        (["--roster", "AB.toml", "--keys", "A.key", "--listen", "x"], "--listen: 'x' is no"),
        (["--roster", "AB.toml", "--keys", "A.key"], "--data"),
        (["--name", "A", "--listen", "tcp://127.0.0.1:7301", "--peer", "B=tcp://10.0.0.2:7301"],
         "another machine, and nothing is encrypted: make keys and a roster"),
        (["--name", "A", "--listen", "tcp://0.0.0.0:7301", "--peer", "B=tcp://127.0.0.1:7302"],
         "make keys and a roster (bt keys new, bt roster make)"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_peer_refuses(bt: Bt, args: list[str], says: str) -> None:
    make(bt, "A", 1)
    make(bt, "B", 2)
    bt("keys", "new", "C")
    bt("roster", "make", "AB.toml", "A.toml", "B.toml")
    refused(bt("peer", "--out", "out", *args), says)
    assert not Path("out").exists()


def test_more_scans_than_the_roster_allows_are_refused_before_training(
    bt: Bt,
    cohort: Path,
) -> None:
    make(bt, "A", 1, cap=5)
    make(bt, "B", 2)
    bt("roster", "make", "AB.toml", "A.toml", "B.toml")
    own = ("--roster", "AB.toml", "--keys", "A.key")
    refused(bt("peer", *own, "--data", cohort, *SMALL, "--out", "A"), "roster allows it 5")
