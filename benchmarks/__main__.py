"""python -m benchmarks: every benchmark, as a table of milliseconds and ratios."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from benchmarks import merge, transports
from bt.console import make_console, print_timings

RESULTS = Path(__file__).parent / "results"
# benchmark -> (what it measures, the case the others are compared with)
BENCHMARKS = {
    "merge": (merge.run, "copy of the model"),
    "transports": (transports.run, "raw TCP, bytes only"),
}


def main() -> None:
    torch.set_num_threads(1)
    console = make_console()
    for name, (run, base) in BENCHMARKS.items():
        with console.status(f"Measuring: {name}"):
            seconds = run()
        print_timings(console, name, seconds, base)
        RESULTS.mkdir(exist_ok=True)
        found = {"machine": platform.processor() or platform.machine(), "seconds": seconds}
        (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
