"""One scan of a cohort: where it is and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class DataError(Exception):
    """The data can't be used as asked; the message says why, in one line."""


@dataclass(frozen=True)
class Scan:
    """Files of one scan. `split` and `site` only where the data set states them."""

    id: str
    image: Path
    label_map: Path | None = None
    site: str | None = None
    split: str | None = None
    covariates: Mapping[str, str] = field(default_factory=dict, hash=False)


def strip_nifti(name: str) -> str:
    """A file's name without its image ending: `a.nii.gz`, `a.nii` and `a.mgz` give `a`."""
    for ending in (".nii.gz", ".nii", ".mgz", ".mgh"):
        if name.lower().endswith(ending):
            return name[: -len(ending)]
    return name
