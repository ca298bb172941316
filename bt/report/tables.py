"""The tables of the page: rows of texts. Dice is mean ± standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import stdev

from bt.console import duration
from bt.metrics import mean_of
from bt.report import paper, style
from bt.report.history import number
from bt.report.study import BRAINTORRENT, FEDAVG, POOLED, Division, Method, Scores, Study
from bt.wording import counted

MB = 1e6
NOTHING = "–"


@dataclass(frozen=True)
class Row:
    """The first cell names the row. `kind` is "ours", "paper" (beside ours) or "sum"."""

    cells: tuple[str, ...]
    kind: str = "ours"
    colour: str | None = None  # of the method


@dataclass(frozen=True)
class Table:
    """`groups` are headings above some columns: (words, how many columns)."""

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[str, int], ...] = ()


def spread(scores: Scores, digits: int = 3) -> str:
    """ "0.789 ± 0.012" over seeds; "0.789" of one; "–" of none."""
    known = [score for score in scores if score is not None]
    if not known:
        return NOTHING
    mean = f"{sum(known) / len(known):.{digits}f}"
    return f"{mean} ± {stdev(known):.{digits}f}" if len(known) > 1 else mean


def of(value: float | None) -> str:
    """A Dice."""
    return NOTHING if value is None else f"{value:.3f}"


def megabytes(nbytes: float | None) -> str:
    """With two or more significant digits: "0.85", "23.4", "1,234"."""
    if nbytes is None:
        return NOTHING
    value = nbytes / MB
    digits = 0 if value >= 100 or value == 0 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def tables_of(study: Study) -> list[Table]:
    """In the order they are shown."""
    if study.is_experiment:
        tables = [_paper_form(study), _all_methods(study), _clients(study), _costs(study)]
    else:
        tables = [_peers(study), _dice_of_run(study)]
    return [table for table in tables if table is not None and table.rows]


def _seeds(study: Study) -> str:
    count = len(study.seeds)
    return f"mean ± standard deviation over n = {count} seeds" if count > 1 else "one seed (n = 1)"


# --- experiments --------------------------------------------------------------------------------


def _paper_form(study: Study) -> Table | None:
    """As the paper prints it: FedAvg and BrainTorrent, clients and aggregated, by division."""
    pair = [name for name in (FEDAVG, BRAINTORRENT) if any(name in d.methods for d in
                                                           study.divisions)]  # fmt: skip
    if not pair:
        return None
    rows, matched = [], False
    for division in study.divisions:
        ours = [_mean_clients(division.methods.get(name)) for name in pair]
        ours += [_aggregated(division.methods.get(name)) for name in pair]
        first = (str(len(division.clients)), division.scans_each)
        rows.append(Row((*first, *ours)))
        printed = paper.row_of(study.kind, division)
        if printed is not None:
            matched = True
            theirs = [of(printed.clients.get(name)) for name in pair]
            theirs += [of(printed.aggregated.get(name)) for name in pair]
            rows.append(Row(("paper", "", *theirs), "paper"))
    names = [style.look(name).label for name in pair]
    number_of = 2 if study.kind == "bands" else 1
    how = (
        f"bands of {study.main.by or 'a covariate'}" if study.kind == "bands" else "uniform split"
    )
    note = f"Average Dice on {counted(study.test_scans or 0, 'test scan')}, {_seeds(study)}."
    if matched:
        note += f" {paper.ABOUT}"
    else:
        note += " The paper has no such setting, so none of its figures stand beside ours."
    return Table(
        f"Experiment {number_of} of the paper: {how}",
        note,
        ("clients", "scans each", *names, *names),
        tuple(rows),
        (("", 2), ("clients' own models", len(pair)), ("aggregated model", len(pair))),
    )


def _all_methods(study: Study) -> Table:
    """Every method in every division."""
    rows = []
    several = len(study.divisions) > 1
    for division in study.divisions:
        printed = paper.row_of(study.kind, division)
        for name, method in division.methods.items():
            first = style.look(name).label
            if several:
                first += f", {len(division.clients)} × {division.scans_each}"
            cells = [first, _mean_clients(method), _aggregated(method)]
            if printed is not None:
                cells += [of(printed.clients.get(name)), of(printed.aggregated.get(name))]
            elif any(paper.row_of(study.kind, d) for d in study.divisions):
                cells += [NOTHING, NOTHING]
            rows.append(Row(tuple(cells), colour=style.look(name).colour))
    head = ["method", "clients", "aggregated"]
    groups = [("", 1), ("ours", 2)]
    if len(rows[0].cells) > 3:
        head += ["clients", "aggregated"]
        groups += [("paper, other scans", 2)]
    note = (
        f"Average Dice, {_seeds(study)}. Clients: mean over the clients' own models; aggregated: "
        "the average of all clients' weights, or the one model there is. All methods fine-tune "
        "equally often."
    )
    return Table("All methods", note, tuple(head), tuple(rows), tuple(groups))


def _clients(study: Study) -> Table | None:
    """Of the main division: each client's own model, by method; the paper's beside it."""
    division = study.main
    methods = [
        m for m in division.methods.values()
        if m.name != POOLED and any(mean_of(m.of_client(c)) is not None for c in division.clients)
    ]  # fmt: skip
    if not methods:
        return None
    printed = paper.clients_of(study.kind, division)
    rows = []
    for i, client in enumerate(division.clients):
        cells = [client]
        if division.bands:
            cells.append(_band(division, i))
        sizes = division.scans_per_client
        cells.append(str(sizes[i]) if i < len(sizes) else NOTHING)
        cells += [spread(method.of_client(client)) for method in methods]
        cells += [of(dice[i]) for dice in printed.values()]
        rows.append(Row(tuple(cells)))
    blank = ("",) * (2 if division.bands else 1)
    means = [spread(method.mean_of_clients) for method in methods]
    means += [of(sum(dice) / len(dice)) for dice in printed.values()]
    rows.append(Row(("mean", *blank, *means), "sum"))
    if division.bands and (row := paper.row_of(study.kind, division)):
        theirs = [of(row.clients.get(method.name)) for method in methods]
        rows.append(Row(("paper, mean", *blank, *theirs), "paper"))
    head = ["client", *([division.by or "band"] if division.bands else []), "scans"]
    head += [style.look(method.name).label for method in methods]
    head += [style.look(name).label for name in printed]
    groups: tuple[tuple[str, int], ...] = ()
    if printed:
        groups = (
            ("", len(blank) + 1),
            ("ours", len(methods)),
            ("paper, other scans", len(printed)),
        )
    note = f"Dice of each client's own model after its last round, {_seeds(study)}."
    return Table("Per client", note, tuple(head), tuple(rows), groups)


def _band(division: Division, client: int) -> str:
    if client >= len(division.bands):
        return NOTHING
    low, high = division.bands[client]
    return f"{low:g} to {high:g}"


def _costs(study: Study) -> Table:
    rows = []
    for name, method in study.main.methods.items():
        mean_seconds = mean_of(method.seconds)
        cells = (
            style.look(name).label,
            megabytes(mean_of(method.bytes)),
            duration(mean_seconds) or NOTHING,
        )
        rows.append(Row((*cells, _aggregated(method)), colour=style.look(name).colour))
    note = (
        "Per training, mean over seeds. Moved: models sent between clients, or to and from the "
        "server. Time: of the training, one client after the other on one machine, so it does not "
        "tell how long sites would take side by side."
    )
    return Table("Bytes and time", note, ("method", "moved, MB", "time", "aggregated Dice"),
                 tuple(rows))  # fmt: skip


def _mean_clients(method: Method | None) -> str:
    return NOTHING if method is None else spread(method.mean_of_clients)


def _aggregated(method: Method | None) -> str:
    return NOTHING if method is None else spread(method.aggregated)


# --- runs ---------------------------------------------------------------------------------------


def _peers(study: Study) -> Table:
    head = ("peer", "Dice", "version", "scans", "merged", "MB in", "MB out", "training", "waiting")
    rows = []
    for name, peer in study.peers.items():
        seconds = (number(peer.get("seconds_training")), number(peer.get("seconds_waiting")))
        rows.append(
            Row(
                (
                    name,
                    of(number(peer.get("dice"))),
                    *(_whole(peer.get(key)) for key in ("version", "samples", "merged")),
                    *(megabytes(number(peer.get(key))) for key in ("bytes_in", "bytes_out")),
                    *(duration(s) or NOTHING for s in seconds),
                )
            )
        )
    note = (
        "Dice of each peer's own model on the test scans; merged: how many models of others it "
        "trained on, without those of the aggregated model; times in minutes and seconds."
    )
    return Table("Peers", note, head, tuple(rows))


def _whole(value: object) -> str:
    found = number(value)
    return NOTHING if found is None else f"{found:.0f}"


def _dice_of_run(study: Study) -> Table | None:
    """Per structure: aggregated, and the peers' own models."""
    method = study.main.methods[BRAINTORRENT]
    of_peers = method.client_structures[0] if method.client_structures else {}
    rows = []
    for name in study.structures:
        peers = [scores.get(name) for scores in of_peers.values()]
        rows.append(Row((name, spread(method.structures.get(name, ())), *_range(peers))))
    own = method.clients[0].values() if method.clients else ()
    rows.append(Row(("mean", spread(method.aggregated), *_range(own)), "sum"))
    if all(cell == NOTHING for row in rows for cell in row.cells[1:]):
        return None
    tested = counted(study.test_scans, "test scan") if study.test_scans else "the test scans"
    return Table(
        f"Dice on {tested}",
        "Aggregated: the average of all peers' weights.",
        ("structure", "aggregated", "mean of peers", "lowest", "highest"),
        tuple(rows),
    )


def _range(values: Iterable[float | None]) -> tuple[str, str, str]:
    found = [value for value in values if value is not None]
    if not found:
        return NOTHING, NOTHING, NOTHING
    return of(sum(found) / len(found)), of(min(found)), of(max(found))


def settings_of(study: Study) -> Mapping[str, str]:
    """What it was run with, for people."""
    division = study.main
    facts = {
        "data": study.data,
        "clients" if study.is_experiment else "peers": str(len(division.clients)),
        "training scans each": division.scans_each,
        "test scans": NOTHING if study.test_scans is None else str(study.test_scans),
        "structures": ", ".join(study.structures) or NOTHING,
    }
    if len(study.seeds) > 1:
        facts["seeds"] = ", ".join(map(str, study.seeds))
    stated = {k: v for k, v in study.settings.items() if v is not None}
    return facts | {k: f"{v:g}" if isinstance(v, float) else str(v) for k, v in stated.items()}
