"""Words for people that several modules need."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """ "1 scan", "2 scans"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
