"""Who trains on what: held-out test scans, and the parts of the peers.

A split depends on the scans' ids and the seed alone, not on the order of files or on who asks:
`bt peer --part 2/5` finds the second part of the split that `bt train` makes.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from bt.data.layouts import LABELS_OF, Cohort
from bt.data.scan import DataError, Scan
from bt.wording import counted

TEST_NAMES = ("test", "testing")

Parts = tuple[list[str], Sequence[Sequence[Scan]]]  # their names, their scans


@dataclass(frozen=True)
class Split:
    """Disjoint parts of a cohort: `test` is held out, `peers[i]` belongs to the i-th peer."""

    test: tuple[Scan, ...]
    peers: tuple[tuple[Scan, ...], ...]
    names: tuple[str, ...]  # of the parts: "part 1/5", "age 41.2 to 66.1", "site B"

    def describe(self) -> str:
        """One line for the test scans and one per peer."""
        parts = [("test", self.test), *zip(self.names, self.peers, strict=True)]
        return "\n".join(f"{name}: {_ids(part)}" for name, part in parts)


def split(
    cohort: Cohort,
    *,
    peers: int,
    test_scans: int,
    scans_per_peer: int | None = None,
    how: str = "uniform",
    bands_by: str | None = None,
    seed: int = 0,
) -> Split:
    """Divide the labelled scans of a cohort.

    uniform: shuffled, `scans_per_peer` each, or all of them divided evenly.
    bands: sorted by the numbers in the column `bands_by` and cut into `peers` bands where they
        lie furthest apart; bands differ in size (experiment 2 of the paper). Then
        `scans_per_peer` of each, or all.
    explicit: test scans are those the data set calls so, each site is a peer; like uniform where
        it names no sites.
    Raises DataError, with the numbers, where there are not enough scans.
    """
    if peers < 1 or test_scans < 0 or (scans_per_peer is not None and scans_per_peer < 1):
        raise DataError("a split needs at least one peer and one scan per peer")
    labelled = [scan for scan in cohort.scans if scan.label_map is not None]
    shuffled = sorted(labelled, key=lambda scan: scan.id)
    random.Random(seed).shuffle(shuffled)
    if how == "explicit":
        test = [scan for scan in shuffled if (scan.split or "").lower() in TEST_NAMES]
        if not test and test_scans and labelled:
            raise DataError(
                f"{cohort.root}: an explicit split, but no scan is marked as test: write test in "
                "the column split of the manifest, or go without: --test-scans 0"
            )
        rest = [scan for scan in shuffled if scan not in test]
    elif how in ("uniform", "bands"):
        test, rest = shuffled[:test_scans], shuffled[test_scans:]
    else:
        raise DataError(f"split {how!r}: must be uniform, bands or explicit")
    needed = peers * (scans_per_peer or 1)
    if len(rest) < needed:
        if cohort.scans and not any(map(_has_labels, cohort.scans)):
            raise DataError(_no_labels(cohort))
        held_out = len(test) if how == "explicit" else test_scans
        lower = ["--peers"] if peers > 1 and rest else []
        lower += ["--scans-per-peer"] if (scans_per_peer or 1) > 1 else []
        lower += ["--test-scans"] if test and how != "explicit" else []
        raise DataError(
            f"{cohort.root}: too few labelled scans: {len(shuffled)} less {held_out} for testing "
            f"leave {len(rest)}, {counted(peers, 'peer')} with {scans_per_peer or 1} each need "
            f"{needed}: add scans" + (f" or lower {' or '.join(lower)}" if lower else "")
        )
    if how == "explicit" and any(scan.site is not None for scan in rest):
        names, parts = _sites(rest, peers, scans_per_peer)
    elif how == "bands":
        names, parts = _bands(rest, peers, scans_per_peer, bands_by)
    else:
        names, parts = _uniform(rest, peers, scans_per_peer)
    return Split(_by_id(test), tuple(_by_id(part) for part in parts), tuple(names))


def _has_labels(scan: Scan) -> bool:
    return scan.label_map is not None and scan.label_map.is_file()


def _no_labels(cohort: Cohort) -> str:
    named = [str(scan.label_map) for scan in cohort.scans if scan.label_map is not None]
    more = ", ..." if len(named) > 1 else ""
    looked_for = named[0] + more if named else LABELS_OF[cohort.layout]
    return f"{cohort.root}: no scan has a label file; looked for {looked_for}"


def _uniform(scans: Sequence[Scan], peers: int, each: int | None) -> Parts:
    parts = [scans[i * each : (i + 1) * each] if each else scans[i::peers] for i in range(peers)]
    return [f"part {i}/{peers}" for i in range(1, peers + 1)], parts


def _bands(scans: Sequence[Scan], peers: int, each: int | None, column: str | None) -> Parts:
    if column is None:
        raise DataError(f"a split by bands needs --bands-by COLUMN; {_columns(scans)}")
    lacking = [scan.id for scan in scans if column not in scan.covariates]
    if len(lacking) == len(scans):
        raise DataError(f"no scan has a column {column!r}: {_columns(scans)}")
    if lacking:
        raise DataError(f"{lacking[0]}: no value in the column {column!r}; {_columns(scans)}")
    value = {scan.id: _number(scan, column) for scan in scans}
    ordered = sorted(scans, key=lambda scan: (value[scan.id], scan.id))
    cuts = _natural_breaks([value[scan.id] for scan in ordered], peers)
    bands = [ordered[a:b] for a, b in pairwise(cuts)]
    names = [f"{column} {value[b[0].id]:g} to {value[b[-1].id]:g}" for b in bands]
    for name, band in zip(names, bands, strict=True):
        if each and len(band) < each:
            raise DataError(
                f"{name}: {counted(len(band), 'scan')}, {each} wanted: fewer bands, or lower "
                "--scans-per-peer"
            )
    return names, [[scan for scan in scans if scan in band][:each] for band in bands]


def _natural_breaks(values: Sequence[float], bands: int) -> list[int]:
    """Where to cut sorted values: each band begins at one of these, and ends before the next.

    The sum of squared distances from the bands' means is the least possible (Fisher 1958, "natural
    breaks"); no band is empty.
    """
    x = np.asarray(values, np.float64) - np.mean(values)
    n = len(x)
    sums, squares = (np.concatenate([[0.0], np.cumsum(x**power)]) for power in (1, 2))
    least = np.array([np.inf] + [squares[j] - sums[j] ** 2 / j for j in range(1, n + 1)])
    starts = []  # by band, from the second: where it best begins if it ends before j
    for _ in range(1, bands):
        start, cost = np.zeros(n + 1, np.intp), np.full(n + 1, np.inf)
        for j in range(1, n + 1):
            i = np.arange(j)
            within = squares[j] - squares[:j] - (sums[j] - sums[:j]) ** 2 / (j - i)
            start[j] = np.argmin(least[:j] + within)
            cost[j] = least[start[j]] + within[start[j]]
        starts.append(start)
        least = cost
    cuts = [n]
    for start in reversed(starts):
        cuts.append(int(start[cuts[-1]]))
    return [0, *reversed(cuts)]


def _sites(scans: Sequence[Scan], peers: int, each: int | None) -> Parts:
    homeless = [scan.id for scan in scans if scan.site is None]
    if homeless:
        raise DataError(f"an explicit split needs a site for every scan; {homeless[0]} has none")
    sites = sorted({scan.site for scan in scans if scan.site is not None})
    if len(sites) != peers:
        raise DataError(
            f"{counted(peers, 'peer')}, but the scans are of {counted(len(sites), 'site')} "
            f"({', '.join(sites)}), and each is a peer: give --peers {len(sites)} to bt train, "
            f"--part I/{len(sites)} to bt peer"
        )
    parts = [[scan for scan in scans if scan.site == site][:each] for site in sites]
    return [f"site {site}" for site in sites], parts


def _columns(scans: Sequence[Scan]) -> str:
    found = sorted({column for scan in scans for column in scan.covariates})
    if not found:
        return "there are no columns, they come from participants.tsv or a manifest"
    return f"the columns are {', '.join(found)}"


def _number(scan: Scan, column: str) -> float:
    stated = scan.covariates[column]
    try:
        number = float(stated)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise DataError(f"{scan.id}: {column} is {stated!r}, bands need a number")
    return number


def _by_id(scans: Sequence[Scan]) -> tuple[Scan, ...]:
    return tuple(sorted(scans, key=lambda scan: scan.id))


def _ids(scans: Sequence[Scan]) -> str:
    return f"{counted(len(scans), 'scan')}: " + " ".join(scan.id for scan in scans)
