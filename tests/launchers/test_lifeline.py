"""No child outlives its launcher, however the launcher dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launchers import lifeline

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys
from launchers import lifeline
holds = open(sys.argv[1], "w", buffering=1)
assert lifeline.watch(lambda: os._exit(0))
assert lifeline.VARIABLE not in os.environ, "a grandchild would take it for its own"
signal.signal(signal.SIGTERM, signal.SIG_IGN)
holds.write("ready\\n")
while True:
    signal.pause()
"""
LAUNCHER = """
import sys
from launchers.base import Command, Plan
from launchers.local import LocalLauncher
commands = [Command(str(n), (sys.executable, "-c", sys.argv[1], sys.argv[2])) for n in range(2)]
LocalLauncher().start(Plan(tuple(commands))).wait()
"""


def test_children_end_when_the_launcher_is_killed(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, CHILD, fifo], cwd=ROOT)
    with fifo.open() as held:
        assert [held.readline() for _ in range(2)] == ["ready\n", "ready\n"]
        launcher.send_signal(signal.SIGKILL)
        launcher.wait()
        assert held.read() == ""  # the end: both children are gone


HEARER = """
import os, signal, sys
from launchers import lifeline
signal.signal(signal.SIGTERM, lambda number, frame: print("TERM", flush=True))
assert lifeline.watch(lambda: (print("gone", flush=True), os._exit(0)))
assert sys.stdin.read() == "", "the lifeline is not for others to read from"
print("ready", flush=True)
while True:
    signal.pause()
"""


def hearer(patience_s: str) -> subprocess.Popen[bytes]:
    """A process whose standard input is its lifeline, and that tells what it hears."""
    settings = {lifeline.VARIABLE: "0", lifeline.PATIENCE: patience_s}
    pipe = subprocess.PIPE
    argv = [sys.executable, "-c", HEARER]
    child = subprocess.Popen(argv, cwd=ROOT, env=os.environ | settings, stdin=pipe, stdout=pipe)
    assert child.stdout is not None
    assert child.stdout.readline() == b"ready\n"
    return child


def test_a_word_on_standard_input_is_sigterm_and_its_end_the_end() -> None:
    with hearer("100") as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for word in (lifeline.HERE, lifeline.LEAVE, lifeline.HERE + lifeline.LEAVE):
            child.stdin.write(word)
            child.stdin.flush()
            if word != lifeline.HERE:
                assert child.stdout.readline() == b"TERM\n"
        child.stdin.close()
        assert child.stdout.read() == b"gone\n"


def test_silence_ends_the_patience() -> None:
    with hearer("0.2") as child:
        assert child.stdout is not None
        assert child.stdout.read() == b"gone\n"  # though the pipe is still open


def test_without_a_launcher_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lifeline.VARIABLE, raising=False)
    assert lifeline.watch(lambda: None) is False
