"""Checkpoints written beside the loop, and written again where the disk did not take them.

A full or failing disk ends no peer: its last checkpoint stays what it was, the others go on
getting the model that is in it, and the new one waits in memory until it can be saved.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress

from bt.checkpoint import Checkpoint, CheckpointFile
from bt.eventlog import Log

AGAIN_S = 5.0  # after a failure


class Saver:
    """One state at a time; `pending` until it is on disk.

    That one can't be saved goes to the log, once, or to `tell` where the log can't be written.
    """

    def __init__(
        self,
        file: CheckpointFile,
        clock: Callable[[], float],
        log: Log,
        tell: Callable[[str], None],
    ) -> None:
        self._file = file
        self._clock = clock
        self._log = log
        self._tell = tell
        self._state: Checkpoint | None = None  # not on disk yet
        self._told: Checkpoint | None = None
        self._job: Future[float] | None = None
        self.again_at: float | None = None  # when to try once more

    @property
    def pending(self) -> bool:
        """Whether a state is not on disk yet."""
        return self._state is not None

    def save(self, state: Checkpoint, pool: Executor) -> None:
        """Write `state` in another thread, in place of any that waits."""
        if self._job is not None:
            with suppress(OSError):
                self._job.result()  # an older state must not be written after this one
        self._state, self.again_at = state, None
        self._job = pool.submit(self._write, state)

    def done(self, pool: Executor) -> float | None:
        """The seconds it took, once it is on disk. Where that fails it is tried again."""
        if self._state is not None and self.again_at is not None:
            if self._clock() >= self.again_at:
                self.save(self._state, pool)
        if self._state is None or self._job is None or not self._job.done():
            return None
        job, self._job = self._job, None
        try:
            seconds = job.result()
        except OSError as exc:
            self.again_at = self._clock() + AGAIN_S
            if self._told is not self._state:
                self._told = self._state
                self._say(str(self._state.version), str(exc))
            return None
        self._state = None
        return seconds

    def finish(self) -> None:
        """The end: what is being written gets done, what waits is tried once more.

        Raises OSError.
        """
        if self._job is not None:
            self._job.result()
        elif self._state is not None:
            self._file.save(self._state)
        self._state = self._job = None

    def _say(self, version: str, reason: str) -> None:
        if not self._log.write("unsaved", version=version, reason=reason):
            self._tell(f"can't save version {version}, tries again: {reason}")

    def _write(self, state: Checkpoint) -> float:
        started = self._clock()
        self._file.save(state)
        return round(self._clock() - started, 4)
