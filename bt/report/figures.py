"""The figures that compare methods: learning curves, structures, clients. PNG, with alt texts.

A line or a point is the mean over seeds; bands and bars are from the lowest to the highest seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from bt.metrics import mean_of
from bt.report import style
from bt.report.study import FEDAVG, ONLY_CLIENT, Division, Method, Point, Scores, Study
from bt.wording import counted

MB = 1e6
Rows = dict[str, tuple[style.Look, list[Scores]]]  # label -> scores of every group, to spread
_AGGREGATED, _CLIENTS = "aggregated model", "mean of the clients' own models"


@dataclass(frozen=True)
class Picture:
    """A figure of the page. `name` is its file's, without .png; `title` and `caption` are text."""

    name: str
    title: str
    caption: str
    alt: str
    png: bytes
    wide: bool = False


def learning_curves(study: Study) -> list[Picture]:
    """Dice over rounds, and over bytes moved; none where no curve was kept."""
    methods = [m for m in study.main.methods.values() if any(m.curve)]
    if not methods:
        return []
    values = [p.aggregated for m in methods for c in m.curve for p in c]
    values += [p.clients for m in methods for c in m.curve for p in c]
    limits = style.dice_range(values)
    shown = ", ".join(style.look(m.name).label for m in methods)
    spread = _spread_words(study)
    pictures = []
    for name, title, label, at in (
        ("curves-rounds", "Learning curves", "round (updates per client)", _by_round),
        ("curves-bytes", "Dice against data moved", "data moved by all clients, MB", _by_bytes),
    ):
        drawn = [m for m in methods if any(at(p) is not None for c in m.curve for p in c)]
        if at is _by_bytes:  # what moves nothing is a level to reach, not a curve
            drawn = [m for m in drawn if any(p.bytes for c in m.curve for p in c)]
        if not drawn:
            continue
        figure = Figure(figsize=(5.4, 3.7), layout="constrained")
        axes = figure.add_subplot()
        for method in drawn:
            _curve(axes, method, at)
        if at is _by_bytes:
            for method in (m for m in study.main.methods.values() if m not in drawn):
                _level(axes, method)
        axes.set(xlabel=label, ylabel="Dice on the test scans", ylim=limits)
        if at is _by_round:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        else:
            axes.set_xlim(left=0)
        style.legend_below(figure, 3)
        caption = (
            f"Dice of the {_AGGREGATED} (for methods without one, {_CLIENTS}) on the "
            f"{counted(study.test_scans or 0, 'test scan')}. {spread}"
        )
        if at is _by_bytes:
            caption += " Horizontal lines: methods that move no models, after their last round."
        ends = "; ".join(f"{style.look(m.name).label} ends at {_end(m)}" for m in drawn)
        pictures.append(
            Picture(name, title, caption, f"{title} of {shown}. {ends}.", style.to_png(figure))
        )
    return pictures


def _by_round(point: Point) -> float | None:
    return point.round


def _by_bytes(point: Point) -> float | None:
    return None if point.bytes is None else point.bytes / MB


def _dice(point: Point) -> float | None:
    return point.clients if point.aggregated is None else point.aggregated


def _curve(axes: Axes, method: Method, at: Callable[[Point], float | None]) -> None:
    """Mean over seeds of all points of a round, and from lowest to highest seed."""
    by_round: dict[int, list[Point]] = {}
    for point in (p for curve in method.curve for p in curve if _dice(p) is not None):
        by_round.setdefault(point.round, []).append(point)
    rows = []
    for _, points in sorted(by_round.items()):
        x, values = mean_of(map(at, points)), [d for d in map(_dice, points) if d is not None]
        if x is not None:
            rows.append((x, sum(values) / len(values), min(values), max(values)))
    if not rows:
        return
    look = style.look(method.name)
    at_x, mean, low, high = (list(column) for column in zip(*rows, strict=True))
    axes.fill_between(at_x, low, high, color=look.colour, alpha=0.16, linewidth=0)
    axes.plot(
        at_x, mean, color=look.colour, marker=look.marker, linestyle=look.line, label=look.label
    )


def _level(axes: Axes, method: Method) -> None:
    dice = mean_of(method.aggregated)
    dice = mean_of(method.mean_of_clients) if dice is None else dice
    if dice is not None:
        look = style.look(method.name)
        axes.axhline(dice, color=look.colour, linestyle=look.line, label=look.label)


def _end(method: Method) -> str:
    dice = mean_of(_dice(curve[-1]) for curve in method.curve if curve)
    return "an unknown Dice" if dice is None else f"Dice {dice:.3f}"


def per_structure(study: Study) -> list[Picture]:
    """Dice of every structure by method."""
    methods = list(study.main.methods.values())
    names = [
        name
        for name in study.structures
        if any(mean_of(method.of_structure(name)) is not None for method in methods)
    ]
    if not names:
        return []
    if study.is_experiment:
        rows = _rows(methods, [[m.of_structure(n) for n in names] for m in methods])
    else:
        rows = _aggregated_and_peers(methods[0], names)
    height = 1.3 + max(len(names), 2) * (0.12 + 0.065 * len(rows))
    figure = Figure(figsize=(5.4, height), layout="constrained")
    axes = figure.add_subplot()
    _dots(axes, names, rows, horizontal=True)
    style.legend_below(figure, 3)
    title = "Dice per structure"
    spread = _spread_words(study) if study.is_experiment else "Whiskers: lowest and highest peer."
    caption = f"Of the {_AGGREGATED}; of methods without one, {_CLIENTS}. {spread}"
    if not study.is_experiment:
        caption = f"Of the {_AGGREGATED}, and the mean of the peers' own models. {spread}"
    alt = f"{title}. " + _ends(names, rows)
    return [Picture("structures", title, caption, alt, style.to_png(figure))]


def _rows(methods: Sequence[Method], scores: Sequence[list[Scores]]) -> Rows:
    looks = [style.look(method.name) for method in methods]
    return {look.label: (look, of_one) for look, of_one in zip(looks, scores, strict=True)}


def _aggregated_and_peers(method: Method, names: Sequence[str]) -> Rows:
    of_peers = method.client_structures[0] if method.client_structures else {}
    peers = [tuple(scores.get(name) for scores in of_peers.values()) for name in names]
    rows: Rows = {}
    if any(mean_of(method.structures.get(name, ())) is not None for name in names):
        aggregated = [method.structures.get(name, ()) for name in names]
        rows["aggregated"] = (style.look(method.name), aggregated)
    if any(mean_of(scores) is not None for scores in peers):
        own = style.Look("mean of peers", style.ORANGE, "d", "-")
        rows["mean of peers"] = (own, peers)
    return rows


def per_client(study: Study) -> list[Picture]:
    """Dice of every client's own model, beside FedAvg's and the one trained alone."""
    division = study.main
    wanted = [m for m in division.methods.values() if m.name.startswith("braintorrent")]
    wanted += [division.methods[n] for n in (FEDAVG, ONLY_CLIENT) if n in division.methods]
    methods = [m for m in wanted if any(mean_of(m.of_client(c)) is not None
                                        for c in division.clients)]  # fmt: skip
    if not methods or not study.is_experiment:
        return []
    names = list(division.clients)
    rows = _rows(methods, [[m.of_client(n) for n in names] for m in methods])
    figure = Figure(figsize=(5.4, 3.7), layout="constrained")
    axes = figure.add_subplot()
    _dots(axes, _client_labels(division), rows, horizontal=False)
    style.legend_below(figure, 3)
    title = "Dice per client"
    compared = ", ".join(rows)
    caption = (
        f"Of each client's own model after its last round: {compared}. {_spread_words(study)}"
    )
    alt = f"{title}. " + _ends(names, rows)
    return [Picture("clients", title, caption, alt, style.to_png(figure))]


def _client_labels(division: Division) -> list[str]:
    labels = [style.short(name) for name in division.clients]
    for i, band in enumerate(division.bands[: len(labels)]):
        labels[i] += f"\n{band[0]:g}–{band[1]:g}"
    return labels


def _dots(
    axes: Axes,
    names: Sequence[str],
    rows: Rows,
    *,
    horizontal: bool,
) -> None:
    """A group per name, in it a point per row with a whisker from lowest to highest."""
    step = 0.7 / max(len(rows), 1)
    for number, (label, (look, scores)) in enumerate(rows.items()):
        shift = (number - (len(rows) - 1) / 2) * step
        at, mean, below, above = [], [], [], []
        for place, of_one in enumerate(scores):
            known = [score for score in of_one if score is not None]
            if known:
                middle = sum(known) / len(known)
                at.append(place + shift)
                mean.append(middle)
                below.append(max(0.0, middle - min(known)))
                above.append(max(0.0, max(known) - middle))
        x, y = (mean, at) if horizontal else (at, mean)
        whiskers = [below, above]
        axes.errorbar(
            x,
            y,
            xerr=whiskers if horizontal else None,
            yerr=None if horizontal else whiskers,
            fmt=look.marker,
            color=look.colour,
            label=label,
            elinewidth=1.4,
        )
    places = range(len(names))
    ticks = [style.short(name) if "\n" not in name else name for name in names]
    values = [score for _, scores in rows.values() for of_one in scores for score in of_one]
    if horizontal:
        axes.set_yticks(places, ticks)
        axes.set(ylim=(len(names) - 0.5, -0.5), xlim=style.dice_range(values))
        axes.set(xlabel="Dice on the test scans")
        axes.grid(visible=False, axis="y")
    else:
        crowded = len(names) > 6 or max(map(len, ticks), default=0) > 12
        axes.set_xticks(places, ticks, rotation=45 if crowded else 0,
                        ha="right" if crowded else "center")  # fmt: skip
        axes.set(ylim=style.dice_range(values), xlim=(-0.5, len(names) - 0.5))
        axes.set(ylabel="Dice on the test scans", xlabel="client")
        axes.grid(visible=False, axis="x")
    for one, _ in pairwise(range(len(names))):  # between groups
        (axes.axhline if horizontal else axes.axvline)(one + 0.5, color="#EEF1F4", linewidth=0.8)


def _ends(names: Sequence[str], rows: Rows) -> str:
    """For the alt text: where each row is lowest and highest."""
    words = []
    for label, (_, scores) in rows.items():
        means = [
            (m, n) for n, s in zip(names, scores, strict=True) if (m := mean_of(s)) is not None
        ]
        if means:
            (low, lowest), (high, highest) = min(means), max(means)
            words.append(f"{label}: from {low:.3f} ({lowest}) to {high:.3f} ({highest})")
    return "; ".join(words) + "."


def _spread_words(study: Study) -> str:
    if len(study.seeds) > 1:
        return f"Mean of {len(study.seeds)} seeds; bands and whiskers: lowest and highest seed."
    return "One seed, so no spread."
