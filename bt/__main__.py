"""The program: bt, or python -m bt."""

from __future__ import annotations

import sys


def main() -> None:
    """Run it; Ctrl-C while it is being loaded is no traceback."""
    try:
        from bt.cli import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
