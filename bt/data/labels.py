"""From the numbers of a label map to the classes of a network, and back.

The tables are data: `tables/*.tsv` list the numbers of FreeSurfer and of Neuromorphometrics with
the structure each belongs to, `tables/structures.tsv` the paper's 20 classes in order (section 3:
left and right merged, cortical parcels merged). Other data sets keep their labels as they are.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.generic]  # a label map: integers, or floats that hold integers
Classes = NDArray[np.uint8]

KNOWN_TABLES = ("freesurfer", "neuromorphometrics")
LARGEST_ID = 1 << 20  # a label map with larger numbers than this isn't one
ENOUGH_STRUCTURES = 5  # of a known table, to recognise it by the numbers alone


class LabelError(ValueError):
    """These numbers can't be read as structures; the message says why, in one line."""


@dataclass(frozen=True)
class LabelTable:
    """Which label numbers belong to which class.

    `structures[c]` names class c; class 0 is the background. `ranges` holds (first number, last
    number, class), both ends included. The first range of a class names the number that stands
    for it when a segmentation is written. Numbers in no range are background.
    """

    name: str
    structures: tuple[str, ...]
    ranges: tuple[tuple[int, int, int], ...]

    def __post_init__(self) -> None:
        for name in self.structures:
            if not name.isprintable():
                raise LabelError(f"label table {self.name!a}: structure {name!a} can't be printed")
        if not 2 <= len(self.structures) <= 256:
            raise LabelError(
                f"label table {self.name}: {len(self.structures)} classes, expected 2 to 256"
            )
        for first, last, structure in self.ranges:
            if not 0 <= first <= last <= LARGEST_ID or not 0 <= structure < self.classes:
                raise LabelError(
                    f"label table {self.name}: no such range of labels {first} to {last}, "
                    f"class {structure}"
                )
        if sum(last - first + 1 for first, last, _ in self.ranges) > LARGEST_ID + 1:
            raise LabelError(f"label table {self.name}: its ranges overlap")
        missing = set(range(len(self.structures))) - {c for _, _, c in self.ranges} - {0}
        if missing:
            names = ", ".join(self.structures[c] for c in sorted(missing))
            raise LabelError(f"label table {self.name}: no label number for {names}")

    @property
    def classes(self) -> int:
        """How many classes, background included."""
        return len(self.structures)

    @cached_property
    def _class_of(self) -> NDArray[np.int16]:
        """Class of every number from 0 up, -1 where the table doesn't know the number.

        The last entry is -1 and stands for all numbers from there on.
        """
        lookup = np.full(max(last for _, last, _ in self.ranges) + 2, -1, np.int16)
        for first, last, structure in self.ranges:
            lookup[first : last + 1] = structure
        lookup[0] = 0
        return lookup

    def to_classes(self, labels: Labels) -> Classes:
        """Class of every voxel, same shape, uint8. Unknown numbers become background.

        Raises LabelError where `labels` doesn't hold whole, non-negative, sensible numbers.
        """
        lookup: Classes = np.maximum(self._class_of, 0).astype(np.uint8)
        return lookup.take(whole_numbers(labels), mode="clip")

    def unknown_ids(self, labels: Labels) -> tuple[int, ...]:
        """The numbers in `labels` that the table doesn't know, ascending. Raises LabelError."""
        numbers = whole_numbers(labels)
        unknown = numbers[(self._class_of < 0).take(numbers, mode="clip")]
        return tuple(int(i) for i in np.unique(unknown))

    def knows(self, ids: Iterable[int]) -> float:
        """Share of the numbers `ids` the table knows, background aside. Raises LabelError."""
        wanted = np.array(sorted(_sensible(ids) - {0}), np.int64)
        return 1 - len(self.unknown_ids(wanted)) / max(len(wanted), 1)

    @property
    def numbers(self) -> NDArray[np.int32]:
        """The label number that stands for each class, (classes,)."""
        representative = np.zeros(self.classes, np.int32)
        for first, _, structure in reversed(self.ranges):
            representative[structure] = first
        representative[0] = 0
        return representative

    def to_labels(self, classes: Classes) -> NDArray[np.int32]:
        """The label number that stands for each class, same shape, for writing a segmentation."""
        return self.numbers[classes]

    def as_json(self) -> dict[str, Any]:
        """For a model's metadata; `from_json` reads it."""
        return {
            "name": self.name,
            "structures": list(self.structures),
            "ranges": [list(r) for r in self.ranges],
        }

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> LabelTable:
        """Raises LabelError where `stored` isn't what `as_json` gave."""
        try:
            return LabelTable(
                _exactly(str, stored["name"]),
                tuple(_exactly(str, s) for s in _exactly(list, stored["structures"])),
                tuple(
                    (_exactly(int, first), _exactly(int, last), _exactly(int, c))
                    for first, last, c in _exactly(list, stored["ranges"])
                ),
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise LabelError(f"not a label table: {exc}") from exc


@cache
def known_table(name: str) -> LabelTable:
    """The shipped table `name`, one of KNOWN_TABLES, to the paper's 20 classes."""
    if name not in KNOWN_TABLES:
        raise LabelError(f"no label table {name!r}, there are: {', '.join(KNOWN_TABLES)}")
    structures = tuple(row["structure"] for row in table_rows("structures"))
    class_of = {structure: number for number, structure in enumerate(structures)}
    ranges = tuple(
        (int(row["first"]), int(row["last"]), class_of[row["structure"]])
        for row in table_rows(name)
    )
    return LabelTable(name, structures, ranges)


def table_of_names(name: str, names: Mapping[int, str]) -> LabelTable:
    """Labels as they are: one class per number in `names`, in ascending order.

    Raises LabelError where there is none beside the background, or one out of range.
    """
    numbers = sorted(_sensible(names) - {0})
    if not numbers:
        raise LabelError(f"{name}: no label beside the background")
    structures = (names.get(0, "background"), *(names[i] for i in numbers))
    return LabelTable(name, structures, tuple((i, i, c) for c, i in enumerate(numbers, 1)))


def recognise(ids: Iterable[int]) -> LabelTable | None:
    """The shipped table that these label numbers speak, or None. Raises LabelError."""
    ids = _sensible(ids)
    tables = [known_table(name) for name in KNOWN_TABLES]
    best = max(tables, key=lambda table: table.knows(ids))
    found = np.unique(best.to_classes(np.array(sorted(ids), np.int64)))
    enough = np.count_nonzero(found) >= ENOUGH_STRUCTURES
    return best if enough and best.knows(ids) >= 0.9 else None


def ids_in(labels: Labels) -> tuple[int, ...]:
    """The label numbers that occur, ascending. Raises LabelError like `to_classes`."""
    counts = np.bincount(whole_numbers(labels).ravel())
    return tuple(int(i) for i in np.flatnonzero(counts))


def whole_numbers(labels: Labels) -> NDArray[np.integer[Any]]:
    """`labels` as integers; floats that hold integers are fine.

    Raises LabelError for fractions, NaN, negative and absurdly large numbers.
    """
    if labels.dtype.kind not in "biuf":
        raise LabelError(f"not a label map: its numbers are {labels.dtype}")
    smallest, largest = (labels.min(), labels.max()) if labels.size else (0, 0)
    if not 0 <= smallest <= largest <= LARGEST_ID:  # NaN fails too
        raise LabelError(
            f"not a label map: it holds numbers from {smallest} to {largest}, "
            f"expected 0 to {LARGEST_ID}"
        )
    whole: NDArray[np.integer[Any]] = np.asarray(labels)
    if labels.dtype.kind == "f":
        whole = np.rint(labels).astype(np.int32)
        if not np.allclose(whole, labels, rtol=0, atol=1e-3):
            raise LabelError("not a label map: it holds fractions")
    return whole.astype(np.uint8) if labels.dtype.kind == "b" else whole


def _sensible(ids: Iterable[int]) -> set[int]:
    """The different numbers in `ids`. Raises LabelError: a file may state any number."""
    found = set(ids)
    if found and not 0 <= min(found) <= max(found) <= LARGEST_ID:
        raise LabelError(f"label numbers must be 0 to {LARGEST_ID}")
    return found


def _exactly(kind: type[Any], value: Any) -> Any:
    """`value` if it is of this very type: JSON has true, 1e400 and NaN for numbers, too."""
    if type(value) is not kind:
        raise TypeError(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def table_rows(table: str) -> list[dict[str, str]]:
    """The rows of a shipped table, as text by column."""
    text = (files("bt.data") / "tables" / f"{table}.tsv").read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines(), delimiter="\t"))
