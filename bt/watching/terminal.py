"""How bt status looks: as much of the federation as the terminal has room for, the worst first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from statistics import median

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bt.console import duration
from bt.versions import Version
from bt.watching.federation import NO_ANSWER, Event, Federation, Row, lag
from bt.wording import counted

_STATES = {  # in this order; a colour each, and a word beside it
    "training": "green",
    "pulling": "cyan",
    "pinging": "cyan",
    "idle": "dim",
    "done": "blue",
    "finished": "bold blue",
    "leaving": "magenta",
    "gone": "red",
    NO_ANSWER: "red",
}
_MOST_IN_MATRIX = 12
_BLOCKS = " ▁▂▃▄▅▆▇█"
_BAR = 10  # columns
_FOOTNOTE = "* own training slices.  behind: versions made since by those merged, mean."
_EVENT_WORDS = {
    "start": "starts at {text}",
    "merge": "merged {other} {text}",
    "fit": "made {text}",
    "reject": "set {other} aside: {text}",
    "gone": "lost {other}: {text}",
    "limit": "answers {other} no more often: {text}",
    "end": "ends: {text}",
}


@dataclass(frozen=True)
class _Column:
    heading: str
    width: int  # at least
    keep: int  # the narrower the terminal, the fewer: the highest number goes first
    cell: Callable[[Row], Text | str]
    right: bool = True


def render(
    federation: Federation, now: float, label: str, width: int, height: int | None
) -> RenderableType:
    """All that fits into `width` columns and `height` lines; None: as many lines as it takes."""
    rows = federation.rows(now)
    parts: list[RenderableType] = [_title(rows, label), _summary(rows, width)]
    few = len(rows) <= _MOST_IN_MATRIX
    used = 9 + (0 if few else 2)
    if not few:
        parts.append(_strip(rows, width))
    parts.append(Text())
    events = min(8 if few else 6, len(federation.events))
    used += events + 2
    matrix = _matrix(federation, rows) if few and len(rows) > 1 else None
    if matrix is not None and (height is None or height >= used + 2 * len(rows) + 5):
        used += len(rows) + 3
    else:
        matrix = None
    room = max(3, height - used) if height is not None else len(rows)
    shown = rows if len(rows) <= room else sorted(rows, key=_urgency)[: room - 1]
    parts.append(_table(shown, federation, width))
    if len(shown) < len(rows):
        rest = len(rows) - len(shown)
        parts.append(Text(f"… and {counted(rest, 'peer')} that do better", "dim"))
    if matrix is not None:
        parts += [Text(), matrix]
    if events:
        latest = list(federation.events)[-events:]
        parts += [Text(), *(_event_line(e, now, width) for e in reversed(latest))]
    parts.append(Text(_FOOTNOTE, "dim", no_wrap=True, overflow="ellipsis"))
    return Group(*parts)


def _urgency(row: Row) -> tuple[int, float, str]:
    """What needs a person first: no answer, set aside, then the most stale; told of last."""
    rank = 0 if row.state in (NO_ANSWER, "gone") else 1 if row.aside_by else 2
    return rank if row.asked else 3, -(row.behind or 0.0), row.name


def _title(rows: list[Row], label: str) -> Text:
    title = Text.assemble(("BrainTorrent  ", "bold"), (label, "dim"))
    if "simulated" in label:
        title = Text.assemble(("BrainTorrent  ", "bold"), (label, "black on yellow"))
    return title


def _summary(rows: list[Row], width: int) -> Table:
    """A line each for who is there, how far they are, how good, what moves: of those asked."""
    told_of = sum(not row.asked for row in rows)
    rows = [row for row in rows if row.asked]
    states = Counter(row.state for row in rows)
    there = Text(f"{sum(row.silent is None for row in rows)} of {len(rows)} answer:  ")
    for state, style in _STATES.items():
        if states[state]:
            there.append(f"{states[state]} {state}", style).append("   ")
    aside = [row for row in rows if row.aside_by]
    if aside:
        there.append(f"{len(aside)} set aside by others   ", "yellow")
    if told_of:
        there.append(f"{told_of} more that they tell of", "dim")
    counts = [row.version.count for row in rows]
    rounds = max((row.rounds or 0 for row in rows), default=0)
    behind = [row.behind for row in rows if row.behind is not None]
    far = Text(f"{min(counts)} to {max(counts)}, median {median(counts):g}")
    if rounds:
        far.append(f" of {rounds}")
    if behind:
        far.append(f"   behind by {median(behind):.1f} versions, at most {max(behind):.1f}")
    dice = [row.dice for row in rows if row.dice is not None]
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=9, no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=width - 11)
    table.add_row("peers", there)
    table.add_row("versions", far)
    if dice:
        table.add_row("Dice*", f"median {median(dice):.3f}, {min(dice):.3f} to {max(dice):.3f}")
    moved = sum(row.bytes_in or 0 for row in rows)
    rates = [row.rate_in for row in rows if row.rate_in is not None]
    now = f"   now {sum(rates) / 1e6:.1f} MB/s" if rates else ""
    table.add_row("moved", f"{_mb(moved)}{now}")
    return table


def _strip(rows: list[Row], width: int) -> Table:
    """A cell per peer, in its state's colour, as high as its version; and how versions lie."""
    most = max([row.version.count for row in rows if row.asked] + [1])
    text = Text(no_wrap=False)
    for row in rows:
        block = "✕" if row.state in (NO_ANSWER, "gone") else _block(row.version.count / most)
        text.append(block, "yellow" if row.aside_by else _STATES.get(row.state, ""))
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", min_width=9, no_wrap=True)
    table.add_column(overflow="fold", max_width=width - 11)
    table.add_row("each", text)
    return table


def _block(share: float) -> str:
    return _BLOCKS[max(1, min(8, round(share * 8)))]


# --- the table of peers -------------------------------------------------------------------------


def _table(rows: list[Row], federation: Federation, width: int) -> Table:
    notes = {row.name: _note(row, federation) for row in rows}
    longest = max([len(row.name) for row in rows] + [4])
    columns = [
        _Column("peer", min(longest, 24), 0, lambda r: r.name, right=False),
        _Column("state", 9, 1, lambda r: Text(r.state, _STATES.get(r.state, "")), right=False),
        _Column("version", 7 + _BAR, 2, _progress, right=False),
        _Column("behind", 6, 3, lambda r: _number(r.behind, 1)),
        _Column("Dice*", 5, 4, lambda r: _number(r.dice, 3)),
        _Column("loss", 5, 9, lambda r: _number(r.loss, 3)),
        _Column("merges", 6, 7, lambda r: "" if r.merges is None else str(r.merges)),
        _Column("in", 7, 6, lambda r: "" if r.bytes_in is None else _mb(r.bytes_in)),
        _Column("out", 7, 8, lambda r: "" if r.bytes_out is None else _mb(r.bytes_out)),
        _Column("MB/s", 5, 5, lambda r: f"{r.rate_in / 1e6:.1f}" if r.rate_in else ""),
        _Column("training", 8, 10, lambda r: duration(r.training_s)),
        _Column("waiting", 7, 11, lambda r: duration(r.waiting_s)),
    ]
    least_note = 26 if width < 100 else 44
    while sum(c.width + 2 for c in columns) + least_note > width and len(columns) > 3:
        columns.remove(max(columns, key=lambda c: c.keep))
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(
            column.heading, no_wrap=True, overflow="ellipsis", min_width=column.width,
            max_width=24, justify="right" if column.right else "left",
        )  # fmt: skip
    table.add_column("", ratio=1, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*(column.cell(row) for column in columns), notes[row.name])
    return table


def _progress(row: Row) -> Text:
    if not row.rounds:
        return Text(f"{'':{_BAR}} {row.version}")
    filled = round(_BAR * min(1.0, row.version.count / row.rounds))
    style = "red" if row.state in (NO_ANSWER, "gone") else "blue"
    return Text.assemble(
        ("━" * filled, style),
        ("─" * (_BAR - filled), "dim"),
        f" {row.version}/{row.rounds}",
    )


def _note(row: Row, federation: Federation) -> Text:
    """What is most worth knowing of this peer beside the numbers."""
    if row.silent is not None:
        return Text(row.silent, "red" if row.state in (NO_ANSWER, "gone") else "dim")
    if row.aside_by:
        left_s, reason = max(row.aside_by.values())
        several = len(row.aside_by) > 2
        who = f"{len(row.aside_by)} peers" if several else " and ".join(row.aside_by)
        return Text(f"set aside by {who} for {left_s} s: {reason}", "yellow")
    if row.pulling:
        return Text(f"pulls {_few(row.pulling)}", "cyan")
    if row.aside:
        whom = ", ".join(f"{name} ({left_s} s)" for name, (left_s, _) in row.aside.items())
        return Text(f"has set aside {whom}", "yellow")
    merged = [f"{e.other} {e.text}" for e in _last_round(row.name, federation.events)]
    how = "averaged" if row.state == "finished" else "merged"  # into its aggregated model
    return Text(f"{how} {', '.join(merged)}" if merged else "", "dim")


def _last_round(name: str, events: Iterable[Event]) -> list[Event]:
    """The merges since the fine-tune before the last one, or the last one if none came since."""
    rounds: list[list[Event]] = [[]]
    for event in events:
        if event.peer == name and event.event == "fit":
            rounds.append([])
        elif event.peer == name and event.event == "merge":
            rounds[-1].append(event)
    return next((merges for merges in reversed(rounds) if merges), [])


def _few(names: Iterable[str], most: int = 3) -> str:
    listed = list(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more


# --- who merged whom, at which version ----------------------------------------------------------


def _matrix(federation: Federation, rows: list[Row]) -> Table:
    names = [row.name for row in rows]
    newest, merged = federation.newest(), federation.merged()
    common = _shared(min(names), max(names))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("who merged whom, at which version/of", style="dim", no_wrap=True)
    for name in names:
        table.add_column(name[common:] or name, justify="right", no_wrap=True)
    for name in names:
        cells = [_merged_cell(name, other, newest, merged.get(name)) for other in names]
        table.add_row(name, *cells)
    return table


def _shared(first: str, last: str) -> int:
    """How many characters all names begin with, by the first and the last of them."""
    differ = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return next(differ, min(len(first), len(last)))


def _merged_cell(
    name: str, other: str, newest: Mapping[str, Version], merged: Mapping[str, Version] | None
) -> Text:
    if name == other:
        return Text(str(newest[name]), "bold")
    if merged is None:
        return Text("?", "dim")
    version = merged.get(other)
    if version is None:
        return Text("–", "dim" if not newest[other].count else "red")
    late = lag(newest[other], version)
    text = str(version) if not late else f"{version}/{newest[other]}"
    return Text(text, "green" if late <= 1 else "yellow" if late <= 4 else "red")


# --- small things -------------------------------------------------------------------------------


def event_words(event: Event) -> str:
    """What happened, in words."""
    words = _EVENT_WORDS.get(event.event, event.event)
    return words.format(other=event.other or "somebody", text=event.text)


def _event_line(event: Event, now: float, width: int) -> Text:
    ago = f"{duration(max(0.0, now - event.at)):>7} ago  "
    style = {"reject": "yellow", "limit": "yellow", "gone": "red", "fit": ""}.get(event.event, "")
    line = Text.assemble((ago, "dim"), (f"{event.peer} ", "bold"), (event_words(event), style))
    line.truncate(width, overflow="ellipsis")
    return line


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _mb(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
