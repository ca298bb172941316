"""The far end of children.Child: python -m benchmarks.child MODULE:FUNCTION ARGUMENTS.

Calls the function with the JSON arguments and a `say` that sends values to the parent, one JSON
line each. The process ends with the function, or as soon as its parent is gone, however it went.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
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

    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        function = resolve(name)
        reset_peak()
        function(say=lambda value: tell("said", value), **json.loads(arguments))
    except (ImportError, NotImplementedError) as exc:
        tell("unavailable", str(exc))
        return 1
    except Exception as exc:
        traceback.print_exc()
        tell("failed", f"{type(exc).__name__}: {exc}")
        return 1
    return 0


def _end_with_parent() -> None:
    # At its end the kernel closes the parent's end of this pipe, even if the parent is killed.
    # os.read: the lock of sys.stdin would hang the interpreter when the function ends first.
    while os.read(0, 4096):
        pass
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
