"""The paper's figures, to stand beside ours: average Dice, sections 4 and 5 of arXiv 1905.06731.

Its data are other than any of ours: T1 brain scans of the MALC challenge, 20 classes, 10 test
scans, QuickNAT with 64 filters. The settings match, not the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from bt.report.study import Division

ABOUT = (
    "Paper: Roy et al. 2019 (arXiv 1905.06731), whole-brain segmentation of MALC (10 test scans, "
    "20 classes, QuickNAT with 64 filters), one training each. Other scans than ours: compare the "
    "order of the methods, not the numbers."
)
POOLED = 0.866


@dataclass(frozen=True)
class Row:
    """Of the paper's comparison of BrainTorrent with FedAvg (its FLS)."""

    clients: dict[str, float]  # method -> mean over the clients' models
    aggregated: dict[str, float]  # method -> Dice of the aggregated model


def _row(fls: float, braintorrent: float, agg_fls: float, agg_braintorrent: float) -> Row:
    return Row(
        {"fedavg": fls, "braintorrent": braintorrent},
        {"fedavg": agg_fls, "braintorrent": agg_braintorrent, "pooled": POOLED},
    )


_UNIFORM = {  # (clients, scans each), experiment 1
    (5, "4"): _row(0.812, 0.851, 0.845, 0.863),
    (7, "2 to 3"): _row(0.753, 0.837, 0.843, 0.861),
    (10, "2"): _row(0.792, 0.807, 0.842, 0.850),
    (20, "1"): _row(0.570, 0.578, 0.687, 0.728),
}
_BANDS = _row(0.772, 0.851, 0.828, 0.864)  # experiment 2: 5 age bands, 1 to 9 scans
_TEN_CLIENTS: dict[
    str, tuple[float, ...]
] = {  # experiment 1 with 10 clients of 2 scans: Dice of each client's own model
    "braintorrent": (0.806, 0.781, 0.835, 0.818, 0.793, 0.819, 0.812, 0.771, 0.820, 0.817),
    "fedavg": (0.808, 0.794, 0.779, 0.789, 0.784, 0.770, 0.790, 0.784, 0.809, 0.814),
    "only-client": (0.570, 0.635, 0.578, 0.609, 0.526, 0.502, 0.603, 0.570, 0.513, 0.510),
}


def row_of(kind: str, division: Division) -> Row | None:
    """The paper's row for as many clients with as many scans each; None if it has none."""
    if kind == "bands":
        return _BANDS if len(division.clients) == 5 else None
    return _UNIFORM.get((len(division.clients), division.scans_each))


def clients_of(kind: str, division: Division) -> dict[str, tuple[float, ...]]:
    """The paper's Dice per client by method, where it prints them for this setting."""
    matches = kind == "uniform" and (len(division.clients), division.scans_each) == (10, "2")
    return dict(_TEN_CLIENTS) if matches else {}
