"""Models beyond what 31 and 32 bits count cross every transport whole.

Only with `pytest -m large`: each takes some seconds on idle processors, and 5 GB of memory.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.peers import free_port
from tests.large_models import MESSAGE_BYTES, SIZES, pull_and_merge
from tests.transports.test_mpi import ROOT, mpirun
from transports.base import Transport
from transports.inproc import Network
from transports.keys import KeyPair
from transports.zeromq import ZeroMQTransport

pytestmark = [pytest.mark.large, pytest.mark.timeout(600)]
Pair = tuple[Transport, Transport]


def inproc(folder: Path) -> Pair:
    network = Network(["a", "b"])
    return network.join("a"), network.join("b")


def zeromq(addresses: dict[str, str], *, curve: bool) -> Pair:
    keys = {name: KeyPair.new() for name in addresses} if curve else {}
    a, b = (
        ZeroMQTransport(
            me,
            addresses[me],
            {other: addresses[other]},
            max_message_bytes=MESSAGE_BYTES,
            keys=keys.get(me),
            peer_keys={other: [keys[other].public]} if curve else None,
        )
        for me, other in ("ab", "ba")
    )
    return a, b


def ipc(folder: Path, *, curve: bool = False) -> Pair:
    return zeromq({name: f"ipc://{folder}/{name}" for name in "ab"}, curve=curve)


def tcp(folder: Path, *, curve: bool = False) -> Pair:
    return zeromq({name: f"tcp://127.0.0.1:{free_port()}" for name in "ab"}, curve=curve)


def ipc_curve(folder: Path) -> Pair:
    return ipc(folder, curve=True)


def tcp_curve(folder: Path) -> Pair:
    return tcp(folder, curve=True)


@pytest.mark.parametrize(
    ("joined", "size"),
    [
        (inproc, "2GB"),
        (inproc, "4GB"),
        (ipc, "2GB"),
        (ipc, "4GB"),
        (tcp, "2GB"),
        (tcp, "4GB"),
        (ipc_curve, "2GB"),
        (tcp_curve, "4GB"),
    ],
)
def test_a_large_model(joined: Callable[[Path], Pair], size: str, tmp_path: Path) -> None:
    pull_and_merge(*joined(tmp_path), SIZES[size])


@pytest.mark.parametrize("size", SIZES)
def test_a_large_model_under_mpirun(size: str) -> None:
    pytest.importorskip("mpi4py")
    launcher = mpirun()
    if launcher is None:
        pytest.skip("no mpirun on this machine")
    allowed = {  # Open MPI refuses root and more ranks than cores unless told otherwise
        "PYTHONPATH": str(ROOT),
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    }
    done = subprocess.run(
        [launcher, "-n", "2", sys.executable, "-m", "tests.large_models", str(SIZES[size])],
        env=os.environ | allowed,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
