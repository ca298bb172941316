"""Peers over a real sshd: exact, and gone with the launcher, the client or the link."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from launchers import ssh
from launchers.base import Command, LaunchError, Plan
from launchers.ssh import LOST, SshLauncher
from tests.launchers import sshd
from tests.launchers.test_shell import NASTY, TELL
from tests.waiting import lives, said, wait_until

ROOT = Path(__file__).parents[2]
WAITS = """
import fcntl, os, signal, sys
from launchers import lifeline
told, *locks = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda number, frame: (print("left", flush=True), os._exit(7)))
gone = lambda: (print("gone", file=open(told, "a"), flush=True), os._exit(9))
assert lifeline.watch(gone) is not bool(locks)
for lock in map(open, locks):
    fcntl.flock(lock, fcntl.LOCK_EX)
print("up", os.getpid(), flush=True)
while True:
    signal.pause()
"""
LAUNCH = """
import sys
from pathlib import Path
from launchers.base import Command
from launchers.ssh import SshLauncher
code, told, log, *options = sys.argv[1:]
command = Command("a", (sys.executable, "-c", code, told), {"PYTHONPATH": sys.path[0]}, Path(log),
                  "site-a")
launcher = SshLauncher(tuple(options))
launcher.start(launcher.plan((command,))).wait()
"""


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, ...]]:
    with sshd.running(tmp_path_factory.mktemp("sshd")) as found:
        yield found


def waiting(tmp_path: Path) -> Command:
    argv = (sys.executable, "-c", WAITS, str(tmp_path / "told"))
    return Command("a", argv, {"PYTHONPATH": str(ROOT)}, tmp_path / "log", "site-a")


def is_up(tmp_path: Path) -> bool:
    return said(tmp_path / "log").startswith("up ")


def remote(tmp_path: Path) -> int:
    return int((tmp_path / "log").read_text().split()[1])


def ends_by_itself(tmp_path: Path) -> None:
    wait_until(lambda: not lives(remote(tmp_path)), 20)
    assert (tmp_path / "told").read_text() == "gone\n"


def test_the_plan_is_text() -> None:
    command = Command(
        "hospital-a",
        (".venv/bin/bt", "peer", "--data", "/my scans"),
        {"OMP_NUM_THREADS": "4"},
        Path("runs/x/hospital-a/log.txt"),
        "bt@gpu1.example",
        "brain torrent",
        {"runs/x/hospital-a/settings.toml": "seed = 0\n"},
        "runs/x/hospital-a",
    )
    start = (
        "ssh -T -o BatchMode=yes -o ServerAliveInterval=15 -o ServerAliveCountMax=4 -J gate -- "
        "bt@gpu1.example 'cd '\"'\"'brain torrent'\"'\"' && mkdir -p runs/x/hospital-a && printf "
        "'\"'\"'%s\\n'\"'\"' '\"'\"'seed = 0'\"'\"' > runs/x/hospital-a/settings.toml && "
    )
    words = "OMP_NUM_THREADS=4 .venv/bin/bt peer --data '\"'\"'/my scans'\"'\"'"
    line = "env BT_LIFELINE=0 BT_LIFELINE_S=60"
    held = f"{start}exec {line} {words}' >> runs/x/hospital-a/log.txt 2>&1"
    assert str(SshLauncher(("-J", "gate")).plan((command,))) == held
    kept = "runs/x/hospital-a"
    free = (
        f"{start}mkdir -p {kept} && {{ nohup env {words} >> {kept}/log.txt 2>&1 </dev/null & "
        f"echo $! > {kept}/pid; }}'"
    )
    assert str(SshLauncher(("-J", "gate"), detach=True).plan((command,))) == free


def test_every_name_arrives_as_it_is(options: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "a 'folder' \"$HOME\" ü\nline"
    folder.mkdir()
    argv = (sys.executable, "-c", TELL, *NASTY)
    env = {"BT_X": "it's $x\n"}
    command = Command("a", argv, env, tmp_path / "log", "site-a", str(folder), {"it's": "$x\n"})
    launcher = SshLauncher(options)
    run = launcher.start(launcher.plan((command,)))
    try:
        assert run.wait(60) == {"a": 0}
    finally:
        run.stop()
    assert json.loads((tmp_path / "log").read_text()) == [list(NASTY), "it's $x\n", str(folder)]
    assert (folder / "it's").read_text() == "$x\n"


def test_stop_is_sigterm_there(options: tuple[str, ...], tmp_path: Path) -> None:
    launcher = SshLauncher(options)
    run = launcher.start(launcher.plan((waiting(tmp_path),)))
    wait_until(lambda: is_up(tmp_path))
    run.stop(grace_s=20)
    assert run.poll() == {"a": 7}
    assert (tmp_path / "log").read_text().endswith("left\n")
    assert not (tmp_path / "told").exists()


@pytest.mark.parametrize("victim", ["launcher", "client"])
def test_the_remote_process_ends_with(
    victim: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    argv = [sys.executable, "-c", LAUNCH, WAITS, tmp_path / "told", tmp_path / "log", *options]
    with subprocess.Popen(argv, cwd=ROOT) as launcher:
        try:
            wait_until(lambda: is_up(tmp_path))
            if victim == "launcher":
                launcher.kill()
            else:
                (client,) = children(launcher.pid)
                os.kill(client, signal.SIGKILL)
            ends_by_itself(tmp_path)
        finally:
            launcher.kill()


def children(parent: int) -> list[int]:
    tasks = Path(f"/proc/{parent}/task").glob("*/children")
    return [int(number) for task in tasks for number in task.read_text().split()]


def test_the_remote_process_ends_with_a_silent_link(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh, "_HERE_EVERY_S", 0.1)
    launcher = SshLauncher(options, patience_s=2)
    run = launcher.start(launcher.plan((waiting(tmp_path),)))
    try:
        wait_until(lambda: is_up(tmp_path))
        assert run.wait(3) == {"a": None}  # longer than its patience: it is spoken to
        client = run._children["a"]
        client.send_signal(signal.SIGSTOP)  # nothing ends, nothing comes through
        ends_by_itself(tmp_path)
    finally:
        run.stop(0)


def test_who_cant_be_reached_is_lost_without_a_question(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "other_hosts").write_text("")
    stranger = ("-o", f"UserKnownHostsFile={tmp_path}/other_hosts", *options)
    launcher = SshLauncher(stranger)
    run = launcher.start(launcher.plan((waiting(tmp_path),)))
    assert run.wait(30) == {"a": LOST}
    run.stop()
    assert "Host key verification failed" in (tmp_path / "log").read_text()


def test_a_detached_process_stays_until_it_is_told(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / ".lock").touch()
    argv = (sys.executable, "-c", WAITS, "told", "kept/.lock")
    command = replace(waiting(tmp_path), argv=argv, folder=str(tmp_path), keeps="kept")
    launcher = SshLauncher(options, detach=True)
    run = launcher.start(launcher.plan((command,)))
    assert run.wait(30) == {"a": 0}
    run.stop()
    kept = tmp_path / "kept"
    wait_until(lambda: "up " in said(kept / "log.txt"))
    launcher.fetch(command, ("log.txt", "not-there"), tmp_path / "here")
    assert (tmp_path / "here" / "log.txt").read_text() == (kept / "log.txt").read_text()
    run = launcher.start(Plan((launcher.end(command, ".lock"),)))
    assert run.wait(30) == {"a": 0}
    run.stop()
    wait_until(lambda: (kept / "log.txt").read_text().endswith("left\n"))


def test_nothing_but_what_was_asked_for_is_fetched(tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in ("../evil", "wanted", "other", str(tmp_path / "absolute")):
            entry = tarfile.TarInfo(name)
            entry.size = 3
            archive.addfile(entry, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("linked")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    packed.seek(0)
    into = tmp_path / "into"
    into.mkdir()
    assert ssh._unpacked(packed, {"wanted", "linked"}, into)
    assert [path.name for path in tmp_path.rglob("*")] == ["into", "wanted"]


def test_a_file_of_holes_does_not_fill_the_disk(tmp_path: Path) -> None:
    """Of the kind that GNU tar makes with --sparse: here one of 64 MiB, with nothing in it."""
    entry = tarfile.TarInfo("wanted")
    entry.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(entry.tobuf(tarfile.GNU_FORMAT))
    head[483:495] = b"\x80" + (1 << 26).to_bytes(11, "big")  # its size, were it whole
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    assert not ssh._unpacked(io.BytesIO(bytes(head) + bytes(1024)), {"wanted"}, tmp_path)
    assert [*tmp_path.iterdir()] == []


def test_a_header_without_end_does_not_fill_the_memory(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("wanted")
    entry.type, entry.size = tarfile.XHDTYPE, 1 << 24  # names and such, by what it says
    packed = io.BytesIO(entry.tobuf(tarfile.USTAR_FORMAT) + bytes(entry.size))
    assert not ssh._unpacked(packed, {"wanted"}, tmp_path)
    assert packed.tell() < 1 << 21, "it hung up"


def test_results_that_arent_there_are_a_line(options: tuple[str, ...], tmp_path: Path) -> None:
    command = replace(waiting(tmp_path), keeps="/no/such/folder")
    with pytest.raises(LaunchError, match=r"no results of a from site-a: .*/no/such/folder"):
        SshLauncher(options).fetch(command, ("results.json",), tmp_path / "here")
