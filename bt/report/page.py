"""The page itself: everything made, put into page.html.j2, and written beside its pictures."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

import jinja2

from bt import __version__
from bt.files import write_atomic
from bt.report import overlays, style, timeline
from bt.report.figures import Picture, learning_curves, per_client, per_structure
from bt.report.history import number
from bt.report.read import read_study
from bt.report.study import BRAINTORRENT, Comparison, ReportError, Study
from bt.report.tables import NOTHING, of, settings_of, spread, tables_of
from bt.wording import counted

PAGE, PICTURES = "report.html", "report"
_SURE = 0.05  # p below this is called more than chance


@dataclass(frozen=True)
class Fact:
    """A number at the top of the page."""

    value: str
    name: str
    note: str = ""


def write_report(
    folder: Path, network: str | None = None, *, quick: bool = False
) -> tuple[Path, list[str]]:
    """Write report.html into `folder`, and its pictures into report/ beside it.

    Returns its path, and in sentences what is missing. With `quick`, scans that would take long
    to segment are not.

    `network` names the code of a model that isn't QuickNAT, for the segmentations. Raises
    ReportError where the folder holds nothing to report, OSError where it can't be written to.
    """
    study = read_study(folder)
    if (folder / PICTURES).is_symlink():  # a folder from elsewhere may lead anywhere
        raise ReportError(f"{folder / PICTURES} is a link: remove it, the pictures belong there")
    with style.drawing():
        figures = [
            *learning_curves(study),
            *per_structure(study),
            *per_client(study),
            *timeline.pictures_of(study),
        ]
        scans = overlays.overlays_of(study, network, quick=quick)
    for picture in (*figures, *scans.pictures):
        write_atomic(folder / PICTURES / f"{picture.name}.png", picture.png)
    path = folder / PAGE
    # A surrogate in a name from a file would be no UTF-8.
    missing = [*study.missing, *([scans.missing] if scans.missing else [])]
    write_atomic(path, render(study, figures, scans, missing).encode("utf-8", "replace"))
    return path, missing


def render(
    study: Study, figures: list[Picture], scans: overlays.Overlays, missing: list[str]
) -> str:
    """The page as HTML. All texts are escaped by the template."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["data_uri"] = _data_uri
    return environment.get_template("page.html.j2").render(
        study=study,
        title=_title(study),
        subtitle=_subtitle(study),
        state=_state(study),
        facts=_facts(study),
        findings=[_in_words(one) for one in study.main.comparisons],
        tables=tables_of(study),
        figures=figures,
        scans=scans,
        missing=missing,
        settings=settings_of(study),
        pictures=PICTURES,
        version=__version__,
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _title(study: Study) -> str:
    match study.kind:
        case "uniform":
            return f"BrainTorrent and other ways to train, uniform split: {study.data}"
        case "bands":
            by = study.main.by or "a covariate"
            return f"BrainTorrent and other ways to train, bands of {by}: {study.data}"
        case "peer":
            return f"A peer of a BrainTorrent federation: {study.data}"
        case _:
            return f"A BrainTorrent federation: {study.data}"


def _subtitle(study: Study) -> str:
    division = study.main
    who = counted(len(division.clients), "client" if study.is_experiment else "peer")
    words = [who]
    if division.scans_per_client:
        words.append(f"{division.scans_each} training scans each")
    if study.test_scans is not None:
        words.append(counted(study.test_scans, "test scan"))
    if study.structures:
        words.append(counted(len(study.structures), "structure"))
    if study.is_experiment:
        words.append(counted(len(study.seeds), "seed"))
    return " · ".join(words)


def _state(study: Study) -> str | None:
    """What a reader must know of a run that didn't end well; None of one that did."""
    if study.is_experiment or study.ended == "finished":
        return None
    if study.kind == "peer" and study.ended is not None:
        return f"This peer {study.ended}; this is what it had by then."
    if study.ended is None:
        return "This run has not finished, or its results are missing: this is what there is."
    return f"This run {'was interrupted' if study.ended == 'interrupted' else study.ended}: " \
           "what follows is what it had by then."  # fmt: skip


def _facts(study: Study) -> list[Fact]:
    methods = study.main.methods
    if study.is_experiment:
        order = sorted(methods.values(), key=lambda m: not m.name.startswith(BRAINTORRENT))
        facts = []
        for method in order:
            scores = method.aggregated
            of_clients = all(score is None for score in scores)
            value = spread(method.mean_of_clients if of_clients else scores)
            note = "mean of clients" if of_clients else "aggregated model"
            if method.name == "pooled":
                note = "all scans in one place"
            if value != NOTHING:
                facts.append(
                    Fact(value.replace("± ", "±\u00a0"), style.look(method.name).label, note)
                )
        return facts
    method = methods[BRAINTORRENT]
    facts = []
    if any(score is not None for score in method.aggregated):
        facts.append(Fact(spread(method.aggregated), "Dice", "aggregated model"))
    (own,) = method.mean_of_clients or (None,)
    if own is not None:
        facts.append(Fact(of(own), "Dice", "mean of the peers' own models"))
    merges = sum(_merged(study, name) for name in {*study.peers, *study.histories})
    fits = sum(len(history.fits) for history in study.histories.values())
    if fits:
        facts.append(Fact(str(fits), "fine-tunes", f"and {counted(merges, 'merge')}"))
    (moved,) = method.bytes or (None,)
    if moved is not None:
        facts.append(Fact(f"{moved / 1e6:,.1f} MB", "moved", "received by all peers together"))
    (seconds,) = method.seconds or (None,)
    if seconds is not None:
        value = f"{seconds / 60:,.1f} min" if seconds >= 90 else f"{seconds:.0f} s"
        facts.append(Fact(value, "time", "from start to end"))
    return facts


def _merged(study: Study, name: str) -> int:
    """How many models a peer trained on; its log alone tells also of those it averaged at last."""
    history = study.histories.get(name)
    stated = number(study.peers.get(name, {}).get("merged"))
    return int(stated) if stated is not None else len(history.merges) if history else 0


def _in_words(one: Comparison) -> str:
    """A comparison and its test as a sentence."""
    a, b = style.look(one.a).label, style.look(one.b).label
    what = {"aggregated": "the aggregated model", "clients": "the mean of the clients' models"}
    how = f"{'higher' if one.difference >= 0 else 'lower'} by {abs(one.difference):.3f}"
    sentence = (
        f"With {a}, Dice of {what.get(one.what, one.what)} is {how} than with {b}"
        if round(abs(one.difference), 3)
        else f"With {a} and with {b}, Dice of {what.get(one.what, one.what)} is the same"
    )
    if one.p is None:
        return f"{sentence}; not tested."
    p = "p < 0.001" if one.p < 0.001 else f"p = {one.p:.2g}"
    of_scans = f", n = {one.scans}" if one.scans is not None else ""
    verdict = (
        "more than chance alone would explain"
        if one.p < _SURE
        else "chance alone may explain that"
    )
    return f"{sentence}: {verdict} ({p}, {one.test}{of_scans})."
