"""The roster: what it holds, what it refuses, what people are told of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from bt import roster
from bt.config import ConfigError
from bt.roster import Member
from transports.keys import KeyPair

KEYS = [KeyPair.new().public for _ in range(4)]


def member(name: str, number: int = 0, **other: object) -> Member:
    about = {"address": f"tcp://10.0.0.{number + 1}:7301", "keys": (KEYS[number],)}
    return Member(name, **{**about, "max_samples": 9, **other})  # type: ignore[arg-type]


A, B = member("A"), member("B", 1)


def entry(**changed: object) -> str:
    """One [[peer]] in TOML; a value None leaves the field out."""
    about = {"name": '"A"', "address": '"tcp://10.0.0.1:7301"', "keys": f'["{KEYS[0]}"]'}
    about |= {"max_samples": "9"}
    fields = {**about, **changed}
    return "[[peer]]\n" + "".join(f"{k} = {v}\n" for k, v in fields.items() if v is not None)


def test_a_roster_comes_back_as_it_was_written(tmp_path: Path) -> None:
    hidden = member("C", 2, address=None, keys=(KEYS[2], KEYS[3]))
    whole = roster.roster_of([B, A, hidden])
    (tmp_path / "r.toml").write_text(whole.to_toml())
    found = roster.read(tmp_path / "r.toml")
    assert {
        name: (m.address, set(m.keys), m.max_samples) for name, m in found.members.items()
    } == {
        "A": ("tcp://10.0.0.1:7301", {KEYS[0]}, 9),
        "B": ("tcp://10.0.0.2:7301", {KEYS[1]}, 9),
        "C": (None, {KEYS[2], KEYS[3]}, 9),
    }
    assert found.holder(KEYS[3]) == found.members["C"]
    assert found.holder(KeyPair.new().public) is None
    assert roster.checked(A).members == {"A": A}


def test_the_fingerprint_is_of_what_it_says_and_not_how() -> None:
    print_ = roster.roster_of([A, B]).fingerprint
    assert (
        roster.parsed(f"# written by hand\n{roster.roster_of([B]).to_toml()}{entry()}").fingerprint
        == print_
    )
    first, second = (f'["{one}", "{other}"]' for one, other in (KEYS[:2], KEYS[1::-1]))
    assert roster.parsed(entry(keys=first)) == roster.parsed(entry(keys=second))
    others = [A, member("B", 1, max_samples=8)], [A, member("B", 2)], [A], [A, member("C", 1)]
    assert print_ not in {roster.roster_of(each).fingerprint for each in others}
    assert len(print_.replace(" ", "")) * 4 >= 160, "whoever carries it may choose both of two"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no [[peer]]"),
        ("peer = 1", "no [[peer]]"),
        ("peer = [1]", "write [[peer]]"),
        ("[[peer", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ('color = "red"\n' + entry(), "unknown 'color'"),
        (entry(name=None), "peer 1 has no valid name"),
        (entry(name='"a b"'), "peer 1 has no valid name"),
        (entry(secret='"x"'), "A has an unknown 'secret'"),
        (entry(keys=None), "the keys of A: expected"),
        (entry(keys="[]"), "the keys of A: expected"),
        (entry(keys='["short"]'), "the keys of A: expected"),
        (entry(keys=f'"{KEYS[0]}"'), "the keys of A: expected"),
        (entry(keys=str(KEYS[:3])), "one key, or two different ones"),
        (entry(keys=str(KEYS[:1] * 2)), "one key, or two different ones"),
        (entry(max_samples=None), "max_samples of A: expected 1 to 1000000"),
        (entry(max_samples="0"), "max_samples of A"),
        (entry(max_samples="true"), "max_samples of A"),
        (entry(max_samples="1000001"), "max_samples of A"),
        (entry(address="7301"), "the address of A: '' is no address"),
        (entry(address='"10.0.0.1:7301"'), "the address of A: '10.0.0.1:7301' is no address"),
        (entry(address='"tcp://*:7301"'), "expected one host and port"),
        (entry(address='"tcp://0.0.0.0:7301"'), "expected one host and port"),
        (entry(address='"tcp://[::]:7301"'), "expected one host and port"),
        (entry(address='"tcp://10.0.0.1:*"'), "expected one host and port"),
        (entry(address='"ipc:///tmp/\\u001b[2J"'), "characters that no address has"),
        (entry() + entry(), "two peers are called A"),
        (entry() + entry(name='"B"', address=None), "A and B have the same key"),
        (entry() + entry(name='"B"', keys=f'["{KEYS[1]}"]'), "A and B have the same address"),
    ],
)  # fmt: skip
def test_what_is_no_roster(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        roster.read(tmp_path / "r.toml")
    assert says in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/r.toml is no roster: ")
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't read the roster"):
        roster.read(tmp_path / "none.toml")
    (tmp_path / "r.toml").write_bytes(b"#" * (1 << 21))
    with pytest.raises(ConfigError, match="more than"):
        roster.read(tmp_path / "r.toml")
    (tmp_path / "r.toml").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="is no roster"):
        roster.read(tmp_path / "r.toml")


def test_what_is_valid_and_yet_doubtful() -> None:
    assert roster.doubts(roster.roster_of([A, B])) == []
    assert "at least two" in roster.doubts(roster.roster_of([A]))[0]
    hidden = roster.roster_of([member("A", address=None), member("B", 1, address=None)])
    (line,) = roster.doubts(hidden)
    assert line.startswith("A and B have no address: they can't meet")
    assert "folder" in line
    near = roster.roster_of([A, member("B", 1, address="tcp://127.0.0.1:7301")])
    assert roster.doubts(near) == ["B: others can't reach a loopback address"]
    two = roster.roster_of([A, member("B", 1, keys=(KEYS[1], KEYS[2]))])
    assert roster.doubts(two) == ["B has two keys: take the old one out once it uses the new one"]


def test_differences_are_told_one_by_one() -> None:
    moved = member("A", 2, address="tcp://10.0.0.9:7301", max_samples=5)
    lines = roster.differences(roster.roster_of([A, B]), roster.roster_of([moved, member("C", 3)]))
    assert lines == [
        "B is out",
        f"A: key {KEYS[0]} is out",
        f"A: key {KEYS[2]} is new",
        "A: address tcp://10.0.0.1:7301 → tcp://10.0.0.9:7301",
        "A: max_samples 9 → 5",
        f"C is new: tcp://10.0.0.4:7301, {KEYS[3]}",
    ]
    assert roster.differences(roster.roster_of([A]), roster.roster_of([A])) == []
