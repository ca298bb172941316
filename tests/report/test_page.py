"""The page: whole, self-contained, and harmless whatever the names in the files are."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from bt.config import Config, to_toml
from bt.report.page import write_report
from bt.report.study import ReportError
from tests.report.samples import experiment, write_events, write_experiment

HOSTILE = "<script>alert(1)</script>\"'&$x^{"
VOID = {"meta", "img", "br", "link", "hr"}


class Page(HTMLParser):
    """What a browser would find; fails on tags that don't close as they opened."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.html = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(self.html)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += " " + " ".join(data.split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def report(folder: Path) -> Page:
    return Page(write_report(folder)[0])


def run(folder: Path, results: dict[str, object] | None) -> Path:
    """A run of two peers: a merged b's version 1 and fine-tuned."""
    (folder / "a").mkdir(parents=True)
    (folder / "config.toml").write_text(to_toml(Config()))
    at = 1_700_000_000.0
    write_events(folder / "a" / "events.jsonl", [
        {"time": at, "event": "start", "version": "0", "samples": 2},
        {"time": at + 9, "event": "fit", "version": "1", "loss": 1, "dice": 0.3, "seconds": 8},
        {"time": at + 12, "event": "weights", "from": "b", "bytes": 4_000_000, "seconds": 1},
        {"time": at + 12, "event": "merge", "from": "b", "version": "1", "samples": 2},
        {"time": at + 20, "event": "fit", "version": "2", "loss": 1, "dice": 0.5, "seconds": 7},
    ])  # fmt: skip
    write_events(folder / "b" / "events.jsonl", [
        {"time": at, "event": "start", "version": "0", "samples": 2},
        {"time": at + 10, "event": "fit", "version": "1", "loss": 1, "dice": 0.2, "seconds": 9},
    ])  # fmt: skip
    if results is not None:
        (folder / "results.json").write_text(json.dumps(results))
    return folder


def results_of(ended: str) -> dict[str, object]:
    peer = {"dice": 0.5, "structures": {"core": 0.5}, "version": 2, "samples": 2, "merged": 1}
    peer |= {"bytes_in": 4_000_000, "bytes_out": 0}
    peer |= {"seconds_training": 15, "seconds_waiting": 5}
    return {
        "complete": ended == "finished",
        "ended": ended,
        "aggregated": {"dice": 0.625, "structures": {"core": 0.625}, "scans": {"s1": 0.625}},
        "peers": {"a": peer, "b": peer | {"dice": 0.4}},
        "data": {"path": "/gone", "structures": ["core"], "test": ["s1"],
                 "peers": {"a": ["t1", "t2"], "b": ["t3", "t4"]}},
        "seconds": 20,
    }  # fmt: skip


def test_a_page_stands_alone(tmp_path: Path) -> None:
    page = report(write_experiment(tmp_path, experiment()))
    assert page.html.startswith("<!DOCTYPE html>")
    images = page.all("img")
    assert len(images) >= 4
    for image in images:
        assert str(image["src"]).startswith("data:image/png;base64,")
        assert len(str(image["alt"])) > 20
    assert not page.all("script")
    assert not page.all("link")
    assert not re.search(r"url\(|@import|https?://", page.html)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert str(policy).startswith("default-src 'none'; img-src data:;")
    assert (tmp_path / "report" / "curves-rounds.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("undrawn")
def test_the_papers_figures_stand_beside_ours_where_the_setting_matches(tmp_path: Path) -> None:
    content = experiment(clients=5, each=4)
    content["also"] = [experiment(clients=4, each=3)]
    page = report(write_experiment(tmp_path, content))
    for figure in ("0.812", "0.851", "0.845", "0.863"):
        assert figure in page.text
    assert "0.837" not in page.text  # of 7 clients
    unmatched = report(write_experiment(tmp_path / "other", experiment(clients=4, each=3)))
    assert "0.851" not in unmatched.text
    assert "no such setting" in unmatched.text


@pytest.mark.usefixtures("undrawn")
def test_ten_clients_have_the_papers_dice_per_client(tmp_path: Path) -> None:
    page = report(write_experiment(tmp_path, experiment(clients=10, each=2)))
    assert "0.835" in page.text
    assert "0.635" in page.text


@pytest.mark.usefixtures("undrawn")
def test_an_experiment_by_bands_names_them(tmp_path: Path) -> None:
    page = report(write_experiment(tmp_path, experiment(kind="bands")))
    assert "bands of age" in page.text
    assert "25 to 34" in page.text
    assert "0.864" in page.text  # the paper's


@pytest.mark.usefixtures("undrawn")
def test_the_significance_test_is_said_in_words(tmp_path: Path) -> None:
    page = report(write_experiment(tmp_path, experiment()))
    assert "higher by 0.025" in page.text
    assert "p < 0.001, Wilcoxon signed-rank over test scans, n = 40" in page.text
    assert "lower by 0.020" in page.text
    assert "chance alone may explain that (p = 0.21" in page.text


@pytest.mark.usefixtures("undrawn")
def test_what_was_simulated_is_called_so(tmp_path: Path) -> None:
    content = experiment()
    content["settings"]["simulated"] = "The contrast is simulated."
    page = report(write_experiment(tmp_path, content))
    assert "The clients were simulated" in page.text
    assert "The contrast is simulated." in page.text


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "lacking", ["clients", "structures", "client_structures", "scans", "bytes", "seconds", "curve"]
)
def test_whatever_an_experiment_lacks_the_rest_is_shown(tmp_path: Path, lacking: str) -> None:
    content = experiment(scans=3, rounds=2)
    for method in content["methods"].values():
        del method[lacking]
    content["comparisons"] = None
    page = report(write_experiment(tmp_path, content))
    assert "FedAvg" in page.text


@pytest.mark.parametrize(("rate", "shown"), [(None, "0.001 at 64 filters"), (0.25, "0.25")])
def test_the_learning_rate_is_told_also_if_it_is_the_default(
    tmp_path: Path, rate: float | None, shown: str
) -> None:
    content = experiment()
    content["settings"]["learning_rate"] = rate
    page = report(write_experiment(tmp_path, content))
    assert f"learning rate {shown}" in " ".join(page.text.split())


def test_names_from_files_do_no_harm(tmp_path: Path) -> None:
    names = (HOSTILE, "B" * 300, "\U0001f600", "\ud800", "a\u202eb\x00")
    content = experiment(names=names, structures=(HOSTILE, "a\nb"), rounds=2, scans=3)
    content["settings"] |= {"data": HOSTILE, "machine": HOSTILE, "model": HOSTILE}
    content["methods"][HOSTILE] = content["methods"]["fedavg"]
    content["comparisons"][0]["test"] = HOSTILE
    page = report(write_experiment(tmp_path, content))
    assert not page.all("script")
    assert HOSTILE in page.text  # shown as it is
    for _, attributes in page.tags:
        assert not any(name.startswith("on") for name in attributes)


def test_a_finished_run(tmp_path: Path) -> None:
    page = report(run(tmp_path / "run", results_of("finished")))
    assert "0.625" in page.text
    assert "4.0 MB" not in page.text  # two peers with 4 MB each
    assert "8.0 MB" in page.text
    assert "no aggregated model was kept" in page.text
    made = {path.stem for path in (tmp_path / "run" / "report").iterdir()}
    assert {"timeline", "vectors", "training-rounds", "structures"} <= made


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("results", [None, results_of("interrupted") | {"aggregated": None}])
def test_a_run_that_did_not_finish(tmp_path: Path, results: dict[str, object] | None) -> None:
    page = report(run(tmp_path / "run", results))
    assert "Not all is here" in page.text
    assert "timeline" in {path.stem for path in (tmp_path / "run" / "report").iterdir()}


@pytest.mark.usefixtures("undrawn")
def test_merges_are_counted_as_in_the_table(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", results_of("finished"))
    with (folder / "a" / "events.jsonl").open("a") as log:  # for the aggregated model
        log.write('{"time": 1700000030, "event": "merge", "from": "b", "version": "1"}\n' * 2)
    assert "and 2 merges" in report(folder).text  # each peer says that it merged 1
    (folder / "results.json").unlink()
    assert "and 3 merges" in report(folder).text  # all that is known


@pytest.mark.usefixtures("undrawn")
def test_a_peers_own_folder(tmp_path: Path) -> None:
    page = report(run(tmp_path / "run", None) / "a")
    assert "One peer's folder" in page.text


def test_pictures_are_not_written_where_a_link_leads(tmp_path: Path) -> None:
    folder = run(tmp_path / "run", results_of("finished"))
    (tmp_path / "other").mkdir()
    (folder / "report").symlink_to(tmp_path / "other")
    with pytest.raises(ReportError, match="report is a link"):
        write_report(folder)
    assert not [*(tmp_path / "other").iterdir()]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"neither a run nor an experiment"):
        write_report(tmp_path)
    with pytest.raises(ReportError, match="no such folder"):
        write_report(tmp_path / "nowhere")
    (tmp_path / "experiment.json").write_text("{")
    with pytest.raises(ReportError, match="not readable JSON"):
        write_report(tmp_path)
