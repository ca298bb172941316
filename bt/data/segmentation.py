"""Write what a network found as a file any viewer lays over the scan it was given."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from bt.data.labels import LabelTable
from bt.data.scan import DataError
from bt.data.volumes import Classes, Volume, to_scan_grid

SCANNER = 1  # NIfTI's code for coordinates of the scanner


def write_segmentation(
    path: Path, classes: Classes, volume: Volume, labels: LabelTable
) -> Classes:
    """Write the classes (X, Y, Z) of a volume as NIfTI in the scan's own geometry.

    The voxels hold the label numbers of `labels`: one number per structure, the left one where
    the table tells left from right. Returns the classes as written, (I, J, K). Raises DataError
    where `path` isn't a NIfTI name or can't be written.
    """
    if not path.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{path}: a segmentation is written as .nii.gz or .nii")
    on_scan = to_scan_grid(classes, volume)
    numbers = labels.to_labels(on_scan)
    numbers = numbers.astype(np.uint8 if numbers.max() < 256 else np.int16)
    image = nib.Nifti1Image(numbers, volume.stored.affine)  # type: ignore[no-untyped-call]
    image.header["xyzt_units"] = 2  # mm
    image.set_sform(volume.stored.affine, SCANNER)  # type: ignore[no-untyped-call]
    image.set_qform(volume.stored.affine, SCANNER)  # type: ignore[no-untyped-call]
    partial = path.with_name(f".{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(image, partial)
        partial.replace(path)
    except OSError as exc:
        raise DataError(f"{path}: can't be written: {exc.strerror or exc}") from exc
    return on_scan
