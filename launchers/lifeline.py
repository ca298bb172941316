"""A pipe that ends with the parent: a child that holds its other end notices, however it died."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

VARIABLE = "BT_LIFELINE"  # number of the inherited file descriptor


def held() -> bool:
    """Whether a parent holds a lifeline to this process."""
    return VARIABLE in os.environ


def watch(on_end: Callable[[], None]) -> bool:
    """Call `on_end` from a thread once the parent is gone. False if no parent holds a lifeline."""
    number = os.environ.pop(VARIABLE, None)
    if number is None:
        return False
    descriptor = int(number)
    os.set_inheritable(descriptor, False)  # for this process alone, not for its children

    def wait() -> None:
        os.read(descriptor, 1)  # returns at the end of the pipe: nobody ever writes
        on_end()

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
    return True
