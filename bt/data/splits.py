"""Who trains on what: held-out test scans, and the parts of the peers.

A split depends on the scans' ids and the seed alone, not on the order of files or on who asks:
`bt peer --part 2/5` finds the second part of the split that `bt train` makes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from bt.data.layouts import Cohort
from bt.data.scan import DataError, Scan

TEST_NAMES = ("test", "testing")


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
    bands: sorted by the numbers in the column `bands_by` and cut into `peers` bands, then like
        uniform within each (experiment 2 of the paper).
    explicit: test scans are those the data set calls so, each site is a peer.
    Raises DataError, with the numbers, where there are not enough scans.
    """
    if peers < 1 or test_scans < 0 or (scans_per_peer is not None and scans_per_peer < 1):
        raise DataError("a split needs at least one peer and one scan per peer")
    labelled = [scan for scan in cohort.scans if scan.label_map is not None]
    shuffled = sorted(labelled, key=lambda scan: scan.id)
    random.Random(seed).shuffle(shuffled)
    if how == "explicit":
        return _explicit(shuffled, peers, scans_per_peer)
    if how not in ("uniform", "bands"):
        raise DataError(f"split {how!r}: must be uniform, bands or explicit")
    needed = test_scans + peers * (scans_per_peer or 1)
    if len(shuffled) < needed:
        raise DataError(
            f"{cohort.root}: {len(shuffled)} labelled scans, but {test_scans} test scans and "
            f"{peers} peers with {scans_per_peer or 1} each need {needed}"
        )
    test, rest = shuffled[:test_scans], shuffled[test_scans:]
    if how == "uniform":
        each = scans_per_peer
        names = [f"part {i}/{peers}" for i in range(1, peers + 1)]
        parts = [rest[i * each : (i + 1) * each] if each else rest[i::peers] for i in range(peers)]
    else:
        names, parts = _bands(rest, peers, scans_per_peer, bands_by)
    return _made(test, parts, names)


def _bands(
    scans: Sequence[Scan], peers: int, scans_per_peer: int | None, column: str | None
) -> tuple[list[str], list[list[Scan]]]:
    if column is None:
        raise DataError("a split by bands needs the name of a participants.tsv column")
    value = {scan.id: _number(scan, column) for scan in scans}
    ordered = sorted(scans, key=lambda scan: (value[scan.id], scan.id))
    cuts = [round(i * len(ordered) / peers) for i in range(peers + 1)]
    bands = [ordered[a:b] for a, b in pairwise(cuts)]
    names = [f"{column} {value[b[0].id]:g} to {value[b[-1].id]:g}" for b in bands]
    position = {scan.id: i for i, scan in enumerate(scans)}  # the shuffled order
    parts = [sorted(band, key=lambda s: position[s.id])[:scans_per_peer] for band in bands]
    return names, parts


def _number(scan: Scan, column: str) -> float:
    if column not in scan.covariates:
        raise DataError(f"{scan.id}: no value in the column {column!r} to split by")
    try:
        return float(scan.covariates[column])
    except ValueError as exc:
        stated = scan.covariates[column]
        raise DataError(f"{scan.id}: {column} is {stated!r}, bands need a number") from exc


def _explicit(scans: Sequence[Scan], peers: int, scans_per_peer: int | None) -> Split:
    test = [scan for scan in scans if (scan.split or "").lower() in TEST_NAMES]
    rest = [scan for scan in scans if scan not in test]
    homeless = [scan.id for scan in rest if scan.site is None]
    if homeless:
        raise DataError(f"an explicit split needs a site for every scan; {homeless[0]} has none")
    sites = sorted({scan.site for scan in rest if scan.site is not None})
    if len(sites) != peers:
        raise DataError(
            f"{peers} peers, but the scans name {len(sites)} sites: {', '.join(sites)}"
        )
    parts = [[scan for scan in rest if scan.site == site][:scans_per_peer] for site in sites]
    return _made(test, parts, [f"site {site}" for site in sites])


def _made(test: Sequence[Scan], parts: Sequence[Sequence[Scan]], names: Sequence[str]) -> Split:
    def by_id(scans: Sequence[Scan]) -> tuple[Scan, ...]:
        return tuple(sorted(scans, key=lambda scan: scan.id))

    return Split(by_id(test), tuple(by_id(part) for part in parts), tuple(names))


def _ids(scans: Sequence[Scan]) -> str:
    return f"{len(scans)} scans: " + " ".join(scan.id for scan in scans)
