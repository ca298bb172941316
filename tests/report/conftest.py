"""Tests of the report need its extra."""

from __future__ import annotations

import pytest

for _needed in ("matplotlib", "jinja2"):
    pytest.importorskip(_needed, reason="needs the report extra: pip install '.[report]'")
