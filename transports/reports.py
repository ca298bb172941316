"""How a peer is doing, for whoever watches: the question and the answer.

Everything in a report is bounded and printable before anybody shows it: short lists, short texts,
integers. What is no integer travels as one: milliseconds, millionths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transports import header
from transports.header import Malformed
from transports.schema import shown

STATES = ("training", "done", "finished", "leaving", "away")  # away: what it left answers
PHASES = ("idle", "pinging", "pulling", "training")
HAPPENED = ("start", "merge", "fit", "reject", "gone", "limit", "end")
MOST_OTHERS, MOST_ASIDE, MOST_PULLS, MOST_FITS, MOST_EVENTS = 400, 32, 16, 64, 24
LONGEST_TEXT = 160  # characters
MILLION = 1_000_000

Pair = tuple[int, int]


class Known(NamedTuple):
    """What the sender knows of another peer."""

    merged: Pair | None  # the last version of it that it merged
    heard: Pair | None  # the newest it heard of
    state: str | None  # as it said
    ago_s: int | None  # since it was last heard
    gone: bool  # it does not answer


class Aside(NamedTuple):
    """A peer that the sender does not talk to for a while."""

    left_s: int
    reason: str


class Fit(NamedTuple):
    """A fine-tune: the count it made; loss and Dice on the sender's own training slices."""

    made: int
    loss_millionths: int | None
    dice_millionths: int | None


class Happened(NamedTuple):
    """Something that happened at the sender. Numbers grow by one from its start."""

    number: int
    ago_ms: int
    event: str  # one of HAPPENED
    peer: str | None  # whom it is about
    text: str  # a version, or a reason


@dataclass(frozen=True, slots=True)
class Ask:
    """How are you? The answer is a Report."""

    sender: str

    def __post_init__(self) -> None:
        header.check_sender(self.sender)


@dataclass(frozen=True, slots=True)
class Report:
    """How the sender is doing. Counters go on over restarts, `uptime_ms` does not."""

    sender: str
    state: str  # one of STATES
    phase: str  # one of PHASES
    version: Pair
    rounds: int  # it means to do
    samples: int
    others: Mapping[str, Known] = field(default_factory=dict)
    pulling: tuple[str, ...] = ()  # whose models are coming in
    aside: Mapping[str, Aside] = field(default_factory=dict)
    fits: tuple[Fit, ...] = ()  # oldest first, and so are the events
    events: tuple[Happened, ...] = ()
    merges: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    training_ms: int = 0
    waiting_ms: int = 0
    uptime_ms: int = 0

    def __post_init__(self) -> None:
        header.check_sender(self.sender)
        _check_one_of("state", self.state, STATES)
        _check_one_of("phase", self.phase, PHASES)
        header.check_version("version", self.version)
        for name in _INTEGERS:
            header.check_integer(name, getattr(self, name))
        _check_dict("others", self.others, MOST_OTHERS, _check_known)
        _check_tuple("pulling", self.pulling, MOST_PULLS, header.check_sender)
        _check_dict("aside", self.aside, MOST_ASIDE, _check_aside)
        _check_tuple("fits", self.fits, MOST_FITS, _check_fit)
        _check_tuple("events", self.events, MOST_EVENTS, _check_happened)


_INTEGERS = ("rounds", "samples", "merges", "bytes_in", "bytes_out", "training_ms", "waiting_ms",
             "uptime_ms")  # fmt: skip


def from_json(values: Mapping[str, Any]) -> Report:
    """A report of the fields in a message. Raises Malformed."""
    made: dict[str, Any] = {name: _tuples(value) for name, value in values.items()}
    made["others"] = _dict_of(Known, made["others"])
    made["aside"] = _dict_of(Aside, made["aside"])
    made["fits"] = _tuple_of(Fit, made["fits"])
    made["events"] = _tuple_of(Happened, made["events"])
    return Report(**made)


def _tuples(value: object, levels: int = 3) -> object:
    """JSON has no tuples. A report has so many levels of lists; a stranger may send thousands."""
    if not isinstance(value, list):
        return value
    if not levels:
        raise Malformed("its lists are nested too deeply")
    return tuple(_tuples(each, levels - 1) for each in value)


def _dict_of(kind: type, value: object) -> object:
    if not isinstance(value, dict):
        return value  # to be refused
    return {name: _entry_of(kind, _tuples(entry)) for name, entry in value.items()}


def _tuple_of(kind: type, value: object) -> object:
    return tuple(_entry_of(kind, e) for e in value) if isinstance(value, tuple) else value


def _entry_of(kind: type, entry: object) -> Any:
    if not isinstance(entry, tuple) or len(entry) != len(kind._fields):  # type: ignore[attr-defined]
        raise Malformed(f"{shown(entry)}: expected a list as a report has it")
    return kind(*entry)


# --- checks


def _check_one_of(name: str, value: object, known: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in known:
        raise Malformed(f"{name} {shown(value)}: expected one of {', '.join(known)}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise Malformed(f"{name} {shown(value)}: expected a short text that can be printed")


def _check_tuple(name: str, value: object, most: int, check: Callable[[Any], None]) -> None:
    if not isinstance(value, tuple) or len(value) > most:
        raise Malformed(f"{name} {shown(value)}: expected a list of at most {most}")
    for each in value:
        check(each)


def _check_dict(name: str, value: object, most: int, check: Callable[[Any], None]) -> None:
    if not isinstance(value, Mapping) or len(value) > most:
        raise Malformed(f"{name} {shown(value)}: expected an object with at most {most} peers")
    for peer, each in value.items():
        header.check_sender(peer)
        check(each)


def _check_known(known: Known) -> None:
    for name in ("merged", "heard"):
        if (version := getattr(known, name)) is not None:
            header.check_version(name, version)
    if known.state is not None:
        _check_one_of("state", known.state, STATES)
    if known.ago_s is not None:
        header.check_integer("ago_s", known.ago_s)
    if type(known.gone) is not bool:
        raise Malformed(f"gone {shown(known.gone)}: expected true or false")


def _check_aside(aside: Aside) -> None:
    header.check_integer("left_s", aside.left_s)
    _check_text("reason", aside.reason)


def _check_fit(fit: Fit) -> None:
    header.check_integer("made", fit.made)
    for name in ("loss_millionths", "dice_millionths"):
        if (value := getattr(fit, name)) is not None:
            header.check_integer(name, value)


def _check_happened(happened: Happened) -> None:
    header.check_integer("number", happened.number)
    header.check_integer("ago_ms", happened.ago_ms)
    _check_one_of("event", happened.event, HAPPENED)
    if happened.peer is not None:
        header.check_sender(happened.peer)
    _check_text("text", happened.text)
