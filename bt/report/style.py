"""How everything looks: one colour, marker and name per method, and figures as PNG bytes.

The colours are those of Okabe and Ito, told apart with any kind of colour vision; methods also
differ in marker and line, so that nothing rests on colour alone.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from bt.lookup import OKABE_ITO
from bt.wording import printable

BLUE, SKY, VERMILLION, GREEN = "#0072B2", "#56B4E9", "#D55E00", "#009E73"
PURPLE, ORANGE, YELLOW, INK = "#CC79A7", "#E69F00", "#F0E442", "#1F2328"
GREY, PALE = "#6E7781", "#D0D7DE"
_DPI = 160
_LONGEST_NAME = 26

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same picture everywhere
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#E6EAEE",
    "grid.linewidth": 0.8,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a scan's name is a $
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Look:
    """Of a method, in every figure and table."""

    label: str
    colour: str
    marker: str
    line: str


_LOOKS = {
    "braintorrent": Look("BrainTorrent", BLUE, "o", "-"),
    "braintorrent-async": Look("BrainTorrent, async", SKY, "D", "-"),
    "fedavg": Look("FedAvg", VERMILLION, "s", "--"),
    "pooled": Look("pooled", INK, "^", ":"),
    "only-client": Look("only client", PURPLE, "v", "-."),
    "cyclic": Look("cyclic", GREEN, "X", "--"),
}


def look(method: str) -> Look:
    """Of a method; one that isn't known here is orange."""
    return _LOOKS.get(method) or Look(short(method), ORANGE, "P", "-")


def short(name: str) -> str:
    """A name from a file that fits a figure, without what can't be printed."""
    name = " ".join(printable(name).split()) or "?"
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def peer_colours(count: int) -> list[str]:
    """One each: the seven, then shades of a map that is even to every eye."""
    if count <= len(OKABE_ITO):
        return list(OKABE_ITO[:count])
    shades = mpl.colormaps["viridis"].resampled(count)
    return [mpl.colors.to_hex(shades(i)) for i in range(count)]


@contextmanager
def drawing() -> Iterator[None]:
    """The look of all figures; nothing of it stays behind."""
    with mpl.rc_context(_RC), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a glyph the font lacks is drawn as a box
        yield


def to_png(figure: Figure) -> bytes:
    """The figure's picture, tightly cut."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, bbox_inches="tight", pad_inches=0.06)
    return buffer.getvalue()


def dice_range(values: Sequence[float | None]) -> tuple[float, float]:
    """Limits of an axis that shows these, within 0..1; never so narrow that noise looks large."""
    known = [value for value in values if value is not None]
    if not known:
        return 0.0, 1.0
    least, most = min(known), max(known)
    margin = max(0.02, 0.08 * (most - least), (0.1 - (most - least)) / 2)
    return max(0.0, least - margin), min(1.0, most + margin)


def legend_below(figure: Figure, columns: int) -> None:
    """Beneath the labels, where it hides nothing; the figure's layout must be constrained."""
    figure.legend(loc="outside lower center", ncols=columns)
