"""Benchmarks as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import get_args

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.results import (
    Attack,
    Beside,
    Dice,
    Fault,
    Found,
    Idle,
    Lied,
    Memory,
    Overhead,
    Ping,
    Round,
    Trained,
    Transfer,
    Undisturbed,
)
from bt.wording import counted


def show(console: Console, title: str, found: Found) -> None:
    """All cases, and why some are missing."""
    transfers = {name: case for name, case in found.cases.items() if isinstance(case, Transfer)}
    pings = {name: case for name, case in found.cases.items() if isinstance(case, Ping)}
    if transfers:
        console.print(_transfers(title, transfers))
    if pings:
        console.print(_pings(pings))
    rounds = {name: case for name, case in found.cases.items() if isinstance(case, Round)}
    if rounds:
        table = _table("rounds", rounds, ["ms", "ping", "transfer", "persist", "rest", "rounds"])
        for name, one in rounds.items():
            parts = (one.ms, one.ping_ms, one.transfer_ms, one.persist_ms, one.rest_ms)
            table.add_row(name, *map(_short, parts), str(one.rounds))
        console.print(table)
    overheads = {name: case for name, case in found.cases.items() if isinstance(case, Overhead)}
    if overheads:
        table = _table("not training", overheads, ["of the time", "rounds"])
        for name, over in overheads.items():
            table.add_row(name, f"{over.share:.2%}", str(over.rounds))
        console.print(table)
    besides = {name: case for name, case in found.cases.items() if isinstance(case, Beside)}
    if besides:
        columns = ["steps/s", "serving", "share", "elsewhere", "pull ms", "ping p50", "p99 ms"]
        table = _table("beside training", besides, columns)
        for name, both in besides.items():
            rates = (both.steps_per_s, both.steps_per_s_serving)
            shares = (f"{both.share:.0%}", f"{both.share_elsewhere:.0%}")
            times = (both.pull_ms, both.ping_p50_ms, both.ping_p99_ms)
            table.add_row(name, *map(_short, rates), *shares, *map(_short, times))
        console.print(table)
    idles = {name: case for name, case in found.cases.items() if isinstance(case, Idle)}
    if idles:
        table = _table("idle", idles, ["of a core"])
        for name, idle in idles.items():
            table.add_row(name, f"{idle.core:.2%}")
        console.print(table)
    memories = {name: case for name, case in found.cases.items() if isinstance(case, Memory)}
    if memories:
        table = _table("models of memory", memories, ["at once", "who merges", "who serves"])
        for name, peak in memories.items():
            peaks = (f"{peak.peak_models:.2f}", f"{peak.peak_models_server:.2f}")
            table.add_row(name, str(peak.at_once), *peaks)
        console.print(table)
    dices = {name: case for name, case in found.cases.items() if isinstance(case, Dice)}
    if dices:
        table = _table("aggregated Dice", dices, ["mean", "by seed", "against none", "MB"])
        for name, dice in dices.items():
            seeds = " ".join(f"{score:.3f}" for score in dice.by_seed)
            against = "" if dice.against_none is None else f"{dice.against_none:+.3f}"
            table.add_row(name, f"{dice.mean:.3f}", seeds, against, f"{dice.mb:.1f}")
        console.print(table)
    lied = {name: case for name, case in found.cases.items() if isinstance(case, Lied)}
    if lied:
        table = _table("aggregated Dice, a liar among five", lied, ["mean", "by seed", "off"])
        for name, one_lied in lied.items():
            seeds = " ".join(f"{score:.3f}" for score in one_lied.by_seed)
            table.add_row(name, f"{one_lied.mean:.3f}", seeds, f"{one_lied.against_honest:+.3f}")
        console.print(table)
    faults = {name: case for name, case in found.cases.items() if isinstance(case, Fault)}
    if faults:
        console.print(_faults(faults))
    attacks = {name: case for name, case in found.cases.items() if isinstance(case, Attack)}
    if attacks:
        console.print(_attacks(attacks))
    for name, case in found.cases.items():
        if isinstance(case, Undisturbed):
            means = [sum(scores) / len(scores) for scores in (case.calm, case.killed)]
            console.print(
                f"{name}: {means[0]:.3f} undisturbed, {means[1]:.3f} with {case.kills} kills in "
                f"{counted(len(case.calm), 'run')} ({case.difference:+.3f})",
                soft_wrap=True,
            )
    for kind in get_args(Trained):
        same = {name: case for name, case in found.cases.items() if isinstance(case, kind)}
        if same:
            console.print(_fields(same))
    for name, reason in found.skipped.items():
        console.print(f"{name}: not measured: {reason}", style="dim")
    for name, reason in found.failed.items():
        console.print(f"{name}: FAILED: {reason}", style="red")


def _faults(cases: Mapping[str, Fault]) -> Table:
    """What they cost the others."""
    columns = ["times", "worst round s", "rounds after s", "updates lost", "merged after s"]
    table = _table("faults", cases, columns)
    for name, case in cases.items():
        seconds = [case.worst_round_s, case.rounds_after_s, case.merged_again_after_s]
        worst, after, back = (f"{one:.2f}" for one in seconds)
        table.add_row(name, str(case.times), worst, after, str(case.lost_updates), back)
    return table


def _attacks(cases: Mapping[str, Attack]) -> Table:
    table = _table("attacks", cases, ["attempts", "s", "answer B", "memory MB", "updates"])
    table.add_column("effect")
    for name, case in cases.items():
        memory = (case.memory_before_mb, case.memory_at_end_mb, case.memory_after_mb)
        table.add_row(
            name,
            f"{case.attempts:,}",
            f"{case.seconds:.0f}",
            str(case.answer_bytes),
            " ".join(f"{mb:.0f}" for mb in memory),
            str(case.updates_meanwhile),
            case.effect,
        )
    return table


def _transfers(title: str, cases: Mapping[str, Transfer]) -> Table:
    shaped_by = {case.shaped_by for case in cases.values() if case.shaped_by}
    heavy = any(case.peak_models is not None for case in cases.values())
    if shaped_by:
        title += f", simulated by {' and '.join(sorted(shaped_by))}"
    speed = ["of the rate", "flowing", "wire MB"] if shaped_by else ["GB/s"]
    table = _table(title, cases, ["ms", "10 to 90 %", *speed, "ratio", "to", "CPU s"])
    if heavy:
        table.add_column("models of memory", justify="right")
    for name, case in cases.items():
        table.add_row(
            name,
            _short(case.ms),
            f"{_short(case.p10_ms)} to {_short(case.p90_ms)}",
            *([f"{case.gbps:.2f}"] if not shaped_by else _of_a_link(case)),
            _ratio(case.ratio),
            case.ceiling or "",
            _cpu(case),
            *([_memory(case)] if heavy else []),
        )
    return table


def _of_a_link(case: Transfer) -> list[str]:
    shares = [f"{share:.1%}" if share is not None else "" for share in (case.share, case.flow)]
    return [*shares, "" if case.wire_mb is None else f"{case.wire_mb:.1f}"]


def _pings(cases: Mapping[str, Ping]) -> Table:
    columns = ["p50 us", "p99 us", "per s", "ratio: p50", "p99", "per s", "to"]
    table = _table("pings", cases, columns)
    for name, case in cases.items():
        table.add_row(
            name,
            _short(case.p50_us),
            _short(case.p99_us),
            f"{case.per_s:.0f}",
            *map(_ratio, (case.ratio, case.ratio_p99, case.ratio_per_s)),
            case.ceiling or "",
        )
    return table


def _fields(cases: Mapping[str, Trained]) -> Table:
    """A column for every number or word of cases of one kind."""
    rows = {name: asdict(case) for name, case in cases.items()}
    columns = [
        key for key, value in next(iter(rows.values())).items() if not isinstance(value, dict)
    ]
    title = type(next(iter(cases.values()))).__name__.lower()
    table = _table(title, rows, [column.replace("_", " ") for column in columns])
    for name, row in rows.items():
        values = [row[column] for column in columns]
        table.add_row(name, *(_short(v) if isinstance(v, float) else str(v) for v in values))
    return table


def _table(title: str, names: Mapping[str, object], columns: list[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(title, min_width=max(map(len, names)))  # names are never cut short
    for column in columns:
        table.add_column(column, justify="left" if column == "to" else "right")
    return table


def _short(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _ratio(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _cpu(case: Transfer) -> str:
    """Client and server together."""
    if case.cpu_client_s is None:
        return ""
    return f"{case.cpu_client_s + (case.cpu_server_s or 0):.4f}"


def _memory(case: Transfer) -> str:
    """Client + server."""
    peaks = (case.peak_models, case.peak_models_server)
    return " + ".join(f"{peak:.2f}" for peak in peaks if peak is not None)
