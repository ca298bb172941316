"""A real sshd on a loopback port, with throw-away keys and configurations of its own."""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.waiting import wait_until

SERVER = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
UsePAM no
StrictModes no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
"""
CLIENT = """\
Host site-*
    HostName 127.0.0.1
Host site-*
    Port {port}
    User {user}
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    IdentityAgent none
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
    StrictHostKeyChecking yes
    LogLevel ERROR
"""


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, ...]]:
    """The options that ssh needs to reach hosts called site-*, all of them this machine."""
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    for program in (sshd, "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            pytest.skip(f"no {Path(program).name}: apt-get install openssh-server")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd wants it, as root
    for name in ("host_key", "user_key"):
        keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(keygen, check=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public}")
    for name, text in (("sshd_config", SERVER), ("ssh_config", CLIENT)):
        said = text.format(port=port, folder=folder, user=getpass.getuser())
        (folder / name).write_text(said)
    log = (folder / "sshd.log").open("wb")
    argv = [sshd, "-D", "-e", "-f", str(folder / "sshd_config")]
    with log, subprocess.Popen(argv, stderr=log) as server:
        try:
            wait_until(lambda: _listens(port) or server.poll() is not None, 20)
            assert server.poll() is None, (folder / "sshd.log").read_text()
            yield ("-F", str(folder / "ssh_config"))
        finally:
            server.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
