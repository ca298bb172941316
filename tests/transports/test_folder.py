"""Peers that share a folder: who comes and goes, who may have a name, and full disks."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.transports.folders import JoinFolder, deliver, inbox, meet, numbers
from tests.waiting import wait_until
from transports import files, mailbox, seat
from transports.base import PeerGone, TransportError
from transports.folder import FolderTransport
from transports.testing import CHECKS, check_group

NAMES = ("a", "b", "c")


def until_it_fails(transport: FolderTransport) -> None:
    for _ in range(30):
        transport.recv(0.1)


def send_many(transport: FolderTransport, frame: bytes) -> None:
    for _ in range(20):
        transport.send("b", [frame])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_conformance(check: Callable[..., None], join_folder: JoinFolder) -> None:
    check_group([join_folder(name, tuple(set(NAMES) - {name})) for name in NAMES], [check])


# --- coming and going


def test_nobody_need_be_named(join_folder: JoinFolder) -> None:
    a = join_folder("a")
    assert a.peers == ()
    b = join_folder("b")
    assert b.peers == ("a",)
    assert deliver(b, a, [b"first"]).sender == "b"
    assert a.peers == ("b",)


def test_who_is_not_there_gets_nothing_to_find_later(
    join_folder: JoinFolder, shared: Path
) -> None:
    a = join_folder("a", ("b",))
    with pytest.raises(PeerGone, match="not there now"):
        a.send("b", [b"old"])
    b = join_folder("b")
    b.close()
    with pytest.raises(PeerGone, match="not there now"):
        a.send("b", [b"old"])
    assert list(inbox(shared, "b").iterdir()) == []


def test_a_restarted_peer_finds_nothing_of_before(join_folder: JoinFolder, shared: Path) -> None:
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    a.send("b", [b"for the one before"])
    b.close()
    b = join_folder("b")
    assert list(inbox(shared, "b").iterdir()) == []
    deliver(a, b, [b"new"])
    a.close()
    a = join_folder("a")
    assert deliver(a, b, [b"of the new one"]).sender == "a"


def in_a_process(shared: Path, name: str) -> subprocess.Popen[bytes]:
    program = (
        "import sys; from transports.folder import FolderTransport\n"
        "t = FolderTransport(sys.argv[1], sys.argv[2])\n"
        "print('up', flush=True)\n"
        "while True: t.recv(1)"
    )
    command = [sys.executable, "-c", program, name, str(shared)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    return process


def test_a_name_is_one_processs_and_free_when_that_is_killed(
    join_folder: JoinFolder, shared: Path
) -> None:
    with in_a_process(shared, "b") as process:
        with pytest.raises(TransportError, match=r"already running on .*, process") as caught:
            join_folder("b")
        assert f"process {process.pid}?" in str(caught.value)
        process.send_signal(signal.SIGKILL)
    began = time.monotonic()
    a, b = join_folder("a"), join_folder("b")
    assert time.monotonic() - began < seat.STALE_S / 2, "no need to wait: it was this machine's"
    deliver(a, b, [b"x"])


def test_a_name_may_be_another_machines(
    join_folder: JoinFolder, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locks may not be seen from machine to machine; that somebody touches its file is."""
    monkeypatch.setattr(seat, "STALE_S", 1.0)
    monkeypatch.setattr(seat, "BEAT_S", 0.1)
    b = join_folder("b")
    b.close()
    alive = shared / "b" / "alive"
    who = "0" * 32 + " on elsewhere, process 7\n"
    alive.write_text(who)
    began = time.monotonic()
    join_folder("b").close()
    assert time.monotonic() - began > 0.9, "it may have been alive"
    alive.write_text(who)
    toucher = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import os,time\nwhile 1: os.utime({str(alive)!r}); time.sleep(.1)",
        ]
    )
    try:
        with pytest.raises(TransportError, match="already running on elsewhere, process 7"):
            join_folder("b")
    finally:
        toucher.kill()
        toucher.wait()
    os.utime(alive, (1, 1))
    began = time.monotonic()
    join_folder("b")
    assert time.monotonic() - began < 0.9, "that was long ago"


@pytest.mark.parametrize("kind", ["folder", "large"])
def test_a_place_that_is_none_is_told_in_one_line(shared: Path, kind: str) -> None:
    """Whatever lies there in place of the file that says who has it."""
    alive = shared / "a" / "alive"
    alive.parent.mkdir()
    alive.mkdir() if kind == "folder" else alive.write_bytes(bytes(2000))
    with pytest.raises(TransportError, match=r"can't take part in .* as a: alive ") as caught:
        FolderTransport("a", shared)
    assert "\n" not in str(caught.value)


def test_a_name_that_somebody_else_took_is_noticed(join_folder: JoinFolder, shared: Path) -> None:
    a = join_folder("a")
    (shared / "a" / "alive").write_text("1" * 32 + " on elsewhere, process 7\n")
    with pytest.raises(TransportError, match="taken by a process on elsewhere"):
        until_it_fails(a)


def test_a_folder_that_is_gone_is_told(join_folder: JoinFolder, shared: Path) -> None:
    a = join_folder("a")
    shared.rename(shared.with_name("moved"))
    with pytest.raises(TransportError, match=r"the place of a in .* was removed"):
        until_it_fails(a)


def test_who_hangs_is_gone_and_costs_no_space(
    join_folder: JoinFolder, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its messages are bounded while it is thought to be there, and expire when it is not."""
    monkeypatch.setattr(seat, "STALE_S", 2.0)
    monkeypatch.setattr(mailbox, "MOST_UNREAD_BYTES", 1_000_000)
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    with pytest.raises(PeerGone, match="does not read its messages"):
        send_many(a, bytes(100_000))
    assert sum(path.stat().st_size for path in inbox(shared, "b").iterdir()) < 1_100_000
    wait_until(lambda: a.recv(0.1) is None and not list(inbox(shared, "b").iterdir()), 20)
    with pytest.raises(PeerGone, match="not there now"):
        a.send("b", [b"x"])


def test_reading_makes_room_again(
    join_folder: JoinFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mailbox, "MOST_UNREAD", 3)
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)
    for _ in range(2):
        a.send("b", [b"1"])
        a.send("b", [b"2"])
        assert numbers(b) == [1, 2]


def test_a_full_disk_is_a_peer_that_cant_be_reached(
    join_folder: JoinFolder, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = join_folder("a"), join_folder("b")
    meet(a, b)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(files.os, "fsync", full)
        with pytest.raises(PeerGone, match="No space left on device"):
            a.send("b", [b"x" * 1000])
        a.publish([b"x"])  # is lost, and says nothing
        with pytest.raises(TransportError, match=r"can't leave the model .* No space left"):
            a.leave([b"version"], "0" * 32, memoryview(b"image"))
    assert list(inbox(shared, "b").iterdir()) == [], "nothing half-written stays"
    assert sorted(path.name for path in (shared / "a").iterdir()) == ["alive", "in", "lock"]
    deliver(a, b, [b"and it goes on"])


# --- permissions


@pytest.mark.parametrize("mode", [0o777, 0o705, 0o701])
def test_a_folder_for_everybody_is_refused(
    join_folder: JoinFolder, shared: Path, mode: int
) -> None:
    shared.chmod(mode)
    with pytest.raises(TransportError, match=r"everybody on this machine .* chmod") as caught:
        join_folder("a")
    assert "\n" not in str(caught.value)
    assert list(shared.iterdir()) == []
    join_folder("a", insecure=True)


@pytest.mark.parametrize(("mode", "file"), [(0o2770, 0o660), (0o700, 0o600)])
def test_files_are_open_to_whom_the_folder_is(
    join_folder: JoinFolder, shared: Path, mode: int, file: int
) -> None:
    shared.chmod(mode)
    before = os.umask(0o077)
    try:
        a, b = join_folder("a"), join_folder("b")
        a.leave([b"version"], "0" * 32, memoryview(b"image"))
        meet(a, b)
        a.send("b", [b"x"])
    finally:
        os.umask(before)
    (letter,) = inbox(shared, "b").iterdir()
    left = shared / "a" / ("0" * 32 + ".model")
    assert {stat.S_IMODE(path.stat().st_mode) for path in (letter, left)} == {file}
    assert stat.S_IMODE(inbox(shared, "b").stat().st_mode) & 0o777 == mode & 0o777


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda path: None, "No such file or directory; make it first"),
        (lambda path: path.write_text("x"), "is no folder"),
    ],
)
def test_a_folder_that_is_none(tmp_path: Path, make: Callable[[Path], None], line: str) -> None:
    make(tmp_path / "place")
    with pytest.raises(TransportError, match=line):
        FolderTransport("a", tmp_path / "place")


def test_names_that_cant_be(shared: Path) -> None:
    for name, peers in (("../a", ()), ("a", ("..",)), ("a", ("a",)), (".hidden", ())):
        with pytest.raises(TransportError):
            FolderTransport(name, shared, peers)
    assert list(shared.iterdir()) == []
