"""Statistics and the JSON that scripts rely on."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from benchmarks import cli
from benchmarks.children import Unavailable
from benchmarks.results import (
    Beside,
    Dice,
    Found,
    Idle,
    Memory,
    Ping,
    Transfer,
    paired_ratio,
    quantile,
)
from benchmarks.table import show

CASE = Transfer(
    ms=4.0,
    p10_ms=3.5,
    p90_ms=5.0,
    gbps=3.5,
    rounds=20,
    ceiling="raw-tcp",
    ratio=1.234567891,
    times_faster_than={"zmq-naive": 10.0},
    peak_models=2.1,
)


def test_quantiles_lie_between_the_sorted_values() -> None:
    values = [5.0, 1.0, 3.0, 2.0, 4.0]
    assert [quantile(values, share) for share in (0, 0.1, 0.5, 1)] == [1, 1.4, 3, 5]
    assert quantile([7.0], 0.9) == 7


def test_a_ratio_is_that_within_rounds() -> None:
    # the machine was ten times slower in the second half; the ratio is 2 all the same
    assert paired_ratio([2, 2.2, 20, 20, 21], [1, 1, 10, 10, 10]) == 2
    with pytest.raises(ValueError, match="shorter"):
        paired_ratio([1, 2], [1])


def test_json_has_what_was_measured_and_nothing_else() -> None:
    found = Found({"tcp": CASE, "ping": Ping(50.0, 90.0, 70e3)}).of("/14MB")
    told = json.loads(json.dumps(found.as_json()))
    assert {"date", "machine", "versions", "cases", "skipped", "failed"} == told.keys()
    assert told["cases"]["tcp/14MB"] == {
        "ms": 4.0,
        "p10_ms": 3.5,
        "p90_ms": 5.0,
        "gbps": 3.5,
        "rounds": 20,
        "ceiling": "raw-tcp",
        "ratio": 1.2346,
        "times_faster_than": {"zmq-naive": 10.0},
        "peak_models": 2.1,
    }
    assert told["cases"]["ping/14MB"] == {"p50_us": 50.0, "p99_us": 90.0, "per_s": 70e3}
    assert told["machine"]["cores"] >= 1
    assert "torch" in told["versions"]


def test_what_is_absent_is_not_what_is_broken() -> None:
    found = Found()
    for exc in (NotImplementedError("later"), ImportError("no grpc"), Unavailable("no root")):
        found.trouble(type(exc).__name__, exc)
    found.trouble("hangs", TimeoutError())
    assert list(found.skipped.values()) == ["later", "no grpc", "no root"]
    assert found.failed == {"hangs": "TimeoutError"}


def test_the_table_names_everything() -> None:
    linked = Transfer(1e3, 9e2, 2e3, 0.01, 3, share=0.95, flow=0.975, shaped_by="netem")
    long = "a-rather-long-name-of-a-way@100Mbit-50ms-1%loss/14MB"
    console = Console(width=120, record=True, file=io.StringIO())
    show(console, "title", Found({"tcp/14MB": CASE, "ping-tcp": Ping(50, 90, 7e4)}, {"mpi": "no"}))
    show(console, "links", Found({long: linked}, failed={"ipc": "broken"}))
    beside = Beside(5.0, 4.5, 0.9, 0.93, 17.0, 0.1, 0.9)
    peer = {"beside": beside, "idle": Idle(0.0123), "merge/9": Memory(9, 2.21, 1.04)}
    show(console, "peers", Found(peer | {"dice/int8": Dice(0.8, [0.79, 0.81], 12.0, -0.004)}))
    text = console.export_text()
    for part in (
        "title",
        "tcp/14MB",
        "raw-tcp",
        "1.23",
        "2.10",
        "ping-tcp",
        "mpi: not measured: no",
    ):
        assert part in text
    for part in ("90%", "93%", "1.23%", "2.21", "0.790 0.810", "-0.004"):
        assert part in text
    for part in ("links, simulated by netem", long, "95.0%", "97.5%", "ipc: FAILED: broken"):
        assert part in text


def test_commands_print_json_and_keep_only_full_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory
) -> None:
    monkeypatch.setattr(cli, "BENCHMARKS", {"transports": "tests.benchmarks.ways"})
    monkeypatch.setattr(cli, "RESULTS", tmp_path / "results")
    one = CliRunner().invoke(cli.app, ["transports", "--quick", "--json"])
    assert one.exit_code == 0, one.output
    assert json.loads(one.stdout)["cases"]["tcp/14MB"]["rounds"] == 5
    assert not (tmp_path / "results").exists()
    every = CliRunner().invoke(cli.app, ["--json"])
    assert every.exit_code == 0, every.output
    kept = json.loads((tmp_path / "results" / "transports.json").read_text())
    assert kept["cases"] == json.loads(every.stdout)["cases"]
    assert kept["skipped"] == {"mpi/14MB": "no mpirun here"}


def test_a_broken_case_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cli.BENCHMARKS, "merge", "tests.benchmarks.ways:run_broken")
    assert CliRunner().invoke(cli.app, ["merge"]).exit_code == 1
