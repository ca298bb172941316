"""python -m benchmarks [transports|merge|round|links] [--quick] [--json]"""

from __future__ import annotations

from benchmarks.cli import app

if __name__ == "__main__":
    app(prog_name="python -m benchmarks")
