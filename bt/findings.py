"""What a check of something found: lines that are green, red, or neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["green", "red", "note"]


@dataclass(frozen=True)
class Finding:
    """One line: a note is neither good nor bad. `silent`: a peer that did not answer."""

    topic: str
    state: State
    says: str
    to_do: str = ""
    silent: bool = False


class Findings:
    """The findings so far; each is told at once."""

    def __init__(self, tell: Callable[[Finding], None]) -> None:
        self.all: list[Finding] = []
        self._tell = tell

    def add(self, topic: str, state: State, says: str, to_do: str = "", **more: Any) -> None:
        self.all.append(Finding(topic, state, " ".join(says.split()), to_do, **more))
        self._tell(self.all[-1])


def to_json(findings: list[Finding]) -> dict[str, Any]:
    """What bt check --json prints."""
    green = not any(finding.state == "red" for finding in findings)
    return {"green": green, "findings": [asdict(finding) for finding in findings]}
