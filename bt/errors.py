"""Which errors are the user's to mend: they become one clear line instead of a traceback."""

from __future__ import annotations

from bt.config import ConfigError
from bt.data.checks import ScanError
from bt.data.labels import LabelError
from bt.data.scan import DataError
from bt.modelfile import BadModelFile
from bt.outcome import Diverged
from bt.precision import NoSuchDevice, ran_out_of_memory
from bt.report.study import ReportError
from bt.rundir import RunFolderError
from bt.trainer import NothingToTrainOn, TooLargeToTrain
from bt.watching.folder import NothingToWatch
from bt.weights import UnsupportedTensor
from bt.wording import line_of, printable
from launchers.base import LaunchError
from transports.base import TransportError

USER_ERRORS = (
    BadModelFile,
    ConfigError,
    DataError,
    Diverged,
    LabelError,
    LaunchError,
    NothingToWatch,
    NoSuchDevice,
    NothingToTrainOn,
    OSError,  # a full disk, a missing permission, a file that is not there
    ReportError,
    RunFolderError,
    ScanError,
    TooLargeToTrain,
    TransportError,
    UnsupportedTensor,
)


def in_one_line(exc: BaseException) -> str | None:
    """What to tell whose error this is; None if it is ours."""
    if isinstance(exc, USER_ERRORS):
        return line_of(exc)
    if isinstance(exc, Exception) and ran_out_of_memory(exc):
        return (
            "there is not enough memory: end other programs, or lower --batch-size, --crop or "
            f"--filters ({printable(str(exc).partition(chr(10))[0]) or type(exc).__name__})"
        )
    return None
