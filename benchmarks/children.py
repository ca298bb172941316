"""One function in a process of its own, which never outlives this one."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from benchmarks import memory

ROOT = Path(__file__).parents[1]
START_S = 120.0  # bound on starting anything: importing torch on a busy machine included


class Unavailable(Exception):
    """This can't be measured here; the message says why in one line. Nothing is broken."""


class Failed(Exception):
    """What was measured broke; the message says how in one line."""


class Child:
    """Runs "package.module:function" with keyword arguments that JSON can carry.

    `prefix` goes before the command: ("ip", "netns", "exec", NAME), say.
    """

    def __init__(self, function: str, *, prefix: Sequence[str] = (), **arguments: object) -> None:
        self.function = function
        self._heard = b""
        self._complaints = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [
                *prefix,
                *(sys.executable, "-m", "benchmarks.child"),
                *(function, json.dumps(arguments)),
            ],
            cwd=ROOT,
            # one thread each: on a machine of few cores client and server are enough
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
        )
        self.pid = self._process.pid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hear(self, timeout_s: float = START_S) -> Any:
        """The next value it says. Raises Unavailable, or Failed if it ends or stays silent."""
        until = time.monotonic() + timeout_s
        pipe = self._process.stdout
        assert pipe is not None
        while b"\n" not in self._heard:
            left_s = until - time.monotonic()
            if left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
                raise Failed(f"{self.function} said nothing for {timeout_s:.0f} s")
            if not (read := os.read(pipe.fileno(), 1 << 16)):
                code = self._process.wait()
                raise Failed(f"{self.function} ended with {code}: {self._last_complaint()}")
            self._heard += read
        line, _, self._heard = self._heard.partition(b"\n")
        match json.loads(line):
            case {"said": value}:
                return value
            case {"unavailable": reason}:
                raise Unavailable(reason)
            case {"failed": reason}:
                raise Failed(f"{self.function}: {reason}")
            case other:
                raise Failed(f"{self.function} said {other}")

    def tell(self) -> None:
        """Have its `hear` return once. Raises Failed if it has ended."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            os.write(pipe.fileno(), b"!")
        except BrokenPipeError:
            raise Failed(f"{self.function} has ended: {self._last_complaint()}") from None

    def cpu_s(self) -> float:
        """Processor time it has used until now, all threads."""
        return time.clock_gettime((~self.pid << 3) | 2)  # clock_getcpuclockid(3)

    def peak_bytes(self) -> int:
        """The most memory it had in RAM since its function began."""
        return memory.peak_bytes(self.pid)

    def close(self) -> None:
        """End it now."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._complaints):
            if pipe is not None:
                pipe.close()

    def _last_complaint(self) -> str:
        self._complaints.seek(0)
        lines = self._complaints.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "no reason given"
