"""A run's folder: fresh, or the same unfinished run; never somebody else's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bt import config as configs
from bt import rundir
from bt.config import Config
from bt.rundir import RunFolderError


def finish(folder: Path, *, complete: bool = True) -> None:
    (folder / "results.json").write_text(json.dumps({"complete": complete}))


def test_a_fresh_folder_gets_the_config_and_the_same_command_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "a"
    assert rundir.enter(folder, Config()) is False
    assert configs.read(folder / "config.toml") == Config()
    assert rundir.enter(folder, Config()) is True
    finish(folder, complete=False)  # interrupted
    assert rundir.enter(folder, Config()) is True


def test_another_run_and_a_finished_run_are_refused(tmp_path: Path) -> None:
    rundir.enter(tmp_path, Config())
    other = configs.change(Config(), {"rounds": 2, "seed": 1})
    with pytest.raises(RunFolderError, match=r"other settings \(seed, rounds\)"):
        rundir.enter(tmp_path, other)
    finish(tmp_path)
    with pytest.raises(RunFolderError, match="finished run; choose another --out"):
        rundir.enter(tmp_path, Config())


def test_a_peer_goes_on_but_not_with_a_model_of_other_settings(tmp_path: Path) -> None:
    rundir.reenter(tmp_path, configs.change(Config(), {"view": "axial"}))
    rundir.reenter(tmp_path, Config())  # nothing had been trained
    (tmp_path / "checkpoint.safetensors").touch()
    rundir.reenter(tmp_path, more := configs.change(Config(), {"rounds": 20, "path": "moved"}))
    for name, value in {"seed": 1, "view": "axial", "spacing_mm": 2.0, "filters": 8}.items():
        with pytest.raises(RunFolderError, match=rf"a model of other settings \({name}\)"):
            rundir.reenter(tmp_path, configs.change(Config(), {name: value}))
    assert configs.read(tmp_path / "config.toml") == more


def test_a_place_that_cant_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        for use in (rundir.lock, lambda folder: rundir.enter(folder, Config())):
            with pytest.raises(RunFolderError, match=f"can't write to {folder}: .*another --out"):
                use(folder)


def test_without_out_the_next_free_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert rundir.choose(tmp_path / "x", "name") == tmp_path / "x"
    for expected in ("demo", "demo-2", "demo-3"):
        folder = rundir.choose(None, "demo")
        assert folder == Path("runs") / expected
        rundir.enter(folder, Config())
        assert rundir.choose(None, "demo") == folder, "an unfinished one goes on"
        finish(folder)


def test_results_that_cant_be_read_are_none(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    assert rundir.read_results(path) is None
    for text in ("{", "[]", ""):
        path.write_text(text)
        assert rundir.read_results(path) is None
    path.write_text('{"a": 1}')
    assert rundir.read_results(path) == {"a": 1}


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with held:
        assert held.stdout is not None
        held.stdout.readline()
        with pytest.raises(RunFolderError, match="in use"):
            rundir.lock(tmp_path / "run")
        mode = (tmp_path / "run" / ".lock").stat().st_mode
        assert not mode & 0o077, "whoever can open it can hold it"
        held.communicate(b"")
    rundir.lock(tmp_path / "run")


HOLD = """
import sys
from pathlib import Path
from bt import rundir
rundir.lock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""
