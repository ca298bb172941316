"""The command line: what can't be done is one clear line and an exit code, never a traceback."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from bt import __version__
from bt import config as configs
from bt.cli import main
from bt.config import Config
from bt.options import DEMO

USAGE = 2  # the exit code of what the options themselves rule out
SMALL = ["--filters", "2", "--precision", "float32", "--device", "cpu", "--test-scans", "1"]


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Bt = Callable[..., Ended]


@pytest.fixture
def bt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Bt:
    """bt("eval", "x"): the command in an empty folder; how it ended."""
    monkeypatch.chdir(tmp_path)

    def bt(*args: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["bt", *map(str, args)])
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code or 0
        assert isinstance(code, int)
        return Ended(code, *capsys.readouterr())

    return bt


def refused(ended: Ended, says: str) -> None:
    assert ended.code in (1, 2), ended
    lines = ended.err.splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("bt: ")
    assert says in lines[0]


def misused(ended: Ended, says: str) -> None:
    assert ended.code == USAGE, ended
    assert says in ended.err
    assert "Traceback" not in ended.err


def test_version_and_help(bt: Bt) -> None:
    assert bt("--version").out == f"braintorrent {__version__}\n"
    for command in ("train", "peer", "eval", "predict", "doctor"):
        assert command in bt("--help").out
    assert bt("trian").code == USAGE


@pytest.mark.parametrize("command", [[], ["train"], ["peer"], ["eval"], ["data", "demo"]])
def test_help_shows_flags_without_a_type(bt: Bt, command: list[str]) -> None:
    shown = bt(*command, "--help").out
    assert "--help" in shown
    assert "<bool>" not in shown


def test_help_says_what_one_would_not_guess(bt: Bt) -> None:
    train = " ".join(bt("train", "--help").out.split())
    assert "demo cohort is simulated" in train
    for setting, value in DEMO.items():
        option = setting.removesuffix("_mm").replace("_", "-")
        assert f"--{option} {value:g}" in train
    assert "all labelled scans" in bt("eval", "--help").out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--data", "nowhere"], "nowhere"),
        (["--data", "."], "no scans found"),
        (["--data", "COHORT", "--peers", "1"], "at least 2 peers"),
        (["--data", "COHORT", "--peers", "2", "--merge", "median"], "needs the models of 2 other"),
        (["--data", "COHORT", "--merge", "krum"], "merge = 'krum': expected one of mean, clipped"),
        (["--data", "COHORT", "--stale-weight", "0.5"], "needs --schedule sequential"),
        (
            ["--schedule", "sequential", "--merge", "median", "--stale-weight", "0.5"],
            "the others count all alike",
        ),
        (["--data", "COHORT", "--stale-weight", "2"], "stale_weight = 2.0: expected at most 1"),
        (["--data", "COHORT", "--peers", "9"], "too few labelled scans"),
        (["--data", "COHORT", "--rounds", "0"], "rounds = 0: expected at least 1"),
        (["--data", "COHORT", "--view", "top"], "view = 'top'"),
        (["--data", "COHORT", "--transport", "pigeon"], "transport = 'pigeon'"),
        (["--data", "COHORT", "--model", "no.such:net", "--peers", "2"], "no.such"),
        (["--data", "COHORT", "--peers", "2", "--device", "cuda:77"], "cuda:77"),
        (["--config", "nowhere.toml"], "can't read nowhere.toml"),
    ],
    ids=lambda value: " ".join(value[-2:]) if isinstance(value, list) else "",
)
def test_train_refuses(bt: Bt, cohort: Path, args: list[str], says: str) -> None:
    args = [str(cohort) if arg == "COHORT" else arg for arg in args]
    refused(bt("train", *SMALL, "--transport", "inproc", "--out", "run", *args), says)
    assert not Path("run").exists(), "in the way of the next try"


def test_train_leaves_a_finished_run_alone(bt: Bt, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(configs.to_toml(Config()))
    (tmp_path / "results.json").write_text(json.dumps({"complete": True}))
    ended = bt("train", "--data", cohort, "--peers", 2, "--test-scans", 1, "--out", tmp_path)
    refused(ended, "finished run; choose another --out")


def test_train_looks_at_its_folder_before_its_scans(bt: Bt, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/run"):
        ended = bt("train", "--data", cohort, "--peers", 2, "--test-scans", 1, "--out", out)
        refused(ended, f"can't write to {out}: a file lies there; choose another --out")
        assert ended.out == ""


def test_train_names_scans_that_cant_be_used(bt: Bt, cohort: Path, tmp_path: Path) -> None:
    copied = tmp_path / "copy"
    for path in cohort.rglob("*.*"):
        copy = copied / path.relative_to(cohort)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(b"broken" if path.match("imagesTr/blob_3*") else path.read_bytes())
    ended = bt("train", "--data", copied, "--peers", 2, "--test-scans", 1, "--out", "run")
    refused(ended, "1 of 7 scans can't be used")
    unusable = [line for line in ended.out.splitlines() if line.startswith("unusable: blob_3")]
    assert len(unusable) == 1
    assert unusable[0].endswith("is not a gzip file"), "a long line was broken"
    assert not (tmp_path / "run").exists(), "nothing starts before the scans are known to be good"


def test_of_many_unusable_scans_the_first_are_named(bt: Bt, cohort: Path, tmp_path: Path) -> None:
    listed = json.loads((cohort / "dataset.json").read_text())
    gone = [{"image": f"imagesTr/{i}.nii.gz", "label": f"labelsTr/{i}.nii.gz"} for i in range(40)]
    (tmp_path / "dataset.json").write_text(json.dumps(listed | {"training": gone}))
    ended = bt("train", "--data", tmp_path, "--peers", 2, "--test-scans", 1, "--out", "run")
    refused(ended, "40 of 40 scans can't be used")
    *named, last = ended.out.splitlines()
    assert len(named) == 10
    assert all(line.endswith(".nii.gz: missing") for line in named)
    assert last == f"and 30 more: bt data show {tmp_path}"
    ended = bt("peer", "--data", tmp_path, "--out", "A", *PEER)
    assert ended.code == 1
    assert ended.err.splitlines()[-2] == last


PEER = ["--name", "A", "--listen", "tcp://127.0.0.1:7301", "--peer", "B=tcp://127.0.0.1:7302"]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--part", "3"], "--part 3: expected NUMBER/COUNT"),
        (["--part", "3/2"], "the number must be between 1 and 2"),
        (["--part", "0/2"], "the number must be between 1 and 2"),
        (["--peer", "C="], "--peer C=: expected NAME=ADDRESS"),
        (["--peer", "B=tcp://127.0.0.1:7303"], "--peer B is given twice"),
        (["--peer", "A=tcp://127.0.0.1:7303"], "A"),
        (["--peer", "C=udp://127.0.0.1:7303"], "udp://127.0.0.1:7303"),
        (["--name", "not a name"], "not a name"),
        (["--stale-weight", "0.5"], "needs --schedule sequential"),
        (["--listen", "tcp://0.0.0.0:7301"], "insecure"),
        (["--listen", "tcp://127.0.0.1"], "tcp://127.0.0.1"),
        (["--listen", "127.0.0.1:7301"], "127.0.0.1:7301"),
        (["--data", "nowhere"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_peer_refuses(bt: Bt, cohort: Path, args: list[str], says: str) -> None:
    refused(bt("peer", "--data", cohort, *SMALL, "--out", "A", *PEER, *args), says)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--listen", "tcp://0.0.0.0:7301"], "--listen tcp://0.0.0.0:7301: other machines"),
        (["--name", "B"], "--peer B: that is this peer itself"),
        (["--announce", "7303"], "--announce: '7303' is no address"),
    ],
)
def test_a_peers_addresses_are_looked_at_before_its_scans(
    bt: Bt, tmp_path: Path, args: list[str], says: str
) -> None:
    refused(bt("peer", *PEER, "--data", "nowhere", "--out", "A", *args), says)
    assert list(tmp_path.iterdir()) == []


def test_peer_needs_to_know_the_others(bt: Bt, cohort: Path) -> None:
    rest = ["--data", cohort, "--out", "A"]
    misused(bt("peer", *PEER[:4], *rest), "--peer")
    misused(bt("peer", *PEER, *rest, "--transport", "inproc"), "zmq")
    refused(bt("peer", *PEER, *rest, "--transport", "mpi"), "--listen with transport mpi")
    refused(bt("peer", *PEER, "--out", "A"), "--data")
    assert not Path("A").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--transport", "folder:"], "which folder? folder:/shared/dir"),
        (["--transport", "folder:nowhere"], "nowhere can't be used: No such file"),
        (["--transport", "folder:open"], "everybody on this machine can get at"),
        (["--transport", "folder:shared", "--name", "no name"], "'no name' can't name a peer"),
        (["--transport", "folder:shared", "--peer", "A"], "that is this peer itself"),
        (["--transport", "folder:shared", "--listen", "ipc://a"], "--listen is of no use in a"),
        (["--peer", "B"], "--peer B: where is it?"),
        (["--peer", "B=tcp://127.0.0.1:1", "--announce", "tcp://127.0.0.1:2"], "--announce goes"),
    ],
)
def test_a_folder_or_a_missing_port_is_looked_at_first(
    bt: Bt, tmp_path: Path, args: list[str], says: str
) -> None:
    (tmp_path / "shared").mkdir(mode=0o700)
    (tmp_path / "open").mkdir(mode=0o755)
    ended = bt("peer", "--name", "A", "--data", "nowhere", "--out", "A", *args)
    assert ended.code in (1, 2)
    assert says in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "A").exists()
    assert list((tmp_path / "shared").iterdir()) == []


def test_a_new_run_takes_no_folder_that_others_used(bt: Bt, cohort: Path, tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o700)
    (tmp_path / "shared" / "peer-1").mkdir()
    args = ["--data", cohort, "--peers", 2, "--test-scans", 1, "--out", "run"]
    refused(bt("train", *args, "--transport", "folder:shared"), "is not empty: a new run needs")


def test_eval_and_predict_refuse(bt: Bt, cohort: Path, tmp_path: Path) -> None:
    scan = cohort / "imagesTr" / "blob_0.nii.gz"
    fake = tmp_path / "fake.safetensors"
    fake.write_bytes(b"\x80\x04 a pickle")
    for command in (
        ["eval", "MODEL", "--data", cohort],
        ["predict", "MODEL", scan, "-o", "s.nii"],
    ):
        first, _, *rest = command
        refused(bt(first, "nothing.safetensors", *rest), "no model file nothing.safetensors")
        refused(bt(first, fake, *rest), "is not a readable safetensors file")
        refused(bt(first, tmp_path, *rest), "is a folder")
    misused(bt("predict", fake, scan, "-o", "seg.mgz"), ".nii.gz")
    misused(bt("eval", fake), "--data")
    assert not (tmp_path / "s.nii").exists()


def test_data_show_says_what_is_there(bt: Bt, cohort: Path) -> None:
    ended = bt("data", "show", cohort)
    assert ended.code == 0
    for shown in ("7 usable, 0 not", "blob, core [bright]", "16 × 20 × 16", "1 × 1 × 1.5"):
        assert shown in ended.out
    told = json.loads(bt("data", "show", cohort, "--json").out)
    assert (told["structures"], len(told["voxels"]), told["unusable"]) == (
        ["blob", "core [bright]"],
        7,
        {},
    )
