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


def test_without_a_launcher_there_is_nothing_to_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(lifeline.VARIABLE, raising=False)
    assert lifeline.watch(lambda: None) is False
