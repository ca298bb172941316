from __future__ import annotations

import numpy as np
import pytest

from bt.data.labels import (
    KNOWN_TABLES,
    LARGEST_ID,
    LabelError,
    LabelTable,
    ids_in,
    known_table,
    recognise,
    table_of_names,
)

FREESURFER = {
    2: "cerebral white matter", 41: "cerebral white matter", 251: "cerebral white matter",
    3: "cerebral cortex", 1035: "cerebral cortex", 2001: "cerebral cortex",
    4: "lateral ventricle", 44: "inferior lateral ventricle", 136: "lateral ventricle",
    7: "cerebellar white matter", 47: "cerebellar cortex", 49: "thalamus", 11: "caudate",
    51: "putamen", 13: "pallidum", 14: "3rd ventricle", 15: "4th ventricle", 16: "brain stem",
    53: "hippocampus", 18: "amygdala", 24: "CSF", 26: "accumbens", 60: "ventral DC",
    85: "optic chiasm", 30: "background", 0: "background",
}  # fmt: skip
NEUROMORPHOMETRICS = {
    45: "cerebral white matter", 100: "cerebral cortex", 207: "cerebral cortex",
    52: "lateral ventricle", 49: "inferior lateral ventricle", 41: "cerebellar white matter",
    38: "cerebellar cortex", 73: "cerebellar cortex", 59: "thalamus", 36: "caudate",
    58: "putamen", 55: "pallidum", 4: "3rd ventricle", 11: "4th ventricle", 35: "brain stem",
    48: "hippocampus", 31: "amygdala", 46: "CSF", 23: "accumbens", 62: "ventral DC",
    69: "optic chiasm", 63: "background",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "expected"),
    [("freesurfer", FREESURFER), ("neuromorphometrics", NEUROMORPHOMETRICS)],
)
def test_shipped_tables_give_the_papers_structures(name: str, expected: dict[int, str]) -> None:
    table = known_table(name)
    assert table.classes == 20
    classes = table.to_classes(np.array(list(expected)))
    assert [table.structures[c] for c in classes] == list(expected.values())
    assert table.unknown_ids(np.array(list(expected))) == ()


@pytest.mark.parametrize("name", KNOWN_TABLES)
def test_what_is_written_reads_back_as_the_same_class(name: str) -> None:
    table = known_table(name)
    classes = np.arange(20, dtype=np.uint8)
    assert (table.to_classes(table.to_labels(classes)) == classes).all()


def test_a_segmentation_is_written_with_the_left_structures_numbers() -> None:
    assert known_table("freesurfer").to_labels(np.array([1, 2, 14], np.uint8)).tolist() == [
        2,
        3,
        17,
    ]


def test_unknown_numbers_are_background_and_named() -> None:
    table = known_table("freesurfer")
    found = np.array([[17, 999], [500_000, 255]], np.int32)
    assert table.to_classes(found).tolist() == [[14, 0], [0, 1]]
    assert table.unknown_ids(found) == (999, 500_000)


@pytest.mark.parametrize("kind", [np.uint8, np.int8, np.int16, np.uint16, np.int64, np.float64])
def test_every_way_to_store_a_label_map(kind: type[np.generic]) -> None:
    found = known_table("freesurfer").to_classes(np.array([0, 2, 17], kind))
    assert found.dtype == np.uint8
    assert found.tolist() == [0, 1, 14]


@pytest.mark.parametrize(
    "bad",
    [
        np.array([0.5, 1.0]),
        np.array([np.nan]),
        np.array([-1]),
        np.array([1 << 40]),
        np.array([1j]),
    ],
)
def test_what_is_no_label_map_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(LabelError, match="not a label map"):
        known_table("freesurfer").to_classes(bad)


def test_labels_as_they_are_may_have_gaps() -> None:
    table = table_of_names("x", {0: "background", 7: "tumour", 3: "oedema"})
    assert table.structures == ("background", "oedema", "tumour")
    assert table.to_classes(np.array([0, 3, 7, 5])).tolist() == [0, 1, 2, 0]
    assert table.to_labels(np.array([0, 1, 2], np.uint8)).tolist() == [0, 3, 7]


def test_tables_are_recognised_by_their_numbers() -> None:
    assert recognise([0, 2, 3, 4, 10, 17, 41, 42, 53, 1001]) is known_table("freesurfer")
    ours = [0, 4, 11, 23, 30, 44, 45, 47, 48, 100, 207]
    assert recognise(ours) is known_table("neuromorphometrics")
    assert recognise([0, 1, 2]) is None
    assert recognise([0]) is None


def test_tables_survive_json_and_forged_ones_are_refused() -> None:
    table = known_table("freesurfer")
    stored = table.as_json()
    assert LabelTable.from_json(stored) == table
    for forged in (
        {},
        {**stored, "ranges": [[0, 1 << 40, 1]]},
        {**stored, "ranges": [[1, 2, 99]]},
        {**stored, "ranges": 3},
        {**stored, "structures": ["background"]},
        {**stored, "structures": "ab", "ranges": [[1, 1, 1]]},
        {**stored, "structures": ["background", None], "ranges": [[1, 1, 1]]},
        {**stored, "name": {"a": 1}},
        {**stored, "ranges": [[0, float("inf"), 1]]},
        {**stored, "ranges": [[0, float("nan"), 1]]},
        {**stored, "ranges": [[0, 1.5, 1]]},
        {**stored, "ranges": [[True, True, 1]]},
        {**stored, "ranges": [[[0], {}, 1]]},
        {**stored, "ranges": {"0": 1}},
        {**stored, "ranges": [[0, LARGEST_ID, 1]] * 1000},  # would take minutes to fill in
    ):
        with pytest.raises(LabelError):
            LabelTable.from_json(forged)


@pytest.mark.parametrize("number", [10**20, LARGEST_ID + 1, -1])
def test_numbers_that_no_label_map_has_are_refused(number: int) -> None:
    for use in (recognise, known_table("freesurfer").knows):
        with pytest.raises(LabelError, match=f"must be 0 to {LARGEST_ID}"):
            use([0, 2, number])
    with pytest.raises(LabelError, match=f"must be 0 to {LARGEST_ID}"):
        table_of_names("x", {number: "y"})


def test_ids_in() -> None:
    assert ids_in(np.array([[5, 0], [5, 2]], np.int16)) == (0, 2, 5)
