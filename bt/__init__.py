"""Train one segmentation network together, peer to peer, with no server."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bt.api import Federation as Federation
    from bt.api import ModuleTrainer as ModuleTrainer

__version__ = "0.1.0"

_FROM_PYTHON = ("Federation", "ModuleTrainer")


def __getattr__(name: str) -> Any:
    if name in _FROM_PYTHON:  # not sooner: torch takes a second to import
        return getattr(import_module("bt.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FROM_PYTHON])
