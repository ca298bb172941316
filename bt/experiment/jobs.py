"""Runs the parts of an experiment, some at a time, each as a process of its own."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bt.eventlog import EventReader
from bt.experiment.costs import Costs
from bt.experiment.part import EVENTS
from bt.experiment.plan import RESULT, Part
from bt.experiment.screen import Progress
from bt.localrun import bt_command, last_line
from bt.rundir import read_results
from launchers.base import LaunchError, Plan
from launchers.local import LocalLauncher

_FOLLOW_S = 0.5  # between two looks at the parts' logs
_GRACE_S = 1.0  # a part loses nothing worth waiting for


def run_all(parts: Sequence[Part], out: Path, jobs: int, costs: Costs, console: Console) -> None:
    """Run `parts`, `jobs` at a time. Raises LaunchError when one fails; the others end too."""
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    waiting = deque(parts)
    running: dict[str, _Running] = {}
    children = LocalLauncher().start(Plan(()))
    try:
        with Progress(console, [costs.seconds(part) for part in parts]) as progress:
            while waiting or running:
                while waiting and len(running) < jobs:
                    started = _Running(waiting.popleft(), out, costs)
                    log = started.folder / "log.txt"
                    command = ["experiment", "part", str(started.folder)]
                    command += ["--threads", str(threads)]
                    children.add(bt_command(started.part.name, command, log, threads))
                    running[started.part.name] = started
                    progress.start(started.part.name, costs.seconds(started.part))
                time.sleep(_FOLLOW_S)
                codes = children.poll()
                for name, one in list(running.items()):
                    progress.update(name, one.done_s())
                    if codes[name] is None:
                        continue
                    del running[name]
                    result = read_results(one.folder / RESULT)
                    if codes[name] or result is None:
                        last = last_line(one.folder / "log.txt").removeprefix("bt: ")
                        raise LaunchError(f"{name} failed (exit code {codes[name]}): {last}")
                    progress.finish(name, result)
    finally:
        children.stop(_GRACE_S)


class _Running:
    """A part in its process, and how far it is."""

    def __init__(self, part: Part, out: Path, costs: Costs) -> None:
        self.part = part
        self.folder = out / "parts" / part.name
        self._costs = costs
        self._done_s = 0.0
        part.write(self.folder)
        (self.folder / EVENTS).unlink(missing_ok=True)  # of a start that was interrupted
        self._events = EventReader(self.folder / EVENTS)

    def done_s(self) -> float:
        """Of the estimated seconds."""
        for event in self._events.new():
            match event["event"]:
                case "fit":
                    self._done_s += event["steps"] * self._costs.step_s
                case "score":
                    self._done_s += self._costs.volume_s
        return self._done_s
