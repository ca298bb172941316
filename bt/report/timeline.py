"""The figures of one run: who merged whom and when, the version vectors, each peer's learning."""

from __future__ import annotations

import math
from collections.abc import Mapping

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from bt.report import style
from bt.report.figures import MB, Picture
from bt.report.history import History
from bt.report.study import Study
from bt.wording import counted

_MOST_LANES = 24  # more peers than this can't be told apart
_MOST_VECTORS = 12


def pictures_of(study: Study) -> list[Picture]:
    """None where no event log tells of a fine-tune."""
    histories = {name: h for name, h in study.histories.items() if h.fits or h.merges}
    if not histories:
        return []
    return [
        *_training(histories),
        *_lanes(histories),
        *_vectors(histories),
    ]


def _began(histories: Mapping[str, History]) -> float:
    return min(h.began for h in histories.values() if h.began is not None)


def _ended(histories: Mapping[str, History]) -> float:
    fits = [fit.time for history in histories.values() for fit in history.fits]
    return max(fits + [merge.time for h in histories.values() for merge in h.merges])


def _unit(histories: Mapping[str, History]) -> tuple[float, str]:
    """Seconds in the unit that a run of this length is told in."""
    lasted = _ended(histories) - _began(histories)
    if lasted < 300:
        return 1.0, "s"
    return (60.0, "min") if lasted < 3 * 3600 else (3600.0, "h")


def _training(histories: Mapping[str, History]) -> list[Picture]:
    """Dice on each peer's own training slices by version, and by what it had received."""
    trained = {name: h for name, h in histories.items() if any(f.dice is not None for f in h.fits)}
    if not trained:
        return []
    colours = _colours(trained)
    found = []
    for name, title, label, at in (
        ("training-rounds", "Training, by round", "version (fine-tunes done)", "version"),
        ("training-bytes", "Training, by data received", "received by the peer, MB", "bytes"),
    ):
        figure = Figure(figsize=(5.4, 3.7), layout="constrained")
        axes = figure.add_subplot()
        ends = []
        for peer, history in trained.items():
            fits = [(fit, fit.dice) for fit in history.fits if fit.dice is not None]
            x = [fit.version if at == "version" else fit.bytes_in / MB for fit, _ in fits]
            dice = [score for _, score in fits]
            axes.plot(x, dice, marker="o", color=colours[peer], label=style.short(peer))
            ends.append(f"{peer} ends at {dice[-1]:.3f}")
        values = [fit.dice for h in trained.values() for fit in h.fits]
        axes.set(xlabel=label, ylabel="Dice on own training slices")
        axes.set_ylim(style.dice_range(values))
        if at == "version":
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(trained) <= _MOST_VECTORS:
            style.legend_below(figure, 4)
        caption = (
            "Dice of each peer on its own training slices, while the weights still change: it "
            "tells how training goes, not how good the model is."
        )
        alt = f"{title}: Dice of {counted(len(trained), 'peer')}. {'; '.join(ends)}."
        found.append(Picture(name, title, caption, alt, style.to_png(figure)))
    return found


def _lanes(histories: Mapping[str, History]) -> list[Picture]:
    """A lane per peer: bars are fine-tunes, lines lead from a version made to where it merged."""
    if len(histories) > _MOST_LANES:
        return []
    began, (unit, unit_name) = _began(histories), _unit(histories)
    lanes = {name: lane for lane, name in enumerate(histories)}
    colours = _colours(histories)
    figure = Figure(figsize=(9.0, 1.1 + 0.52 * len(lanes)))
    axes = figure.add_subplot()
    for name, history in histories.items():
        axes.axhline(lanes[name], color=style.PALE, linewidth=1, zorder=0.5)
        for fit in history.fits:
            left = (fit.time - fit.seconds - began) / unit
            axes.barh(
                lanes[name], fit.seconds / unit, left=left, height=0.34, color=colours[name],
                edgecolor="white", linewidth=0.8, alpha=0.9,
            )  # fmt: skip
            if len(history.fits) <= 14:
                axes.annotate(
                    str(fit.version), ((fit.time - began) / unit, lanes[name]), (-3, 0),
                    textcoords="offset points", ha="right", va="center", fontsize=7.5,
                    color=_ink_on(colours[name]), fontweight="bold", zorder=5,
                )  # fmt: skip
    merges = 0
    for name, history in histories.items():
        for merge in history.merges:
            merges += 1
            source = lanes.get(merge.source)
            made = histories[merge.source].published(merge.version) if source is not None else None
            at = (merge.time - began) / unit
            if source is None or made is None:  # its log is not here
                axes.plot(at, lanes[name] - 0.28, "v", color=style.GREY, markersize=4)
                continue
            down = 1 if lanes[name] > source else -1
            axes.annotate(
                "", (at, lanes[name] - 0.2 * down), ((made - began) / unit, source + 0.2 * down),
                arrowprops={
                    "arrowstyle": "-|>,head_length=0.3,head_width=0.14", "linewidth": 1.0,
                    "color": colours[merge.source], "shrinkA": 0, "shrinkB": 0,
                    "alpha": 0.85 if len(lanes) <= 8 else 0.5,
                },
            )  # fmt: skip
    axes.set_yticks(range(len(lanes)), [style.short(name) for name in lanes])
    axes.set(ylim=(len(lanes) - 0.4, -0.6), xlabel=f"time since the start, {unit_name}")
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=0)
    caption = (
        "Bars: fine-tunes, with the version they made. Arrows: from where a version was made to "
        "where it was merged, in the colour of the peer it comes from; those after a peer's last "
        "version make the aggregated model."
    )
    alt = f"Timeline of {counted(len(lanes), 'peer')}: {_count(histories)}."
    title = "Who merged whom, and when"
    return [Picture("timeline", title, caption, alt, style.to_png(figure), wide=True)]


def _vectors(histories: Mapping[str, History]) -> list[Picture]:
    """Each peer's version vector over time: its own count, and the last merged of the others."""
    if len(histories) > _MOST_VECTORS:
        return []
    began, (unit, unit_name) = _began(histories), _unit(histories)
    sources = sorted({*histories, *(m.source for h in histories.values() for m in h.merges)})
    colours = dict(zip(sources, style.peer_colours(len(sources)), strict=True))
    columns = min(3, len(histories))
    rows = math.ceil(len(histories) / columns)
    figure = Figure(figsize=(9.0, 0.7 + 2.1 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    last = began + 1.03 * (_ended(histories) - began)  # so that the last step is seen
    # Equal versions would hide each other: every line is a little higher than the one before.
    most = max((fit.version for h in histories.values() for fit in h.fits), default=1)
    apart = max(1, most / 4) * min(0.08, 0.4 / len(sources))
    for axes in grid.flat[len(histories) :]:
        axes.set_visible(False)
    for axes, (name, history) in zip(grid.flat, histories.items(), strict=False):
        for source in sources:
            steps = [(m.time, m.version) for m in history.merges if m.source == source]
            if source == name:
                steps = [(fit.time, fit.version) for fit in history.fits]
            x = [0.0, *((time - began) / unit for time, _ in steps), (last - began) / unit]
            y = [0, *(version for _, version in steps), steps[-1][1] if steps else 0]
            own = source == name
            level = [version + sources.index(source) * apart for version in y]
            axes.step(
                x, level, where="post", color=colours[source], linewidth=2.8 if own else 1.5,
                linestyle="-" if own else "--",
            )  # fmt: skip
        axes.set_title(style.short(name))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for axes in grid[:, 0]:
        axes.set_ylabel("version")
    for column in range(columns):
        lowest = [row for row in range(rows) if row * columns + column < len(histories)][-1]
        grid[lowest, column].set_xlabel(f"time since the start, {unit_name}")
        grid[lowest, column].tick_params(labelbottom=True)
    handles = [Line2D([], [], color=colours[source], linewidth=2) for source in sources]
    labels = [style.short(source) for source in sources]
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(labels)))
    caption = (
        "A panel per peer: its own version (thick), and of every other the last version it has "
        "merged (dashed). Lines are drawn slightly apart."
    )
    alt = f"Version vectors of {counted(len(histories), 'peer')} over time. {_count(histories)}."
    title = "Version vectors over time"
    return [Picture("vectors", title, caption, alt, style.to_png(figure), wide=True)]


def _colours(histories: Mapping[str, History]) -> dict[str, str]:
    return dict(zip(sorted(histories), style.peer_colours(len(histories)), strict=True))


def _ink_on(colour: str) -> str:
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return style.INK if 0.3 * red + 0.59 * green + 0.11 * blue > 135 else "white"


def _count(histories: Mapping[str, History]) -> str:
    return "; ".join(
        f"{name} made {counted(len(h.fits), 'version')} and merged {len(h.merges)}"
        for name, h in histories.items()
    )
