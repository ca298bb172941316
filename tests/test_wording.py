from __future__ import annotations

from bt.wording import counted


def test_one_is_singular() -> None:
    assert [counted(n, "scan") for n in (0, 1, 2)] == ["0 scans", "1 scan", "2 scans"]
