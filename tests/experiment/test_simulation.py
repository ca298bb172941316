"""BrainTorrent in one process is BrainTorrent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bt import events
from bt.checkpoint import CheckpointFile
from bt.config import Config, change
from bt.console import make_console
from bt.experiment import plan
from bt.experiment.clients import Clients, make_trainers
from bt.experiment.part import load
from bt.experiment.plan import Choices, parts_of
from bt.experiment.simulation import Federation
from bt.federation import prepare
from bt.localrun import run_threads
from bt.schedule import Async, Schedule, Sequential
from tests.experiment.small import clients, same, trainers
from transports import image

NAMES = ("peer-0", "peer-1", "peer-2")


class Recorded(Federation):
    """Writes down who merged whom."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.merges: list[tuple[str, tuple[str, ...]]] = []

    def _carry_out(self, name: str, instruction: events.Instruction) -> list[events.Event]:
        if isinstance(instruction, events.Train):
            self.merges.append((name, instruction.merged))
        return super()._carry_out(name, instruction)


def federation(
    schedule: Schedule, fanout: int | None = None, **scans: tuple[int, ...]
) -> Recorded:
    found = Recorded(clients(trainers(**scans)), schedule, 0, fanout)
    found.merges = []
    return found


@pytest.mark.parametrize("stale_weight", [1.0, 0.25])
def test_one_at_a_time_is_exactly_what_bt_train_does(
    cohort: Path, tmp_path: Path, stale_weight: float
) -> None:
    config = change(
        Config(),
        {
            "path": str(cohort), "peers": 3, "test_scans": 1, "filters": 2, "rounds": 3,
            "epochs": 1, "schedule": "sequential", "precision": "float32", "device": "cpu",
            "stale_weight": stale_weight,
        },
    )  # fmt: skip
    run = prepare(config, make_console())
    assert run_threads(run, tmp_path, make_console()) == "finished"
    (part,) = parts_of(run.config, run.split, [plan.BRAINTORRENT], 1, Choices())
    mine = Clients(make_trainers(part, *load(part)), rounds=3, epochs=1)
    simulated = Federation(mine, Sequential(mine.names, 3, 0, stale_weight), seed=0)
    assert len(list(simulated.updates())) == 9
    for name in mine.names:
        checkpoint = CheckpointFile(tmp_path / name / "checkpoint.safetensors").load()
        assert checkpoint is not None
        assert same(simulated.models[name], checkpoint.weights)


def test_the_papers_schedule_trains_all_locally_and_then_one_at_a_time() -> None:
    schedule = Sequential(NAMES, 3, seed=0)
    found = federation(schedule)
    order = list(found.updates())
    assert sorted(order[:3]) == list(NAMES)
    assert order[3:] == schedule.turns
    assert [merged for _, merged in found.merges[:3]] == [()] * 3
    initiator, merged = found.merges[3]
    assert merged == tuple(name for name in NAMES if name != initiator)


def test_peers_of_equal_speed_train_side_by_side() -> None:
    found = federation(Async(), scans=(1, 1, 1))
    assert list(found.updates()) == list(NAMES) * 3
    # The first to finish finds nobody's model yet, the last one everybody's.
    assert found.merges[3:6] == [
        ("peer-0", ()),
        ("peer-1", ("peer-0",)),
        ("peer-2", ("peer-0", "peer-1")),
    ]
    assert found.merges[6] == ("peer-0", ("peer-1", "peer-2"))


def test_who_has_fewer_scans_finishes_sooner() -> None:
    order = list(federation(Async(), scans=(1, 4, 2)).updates())
    assert order[:3] == ["peer-0", "peer-0", "peer-2"]
    assert order[-1] == "peer-1"
    assert sorted(order) == sorted(NAMES * 3)


@pytest.mark.parametrize("schedule", [Async(), Sequential(NAMES, 3, seed=0)])
def test_bytes_are_those_of_the_models_that_are_merged(schedule: Schedule) -> None:
    found = federation(schedule)
    list(found.updates())
    model = image.nbytes(found.models["peer-0"].schema)
    merged = sum(len(merged) for _, merged in found.merges)
    assert merged * model < found.nbytes < merged * (model + 1000) + 20_000


def test_a_fanout_asks_that_many() -> None:
    found = federation(Sequential(NAMES, 3, seed=0), fanout=1)
    list(found.updates())
    assert len(found.merges) == 3 * len(NAMES)
    counts = {len(merged) for _, merged in found.merges[3:]}
    assert 1 in counts
    assert counts <= {0, 1}  # who is asked may have no news
    assert len({merged for _, merged in found.merges[3:] if merged}) > 1, "always the same one"
    again = federation(Sequential(NAMES, 3, seed=0), fanout=1)
    list(again.updates())
    assert again.merges == found.merges, "the seed decides"
