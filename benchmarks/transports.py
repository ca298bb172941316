"""Pull one model and merge it, over every transport, beside its ceiling and the obvious ways."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks import harness, latency, model, peaks
from benchmarks.children import ROOT, Failed, Unavailable
from benchmarks.harness import Way
from benchmarks.results import Found, Transfer

_CEILINGS, _ZMQ = "benchmarks.ceilings:", "benchmarks.way_zeromq:"
_GRPC, _GLOO = "benchmarks.way_grpc:", "benchmarks.way_gloo:"
_OURS = "benchmarks.product:"

COPIES = (
    Way("memcpy", _CEILINGS + "copy_warm"),
    Way("memcpy-fresh", _CEILINGS + "copy_fresh"),
)
RAW_TCP = Way("raw-tcp", _CEILINGS + "pull_bytes", _CEILINGS + "serve_bytes")
RAW_UNIX = Way("raw-unix", _CEILINGS + "pull_bytes", _CEILINGS + "serve_bytes", "ipc")
NAIVE = Way("zmq-naive", _ZMQ + "pull_naive", _ZMQ + "serve_naive", ceiling="raw-tcp")
BARE = Way("bare", _ZMQ + "pull_ranges", _ZMQ + "serve_ranges", ceiling="raw-tcp")
BARE_IPC = replace(BARE, name="bare-ipc", scheme="ipc", ceiling="raw-unix")
BARE_CURVE = replace(BARE, name="bare-curve", scheme="curve")
FRAME = Way("zmq-frame", _ZMQ + "pull_frame", _ZMQ + "serve_frame", ceiling="raw-tcp")
FRAME_CURVE = Way(
    "curve-frame", _ZMQ + "pull_frame", _ZMQ + "serve_frame", "curve", ceiling="raw-tcp"
)
OTHERS = (
    Way("grpc-pickle", _GRPC + "pull_pickled", _GRPC + "serve", ceiling="raw-tcp"),
    Way("grpc-stream", _GRPC + "pull_stream", _GRPC + "serve", ceiling="raw-tcp"),
    Way("gloo", _GLOO + "pull", _GLOO + "serve", ceiling="raw-tcp"),
)
TCP = Way(
    "tcp",
    _OURS + "pull_and_merge",
    _OURS + "serve",
    ceiling="raw-tcp",
    rivals=("bare", "zmq-naive", "zmq-frame", "grpc-pickle", "grpc-stream", "gloo"),
)
IPC = replace(TCP, name="ipc", scheme="ipc", ceiling="raw-unix", rivals=("bare-ipc",))
CURVE = replace(TCP, name="curve", scheme="curve", rivals=("bare-curve", "curve-frame"))
PINGS = (
    Way("ping-zmq-tcp", _ZMQ + "ping_echo", _ZMQ + "serve_echo"),
    Way("ping-zmq-ipc", _ZMQ + "ping_echo", _ZMQ + "serve_echo", "ipc"),
    Way("ping-grpc", _GRPC + "ping_echo", _GRPC + "serve", ceiling="ping-zmq-tcp"),
    Way("ping-tcp", _OURS + "ping", _OURS + "serve", ceiling="ping-zmq-tcp"),
    Way("ping-ipc", _OURS + "ping", _OURS + "serve", "ipc", ceiling="ping-zmq-ipc"),
    Way("ping-curve", _OURS + "ping", _OURS + "serve", "curve", ceiling="ping-zmq-tcp"),
)

_PRODUCT = (RAW_TCP, TCP, BARE, RAW_UNIX, IPC, BARE_IPC, CURVE, BARE_CURVE)
_ALL = (*COPIES, *_PRODUCT, FRAME, FRAME_CURVE, *OTHERS, NAIVE)
# Who takes turns with whom: all, but for 1 GB only so many at a time as fit into memory.
GROUPS: dict[str, tuple[tuple[Way, ...], ...]] = {
    "14MB": (_ALL,),
    "100MB": (_ALL,),
    "1GB": (COPIES, (RAW_TCP, TCP, FRAME), (RAW_TCP, CURVE), (RAW_UNIX, IPC)),
}
ROUNDS = {"14MB": 20, "100MB": 10, "1GB": 5}
BUDGET_S = {"14MB": 20.0, "100MB": 60.0, "1GB": 60.0}  # of a group
# Whose memory is measured. A server's and a client's buffers of fixed size show at 14 MB.
MEMORY = {"14MB": (TCP,), "100MB": (TCP, IPC, CURVE, FRAME, NAIVE), "1GB": ()}


def run(quick: bool, progress: Callable[[str], None]) -> Found:
    """Cases transport/size, as JSON names them."""
    found = Found()
    for size in ("14MB",) if quick else model.SIZES:
        nbytes = model.SIZES[size]
        for group in GROUPS[size]:
            progress(f"Pull and merge {size}: {', '.join(way.name for way in group)}")
            measured = harness.measure(
                group, nbytes, rounds=ROUNDS[size], budget_s=BUDGET_S[size]
            ).of(f"/{size}")
            measured.cases = {**measured.cases, **found.cases}  # a ceiling's first group counts
            found.add(measured)
        progress(f"Pull and merge {size}: MPI")
        found.add(_under_mpi(size))
        for way in MEMORY[size]:
            progress(f"Memory of {way.name}, {size}")
            peaks.add(found, f"{way.name}/{size}", way, nbytes)
    progress("Pings")
    found.add(latency.measure(PINGS, rounds=3 if quick else 15).of("/1KB"))
    return found


def _under_mpi(size: str) -> Found:
    """What the ranks of an mpirun find."""
    found = Found()
    rounds = ("--rounds", str(ROUNDS[size]), "--budget-s", str(BUDGET_S[size]))
    try:
        told = mpirun("--size", size, *rounds, "--json")
    except (Unavailable, Failed) as exc:
        found.trouble(f"mpi/{size}", exc)
        return found
    found.cases = {name: Transfer(**case) for name, case in told["cases"].items()}
    found.skipped, found.failed = told["skipped"], told["failed"]
    if size == "100MB":
        _add_peaks_under_mpi(found, size)
    return found


def _add_peaks_under_mpi(found: Found, size: str) -> None:
    """As peaks.add: what grows with the model, at either rank."""
    measured = found.cases.get(f"mpi/{size}")
    if not isinstance(measured, Transfer):
        return
    try:
        small, large = (mpirun("--size", each, "--memory") for each in ("tiny", size))
    except Failed as exc:
        found.trouble(f"mpi/{size} memory", exc)
        return
    client, server = (
        (large[end] - small[end]) / (model.SIZES[size] - model.TINY)
        for end in ("client", "server")
    )
    found.cases[f"mpi/{size}"] = replace(measured, peak_models=client, peak_models_server=server)


def mpirun(*arguments: str, timeout_s: float = 300.0) -> Any:
    """The JSON that rank 0 of benchmarks.mpi_pull prints."""
    beside = Path(sys.executable).with_name("mpirun")  # of the wheel that mpi4py loads
    launcher = str(beside) if beside.exists() else shutil.which("mpirun")
    if launcher is None:
        raise Unavailable("no mpirun here")
    allowed = {  # Open MPI refuses root and more ranks than cores unless told otherwise
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PYTHONPATH": str(ROOT),
    }
    job = subprocess.Popen(
        [launcher, "-n", "2", sys.executable, "-m", "benchmarks.mpi_pull", *arguments],
        cwd=ROOT,
        env=os.environ | allowed,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        said, complained = job.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"mpirun took more than {timeout_s:.0f} s") from None
    finally:
        job.terminate()  # it ends its ranks; killed it could not
        job.wait()
    if job.returncode or not said.strip():
        lines = complained.strip().splitlines() or ["no reason given"]
        raise Failed(f"mpirun ended with {job.returncode}: {lines[-1]}")
    return json.loads(said.strip().splitlines()[-1])
