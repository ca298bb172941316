"""bt status itself: look once and print, or look again and again."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from threading import Event

from rich.live import Live
from rich.text import Text

from bt.console import make_console
from bt.outside import NoAnswer
from bt.watching.federation import Federation, to_json
from bt.watching.folder import NothingToWatch
from bt.watching.source import Source
from bt.watching.terminal import render


def show(source: Source, every_s: float, *, watch: bool, as_json: bool) -> int:
    """The exit code. Raises NothingToWatch where nobody answers, KeyboardInterrupt never."""
    console = make_console()
    federation = Federation(closed=source.closed)

    def look() -> float:
        now = time.monotonic()
        answers = source.look(now)
        now = time.monotonic()
        federation.take(answers, now)
        silent = [f"{n}: {a.reason}" for n, a in answers.items() if isinstance(a, NoAnswer)]
        if len(silent) == len(answers) and not watch:
            raise NothingToWatch(f"nobody answers: {'; '.join(silent[:4])}")
        return now

    def print_json(now: float) -> None:
        found = to_json(federation, now, simulated=source.simulated)
        console.file.write(json.dumps(found, indent=None if watch else 2) + "\n")
        console.file.flush()

    if not watch:
        with make_console(to_stderr=True).status("Asking"):
            now = look()
        if as_json:
            print_json(now)
        else:
            console.print(render(federation, now, source.label, console.width, None))
        return 0
    pause = Event()
    with suppress(KeyboardInterrupt):
        if as_json or not console.is_terminal:
            while True:
                print_json(look())
                pause.wait(every_s)
        with Live(console=console, screen=True, auto_refresh=False) as live:
            live.update(Text(f"Asking ({source.label}) …"), refresh=True)
            while True:
                now, size = look(), console.size
                page = render(federation, now, source.label, size.width, size.height)
                live.update(page, refresh=True)
                pause.wait(every_s)
    return 0
