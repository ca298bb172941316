"""A peer with its files: what it tells of its task, and what it makes of its scans."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from bt import node as nodes
from bt.config import Config, ConfigError, change
from bt.data.labels import LabelTable, table_of_names
from bt.data.scan import DataError
from bt.modelfile import BadModelFile, read_model
from bt.node import Node, make_trainer
from bt.outcome import Outcome
from bt.versions import Version
from tests.data.test_slices import volume
from tests.test_runner import TIMEOUT_S, FakeTrainer, Stop
from transports.inproc import Network

AB = table_of_names("ab", {1: "a", 2: "b"})
BA = table_of_names("ba", {1: "b", 2: "a"})
SHORT = {"ping_timeout_s": 0.05}  # for those who are not there
AC = table_of_names("ac", {0: "nothing", 5: "a", 9: "b"})  # other numbers for the same structures


class Unscored(FakeTrainer):
    """It trains once everybody has heard of everybody."""

    def __init__(self, met: threading.Barrier, step: float) -> None:
        super().__init__(step=step)
        self.during_fit = lambda update, stop: met.wait(TIMEOUT_S) and None

    def evaluate(self, stop: Stop) -> None:  # type: ignore[override]
        return None


def run_together(
    folder: Path, tables: dict[str, LabelTable | None], merge: str = "mean"
) -> dict[str, Outcome]:
    settings = {"ping_timeout_s": TIMEOUT_S, "rounds": 2, "merge": merge}
    network = Network(tuple(tables))
    met = threading.Barrier(len(tables))
    steps = dict(zip(tables, (1.0, 2.0, 5.0), strict=False))

    def run(name: str) -> Outcome:
        others = [other for other in tables if other != name]
        node = Node(name, others, folder / name, change(Config(), settings), tables[name])
        return node.run(Unscored(met, steps[name]), lambda max_bytes: network.join(name))

    with ThreadPoolExecutor(len(tables)) as pool:
        futures = {name: pool.submit(run, name) for name in tables}
        return {name: future.result(TIMEOUT_S) for name, future in futures.items()}


def rejected(folder: Path, name: str) -> list[str]:
    lines = (folder / name / "events.jsonl").read_text().splitlines()
    return [e["reason"] for line in lines if (e := json.loads(line))["event"] == "reject"]


@pytest.mark.parametrize("other", [BA, None], ids=["swapped", "unstated"])
def test_peers_with_other_structures_set_each_other_aside(
    tmp_path: Path, other: LabelTable | None
) -> None:
    outcomes = run_together(tmp_path, {"x": AB, "y": other})
    for name, outcome in outcomes.items():
        assert outcome.reason == "finished"
        assert outcome.totals["merged"] == 0
        assert outcome.aggregated_of == {name: "2"}
        assert any("trains another model" in reason for reason in rejected(tmp_path, name))


@pytest.mark.parametrize("tables", [(AB, AC), (None, None)], ids=["the same", "unstated"])
def test_peers_with_the_same_structures_merge(
    tmp_path: Path, tables: tuple[LabelTable | None, LabelTable | None]
) -> None:
    outcomes = run_together(tmp_path, dict(zip("xy", tables, strict=True)))
    for name, outcome in outcomes.items():
        assert outcome.aggregated_of == {"x": "2", "y": "2"}
        assert rejected(tmp_path, name) == []


def test_who_comes_back_after_the_end_keeps_the_average_of_all(tmp_path: Path) -> None:
    run_together(tmp_path, {"x": AB, "y": AB})
    aggregated = tmp_path / "x" / "aggregated.safetensors"
    before = aggregated.read_bytes()
    node = Node("x", ["y"], tmp_path / "x", change(Config(), {"rounds": 2, **SHORT}), AB)
    said: list[str] = []
    node.tell = said.append
    outcome = node.run(Unscored(threading.Barrier(1), 1.0), lambda _: Network(("x",)).join("x"))
    assert aggregated.read_bytes() == before
    assert said == [
        "aggregated.safetensors stays as it is, the average of 2 models: now only 1 model could "
        "be had"
    ]
    assert outcome.aggregated_of == {"x": "2", "y": "2"}
    results = json.loads((tmp_path / "x" / "results.json").read_text())
    assert results["aggregated_of"] == {"x": "2", "y": "2"}


def test_who_goes_on_afterwards_has_a_new_average(tmp_path: Path) -> None:
    run_together(tmp_path, {"x": AB, "y": AB})
    node = Node("x", ["y"], tmp_path / "x", change(Config(), {"rounds": 3, **SHORT}), AB)
    outcome = node.run(Unscored(threading.Barrier(1), 1.0), lambda _: Network(("x",)).join("x"))
    assert outcome.aggregated_of == {"x": "3"}
    _, description = read_model(tmp_path / "x" / "aggregated.safetensors")
    assert description["aggregated_of"] == {"x": "3"}


def test_the_configured_rule_merges(tmp_path: Path) -> None:
    """Of three peers; the mean of their models is not their median."""
    outcomes = run_together(tmp_path, dict.fromkeys("xyz"), "median")
    models = [outcome.weights.tensors()["w"] for outcome in outcomes.values()]
    for name, outcome in outcomes.items():
        assert outcome.aggregated_of == {"x": "2", "y": "2", "z": "2"}
        assert outcome.aggregated is not None
        assert outcome.aggregated.tensors()["w"].equal(torch.stack(models).median(dim=0).values)
        assert not [*(tmp_path / name).glob("tmp*")]


def test_a_rule_that_could_never_merge_is_refused(tmp_path: Path) -> None:
    config = change(Config(), {"merge": "trimmed"})
    with pytest.raises(ConfigError, match="needs the models of 2 other peers at once"):
        Node("x", ["y"], tmp_path, config).run(FakeTrainer(), pytest.fail)
    config = change(config, {"fanout": 1})
    with pytest.raises(ConfigError, match="larger fanout"):
        Node("x", ["y", "z"], tmp_path, config).run(FakeTrainer(), pytest.fail)


def test_a_setting_without_effect_is_refused(tmp_path: Path) -> None:
    config = change(Config(), {"stale_weight": 0.5})
    with pytest.raises(ConfigError, match="needs --schedule sequential"):
        Node("x", ["y"], tmp_path, config).run(FakeTrainer(), pytest.fail)


def test_a_checkpoint_of_other_structures_is_not_gone_on_with(tmp_path: Path) -> None:
    run_together(tmp_path, {"x": AB})
    before = (tmp_path / "x" / "checkpoint.safetensors").read_bytes()
    with pytest.raises(BadModelFile, match=r"trained on other structures.*another --out"):
        run_together(tmp_path, {"x": BA})
    assert (tmp_path / "x" / "checkpoint.safetensors").read_bytes() == before
    for same in (AB, AC):
        assert run_together(tmp_path, {"x": same})["x"].version == Version(0, 2)


def test_slices_too_large_for_the_memory_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(nodes, "slices_of", fail)
    with pytest.raises(DataError, match=r"slices of 0 scans are too large.*--slice-step"):
        make_trainer(Config(), "x", AB, [], [])


@pytest.mark.parametrize(("slices", "batch_size"), [(1, 4), (3, 2), (4, 1)])
def test_slices_too_small_for_the_statistics_of_a_batch_are_one_line(
    slices: int, batch_size: int
) -> None:
    blob = volume((16, slices, 16), (slice(4, 12), slice(slices), slice(4, 12)))
    config = change(Config(), {"filters": 1, "batch_size": batch_size, "device": "cpu"})
    with pytest.raises(DataError, match="16x16 pixels can't be learned from one by one"):
        make_trainer(config, "x", AB, [blob], [])
    enough = change(config, {"batch_size": 4, "precision": "float32"})
    wider = volume((17, slices, 16), (slice(4, 12), slice(slices), slice(4, 12)))
    for blobs in ([wider], [blob, blob]):
        make_trainer(enough, "x", AB, blobs, []).fit(1, 0, lambda: False)
