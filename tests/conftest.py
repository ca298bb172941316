"""What tests of several packages share: a cache of their own and a tiny cohort on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import hypothesis
import nibabel as nib
import numpy as np
import pytest

# A busy machine is no failure. In CI, what is tried is the same each time: elsewhere, find more.
hypothesis.settings.register_profile(
    "patient", deadline=None, derandomize=bool(os.environ.get("CI"))
)
hypothesis.settings.load_profile("patient")

# Several tests at a time share the processors, and each of them may start several peers.
os.environ.setdefault("OMP_NUM_THREADS", "1")

SHAPE = (16, 20, 16)
AFFINE = np.diag([-1.0, 1.0, 1.5, 1.0])  # left-handed and not isotropic, as scans are
STRUCTURES = ("blob", "core [bright]")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BT_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven scans of 16x20x16 voxels in the Decathlon layout, a bright blob with a core."""
    return write_cohort(tmp_path_factory.mktemp("scans") / "blobs", range(7))


def write_cohort(folder: Path, numbers: Iterable[int]) -> Path:
    """Scan n is the same in every cohort that has it."""
    pairs = []
    for number in numbers:
        random = np.random.default_rng(number)
        centre = np.array(SHAPE) / 2 + random.uniform(-1, 1, 3)
        distance = np.linalg.norm(np.indices(SHAPE).T - centre, axis=-1).T
        classes = (distance < 6).astype(np.int16) + (distance < 3)
        image = 100 * classes + random.normal(200, 10, SHAPE)
        pair = {}
        for key, kind, data in (
            ("image", "imagesTr", image.astype(np.float32)),
            ("label", "labelsTr", classes),
        ):
            path = folder / kind / f"blob_{number}.nii.gz"
            path.parent.mkdir(parents=True, exist_ok=True)
            nib.save(nib.Nifti1Image(data, AFFINE), path)
            pair[key] = f"./{kind}/{path.name}"
        pairs.append(pair)
    labels = {"0": "background", **{str(i): s for i, s in enumerate(STRUCTURES, start=1)}}
    content = {"name": "blobs", "labels": labels, "training": pairs}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def renumber(folder: Path, old: int, new: int) -> None:
    """Another label number in every label map of a cohort."""
    for path in (folder / "labelsTr").iterdir():
        stored = nib.load(path)
        numbers = np.asarray(stored.dataobj).copy()
        numbers[numbers == old] = new
        nib.save(nib.Nifti1Image(numbers, stored.affine), path)
