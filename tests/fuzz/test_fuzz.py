"""Whatever strangers write, reading it ends in one clear error of the right type, or well."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tracemalloc
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.fuzzing import decodes, forge
from benchmarks.fuzzing.forge import Forge
from benchmarks.fuzzing.targets import Escape, Target, targets
from transports import header, messages

TARGETS = targets()
SEEDS = {name: target.seeds() for name, target in TARGETS.items()}
MOST_BYTES = 1 << 25  # whatever a few thousand bytes claim
every_target = pytest.mark.parametrize("name", TARGETS)


@every_target
def test_what_is_right_is_taken(name: str) -> None:
    assert all(TARGETS[name].check(seed) for seed in SEEDS[name])


@every_target
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # nibabel's files
@settings(max_examples=100)
@given(data=st.data(), number=st.integers(0, 2**32))
def test_nothing_escapes(name: str, data: st.DataObject, number: int) -> None:
    target, chance = TARGETS[name], Random(number)
    target.check(target.edit(chance, data.draw(st.sampled_from(SEEDS[name]))))


@every_target
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=15)
@given(data=st.binary(max_size=600))
def test_nothing_escapes_from_random_bytes(name: str, data: bytes) -> None:
    TARGETS[name].check(data)


@every_target
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_edits_are_about_the_borders_and_take_little_memory(name: str) -> None:
    """Some are taken all the same, some are not."""
    target, chance = TARGETS[name], Random(0)
    edits = [target.edit(chance, chance.choice(SEEDS[name])) for _ in range(150)]
    tracemalloc.start()
    taken = [target.check(edit) for edit in edits]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < MOST_BYTES
    assert any(taken)
    assert not all(taken) or not target.refusals


def test_every_kind_of_message_is_forged_and_accepted() -> None:
    for kind in messages._KINDS:
        assert forge.good(kind), kind
    tally = decodes.run_part(7, 4000)
    assert tally.kinds.keys() == {kind.__name__ for kind in messages._KINDS.values()}
    assert tally.escapes == []
    shares = tally.to_json()["share_by_depth"]
    assert min(shares.values()) > 0.02, f"one depth is hardly reached: {shares}"
    assert shares["framing"] < 0.15, "most must get past the first check"
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)


def test_the_same_seed_forges_the_same() -> None:
    one, other = (Forge(Random(3)) for _ in range(2))
    assert [one.frames() for _ in range(50)] == [other.frames() for _ in range(50)]


def test_an_escape_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fields nobody looks at; a check that fails with another error; a message of two lines."""
    monkeypatch.setattr(header, "check_digest", lambda value: len(value))
    messages._decoded.cache_clear()
    tally = decodes.run_part(1, 2000)
    assert any("escaped: TypeError" in found["what"] for found in tally.escapes)
    messages._decoded.cache_clear()

    def two_lines(data: bytes) -> None:
        raise messages.Malformed("one\ntwo")

    def another(data: bytes) -> None:
        raise KeyError("x")

    for read in (two_lines, another):
        with pytest.raises(Escape):
            Target(lambda: [b""], lambda chance, data: data, read, (ValueError,)).check(b"")


def test_memory_and_time_of_a_decode_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decodes, "MOST_BYTES", 100)
    tally = decodes.run_part(1, 1000)
    assert any(found["what"].startswith("took ") for found in tally.escapes)


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bt", "bench", "fuzz", "--decodes", "3000", "--json"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)
    assert found["decodes"] == 3000
    assert found["escapes"] == 0
    assert found["slowest_s"] < decodes.LONGEST_S


def test_memory_is_bounded_for_real() -> None:
    code = (
        "from benchmarks.fuzzing.decodes import _bound_memory, _ROOM; _bound_memory();"
        "bytearray(2 * _ROOM)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert b"MemoryError" in ended.stderr
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


@pytest.mark.slow
@pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
def test_fuzzing_led_by_coverage_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.fuzzing.guided", "--seconds", "2", "--json"]
    ended = subprocess.run(
        [*command, "--out", str(tmp_path), "keys"], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout)["keys"]
    assert found["runs"] > 100
    assert found["escaped"] == ""
