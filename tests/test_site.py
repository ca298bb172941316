"""bt init and bt check: a site's own files, and whether it can take part."""

# ruff: noqa: F811, a fixture that is imported

from __future__ import annotations

import json
import re
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.peers import free_port
from bt import founding, neighbours, roster, site
from bt.config import Config, ConfigError
from bt.findings import Findings
from bt.founding import Answers
from tests.conftest import renumber, write_cohort
from tests.test_cli import Bt, bt, refused  # noqa: F401
from tests.waiting import said, wait_until
from transports.keys import KeyPair
from transports.reports import Known, Report

TIMEOUT_S = 90


def init(bt: Bt, name: str, *options: object) -> Any:
    scans = write_cohort(Path(name) / "scans", range(3))
    given = ("--data", scans, "--filters", 2, "--folder", name, *options)
    return bt("init", "--name", name, *given)


def test_what_init_writes_is_what_the_other_commands_read(bt: Bt) -> None:
    address = f"tcp://127.0.0.1:{free_port()}"
    made = init(bt, "a", "--address", address, "--rounds", 3, "--test-scans", 1)
    assert made.code == 0, made.err
    own, config = site.read(Path("a/federation.toml"))
    assert own.keys is not None
    assert (own.roster, own.out) == (Path("a/roster.toml"), Path("a/runs/a"))
    assert (config.model.filters, config.federation.rounds, config.data.test_scans) == (2, 3, 1)
    assert config.data.path is not None
    assert (Path(config.data.path) / "dataset.json").exists()
    assert stat.S_IMODE(own.keys.stat().st_mode) == 0o600
    (member,) = roster.read(Path("a/a.toml")).members.values()
    assert (member.name, member.address, member.max_samples) == ("a", address, 3)
    assert member.keys == (KeyPair.read(own.keys).public,)
    assert "secret" not in Path("a/a.toml").read_text()


def test_init_overwrites_nothing_and_takes_keys_that_exist(bt: Bt) -> None:
    assert init(bt, "a").code == 0
    keys = Path("a/a.key").read_text()
    refused(init(bt, "a"), "federation.toml exists already")
    Path("a/federation.toml").unlink()
    refused(init(bt, "a"), "a.toml exists already")
    Path("file").touch()
    refused(init(bt, "c", "--folder", "file"), "bt: file: File exists")
    Path("a/a.toml").unlink()
    assert init(bt, "a").code == 0
    assert Path("a/a.key").read_text() == keys


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"--name": None}, "--name is needed"),
        ({"--name": "a b"}, "can't name a site"),
        ({"--data": None}, "--data is needed"),
        ({"--data": "nowhere"}, "no such folder"),
        ({"--address": "host:1"}, "the address of a: 'host:1' is no address"),
        ({"--max-samples": 0}, "max_samples of a: expected 1"),
        ({"--filters": 0}, "filters = 0"),
    ],
)
def test_what_init_refuses_leaves_nothing_behind(bt: Bt, options: Any, says: str) -> None:
    write_cohort(Path("scans"), range(3))
    given = {"--name": "a", "--data": "scans", **options}
    refused(bt("init", *(x for k, v in given.items() if v is not None for x in (k, v))), says)
    assert sorted(path.name for path in Path().iterdir()) == ["scans"]


def test_a_person_is_asked_until_the_answer_can_be(tmp_path: Path) -> None:
    scans = str(write_cohort(tmp_path / "scans", range(3)))
    said = iter(["two words", "a", "nonsense", "tcp://h:1", "/nowhere", scans, 5, 2, 3])
    asked: list[str] = []

    def prompt(text: str, **how: Any) -> Any:
        asked.append(text)
        return next(said)

    answers = founding.asked(Answers(), prompt)
    assert answers == Answers("a", "tcp://h:1", scans, 5, None, 2, 3)
    assert "can't name a site" in asked[1]
    assert "no address" in asked[3]
    assert "no such folder" in asked[5]


def test_a_file_without_site_is_a_config_like_any_other(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[federation]\nrounds = 3\n")
    own, config = site.read(tmp_path / "c.toml")
    assert own == site.Site()
    assert config.federation.rounds == 3
    assert config.data == Config().data


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("site = 1", "write [site]"),
        ("[site]\ncolor = 'red'", "unknown setting color in [site]; known: roster, keys, out"),
        ("[site]\nrooster = 'r'", "unknown setting rooster in [site]; did you mean roster?"),
        ("[siet]\nkeys = 'k'", "unknown section [siet]; did you mean [site]?"),
        ("[site]\nkeys = 1", "keys in [site]: expected text"),
        ("[site]\n[model]\nfilters = 0", "filters = 0"),
        (
            "[site]\n[colour]",
            "unknown section [colour]; known: [data], [model], [train], [federation], [site]",
        ),
        ("[site", "not valid TOML"),
    ],
)
def test_what_a_site_can_not_say(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "f.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        site.read(tmp_path / "f.toml")
    assert says in str(caught.value)
    assert "f.toml" in str(caught.value)


# bt check -----------------------------------------------------------------------------------
def findings(told: str) -> dict[str, dict[str, Any]]:
    return {each["topic"]: each for each in json.loads(told)["findings"]}


def three_sites(bt: Bt) -> None:
    """a and b with an address, c without; each with the roster of all."""
    for name in "abc":
        address = () if name == "c" else ("--address", f"tcp://127.0.0.1:{free_port()}")
        assert init(bt, name, *address).code == 0
    for name in "abc":
        parts = [f"{each}/{each}.toml" for each in "abc"]
        assert bt("roster", "make", f"{name}/roster.toml", *parts).code == 0


def test_a_site_alone_is_told_what_is_missing(bt: Bt) -> None:
    refused(bt("check"), "no federation.toml here: bt init writes one")
    three_sites(bt)
    file = Path("a/federation.toml")
    file.write_text(file.read_text().replace("# ping_timeout_s = 5  ", "ping_timeout_s = 0.3"))
    ended = bt("check", "--config", file, "--json")
    assert ended.code == 1
    seen = findings(ended.out)
    states = {topic: each["state"] for topic, each in seen.items() if topic != "roster"}
    assert states == {
        **dict.fromkeys(("config", "keys", "data", "disk", "clock", "port"), "green"),
        "peer b": "red",
        "peer c": "note",
    }
    assert "3 training scans" in seen["data"]["says"]
    assert "bt check --wait" in seen["peer b"]["to_do"]
    whole = Path("a/roster.toml").read_text()
    Path("a/roster.toml").write_text(re.sub('name = "a"\naddress.*\n', 'name = "a"\n', whole))
    apart = findings(bt("check", "--config", file, "--json").out)["peer c"]
    assert (apart["state"], apart["says"].split(":")[1]) == (
        "red",
        " they can't meet, nobody relays",
    )
    assert "a folder that all share" in apart["to_do"]
    Path("a/roster.toml").write_text(whole)
    shown = bt("check", "--config", file)
    assert "✘ peer b" in shown.out
    assert "→ is its peer" in shown.out


def test_what_is_red_at_home(bt: Bt) -> None:
    three_sites(bt)
    Path("a/a.key").chmod(0o644)
    seen = findings(bt("check", "--config", "a/federation.toml", "--json").out)
    assert "chmod 600" in seen["keys"]["says"]
    Path("a/a.key").chmod(0o600)
    assert "labels" not in seen
    renumber(Path("a/scans"), 2, 7)
    Path("a/scans/imagesTr/blob_1.nii.gz").write_bytes(b"no scan")
    for each in (Path("a/roster.toml"), Path("a/federation.toml")):
        text = each.read_text().replace("max_samples = 3", "max_samples = 1")
        each.write_text(text.replace("# ping_timeout_s = 5  ", "ping_timeout_s = 0.3"))
    seen = findings(bt("check", "--config", "a/federation.toml", "--json").out)
    assert "label number 7 is not in the table" in seen["labels"]["says"]
    assert "blob_1" in seen["scan"]["says"]
    assert "skip_bad" in seen["scan"]["to_do"]
    assert "the roster allows it 1" in seen["samples"]["says"]
    text = Path("a/federation.toml").read_text()
    assert "[federation]" in text
    unfit = text.replace("[federation]", "[federation]\nstale_weight = 0.5")
    Path("a/federation.toml").write_text(unfit)
    seen = findings(bt("check", "--config", "a/federation.toml", "--json").out)
    assert "needs --schedule sequential" in seen["config"]["says"]


@pytest.mark.parametrize(
    ("known", "state", "says"),
    [
        (None, "note", "has no address, and has not called this site's peer"),
        (Known(None, None, None, None, False), "note", "has not called this site's peer"),
        (Known(None, (0, 4), "training", 70, True), "note", "this site's peer for 70 s"),
        (Known(None, (0, 4), "training", 1, False), "green", "this site's peer, version 4"),
    ],
)
def test_the_running_peer_knows_who_without_an_address_is_connected(
    known: Known | None, state: str, says: str
) -> None:
    others = {} if known is None else {"c": known}
    running = Report("a", "training", "idle", (0, 5), 8, 3, others)
    found = Findings(lambda finding: None)
    neighbours.caller("c", running, found)
    assert (found.all[0].state, found.all[0].topic) == (state, "peer c")
    assert found.all[0].says.endswith(says)
    assert bool(found.all[0].to_do) == (state == "note")


@pytest.mark.processes
def test_sites_that_check_at_the_same_time_see_each_other(bt: Bt) -> None:
    """All green but b, which would train another network."""
    three_sites(bt)
    file = Path("b/federation.toml")
    file.write_text(file.read_text().replace("filters = 2", "filters = 3"))
    argv = [sys.executable, "-m", "bt", "check", "--wait", "60", "--json", "--config"]
    checks = {
        name: subprocess.Popen(
            [*argv, f"{name}/federation.toml"], stdout=subprocess.PIPE, text=True
        )
        for name in "abc"
    }
    seen = {
        name: findings(check.communicate(timeout=TIMEOUT_S)[0]) for name, check in checks.items()
    }
    assert {name: check.returncode for name, check in checks.items()} == dict.fromkeys("abc", 1)
    assert "trains another model" in seen["a"]["peer b"]["says"]
    assert "trains another model" in seen["b"]["peer a"]["says"]
    assert "trains another model" in seen["c"]["peer b"]["says"]
    assert seen["c"]["peer a"]["state"] == "green"
    assert "test transfer" in seen["c"]["peer a"]["says"]
    assert seen["a"]["peer c"] == seen["b"]["peer c"]
    assert seen["a"]["peer c"]["says"] == "has no address, and has called here"


@pytest.mark.processes
def test_who_joins_merges_and_who_is_asked_to_leave_says_so(bt: Bt) -> None:
    three_sites(bt)
    for name in "ab":
        file = Path(name, "federation.toml")
        file.write_text(file.read_text().replace("rounds = 8 ", "rounds = 1000 "))
    argv = [sys.executable, "-m", "bt"]
    logs = {name: Path(name, "runs", name, "events.jsonl") for name in "ab"}
    peers = [subprocess.Popen([*argv, "peer", "--config", "a/federation.toml"])]
    try:
        wait_until(lambda: '"fit"' in said(logs["a"]))
        joining = subprocess.Popen([*argv, "join", "--config", "b/federation.toml"])
        peers.append(joining)
        wait_until(lambda: '"event": "merge", "from": "a"' in said(logs["b"]))
        joining.terminate()
        assert joining.wait(TIMEOUT_S) == 0
        wait_until(lambda: '"gone", "peer": "b", "reason": "left"' in said(logs["a"]))
    finally:
        for each in peers:
            each.kill()
            each.wait()


def test_where_nobody_answers_there_is_nothing_to_join(bt: Bt) -> None:
    three_sites(bt)
    ended = bt("join", "--config", "a/federation.toml", "--wait", 0.3)
    assert ended.code == 1
    assert "No peer answers: there is nothing to join yet." in ended.out
    assert not Path("a/runs").exists()
