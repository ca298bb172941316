"""bt status as a command: a run's folder, peers that are asked, a simulation."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.peers import free_port
from bt.cli import app
from bt.config import ConfigError
from bt.watching import source
from bt.watching.folder import Folder, NothingToWatch
from bt.watching.show import show
from tests.report.samples import write_events
from tests.test_outside import Federation as Running
from tests.watching.test_federation import A
from tests.watching.test_web import Fixed
from transports.reports import Report


def start(time: float, version: str = "0") -> dict[str, object]:
    return {"time": time, "event": "start", "version": version, "samples": 4}


EVENTS = [
    start(100.0),
    {"time": 101.0, "event": "version", "from": "b", "version": "3", "state": "training"},
    {"time": 101.0, "event": "version", "from": "c", "version": "1", "state": "training"},
    {"time": 101.5, "event": "pull", "peer": "b"},
    {"time": 102.0, "event": "weights", "from": "b", "bytes": 500, "seconds": 0.1},
    {"time": 102.0, "event": "merge", "from": "b", "version": "3", "samples": 4},
    {"time": 103.0, "event": "weights", "peer": "c", "version": "1", "bytes": 70},
    {"time": 110.0, "event": "fit", "version": "1", "loss": 0.5, "dice": 0.4, "seconds": 8.0},
    {"time": 111.0, "event": "gone", "peer": "c", "reason": "silent for 5 s"},
    {"time": 112.0, "event": "reject", "peer": "b", "reason": "lies"},
    {"time": 112.0, "event": "merge", "from": "b", "version": "torn"},
    {"time": 112.0, "event": "fit", "version": None},
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    write_events(tmp_path / "a" / "events.jsonl", EVENTS)
    write_events(tmp_path / "b" / "events.jsonl", [])
    (tmp_path / "config.toml").write_text("[federation]\nrounds = 6\n")
    return tmp_path


def test_a_runs_folder_tells_what_its_peers_would(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bt.watching.folder.time.time", lambda: 115.0)
    found = Folder(run).look(0.0)
    a = found["a"]
    assert isinstance(a, Report)
    assert (a.state, a.version, a.rounds, a.samples) == ("training", (0, 1), 6, 4)
    assert a.others["b"] == ((0, 3), (0, 3), "training", 14, False)
    assert a.others["c"] == (None, (0, 1), "training", 14, True)
    assert a.aside["b"] == (27, "lies")
    assert (a.merges, a.bytes_in, a.bytes_out, a.training_ms) == (1, 500, 70, 8000)
    assert a.fits == ((1, 500_000, 400_000),)
    assert [e.event for e in a.events] == ["start", "merge", "fit", "gone", "reject"]
    assert found["b"] == ("its log is empty",)


def test_a_merge_of_a_round_that_never_ended_is_none(run: Path) -> None:
    write_events(run / "a" / "events.jsonl", EVENTS[:6])
    a = Folder(run).look(0.0)["a"]
    assert isinstance(a, Report)
    assert a.others["b"].merged is None


def test_an_ended_peer(run: Path) -> None:
    write_events(run / "a" / "events.jsonl", [*EVENTS, {"time": 120, "event": "end",
                                                        "reason": "finished"}])  # fmt: skip
    a = Folder(run).look(0.0)["a"]
    assert isinstance(a, Report)
    assert (a.state, a.phase, a.uptime_ms) == ("finished", "idle", 20_000)


def test_as_json(run: Path) -> None:
    ended = CliRunner().invoke(app, ["status", str(run), "--json"])
    assert ended.exit_code == 0, ended.output
    found = json.loads(ended.stdout)
    assert found["peers"]["a"]["version"] == [0, 1]
    assert found["peers"]["b"]["no_answer"] == "its log is empty"


def test_for_people() -> None:
    ended = CliRunner().invoke(app, ["status", "--simulate", "4"])
    assert ended.exit_code == 0, ended.output
    assert "simulated federation of 4 peers" in ended.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "what to look at?"),
        (["--simulate", "4", "--peer", "A=tcp://127.0.0.1:1"], "one of the three"),
        (["--roster", "r.toml"], "--roster and --keys go together"),
    ],
)
def test_whom_to_look_at(arguments: list[str], says: str) -> None:
    ended = CliRunner().invoke(app, ["status", *arguments])
    assert isinstance(ended.exception, ConfigError)
    assert says in str(ended.exception)


def test_beside_a_federation_toml_it_is_that_federation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("federation.toml").write_text('[site]\nroster = "r.toml"\nkeys = "a.key"\n')
    ended = CliRunner().invoke(app, ["status"])
    assert "can't read the key file a.key" in str(ended.exception)
    assert CliRunner().invoke(app, ["status", "--simulate", "4"]).exit_code == 0


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(NothingToWatch, match=r"has no events\.jsonl"):
        Folder(tmp_path)
    address = f"A=tcp://127.0.0.1:{free_port()}"
    ended = CliRunner().invoke(app, ["status", "--peer", address, "--timeout", "0.2"])
    assert isinstance(ended.exception, NothingToWatch)
    assert str(ended.exception).startswith("nobody answers: A: not reachable at tcp://127.0.0.1")


def test_running_peers_are_asked(tmp_path: Path) -> None:
    with ExitStack() as stack:
        roster = Running(tmp_path, stack).roster
        keys = tmp_path / "screen.key"
        asked = source.of(None, roster, keys, [], None, 1.0, insecure=False)
        stack.callback(asked.close)
        reports: set[str] = set()
        while not reports >= {"A", "B"}:
            found = asked.look(0.0)
            reports |= {name for name, answer in found.items() if isinstance(answer, Report)}
        assert asked.closed, "the roster says who takes part"
        assert found["D"] == ("has no address: it can't be asked from outside",)


def test_of_peers_without_keys_it_is_not_known_who_else_takes_part() -> None:
    address = f"A=tcp://127.0.0.1:{free_port()}"
    asked = source.of(None, None, None, [address], None, 1.0, insecure=False)
    assert not asked.closed
    asked.close()


@pytest.mark.parametrize(("closed", "names"), [(True, "abc"), (False, "abcx")])
def test_who_is_shown(closed: bool, names: str, capsys: pytest.CaptureFixture[str]) -> None:
    told = Fixed()
    told.closed = closed
    told.answers["a"] = replace(A, others={"x": A.others["b"]})
    assert show(told, 1.0, watch=False, as_json=True) == 0
    assert list(json.loads(capsys.readouterr().out)["peers"]) == [*names]
