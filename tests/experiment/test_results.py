"""The test over scans, and the shape of experiment.json."""

from __future__ import annotations

from typing import Any

import pytest
from scipy.stats import wilcoxon

from bt.experiment import plan
from bt.experiment.results import compare, paired_test


def result(aggregated: list[float], *clients: list[float]) -> dict[str, Any]:
    def by_scan(values: list[float]) -> dict[str, float]:
        return {f"s{i}": value for i, value in enumerate(values)}

    return {
        "aggregated_scans": by_scan(aggregated),
        "client_scans": {f"peer-{i}": by_scan(values) for i, values in enumerate(clients)},
    }


def test_paired_over_scans() -> None:
    one = {"a": 0.8, "b": 0.7, "c": 0.9, "d": 0.75, "e": 0.5, "f": 0.66}
    other = {"a": 0.7, "b": 0.72, "c": 0.8, "d": 0.7, "e": 0.47, "f": 0.6}
    found = paired_test(one, other)
    assert found["difference"] == pytest.approx(0.32 / 6)
    expected = wilcoxon(list(one.values()), list(other.values())).pvalue
    assert found["p"] == pytest.approx(expected)
    assert found["test"] == "Wilcoxon signed-rank over test scans"
    assert paired_test(other, one)["difference"] == -found["difference"]


def test_no_difference_and_no_scans() -> None:
    assert paired_test({"a": 0.5}, {"a": 0.5})["p"] == 1.0
    assert paired_test({}, {})["p"] is None


def test_seeds_are_averaged_before_the_test_and_clients_too() -> None:
    """Two seeds are not two samples."""
    mine = [result([0.5, 0.7], [0.4, 0.6], [0.6, 0.8]), result([0.7, 0.7], [0.4, 0.6], [0.6, 0.8])]
    theirs = [result([0.5, 0.5], [0.1, 0.1], [0.3, 0.3])] * 2
    found = compare({plan.BRAINTORRENT: mine, plan.FEDAVG: theirs})
    assert [(one["what"], one["scans"]) for one in found] == [("aggregated", 2), ("clients", 2)]
    assert found[0]["difference"] == pytest.approx((0.1 + 0.2) / 2)
    assert found[1]["difference"] == pytest.approx((0.3 + 0.5) / 2)


def test_only_what_both_have_is_compared() -> None:
    alone = {"aggregated_scans": None, "client_scans": result([], [0.5, 0.5])["client_scans"]}
    mine = result([0.6, 0.6], [0.7, 0.8])
    found = compare({plan.BRAINTORRENT: [mine], plan.ONLY_CLIENT: [alone]})
    assert [(one["b"], one["what"]) for one in found] == [("only-client", "clients")]
    assert found[0]["difference"] == pytest.approx(0.25)
