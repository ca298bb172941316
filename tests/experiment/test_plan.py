"""Parts know themselves by their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from bt.config import Config, change
from bt.data.scan import Scan
from bt.data.splits import Split
from bt.experiment import plan
from bt.experiment.plan import Choices, Part, parts_of, result_of, share_pooled
from bt.node import write_json
from bt.rundir import RunFolderError


def divided(*sizes: int) -> Split:
    scans = iter(Scan(f"s{i}", Path("i"), Path("l")) for i in range(99))
    parts = tuple(tuple(next(scans) for _ in range(size)) for size in sizes)
    return Split((Scan("t", Path("i")),), parts, tuple(map(str, sizes)))


def parts(*sizes: int, methods: tuple[str, ...] = (plan.POOLED, plan.FEDAVG)) -> list[Part]:
    return parts_of(Config(), divided(*sizes), methods, 2, Choices())


def test_every_method_with_every_seed() -> None:
    found = parts(2, 2)
    assert [part.name for part in found] == [
        f"2x2/{method}/seed-{seed}" for seed in (0, 1) for method in ("pooled", "fedavg")
    ]
    assert parts(1, 3, 2)[0].division == "3x1-3"
    assert {part.clients for part in found} == {(("s0", "s1"), ("s2", "s3"))}, "one split"


def test_a_part_survives_its_file(tmp_path: Path) -> None:
    part = parts(1, 2)[1]
    part.write(tmp_path)
    assert Part.read(tmp_path) == part


def test_the_pooled_model_of_the_same_scans_is_trained_once() -> None:
    shared = share_pooled([*parts(2, 2), *parts(1, 1, 1, 1), *parts(1, 1)])
    pooled = [part.name for part in shared if part.method == plan.POOLED]
    assert pooled == [f"2x{n}/pooled/seed-{seed}" for n in (2, 2, 1) for seed in (0, 1)]
    assert {part.division for part in shared if part.method == plan.FEDAVG} == {
        "2x2", "4x1", "2x1"
    }  # fmt: skip


def test_a_result_is_used_again_only_for_the_same_settings(tmp_path: Path) -> None:
    part = parts(1, 2)[0]
    assert result_of(part, tmp_path) is None
    write_json(tmp_path / "parts" / part.name / plan.RESULT, {"part": part.to_json()})
    assert result_of(part, tmp_path) is not None
    others = [
        Part(part.method, change(part.config, {"rounds": 3}), *rest(part)),
        Part(part.method, part.config, Choices(adam="kept"), *rest(part)[1:]),
        Part(part.method, part.config, part.choices, ("u",), *rest(part)[2:]),
    ]
    for other, named in zip(others, ("rounds", "adam", "test scans"), strict=True):
        with pytest.raises(RunFolderError, match=rf"other settings \({named}\)"):
            result_of(other, tmp_path)


def rest(part: Part) -> tuple:  # type: ignore[type-arg]
    return part.choices, part.test, part.clients, part.division
