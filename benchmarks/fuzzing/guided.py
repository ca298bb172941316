"""Fuzzing led by coverage, with atheris (libFuzzer): a while for every target, or for some.

    python -m benchmarks.fuzzing.guided --seconds 60 [TARGET ...]

One process a target, with bounded memory and time for each input. What escapes is kept in
runs/fuzz/TARGET, with a line that says how to see it again. Exit code 1 if anything did.
Without atheris it says so, and that is all: pip install atheris.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path
from random import Random

MOST_MB = 2500  # resident, torch included
MOST_AT_ONCE_MB = 1500  # of one allocation; a scan may claim much
LONGEST_S = 20  # of one input, on a busy machine
LONGEST_INPUT = 8192  # bytes
_EVERY = 4  # one in so many inputs is made by the target's own edit


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="TARGET", help="default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("runs/fuzz"))
    told = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        print("left out: fuzzing led by coverage needs atheris (pip install atheris)")
        return
    if told.one:
        fuzz(told.names[0], told.seconds, told.out)
        return
    found = {name: _apart(name, told.seconds, told.out) for name in told.names or _all()}
    for name, one in found.items():
        if not told.json:
            line = f"{one['runs']} inputs, {one['per_second']}/s, {one['features']} features"
            print(f"{name:13} {line}{', ESCAPED' if one['escaped'] else ''}")
        if one["escaped"]:
            print(f"  {one['escaped']}", file=sys.stderr)
    if told.json:
        print(json.dumps(found, indent=2))
    sys.exit(any(one["escaped"] for one in found.values()))


def _all() -> list[str]:
    from benchmarks.fuzzing.targets import targets

    return [*targets()]


def _apart(name: str, seconds: int, out: Path) -> dict[str, int | str]:
    """In a process of its own; what libFuzzer told of it."""
    command = [sys.executable, "-m", "benchmarks.fuzzing.guided", "--one", name]
    ended = subprocess.run(
        [*command, "--seconds", str(seconds), "--out", str(out)],
        capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    said = ended.stderr
    lines = re.findall(r"#(\d+).*?ft: (\d+)", said) or [("0", "0")]
    runs = re.findall(r"number_of_executed_units: (\d+)", said)
    rate = re.findall(r"average_exec_per_sec: +(\d+)", said)
    escaped = ""
    if ended.returncode:
        what = re.findall(r"(?:Escape|ERROR: libFuzzer|Error): ?(.*)", said)
        kept = re.findall(r"Test unit written to (\S+)", said)
        escaped = f"{name}: {what[-1] if what else said[-300:]} (input: {''.join(kept[-1:])})"
    return {
        "runs": int(runs[-1] if runs else lines[-1][0]),
        "per_second": int(rate[-1]) if rate else 0,
        "features": int(lines[-1][1]),
        "peak_mb": int((re.findall(r"peak_rss_mb: (\d+)", said) or [0])[-1]),
        "escaped": escaped,
    }


def fuzz(name: str, seconds: int, out: Path) -> None:
    """Until the time is over or something escapes; does not return."""
    import atheris

    with atheris.instrument_imports(include=["bt", "transports"]):
        from benchmarks.fuzzing.targets import targets

        known = targets()
    if name not in known:
        sys.exit(f"Error: no target {name}; there are: {', '.join(known)}")
    target = known[name]
    seeds = target.seeds()

    def mutate(data: bytes, most: int, seed: int) -> bytes:
        """Of libFuzzer, but for some that know the format."""
        if seed % _EVERY:
            return bytes(atheris.Mutate(data, most))
        chance = Random(seed ^ zlib.crc32(data))
        try:
            changed = target.edit(chance, data)
        except (ValueError, LookupError, OSError, EOFError, ArithmeticError, AttributeError,
                TypeError):  # fmt: skip
            changed = target.edit(chance, chance.choice(seeds))  # it knows valid input only
        return changed[:most]

    kept = out / name
    kept.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bt-fuzz-") as corpus:
        for number, seed in enumerate(seeds):
            (Path(corpus) / str(number)).write_bytes(seed)
        atheris.Setup(
            [
                name, corpus, f"-max_total_time={seconds}", f"-max_len={LONGEST_INPUT}",
                f"-rss_limit_mb={MOST_MB}", f"-malloc_limit_mb={MOST_AT_ONCE_MB}",
                f"-timeout={LONGEST_S}", f"-artifact_prefix={kept}/", "-print_final_stats=1",
            ],
            lambda data: target.check(data) and None,
            custom_mutator=mutate,
        )  # fmt: skip
        atheris.Fuzz()


if __name__ == "__main__":
    main()
