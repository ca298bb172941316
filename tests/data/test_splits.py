from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from bt.data.labels import known_table
from bt.data.layouts import Cohort
from bt.data.scan import DataError, Scan
from bt.data.splits import Split, split

LABELLED = Path(__file__)  # a file that is there; nobody reads it


def cohort(n: int = 20, **columns: list[str]) -> Cohort:
    scans = []
    for i in range(n):
        row = {name: values[i] for name, values in columns.items()}
        scans.append(
            Scan(f"s{i:02d}", Path("i"), LABELLED, row.get("site"), row.get("split"), row)
        )
    return Cohort(Path("/data"), "BIDS", tuple(scans), known_table("freesurfer"))


def ids(found: Split) -> list[list[str]]:
    return [[scan.id for scan in part] for part in (found.test, *found.peers)]


def test_uniform_parts_are_disjoint_and_of_the_size_asked_for() -> None:
    found = split(cohort(), peers=3, test_scans=5, scans_per_peer=4)
    assert [len(part) for part in ids(found)] == [5, 4, 4, 4]
    assert len({scan for part in ids(found) for scan in part}) == 17


def test_without_a_size_all_scans_are_divided_evenly() -> None:
    found = split(cohort(), peers=7, test_scans=0)
    assert sorted(len(part) for part in found.peers) == [2, 3, 3, 3, 3, 3, 3]


def test_the_seed_decides_and_the_order_of_files_does_not() -> None:
    one = cohort()
    shuffled = list(one.scans)
    random.Random(1).shuffle(shuffled)
    other = Cohort(one.root, one.layout, tuple(shuffled), one.labels)
    ask = {"peers": 4, "test_scans": 4, "scans_per_peer": 3}
    assert ids(split(one, **ask)) == ids(split(other, **ask))
    assert ids(split(one, **ask, seed=1)) != ids(split(one, **ask))


def test_test_scans_stay_when_the_peers_change() -> None:
    few = split(cohort(), peers=2, test_scans=6, scans_per_peer=2)
    many = split(cohort(), peers=7, test_scans=6, scans_per_peer=2)
    assert few.test == many.test


def test_bands_of_a_column() -> None:
    ages = [str(20 + 3 * ((7 * i) % 20)) for i in range(20)]
    found = split(cohort(age=ages), peers=4, test_scans=4, how="bands", bands_by="age")
    bands = [[float(scan.covariates["age"]) for scan in part] for part in found.peers]
    assert sum(map(len, bands)) == 16
    assert all(max(a) < min(b) for a, b in pairwise(bands))
    assert found.names[0] == f"age {min(bands[0]):g} to {max(bands[0]):g}"
    ask = {"peers": 4, "test_scans": 4, "how": "bands", "bands_by": "age"}
    few = split(cohort(age=ages), **ask, scans_per_peer=2)
    assert all(set(a) <= set(b) for a, b in zip(few.peers, found.peers, strict=True))
    assert [len(part) for part in few.peers] == [2, 2, 2, 2]


def test_bands_are_cut_where_values_lie_furthest_apart() -> None:
    values = [6.7, 10.1, 10.8, 11.8, 14.8, 27.4, 31.3, 33.2, 42.6, 43.7, 47.4, 49.7, 65.7, 79.2]
    data = cohort(14, ml=[str(value) for value in values])
    ask = {"test_scans": 0, "how": "bands", "bands_by": "ml"}
    found = split(data, peers=5, **ask)
    assert [len(part) for part in found.peers] == [5, 3, 4, 1, 1]
    assert found.names[1] == "ml 27.4 to 33.2"
    assert [len(part) for part in split(data, peers=14, **ask).peers] == [1] * 14
    assert [len(part) for part in split(data, peers=1, **ask).peers] == [14]
    with pytest.raises(DataError, match=r"ml 65.7 to 65.7: 1 scan, 2 wanted: fewer bands"):
        split(data, peers=5, scans_per_peer=2, **ask)


def test_explicit_sites_and_test_scans() -> None:
    data = cohort(6, split=["test", "train", "", "Train", "test", ""], site=list("ABABAB"))
    found = split(data, peers=2, test_scans=0, how="explicit")
    assert ids(found) == [["s00", "s04"], ["s02"], ["s01", "s03", "s05"]]
    assert found.names == ("site A", "site B")


def test_explicit_without_sites_is_uniform_over_the_rest() -> None:
    data = cohort(6, split=["testing", *["train"] * 5])
    found = split(data, peers=2, test_scans=1, how="explicit", scans_per_peer=2)
    assert ids(found)[0] == ["s00"]
    assert [len(part) for part in found.peers] == [2, 2]


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (
            {"scans_per_peer": 4},
            r"20 less 5 for testing leave 15, 4 peers with 4 each need 16: "
            r"add scans or lower --peers or --scans-per-peer or --test-scans$",
        ),
        ({"test_scans": 18}, r"leave 2, 4 peers with 1 each need 4: .* --peers or --test-scans$"),
        ({"test_scans": 400}, r": 20 less 400 for testing leave 0, .* or lower --test-scans$"),
        ({"peers": 1, "test_scans": 20}, r"1 peer with 1 each need 1: .* lower --test-scans$"),
        ({"peers": 30, "test_scans": 0}, r"30 peers with 1 each need 30: .* lower --peers$"),
        ({"peers": 0}, "at least one peer"),
        ({"how": "random"}, "must be uniform, bands or explicit"),
        ({"how": "bands"}, "needs --bands-by COLUMN; the columns are nan, sex, site, some$"),
        (
            {"how": "bands", "bands_by": "age"},
            "no scan has a column 'age': the columns are nan, sex, site, some$",
        ),
        ({"how": "bands", "bands_by": "some"}, "s[0-9]+: no value in the column 'some'; the col"),
        ({"how": "bands", "bands_by": "sex"}, "sex is 'f', bands need a number"),
        ({"how": "bands", "bands_by": "nan"}, "nan is 'nan', bands need a number"),
        ({"how": "explicit"}, "no scan is marked as test: .* --test-scans 0$"),
        (
            {"how": "explicit", "test_scans": 0},
            r"4 peers, but the scans are of 2 sites \(A, B\).* --peers 2 .* --part I/2",
        ),
    ],
)
def test_what_cannot_be_split(ask: dict[str, object], says: str) -> None:
    data = cohort(sex=["f"] * 20, nan=["nan"] * 20, site=["A", "B"] * 10)
    for scan in data.scans[::2]:
        scan.covariates["some"] = "1"  # type: ignore[index]
    with pytest.raises(DataError, match=says) as caught:
        split(data, **{"peers": 4, "test_scans": 5, **ask})  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("label_map", "how", "looked_for"),
    [
        (Path("/labelsTr/s.nii.gz"), "uniform", r"/labelsTr/s\.nii\.gz, \.\.\."),
        (None, "uniform", r"sub-\*_dseg\.nii\.gz beside the scans .*"),
        (None, "explicit", r"sub-\*_dseg\.nii\.gz beside the scans .*"),
    ],
)
def test_where_labels_were_looked_for_if_there_is_none(
    label_map: Path | None, how: str, looked_for: str
) -> None:
    found = cohort(4)
    data = replace(found, scans=tuple(replace(one, label_map=label_map) for one in found.scans))
    says = f"^/data: no scan has a label file; looked for {looked_for}$"
    with pytest.raises(DataError, match=says):
        split(data, peers=2, test_scans=5, how=how)


def test_bands_of_scans_that_come_without_columns() -> None:
    with pytest.raises(DataError, match="there are no columns, they come from participants"):
        split(cohort(), peers=2, test_scans=1, how="bands")


def test_describe_names_every_scan_once() -> None:
    found = split(cohort(), peers=2, test_scans=2, scans_per_peer=2)
    lines = found.describe().splitlines()
    assert lines[0] == "test: 2 scans: " + " ".join(scan.id for scan in found.test)
    assert [line.split(":")[0] for line in lines] == ["test", "part 1/2", "part 2/2"]
    one = split(cohort(), peers=1, test_scans=1, scans_per_peer=1)
    assert all(": 1 scan: s" in line for line in one.describe().splitlines())
