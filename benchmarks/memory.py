"""The most memory a process ever had in RAM, from Linux's own book-keeping."""

from __future__ import annotations

from pathlib import Path


def peak_bytes(pid: int | str = "self") -> int:
    """The largest resident set since the process began, or since `reset_peak` in it."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def reset_peak() -> None:
    """Forget this process's peak: importing torch has one of its own."""
    Path("/proc/self/clear_refs").write_text("5")
