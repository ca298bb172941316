from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from bt.data.cache import load_volumes
from bt.data.labels import known_table
from bt.data.layouts import find_scans
from bt.data.scan import DataError
from tests.data.conftest import Write, head, labels

BRAIN = (2, 3, 4, 10, 17, 41, 53)  # FreeSurfer's numbers


def relative(root: Path, path: Path | None) -> str | None:
    return None if path is None else path.relative_to(root).as_posix()


def test_decathlon(tmp_path: Path, write: Write) -> None:
    for name in ("a", "b"):
        write(f"imagesTr/{name}.nii.gz", head())
        write(f"labelsTr/{name}.nii.gz", labels())
    pairs = [
        {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        for name in ("b", "a")
    ]
    stated = {"name": "X", "labels": {"0": "background", "1": "A", "2": "B"}, "training": pairs}
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    cohort = find_scans(tmp_path)
    assert (cohort.layout, [scan.id for scan in cohort.scans]) == ("Decathlon", ["a", "b"])
    assert cohort.labels.structures == ("background", "A", "B")
    assert not load_volumes(cohort.scans, cohort.labels, cache=tmp_path / "cache").bad


def test_nnunet_v2_channels_and_labels_the_other_way_round(tmp_path: Path, write: Write) -> None:
    write("imagesTr/case_1_0000.nii.gz", head())
    write("imagesTr/case_1_0001.nii.gz", head())
    write("labelsTr/case_1.nii.gz", labels())
    write("labelsTr/._case_1.nii.gz", labels())  # what macOS leaves behind
    stated = {
        "channel_names": {"0": "T1", "1": "T2"},
        "labels": {"background": 0, "hippocampus": 1, "ignore": 2},
        "file_ending": ".nii.gz",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    (scan,) = find_scans(tmp_path).scans
    assert scan.id == "case_1"
    assert relative(tmp_path, scan.image) == "imagesTr/case_1_0000.nii.gz"
    assert find_scans(tmp_path).labels.structures == ("background", "hippocampus")


@pytest.mark.parametrize(
    ("stated", "says"),
    [
        ("{", "not readable as JSON"),
        ('{"labels": {"background": 0, "whole": [1, 2]}}', "regions"),
        ('{"labels": {"0": "background"}}', "no label beside the background"),
        ('{"labels": {"0": "background", "1": "A"}}', "lists no scan"),
        ('{"labels": {"0": "background", "1": "A"}, "training": []}', "lists no scan"),
        ('{"labels": {"1": "A"}, "training": {"image": "a", "label": "b"}}', "must be a list"),
        ('{"labels": {"1": "A"}, "training": ["imagesTr/a.nii.gz"]}', "must name a file"),
        ('{"labels": {"1": "A"}, "training": [{"image": "a.nii.gz"}]}', "must name a file"),
        ('{"labels": {"1": true}}', "one number and one name"),
        ('{"labels": {"1": null}}', "one number and one name"),
        ('{"labels": {"A": 1.0}}', "one number and one name"),
        ('{"labels": {"A": 1e400}}', "one number and one name"),
        ('{"labels": {"1": "A\\n"}}', "can't be printed"),
        ('{"labels": {"A": 100000000000000000000}}', "must be 0 to"),
        ('{"labels": {"-1": "A"}}', "must be 0 to"),
        ('{"labels": [1, 2]}', "must be a dictionary"),
    ],
)
def test_bad_dataset_json(tmp_path: Path, stated: str, says: str) -> None:
    (tmp_path / "dataset.json").write_text(stated)
    with pytest.raises(DataError, match=says) as caught:
        find_scans(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["image", "label"])
@pytest.mark.parametrize(
    "name", ["/", "", ".", 3, None, True, ["a.nii.gz"], "a\0.nii.gz", "a\n.nii.gz", "x" * 5000]
)
def test_what_is_no_file_name_in_dataset_json_is_refused(
    tmp_path: Path, key: str, name: object
) -> None:
    pair = {"image": "a.nii.gz", "label": "b.nii.gz"} | {key: name}
    stated = {"name": 7, "labels": {"1": "A"}, "training": [pair]}
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    with pytest.raises(DataError, match=r"dataset\.json: 'training' lists") as caught:
        find_scans(tmp_path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_name_too_long_for_the_disk_in_dataset_json_is_a_bad_scan(tmp_path: Path) -> None:
    pair = {"image": "x" * 300, "label": "y" * 300}
    stated = {"labels": {"1": "A"}, "training": [pair]}
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    cohort = find_scans(tmp_path)
    assert len(load_volumes(cohort.scans, cohort.labels, cache=tmp_path / "cache").bad) == 1


def test_bids_beside_with_covariates(tmp_path: Path, write: Write) -> None:
    for name in ("sub-01", "sub-02"):
        write(f"{name}/anat/{name}_T1w.nii.gz", head())
        write(f"{name}/anat/{name}_dseg.nii.gz", labels(BRAIN, (12, 40, 10)))
    table = "participant_id\tage\tsite\nsub-01\t31\tA\nsub-02\tn/a\tB\n"
    (tmp_path / "participants.tsv").write_text(table)
    cohort = find_scans(tmp_path)
    first, second = cohort.scans
    assert (first.id, first.site, first.covariates["age"]) == ("sub-01", "A", "31")
    assert "age" not in second.covariates
    assert cohort.labels is known_table("freesurfer")
    (tmp_path / "participants.tsv").write_text("participant_id\tsite\nsub-01\t\x1b[2J\n")
    assert find_scans(tmp_path).scans[0].site == r"'\x1b[2J'", "sites are printed"


def test_bids_sessions_runs_and_derivatives(tmp_path: Path, write: Write) -> None:
    for session in ("1", "2"):
        stem = f"sub-01/ses-{session}/anat/sub-01_ses-{session}"
        write(f"{stem}_T1w.nii.gz", head())
        write(f"derivatives/tool/{stem}_dseg.nii.gz", labels((1, 2, 3)))
        write(f"derivatives/tool/{stem}_desc-aseg_dseg.nii.gz", labels(BRAIN))
        write(f"derivatives/tool/{stem}_space-MNI_desc-aparcaseg_dseg.nii.gz", labels(BRAIN))
        write(f"derivatives/tool/{stem}_desc-preproc_T1w.nii.gz", head())
    write("sub-02/anat/sub-02_run-1_T1w.nii.gz", head())
    write("sub-02/anat/sub-02_run-2_T1w.nii.gz", head())
    write("derivatives/tool/sub-02/anat/sub-02_dseg.nii.gz", labels(BRAIN))
    write("sub-03/anat/sub-03_T1w.nii.gz", head())
    scans = {scan.id: scan for scan in find_scans(tmp_path).scans}
    assert list(scans) == ["sub-01_ses-1", "sub-01_ses-2", "sub-02_run-1", "sub-03"]
    tool = "derivatives/tool/sub-01/ses-1/anat/sub-01_ses-1"
    first = scans["sub-01_ses-1"]
    assert relative(tmp_path, first.label_map) == f"{tool}_desc-aseg_dseg.nii.gz"
    assert relative(tmp_path, first.image) == f"{tool}_desc-preproc_T1w.nii.gz"
    assert scans["sub-03"].label_map is None


def test_bids_dseg_tsv_states_the_labels(tmp_path: Path, write: Write) -> None:
    write("sub-01/anat/sub-01_T1w.nii.gz", head())
    write("sub-01/anat/sub-01_dseg.nii.gz", labels())
    (tmp_path / "dseg.tsv").write_text("index\tname\n0\tnothing\n1\tleft\n2\tright\n")
    assert find_scans(tmp_path).labels.structures == ("nothing", "left", "right")
    (tmp_path / "dseg.tsv").write_text("number\tname\n1\tleft\n")
    with pytest.raises(DataError, match="'index'"):
        find_scans(tmp_path)
    for number, says in ((10**20, "must be 0 to 1048576"), (-5, "must be 0"), (0, "no label")):
        (tmp_path / "dseg.tsv").write_text(f"index\tname\n{number}\tleft\n")
        with pytest.raises(DataError, match=rf"dseg\.tsv: .*{says}"):
            find_scans(tmp_path)


def test_malc(tmp_path: Path, write: Write) -> None:
    for part, name in (("training", "1000_3"), ("testing", "1003_3")):
        write(f"{part}-images/{name}.nii.gz", head())
        write(f"{part}-labels/{name}_glm.nii.gz", labels((44, 45, 100)))
    cohort = find_scans(tmp_path)
    assert [(scan.id, scan.split) for scan in cohort.scans] == [
        ("1000_3", "train"),
        ("1003_3", "test"),
    ]
    assert cohort.labels is known_table("neuromorphometrics")
    assert not load_volumes(cohort.scans, cohort.labels, cache=tmp_path / "cache").bad


def test_freesurfer_subjects(tmp_path: Path, write: Write) -> None:
    for name in ("bert", "ernie", "fsaverage"):
        write(f"{name}/mri/orig.mgz", head())
        write(f"{name}/mri/aseg.mgz", labels(BRAIN).astype(np.uint8))
    write("bert/mri/T1.mgz", head())
    write("bert/mri/aparc+aseg.mgz", labels((2, 17, 1001)).astype(np.int32))
    cohort = find_scans(tmp_path)
    assert [
        (scan.image.name, scan.label_map and scan.label_map.name) for scan in cohort.scans
    ] == [
        ("T1.mgz", "aparc+aseg.mgz"),
        ("orig.mgz", "aseg.mgz"),
    ]
    loaded = load_volumes(cohort.scans, cohort.labels, cache=tmp_path / "cache")
    assert not loaded.bad
    assert set(np.unique(loaded.volumes[0].classes)) == {0, 1, 2, 14}


def test_manifest(tmp_path: Path, write: Write) -> None:
    write("data/a/T1.nii.gz", head())
    write("data/b/T1.nii.gz", head())
    write("data/a/seg.nii.gz", labels((1, 5)))
    path = tmp_path / "data" / "manifest.tsv"
    path.write_text(
        "image\tlabel\tsplit\tsite\tage\n"
        "a/T1.nii.gz\ta/seg.nii.gz\ttrain\tX\t3\n"
        "b/T1.nii.gz\t\ttest\tX\t4\n"
    )
    for root in (path, path.parent):
        cohort = find_scans(root)
        first, second = cohort.scans
        assert (first.id, first.site, first.split, first.covariates["age"]) == (
            "a_T1", "X", "train", "3",
        )  # fmt: skip
        assert (second.id, second.label_map) == ("b_T1", None)
        assert cohort.labels.structures == ("background", "label 1", "label 5")


@pytest.mark.parametrize("wrong", [np.nan, 0.5, -1])
def test_a_label_map_that_is_none_does_not_keep_the_others_from_being_looked_at(
    tmp_path: Path, write: Write, wrong: float
) -> None:
    for name in ("a", "b"):
        write(f"{name}.nii.gz", head())
    write("a_seg.nii.gz", np.where(labels() > 0, wrong, 0).astype(np.float32))
    path = tmp_path / "manifest.tsv"
    path.write_text("image\tlabel\na.nii.gz\ta_seg.nii.gz\n")
    says = r"no scan has a label map that can be read: .*a_seg\.nii\.gz: not a label map"
    with pytest.raises(DataError, match=says):
        find_scans(path)
    write("b_seg.nii.gz", labels())
    path.write_text(path.read_text() + "b.nii.gz\tb_seg.nii.gz\n")
    cohort = find_scans(path)
    assert cohort.labels.structures == ("background", "label 1", "label 2")
    (bad,) = load_volumes(cohort.scans, cohort.labels, cache=tmp_path / "cache").bad
    assert "a_seg.nii.gz: not a label map" in str(bad)


def test_label_maps_with_no_label_or_too_many_are_named(tmp_path: Path, write: Write) -> None:
    write("a.nii.gz", head())
    path = tmp_path / "manifest.tsv"
    path.write_text("image\tlabel\na.nii.gz\tseg.nii.gz\n")
    for ids in ((0,), range(1, 300)):
        write("seg.nii.gz", np.resize(np.array(ids, np.int16), (12, 14, 10)))
        with pytest.raises(DataError, match=r"manifest\.tsv: its label maps can't be used"):
            find_scans(path)


def test_two_scans_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.tsv").write_text("id\timage\na\tx.nii\na\ty.nii\n")
    with pytest.raises(DataError, match="two scans are called"):
        find_scans(tmp_path / "m.tsv")


def test_a_folder_of_something_else_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(DataError, match=r"looked for dataset\.json .*BIDS.*manifest") as caught:
        find_scans(tmp_path)
    assert "\n" not in str(caught.value)
    assert "bt predict" not in str(caught.value)
    (tmp_path / "T1.nii.gz").touch()
    with pytest.raises(DataError, match=r"no labels: bt predict alone takes such a folder$"):
        find_scans(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        find_scans(tmp_path / "nowhere")
    with pytest.raises(DataError, match="tsv manifest"):
        find_scans(tmp_path / "notes.txt")


def test_no_label_map_at_all(tmp_path: Path, write: Write) -> None:
    write("sub-01/anat/sub-01_T1w.nii.gz", head())
    with pytest.raises(DataError, match="no scan has a label map"):
        find_scans(tmp_path)


@pytest.mark.shared
def test_the_real_cohorts(shared: Path) -> None:
    hippocampi = find_scans(shared / "Task04_Hippocampus")
    assert (hippocampi.layout, len(hippocampi.scans)) == ("Decathlon", 200)
    assert hippocampi.labels.structures == ("background", "Anterior", "Posterior")
    brains = find_scans(shared / "brains-2mm")
    assert (brains.layout, len(brains.scans)) == ("BIDS", 16)
    assert brains.labels is known_table("freesurfer")
    assert float(brains.scans[0].covariates["ventricle_ml"]) == 42.6


@pytest.mark.parametrize("ending", ["**.nii", "/../*", 3, ["x"]])
def test_a_file_ending_that_is_no_ending_is_refused(tmp_path: Path, ending: object) -> None:
    stated = {"labels": {"background": 0, "x": 1}, "file_ending": ending}
    (tmp_path / "dataset.json").write_text(json.dumps(stated))
    with pytest.raises(DataError, match="file_ending"):
        find_scans(tmp_path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("image\tlabel\na.nii\tl.nii\n".encode("utf-16"), "save it as UTF-8"),
        (b"image\tlabel\n/\t/\n", "a scan needs a printable name"),
        (b"id\timage\n\x1b[2J\ta.nii\n", "a scan needs a printable name"),
        (b"id\timage\n../../b\ta.nii\n", "a scan needs a printable name without /"),
        (b"id\timage\n..\ta.nii\n", "a scan needs a printable name"),
        (b"id\timage\na\t\x1b]0;a.nii\n", "a path must be printable"),
        (b"image\tlabel\na.nii\t\x1b]0;l.nii\n", "a path must be printable"),
        (b"image\tlabel\na.nii\tl.nii\n", "l.nii: missing"),
    ],
)
def test_odd_manifests(tmp_path: Path, content: bytes, says: str) -> None:
    (tmp_path / "manifest.tsv").write_bytes(content)
    with pytest.raises(DataError, match=says) as caught:
        find_scans(tmp_path)
    assert caught.value.args[0].isprintable()
