"""Quoting is exact: what a shell makes of the text is what was meant, whatever the names."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from launchers.base import Command
from launchers.shell import NOT_RUNNING, ended, expanded, left_running, quoted, text_of
from tests.waiting import lives, said, wait_until

NASTY = (
    "plain", "two words", "it's", 'a "quote"', "$HOME", "`id`", "$(id)", "a\nb", "", "*", "~",
    "!x", "back\\slash", "\\n", "%s", "Größe 脳", "-n", "a;b&c|d", "#", "tab\there", "x\\",
)  # fmt: skip
SHELLS = ("sh", "bash")
TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ['BT_X'], os.getcwd()]))"


def test_the_text_of_a_command() -> None:
    command = Command(
        "a",
        ("bt", "peer", "--data", "~/my scans", "--out", "it's"),
        {"B": "x y", "A": "$1"},
        folder="~/work",
        files={"runs/a/settings.toml": "seed = 0\n\n[train]\n"},
        keeps="runs/a",
    )
    written = "printf '%s\\n' 'seed = 0' '' '[train]' > runs/a/settings.toml"
    words = "env A='$1' B='x y' bt peer --data ~/'my scans' --out 'it'\"'\"'s'"
    start = f"cd ~/work && mkdir -p runs/a && {written} && "
    assert text_of(command) == f"{start}exec {words}"
    assert text_of(command, output="l o g").endswith("'s' >> 'l o g' 2>&1")
    assert left_running(command) == (
        f"{start}mkdir -p runs/a && {{ nohup {words} >> runs/a/log.txt 2>&1 </dev/null & "
        "echo $! > runs/a/pid; }"
    )
    assert ended(command, ".lock") == (
        'cd ~/work && cd runs/a && { flock -n .lock true && exit 3; kill -TERM "$(cat pid)"; }'
    )


@pytest.mark.parametrize("shell", SHELLS)
def test_every_name_arrives_as_it_is(shell: str, tmp_path: Path) -> None:
    folder = tmp_path / "a 'folder' \"$HOME\" ü\nline"
    folder.mkdir()
    for word in ("a b/it's.toml", "$x/\\.toml", "ü\nv/w"):
        text = "say = 'a'\nback = \"\\\\\"\n%s %d\n"
        argv = (sys.executable, "-c", TELL, *NASTY)
        command = Command("a", argv, {"BT_X": word}, folder=str(folder), files={word: text})
        argv = (shell, "-c", text_of(command))
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == [list(NASTY), word, str(folder)]
        assert (folder / word).read_text() == text


def test_only_a_leading_tilde_is_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home of/me")
    for word, means in (("~/a b", "/home of/me/a b"), ("~x/a", "~x/a"), ("a/~/b", "a/~/b")):
        read = subprocess.check_output(["sh", "-c", f"printf %s {quoted(word)}"], text=True)
        assert read == expanded(word) == means


def test_what_is_left_running_outlives_its_shell_and_can_be_ended(tmp_path: Path) -> None:
    out = tmp_path / "it's out"
    code = (
        "import fcntl, os, signal, sys; lock = open(sys.argv[1] + '/.lock', 'w'); "
        "fcntl.flock(lock, fcntl.LOCK_EX); print('up', flush=True); signal.pause()"
    )
    argv = (sys.executable, "-c", code, str(out))
    command = Command("a", argv, keeps=out.name, folder=str(tmp_path))
    subprocess.run(["sh", "-c", left_running(command)], check=True, timeout=30)
    wait_until(lambda: said(out / "log.txt") == "up\n")
    number = int((out / "pid").read_text())
    try:
        os.kill(number, 0)
        end = ["sh", "-c", ended(command, ".lock")]
        subprocess.run(end, check=True)
        wait_until(lambda: not lives(number))
        assert subprocess.run(end, check=False).returncode == NOT_RUNNING
    finally:
        if lives(number):
            os.kill(number, signal.SIGKILL)
