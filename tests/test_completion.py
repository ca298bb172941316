"""Shell completion, in a real bash: what the Tab key gives."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

BT = Path(sys.executable).with_name("bt")
TAB = (
    'COMP_WORDS=({words}); COMP_CWORD={at}; _bt_completion bt; printf "%s\\n" "${{COMPREPLY[@]}}"'
)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("bt sta", {"status"}),
        ("bt roster ", {"make", "check", "diff"}),
        ("bt peer --ros", {"--roster"}),
        ("bt status --si", {"--simulate"}),
    ],
)
def test_what_tab_gives(line: str, found: set[str]) -> None:
    source = subprocess.run(
        [BT], env=os.environ | {"_BT_COMPLETE": "source_bash"}, capture_output=True, text=True
    )
    words = line.split(" ")
    tab = TAB.format(words=" ".join(word or "''" for word in words), at=len(words) - 1)
    path = {"PATH": f"{BT.parent}:{os.environ['PATH']}"}
    given = subprocess.run(
        ["bash", "-c", source.stdout + tab], env=os.environ | path, capture_output=True, text=True
    )
    assert set(given.stdout.split()) == found, given.stderr
