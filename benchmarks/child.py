"""The far end of children.Child: python -m benchmarks.child MODULE:FUNCTION ARGUMENTS.

Calls the function with the JSON arguments and a `say` that sends values to the parent, one JSON
line each; with one that waits for the parent's `tell` too, if it has a parameter `hear`. The
process ends with the function, or as soon as its parent is gone, however it went.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

from benchmarks.memory import reset_peak


def resolve(name: str) -> Callable[..., Any]:
    """The function "package.module:function". Importing happens here, not before."""
    module, _, function = name.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def main() -> int:
    name, arguments = sys.argv[1:]
    voice = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print must not end up between the lines

    def tell(kind: str, value: object) -> None:
        voice.write(json.dumps({kind: value}) + "\n")

    told: SimpleQueue[None] = SimpleQueue()
    threading.Thread(target=_listen, args=(told,), daemon=True).start()
    try:
        function = resolve(name)
        reset_peak()
        hears = {"hear": told.get} if "hear" in inspect.signature(function).parameters else {}
        function(say=lambda value: tell("said", value), **hears, **json.loads(arguments))
    except (ImportError, NotImplementedError) as exc:
        tell("unavailable", str(exc))
        return 1
    except Exception as exc:
        traceback.print_exc()
        tell("failed", f"{type(exc).__name__}: {exc}")
        return 1
    return 0


def _listen(told: SimpleQueue[None]) -> None:
    """Pass on what the parent tells: a byte each time. The process ends with the parent."""
    # At its end the kernel closes the parent's end of this pipe, even if the parent is killed.
    # os.read: the lock of sys.stdin would hang the interpreter when the function ends first.
    while os.read(0, 1):
        told.put(None)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
