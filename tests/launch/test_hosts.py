"""hosts.toml: what it means, what is refused with a line, and the commands it becomes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bt import config, site
from bt.config import ConfigError
from bt.launch.hosts import EXAMPLE, parsed, read
from bt.launch.peers import commands, transport_of
from launchers.ssh import SshLauncher

TWO = '[[host]]\nname = "A"\ndata = "/a"\n[[host]]\nname = "B"\ndata = "/b"\n'
SHARED = '[data]\npath = "/scans"\n[federation]\npeers = 3\n'


def test_the_example_is_one() -> None:
    found = parsed(EXAMPLE, "")
    assert found.name == "knees"
    assert [host.name for host in found.hosts] == ["hospital-a", "hospital-b"]
    assert found.hosts[0].bt == (".venv/bin/bt",)
    assert {host.roster for host in found.hosts} == {"roster.toml"}
    assert found.config.federation.peers == 2
    assert found.config.train.epochs == 2
    assert transport_of(found, "ssh") == "zmq"


def test_the_commands_of_the_example() -> None:
    plan = SshLauncher().plan(commands(parsed(EXAMPLE, ""), "ssh", Path("runs/knees"), Path("/t")))
    first, second = plan.commands
    *before, host, text = second.argv
    assert (before[0], host) == ("ssh", "gpu-b")
    out = "runs/knees/hospital-b"
    assert text == (
        f"cd braintorrent && mkdir -p {out} && printf '%s\\n' 'seed = 0' '' '[data]' "
        "'test_scans = 2' '' '[model]' 'filters = 32' '' '[federation]' 'peers = 2' "
        f"> {out}/settings.toml && exec env BT_LIFELINE=0 BT_LIFELINE_S=60 OMP_NUM_THREADS=8 "
        f".venv/bin/bt peer --config {out}/settings.toml --out {out} --launched-by launch "
        "--data ~/'scans/knee mri' --name hospital-b --roster roster.toml --keys hospital-b.key "
        "--device cuda:1 --batch-size 8"
    )
    assert "'" not in first.argv[-1].replace("'%s\\n'", "").partition("exec")[2]
    assert first.log == Path("runs/knees/hospital-a/log.txt").resolve()


def test_without_hosts_peers_share_the_scans_of_one_folder() -> None:
    found = parsed(SHARED, "x")
    assert found.parts() == {"peer-1": "1/3", "peer-2": "2/3", "peer-3": "3/3"}
    local = commands(found, "local", Path("/run/x"), Path("/tmp/s"))
    assert local[1].argv == (
        sys.executable, "-P", "-m", "bt", "peer", "--config", "/run/x/peer-2/settings.toml",
        "--out", "/run/x/peer-2", "--launched-by", "launch", "--part", "2/3", "--name", "peer-2",
        "--listen", "ipc:///tmp/s/peer-2",
        "--peer", "peer-1=ipc:///tmp/s/peer-1", "--peer", "peer-3=ipc:///tmp/s/peer-3",
    )  # fmt: skip
    ranks = commands(found, "mpirun", Path("/run/x"), Path("/tmp/s"))
    assert ranks[1].argv[-4:] == ("--part", "2/3", "--name", "peer-2")
    assert 'transport = "mpi"' in ranks[1].files["/run/x/peer-2/settings.toml"]


def test_peers_with_scans_of_their_own_hold_none_out_unless_told() -> None:
    assert parsed(TWO, "x").config.data.test_scans == 0
    assert parsed(f"[data]\ntest_scans = 2\n{TWO}", "x").config.data.test_scans == 2
    assert parsed(SHARED, "x").config.data.test_scans == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nmae = 3", "unknown section [nmae]; known: "),
        ("name = 'a b'", "name = 'a b': expected up to 64"),
        ("[all]\nbtt = 'x'", "[all]: unknown 'btt'; known: "),
        ("[all]\nname = 'x'", "name in [all]: every host has its own"),
        ("host = 3", "host is a list of tables, write [[host]]"),
        ("[[host]]\ndata = '/a'", "host 1 has no valid name"),
        (TWO + "keyz = 'x'", "B: unknown 'keyz'; known: name, host, folder, bt, data"),
        (TWO + "options = '--x'", "B: options: expected a list of texts"),
        (TWO + "bt = 3", "B: bt: expected a list of texts"),
        (TWO + "host = '-oProxyCommand=id'", "must not begin with -"),
        (TWO + 'out = "a\\u001b"', "expected a text of printable characters"),
        (TWO + "env = { 'A B' = 'x' }", "B: env: 'A B' can't name a variable"),
        (TWO + "env = { A = 3 }", "B: env: expected a table of texts"),
        (TWO + "[slurm]\ngpus_per_peer = -1", "[slurm]: gpus_per_peer = -1: expected 0 to 64"),
        (TWO + "[ssh]\noption = []", "[ssh]: unknown 'option'; known: options"),
        (TWO + "[[host]]\nname = 'A'", "two hosts are called A"),
        (TWO + "[[host]]\nname = 'C'", "C has no scans: give it data, or all of them [data] path"),
        (TWO + "[federation]\npeers = 3", "peers = 3, but there are 2 [[host]]s"),
        (TWO + "[train]\nepoch = 3", "unknown setting epoch in [train]"),
        ("[[host]]\nname = 'A'\ndata = 'x'", "at least two [[host]]s"),
        ("[", "not valid TOML"),
    ],
)
def test_what_cant_be_used_is_a_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parsed(text, "x")
    assert says in str(refused.value)
    assert "\n" not in str(refused.value)
    assert "\x1b" not in str(refused.value)


def test_a_file_that_isnt_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"can't read .*none\.toml: .*; bt launch --example"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("text", "via", "says"),
    [
        (TWO, "ssh", "A can't be met: between machines it takes roster and keys"),
        (TWO + 'roster = "r"\nkeys = "k"', "ssh", "A has no roster and keys, and others have"),
        (TWO + 'roster = "r"', "ssh", "B: roster and keys go together"),
        (TWO + 'keys = "k"', "ssh", "B: roster and keys go together"),
        (f'[federation]\ntransport = "mpi"\n{TWO}', "ssh", "transport mpi does not go with --via"),
        (f'[federation]\ntransport = "inproc"\n{TWO}', "mpirun", "transport inproc does not go"),
    ],
)
def test_peers_that_cant_meet_are_a_line(text: str, via: str, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        commands(parsed(text, "x"), via, Path("runs/x"), Path("/tmp/s"))
    assert says in str(refused.value)


@pytest.mark.parametrize(
    ("reads", "begins"), [(read, ""), (config.read, ""), (site.read, "[site]\nout = 'x'\n")]
)
def test_tables_of_any_depth_are_refused_in_one_line(
    reads: Any, begins: str, tmp_path: Path
) -> None:
    """Of a config.toml, too, which may have come from another host."""
    file = tmp_path / "x.toml"
    file.write_text(f"{begins}[federation]\nrounds." + "x." * 3000 + "y = 1\n")
    with pytest.raises(ConfigError, match="its tables are nested too deeply"):
        reads(file)
