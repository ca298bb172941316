"""A pipe that ends with the parent: a child that holds its other end notices, however it died.

What the parent writes on it are words of one byte. HERE is a sign of life, for pipes that cross a
network and may fall silent instead of ending; LEAVE is SIGTERM, where signals don't reach.
"""

from __future__ import annotations

import os
import select
import signal
import threading
from collections.abc import Callable

VARIABLE = "BT_LIFELINE"  # number of the inherited file descriptor
PATIENCE = "BT_LIFELINE_S"  # seconds of silence that mean the end; none: silence means nothing
HERE = b"."
LEAVE = b"T"


def watch(on_end: Callable[[], None]) -> bool:
    """Call `on_end` from a thread once the parent is gone. False if no parent holds a lifeline."""
    number = os.environ.pop(VARIABLE, None)
    patience_s = float(os.environ.pop(PATIENCE, 0)) or None
    if number is None:
        return False
    descriptor = int(number)
    if descriptor == 0:  # children and libraries find an empty standard input
        descriptor = os.dup(0)
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), 0)
    os.set_inheritable(descriptor, False)  # for this process alone, not for its children

    def wait() -> None:
        while select.select([descriptor], [], [], patience_s)[0]:
            words = os.read(descriptor, 4096)
            if not words:
                break
            if LEAVE in words:
                os.kill(os.getpid(), signal.SIGTERM)
        on_end()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
    return True
