"""Processes on this machine: plain text first, then children that always end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from launchers.base import Command, LaunchError, Plan
from launchers.local import LocalLauncher
from tests.waiting import said, wait_until

PYTHON = (sys.executable, "-I", "-S", "-c")


def test_a_plan_is_text_a_shell_would_run() -> None:
    commands = (
        Command(
            "a", ("bt", "peer", "--data", "my scans"), {"B": "x y", "A": "1"}, Path("/o p/log")
        ),
        Command("b", ("echo", "it's", "$HOME;")),
    )
    plan = LocalLauncher().plan(commands)
    assert str(plan) == (
        "A=1 B='x y' bt peer --data 'my scans' >> '/o p/log' 2>&1\necho 'it'\"'\"'s' '$HOME;'"
    )


def test_exit_codes_environment_and_logs(tmp_path: Path) -> None:
    log = tmp_path / "new" / "log.txt"
    code = "import os, sys; print(os.environ['GREETING'], flush=True); sys.exit(3)"
    run = LocalLauncher().start(
        Plan(
            (
                Command("a", (*PYTHON, code), {"GREETING": "hello"}, log),
                Command("b", (*PYTHON, "pass")),
            )
        )
    )
    assert run.wait(60) == {"a": 3, "b": 0}
    assert log.read_text() == "hello\n"
    run.stop()
    run.stop()  # twice does no harm


def test_stop_asks_first_and_then_insists(tmp_path: Path) -> None:
    ready = tmp_path / "ready"
    os.mkfifo(ready)
    say = f"open({str(ready)!r}, 'w').write('x'); signal.pause()"
    stubborn = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {say}"
    polite = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); {say}"
    run = LocalLauncher().start(Plan((Command("stubborn", (*PYTHON, stubborn)),)))
    ready.read_text()  # returns once the child has set its handler
    run.add(Command("polite", (*PYTHON, polite)))
    ready.read_text()
    assert run.wait(0.0) == {"stubborn": None, "polite": None}
    run.stop(grace_s=1.0)
    assert run.poll() == {"stubborn": -9, "polite": 5}


def test_a_command_that_isnt_there_is_named_and_the_others_end() -> None:
    commands = (
        Command("fine", (*PYTHON, "import signal; signal.pause()")),
        Command("broken", ("/no/such/program",)),
    )
    with pytest.raises(LaunchError, match=r"broken can't be started: /no/such/program: No such"):
        LocalLauncher().start(Plan(commands))


@pytest.mark.parametrize("detach", [False, True])
def test_a_folder_that_isnt_there_is_named_and_nothing_is_written(
    tmp_path: Path, detach: bool
) -> None:
    folder = tmp_path / "not there"
    command = Command("a", ("true",), folder=str(folder), files={"out/s": ""}, keeps="out")
    launcher = LocalLauncher(detach=detach)
    with pytest.raises(LaunchError, match="not there, which does not exist on this"):
        launcher.start(launcher.plan((command,)))
    assert not folder.exists()


def test_what_is_left_running_starts_in_its_folder(tmp_path: Path) -> None:
    code = "import os; open('here', 'w').write(os.environ['GREETING'])"
    command = Command(
        "a", (*PYTHON, code), {"GREETING": "hello"}, folder=str(tmp_path), keeps="out"
    )
    launcher = LocalLauncher(detach=True)
    run = launcher.start(launcher.plan((command,)))
    assert run.wait(60) == {"a": 0}
    wait_until(lambda: said(tmp_path / "here") == "hello")
    run.stop()
