"""bt predict: segmentations lie on their scan's own grid; folders, BIDS trees, several views."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from bt import inference, predicting
from bt.cli import app
from bt.data.checks import ScanError
from bt.data.scan import DataError
from bt.data.volumes import prepare
from bt.evaluation import segment, segment_views
from bt.predicting import Job
from tests.conftest import AFFINE, STRUCTURES, write_cohort
from tests.test_inference import FACTORY, LABELS, model_file, write_thresholds

model = model_file
LIA = np.array([[-1.0, 0, 0, 9], [0, 0, 1.5, -7], [0, -2, 0, 30], [0, 0, 0, 1]])


def predict(model: Path, scan: Path, out: Path) -> dict[str, float]:
    loaded = inference.load_model(model, FACTORY)
    return predicting.predict([loaded], Job(scan.name, scan, out)).ml


@pytest.mark.parametrize("affine", [AFFINE, LIA], ids=["LAS", "LIA"])
def test_a_segmentation_lies_on_its_scan(
    cohort: Path, tmp_path: Path, model: Path, affine: np.ndarray
) -> None:
    image = nib.load(cohort / "imagesTr" / "blob_0.nii.gz").get_fdata(dtype=np.float32)
    truth = np.asarray(nib.load(cohort / "labelsTr" / "blob_0.nii.gz").dataobj)
    stored = nib.Nifti1Image(image, affine)
    stored.set_sform(affine, code=1)
    stored.set_qform(affine, code=3)
    scan, out = tmp_path / "T1.nii.gz", tmp_path / "new" / "seg.nii.gz"
    nib.save(stored, scan)
    volumes = predict(model, scan, out)
    found = nib.load(out)
    np.testing.assert_array_equal(found.affine, nib.load(scan).affine)
    assert int(found.header["sform_code"]) == 1
    assert int(found.header["qform_code"]) == 3
    labels = np.asarray(found.dataobj)
    assert labels.shape == truth.shape
    assert (labels == truth).mean() > 0.99
    voxel_ml = abs(np.linalg.det(affine[:3, :3])) / 1000
    assert volumes == pytest.approx(
        {name: (labels == c).sum() * voxel_ml for c, name in enumerate(STRUCTURES, start=1)}
    )
    assert list(out.parent.iterdir()) == [out], "a temporary file is left"


def test_resampling_inside_does_not_show_outside(cohort: Path, tmp_path: Path) -> None:
    scan = cohort / "imagesTr" / "blob_1.nii.gz"
    model = write_thresholds(
        tmp_path / "model.safetensors", scan, cohort / "labelsTr" / scan.name, spacing_mm=2.0
    )
    predict(model, scan, tmp_path / "seg.nii")
    found, source = nib.load(tmp_path / "seg.nii"), nib.load(scan)
    assert found.shape == source.shape
    np.testing.assert_array_equal(found.affine, source.affine)
    truth = np.asarray(nib.load(cohort / "labelsTr" / scan.name).dataobj)
    assert (np.asarray(found.dataobj) == truth).mean() > 0.9


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")]
)
def test_a_scan_too_large_for_the_memory_is_named(
    cohort: Path, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*args: object) -> None:
        raise error

    monkeypatch.setattr(predicting, "segment", fail)
    with pytest.raises(ScanError, match=r"blob_0\.nii\.gz: too large for this machine's memory"):
        predict(model, cohort / "imagesTr" / "blob_0.nii.gz", tmp_path / "seg.nii.gz")
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("name", ["seg.nii.gz", "seg.nii"])
def test_a_link_laid_out_for_the_segmentation_is_not_followed(
    cohort: Path, tmp_path: Path, model: Path, name: str
) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".partial-{name}").symlink_to(tmp_path / "precious")
    scan = cohort / "imagesTr" / "blob_0.nii.gz"
    predict(model, scan, tmp_path / name)
    assert (tmp_path / "precious").read_text() == "precious"
    assert nib.load(tmp_path / name).shape == nib.load(scan).shape


def test_a_folder_gives_a_folder(cohort: Path, tmp_path: Path, model: Path) -> None:
    scans, out = tmp_path / "scans", tmp_path / "out"
    scans.mkdir()
    for number in range(2):
        (scans / f"blob_{number}.nii.gz").symlink_to(cohort / "imagesTr" / f"blob_{number}.nii.gz")
    (scans / "broken.nii").write_bytes(b"nothing")
    (scans / "notes.txt").write_text("not a scan")
    jobs = predicting.jobs_of(scans, out)
    seen: list[str] = []
    loaded = [inference.load_model(model, FACTORY)]
    found, bad = predicting.predict_all(
        loaded, jobs, pictures=True, done=lambda job: seen.append(job.name)
    )
    assert seen == ["blob_0", "blob_1", "broken"]
    assert [one.id for one in bad] == ["broken"]
    predicting.write_volumes(out / "volumes.tsv", found)
    predicting.write_tables(out, loaded[0])
    names = ["blob_0_dseg.nii.gz", "blob_0_dseg.png", "blob_1_dseg.nii.gz", "blob_1_dseg.png"]
    tables = ["dataset_description.json", "dseg.tsv", "lookup.txt", "volumes.tsv"]
    assert sorted(path.name for path in out.iterdir()) == sorted(names + tables)
    assert (out / "blob_0_dseg.png").read_bytes().startswith(b"\x89PNG")
    with (out / "volumes.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    labels = np.asarray(nib.load(out / "blob_1_dseg.nii.gz").dataobj)
    voxel_ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert float(rows[1][f"{STRUCTURES[0]} (ml)"]) == pytest.approx(
        (labels == 1).sum() * voxel_ml, abs=1e-4
    )


def test_segmentations_are_no_scans(cohort: Path, tmp_path: Path, model: Path) -> None:
    folder = tmp_path / "flat"
    folder.mkdir()
    (folder / "blob_0.nii.gz").symlink_to(cohort / "imagesTr" / "blob_0.nii.gz")
    argv = ["predict", str(model), str(folder), "-o", str(folder), "--model", FACTORY]
    assert CliRunner().invoke(app, argv).exit_code == 0
    there = sorted(folder.iterdir())
    volumes = (folder / "volumes.tsv").read_bytes()
    assert CliRunner().invoke(app, argv).exit_code == 0
    assert sorted(folder.iterdir()) == there
    assert (folder / "volumes.tsv").read_bytes() == volumes
    (folder / "blob_0.nii.gz").unlink()
    with pytest.raises(DataError, match=r"flat: no scans, only segmentations \(\*_dseg\): name"):
        predicting.jobs_of(folder, tmp_path)


def test_segmentations_beside_a_data_set_hide_nothing(tmp_path: Path) -> None:
    folder = write_cohort(tmp_path / "blobs", range(1))
    (folder / "blob_0_dseg.nii.gz").touch()
    assert [job.name for job in predicting.jobs_of(folder, folder)] == ["blob_0"]


def test_after_an_interruption_the_table_has_all_volumes(
    cohort: Path, tmp_path: Path, model: Path
) -> None:
    out, images = tmp_path / "out", cohort / "imagesTr"
    all_at_once = CliRunner().invoke(app, argv := ["predict", *map(str, (model, images)),
        "-o", str(out), "--model", FACTORY])  # fmt: skip
    assert all_at_once.exit_code == 0, all_at_once.output
    whole = (out / "volumes.tsv").read_bytes()
    (out / "volumes.tsv").unlink()
    (out / "blob_3_dseg.nii.gz").unlink()
    before = (out / "blob_2_dseg.nii.gz").stat().st_ino
    assert CliRunner().invoke(app, [*argv, "--missing"]).exit_code == 0
    assert (out / "volumes.tsv").read_bytes() == whole
    assert (out / "blob_2_dseg.nii.gz").stat().st_ino == before, "segmented again"
    (out / "blob_2_dseg.nii.gz").write_bytes(b"torn")
    again = CliRunner().invoke(app, [*argv, "--missing"])
    assert "blob_2: " in again.output
    assert "1 of 7 scans could not be segmented" in str(again.exception)


def test_a_bids_tree_gives_derivatives_of_its_shape(
    cohort: Path, tmp_path: Path, model: Path
) -> None:
    for name in ("sub-1/anat/sub-1_T1w", "sub-2/ses-a/anat/sub-2_ses-a_run-1_T1w"):
        path = tmp_path / "bids" / f"{name}.nii.gz"
        path.parent.mkdir(parents=True)
        path.symlink_to(cohort / "imagesTr" / "blob_0.nii.gz")
    out = tmp_path / "derivatives"
    jobs = predicting.jobs_of(tmp_path / "bids", out)
    assert [job.out.relative_to(out).as_posix() for job in jobs] == [
        "sub-1/anat/sub-1_dseg.nii.gz",
        "sub-2/ses-a/anat/sub-2_ses-a_run-1_dseg.nii.gz",
    ]
    loaded = inference.load_model(model, FACTORY)
    predicting.predict_all([loaded], jobs)
    predicting.write_tables(out, loaded)
    assert all(job.out.is_file() for job in jobs)
    assert (
        json.loads((out / "dataset_description.json").read_text())["DatasetType"] == "derivative"
    )


def test_other_layouts_are_found_by_their_scans(cohort: Path, tmp_path: Path) -> None:
    jobs = predicting.jobs_of(cohort, tmp_path)
    assert jobs[0] == Job(
        "blob_0", cohort / "imagesTr" / "blob_0.nii.gz", tmp_path / "blob_0_dseg.nii.gz"
    )


def test_what_has_no_place_to_go_is_refused(cohort: Path, tmp_path: Path, model: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder"):
        predicting.jobs_of(tmp_path / "nothing", tmp_path)
    with pytest.raises(DataError, match="is a folder: name a folder to write into"):
        predicting.jobs_of(cohort, tmp_path / "seg.nii.gz")
    for name in ("one.nii", "one.nii.gz"):
        (tmp_path / name).touch()
    with pytest.raises(DataError, match="two scans have the same name"):
        predicting.jobs_of(tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="is the scan itself"):
        predict(model, tmp_path / "one.nii", tmp_path / "one.nii")


def test_views_answer_together(cohort: Path, tmp_path: Path, model: Path) -> None:
    """Thresholds see no neighbours: in every view alone, and in all together, the same."""
    scan, truth = (cohort / part / "blob_0.nii.gz" for part in ("imagesTr", "labelsTr"))
    files = {
        view: write_thresholds(tmp_path / f"{view}.safetensors", scan, truth, view=view)
        for view in ("coronal", "axial", "sagittal")
    }
    models = [inference.load_model(path, FACTORY) for path in files.values()]
    predicting.check_views(models)
    alone = predicting.predict(models[:1], Job("s", scan, tmp_path / "alone.nii"))
    together = predicting.predict(models, Job("s", scan, tmp_path / "together.nii"))
    assert together.ml == alone.ml
    with pytest.raises(DataError, match="two of these models see coronal"):
        predicting.check_views([models[0], models[0]])
    with pytest.raises(DataError, match="different voxel sizes"):
        predicting.check_views([models[0], replace(models[1], spacing_mm=2.0)])


def test_the_surer_view_decides(cohort: Path) -> None:
    volume = prepare(predicting.Scan("s", cohort / "imagesTr" / "blob_0.nii.gz"))

    def always(answer: int, by: float) -> torch.nn.Module:
        network = torch.nn.Conv2d(1, 3, 1)
        torch.nn.init.zeros_(network.weight)
        assert network.bias is not None
        with torch.no_grad():
            network.bias.zero_()[answer] = by
        return network

    sure, unsure = always(1, 5.0), always(2, 0.5)
    inside = volume.image > 0
    for views in (("coronal", "axial"), ("axial", "coronal")):
        found = segment_views([(sure, views[0]), (unsure, views[1])], volume)
        assert set(np.unique(found[inside])) == {1}
    assert set(np.unique(segment(unsure, volume, "axial")[inside])) == {2}
    # 62 % from the side weigh less than 58 % from below
    found = segment_views([(always(1, 1.2), "sagittal"), (always(2, 1.0), "axial")], volume)
    assert set(np.unique(found[inside])) == {2}


def test_viewers_learn_names_and_colours(tmp_path: Path, model: Path) -> None:
    predicting.write_tables(tmp_path, inference.load_model(model, FACTORY))
    with (tmp_path / "dseg.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [(int(row["index"]), row["name"]) for row in rows] == [
        (int(number), name)
        for number, name in zip(LABELS.numbers[1:], LABELS.structures[1:], strict=True)
    ]
    for line, row in zip(
        (tmp_path / "lookup.txt").read_text().splitlines()[2:], rows, strict=True
    ):
        number, name, *channels, alpha = line.split()
        assert (number, name, alpha) == (row["index"], "-".join(row["name"].split()), "0")
        assert "#" + "".join(f"{int(c):02x}" for c in channels) == row["color"].lower()
