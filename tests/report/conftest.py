"""Tests of the report need its extra."""

from __future__ import annotations

import pytest

for _needed in ("matplotlib", "jinja2"):
    pytest.importorskip(_needed, reason="needs the report extra: pip install '.[report]'")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made, but not drawn: for tests of what the page says."""
    from bt.report import style

    monkeypatch.setattr(style, "to_png", lambda figure: b"undrawn")
