"""The example of three hospitals: its commands are ours, its network is late and closed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from bt.cli import app
from tests.waiting import said, wait_until

EXAMPLE = Path(__file__).parent.parent / "examples" / "three-hospitals"
SCRIPT = EXAMPLE / "run.sh"


def test_the_script_is_one() -> None:
    subprocess.run(["bash", "-n", SCRIPT], check=True)


def test_its_commands_have_the_options_that_it_gives_them() -> None:
    whole = SCRIPT.read_text().replace("\\\n", " ")
    found = re.findall(r"(?:\bbt|\bstart [a-d$]\w*) ((?:[a-z]+ )+)(.*)", whole)
    given = {(words.strip(), options) for words, options in found if "--" in options}
    assert len(given) > 5
    for words, options in given:
        command = typer.main.get_command(app)
        for word in words.split():
            command = getattr(command, "commands", {}).get(word, command)
        known = {option for each in command.params for option in each.opts}
        assert {*re.findall(r"--[a-z-]+", options)} <= known | {"--config"}, words


@pytest.fixture
def far_apart(tmp_path: Path) -> Iterator[list[str]]:
    """Two network namespaces, 20 ms each way; nobody can connect to the second."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as exc:
        pytest.skip(f"/dev/net/tun: {exc.strerror}")
    if shutil.which("ip") is None:
        pytest.skip("no ip here (iproute2)")
    names = [f"bt{os.getpid()}{each}" for each in "ab"]
    try:
        for name in names:
            if subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode:
                pytest.skip("no network namespaces here: not root?")
        places = [f"{name}=10.78.0.{number}" for number, name in enumerate(names, start=1)]
        argv = [sys.executable, EXAMPLE / "wan.py", "--delay-ms", "20", "--closed", names[1]]
        with (tmp_path / "log").open("w+") as log:
            wan = subprocess.Popen([*argv, *places], stdout=log, stderr=log)
            wait_until(lambda: wan.poll() is not None or "ready" in said(tmp_path / "log"))
            assert wan.poll() is None, said(tmp_path / "log")
            yield names
            wan.kill()
            wan.wait()
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


_LISTEN = "import socket; s = socket.create_server(('', 7)); print(flush=True); s.accept()"
_CALL = """
import socket, sys, time
began = time.monotonic()
try:
    socket.create_connection((sys.argv[1], 7), timeout=0.5)
except TimeoutError:
    sys.exit(3)
print(time.monotonic() - began)
"""


def test_packets_are_late_and_a_closed_site_can_only_call(far_apart: list[str]) -> None:
    a, b = (["ip", "netns", "exec", name, sys.executable, "-c"] for name in far_apart)
    listening = [
        subprocess.Popen([*each, _LISTEN], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for each in (a, b)
    ]
    try:
        for each in listening:
            assert each.stdout is not None
            each.stdout.readline()
        called = subprocess.run([*b, _CALL, "10.78.0.1"], capture_output=True, check=True)
        assert float(called.stdout) >= 0.04
        assert subprocess.run([*a, _CALL, "10.78.0.2"]).returncode == 3
    finally:
        for each in listening:
            each.kill()
            each.communicate()
