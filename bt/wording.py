"""Words for people that several modules need."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


def counted(number: int, noun: str) -> str:
    """ "1 scan", "2 scans"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def printable(text: str) -> str:
    """`text` without control characters: names in it may come from strangers' files."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def line_of(exc: Exception) -> str:
    """What an error says, on one line; of the system's, the file and what is the matter."""
    if isinstance(exc, OSError) and exc.filename is not None and exc.strerror:
        return printable(f"{exc.filename}: {exc.strerror}")
    return printable(str(exc))


def the_first(lines: Iterable[str], rest: str, most: int = 10) -> list[str]:
    """`most` of these at most; then how many more there are, and where to see them."""
    found = list(lines)
    left = len(found) - most
    return [*found[:most], f"and {left} more: {rest}"] if left > 0 else found


def meant(name: str, known: Sequence[str], form: str = "{}") -> str:
    """Of an unknown name, the known one most like it, else all of them; each as in `form`."""
    if close := get_close_matches(name, known, 1):
        return f"did you mean {form.format(close[0])}?"
    return f"known: {', '.join(form.format(each) for each in known)}"


def unnamed_labels(ids: Iterable[int], data: object) -> list[str]:
    """A line about label numbers of the scans in `data` that no table names, if there are any."""
    found = sorted(set(ids))
    if not found:
        return []
    shown = ", ".join(map(str, found[:10])) + (", ..." if len(found) > 10 else "")
    which = f"number {shown} is" if len(found) == 1 else f"numbers {shown} are"
    counts = "counts" if len(found) == 1 else "count"
    return [f"label {which} not in the table and {counts} as background: bt data show {data}"]


def in_short(words: Iterable[str], most: int = 9) -> str:
    """ "A, B", or "A, B and 7 more" where there are more than `most`."""
    found = list(words)
    more = len(found) - most
    return ", ".join(found[:most]) + (f" and {more} more" if more > 0 else "")


def peer_names(count: int) -> tuple[str, ...]:
    """peer-1 ... peer-9, or peer-01 ... when two digits are needed: they sort as they count."""
    digits = len(str(count))
    return tuple(f"peer-{number:0{digits}}" for number in range(1, count + 1))
