"""Peers as the ranks of an MPI job: point-to-point, never blocking, one thread.

A message is an envelope (how many bytes each frame has, and the small frames themselves) and
then the big frames in pieces, all with one tag: MPI keeps the order of what one rank sends
another. Everything goes out with Isend and comes in with Improbe and Irecv of what that matched,
so two peers may send each other big models at once. Waiting means sleeping: a blocking receive
would take a core from training. The job is the trust boundary: only its ranks can send.
"""

from __future__ import annotations

import ctypes
import os
import struct
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from transports.base import Frame, PeerGone, Received, TransportError, flat, valid_name
from transports.malloc import keep_freed_memory

if TYPE_CHECKING:
    from mpi4py import MPI

# How long to sleep between two looks: what has just come is often followed by more.
POLL_S, LONG_POLL_S = 4e-3, 1e-2  # idle, for a moment or for a second: below 2 % of a core
BUSY_POLL_S = 5e-5  # for BUSY_S after a message, and while one is on its way
BUSY_S = 0.02
SPIN_S = 5e-4  # after a message: only let others run, a sleep takes longer than the next one
LOOKS = 12  # at a time: Open MPI sees some of what has come only at every eighth or so
INLINE_BYTES = 2048  # of small frames in an envelope: below every MPI's eager limit
PIECE_BYTES = 1 << 26  # MPI counts in 32 bits; the larger the faster

_TAG = 1
_LEAVES = -1  # instead of a number of frames
_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS")
Bytes = np.ndarray[tuple[int], np.dtype[np.uint8]]


def launched_size(environ: Mapping[str, str] = os.environ) -> int | None:
    """How many ranks mpirun or srun says it started; None if neither started this process."""
    for name in _LAUNCHERS:
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return None


def check_launch(size: int, environ: Mapping[str, str] = os.environ) -> None:
    """Raise TransportError if the launcher started several ranks but MPI sees only this one."""
    launched = launched_size(environ)
    if size == 1 and launched is not None and launched > 1:
        raise TransportError(
            f"the launcher started {launched} ranks, but MPI says 1: mpirun and mpi4py belong to "
            "different MPI installations, use the mpirun that came with this environment's MPI"
        )


def world() -> MPI.Intracomm:
    """MPI.COMM_WORLD, checked. Raises TransportError if MPI is missing or wrongly launched."""
    try:
        import mpi4py

        mpi4py.rc.thread_level = "serialized"  # one thread at a time, whichever it is
        from mpi4py import MPI
    except (ImportError, RuntimeError) as exc:  # RuntimeError: no MPI library found
        raise TransportError(f"MPI is not available ({exc}): install braintorrent[mpi]") from exc
    check_launch(MPI.COMM_WORLD.size)
    return MPI.COMM_WORLD


class MPITransport:
    """A Transport between the ranks of `comm` (default: all). Build it in every rank at once.

    `names` are the peers' names by rank, the same in every rank; default peer-1, peer-2, ...
    A message larger than `max_message_bytes` is dropped by its receiver. A rank that has closed
    is gone for the others. Raises TransportError if MPI is missing or was launched wrongly.
    """

    def __init__(
        self,
        comm: MPI.Intracomm | None = None,
        names: Sequence[str] | None = None,
        *,
        max_message_bytes: int = 1 << 30,
    ) -> None:
        comm = comm or world()
        if names is None:
            names = [f"peer-{rank + 1:0{len(str(comm.size))}}" for rank in range(comm.size)]
        if len(names) != comm.size or len(set(names)) != comm.size:
            raise TransportError(f"{comm.size} ranks need as many different names, got {names}")
        for name in names:
            if not valid_name(name):
                raise TransportError(f"{name!r} can't name a peer")
        from mpi4py import MPI

        keep_freed_memory()
        self._mpi = MPI
        self._comm, duplicated = comm.Idup()  # our tags are ours alone
        while not duplicated.Test():  # until every rank has come here
            time.sleep(POLL_S)
        self._names = tuple(names)
        self._ranks = {name: rank for rank, name in enumerate(names)}
        self.me = names[comm.rank]
        self.peers = tuple(sorted(set(names) - {self.me}))
        self._max_message_bytes = max_message_bytes
        self._status = MPI.Status()
        self._matched: list[deque[tuple[MPI.Message, int]]] = [deque() for _ in names]
        self._assemblers = [self._assemble(rank) for rank in range(comm.size)]
        self._active: set[int] = set()  # ranks whose assemblers have something to do
        # A request keeps its buffer alive.
        self._outgoing: list[deque[MPI.Request]] = [deque() for _ in names]
        self._arrived: deque[Received] = deque()
        self._moved_at = 0.0  # when something last came or went
        self._gone: set[int] = set()
        self._closed = False

    # --- Transport

    def send(self, to: str, frames: Sequence[Frame]) -> None:
        self._check_open()
        rank = self._ranks.get(to)
        if rank is None or to == self.me:
            raise PeerGone(to, "not a rank of this job")
        if rank in self._gone:
            raise PeerGone(to, "has left")
        self._isend(rank, [flat(frame) for frame in frames])
        self._moved_at = time.monotonic()

    def publish(self, frames: Sequence[Frame]) -> None:
        self._check_open()
        for name in self.peers:
            if self._ranks[name] not in self._gone:
                self.send(name, frames)

    def recv(self, timeout_s: float) -> Received | None:
        self._check_open()
        deadline = time.monotonic() + timeout_s
        with self._translated():
            while True:
                self._progress()
                if self._arrived:
                    return self._arrived.popleft()
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                self._sleep(left_s)

    def close(self, linger_s: float = 5.0) -> None:
        """Tell the others, see one's own messages off while draining theirs, abandon the rest.

        MPI itself is finalised when the process ends.
        """
        if self._closed:
            return
        self._closed = True
        for rank in range(len(self._names)):
            if rank not in self._gone and self._names[rank] != self.me:
                self._start(rank, struct.pack("<q", _LEAVES))
        deadline = time.monotonic() + linger_s
        with self._translated():
            while any(self._outgoing) and time.monotonic() < deadline:
                self._progress()
                self._arrived.clear()
                self._sleep(POLL_S)
        for rank in range(len(self._names)):
            self._abandon(rank)

    def _sleep(self, at_most_s: float) -> None:
        quiet_s = time.monotonic() - self._moved_at
        if quiet_s < SPIN_S:
            os.sched_yield()
        else:
            busy = bool(self._active) or any(self._outgoing)
            time.sleep(min(at_most_s, pause_s(quiet_s, busy)))

    # --- sending

    def _isend(self, rank: int, frames: Sequence[memoryview]) -> None:
        lengths = [frame.nbytes for frame in frames]
        inline = _inlined(lengths)
        head = struct.pack(f"<{1 + len(lengths)}q", len(lengths), *lengths)
        self._start(rank, b"".join([head, *frames[:inline]]))
        for frame in frames[inline:]:
            for begin in range(0, frame.nbytes, PIECE_BYTES):
                self._start(rank, frame[begin : begin + PIECE_BYTES])

    def _start(self, rank: int, data: Frame) -> None:
        with self._translated():
            request = self._comm.Isend([data, self._mpi.BYTE], dest=rank, tag=_TAG)
        self._outgoing[rank].append(request)

    def _abandon(self, rank: int) -> None:
        """Give up what `rank` has not taken.

        MPI may read these buffers until it is finalised, which mpi4py does after Python has
        dropped all its objects: so they are never freed.
        """
        for request in self._outgoing[rank]:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(request))
        self._outgoing[rank].clear()

    # --- receiving

    def _progress(self) -> None:
        """Everything that can be done now without waiting."""
        mpi, status, probe = self._mpi, self._status, self._comm.Improbe
        for requests in self._outgoing:
            while requests and requests[0].Test():
                requests.popleft()
        for _ in range(LOOKS):
            if (message := probe(mpi.ANY_SOURCE, _TAG, status)) is not None:
                rank = status.Get_source()
                self._matched[rank].append((message, status.Get_count(mpi.BYTE)))
                self._active.add(rank)
                self._moved_at = time.monotonic()
        for rank in tuple(self._active):
            next(self._assemblers[rank], None)

    def _assemble(self, rank: int) -> Iterator[None]:
        """Put the messages of one rank together; yields whenever it would have to wait."""
        while True:
            if not self._matched[rank]:
                self._active.discard(rank)
            envelope = (yield from self._receive(rank)).data
            (count,) = struct.unpack_from("<q", envelope)
            if count == _LEAVES:
                self._gone.add(rank)
                self._abandon(rank)
                continue
            lengths = struct.unpack_from(f"<{count}q", envelope, 8)
            wanted = sum(lengths) <= self._max_message_bytes
            frames, begin = [], 8 + 8 * count
            inline = _inlined(lengths)
            for length in lengths[:inline]:
                frames.append(envelope[begin : begin + length])
                begin += length
            for length in lengths[inline:]:
                frame = np.empty(length if wanted else 0, np.uint8)
                for begin in range(0, length, PIECE_BYTES):  # MPI can't skip an unwanted one
                    into = frame[begin : begin + PIECE_BYTES] if wanted else None
                    yield from self._receive(rank, into)
                frames.append(frame.data)
            if wanted:
                self._arrived.append(Received(self._names[rank], tuple(frames)))

    def _receive(self, rank: int, into: Bytes | None = None) -> Generator[None, None, Bytes]:
        """The next MPI message of `rank`, into a buffer of its size or the one given."""
        matched = self._matched[rank]
        while not matched:
            yield
        message, nbytes = matched.popleft()
        if into is None:
            into = np.empty(nbytes, np.uint8)
        if nbytes != into.nbytes:
            raise TransportError(f"rank {rank} does not speak this transport's language")
        request = message.Irecv([into, self._mpi.BYTE])
        while not request.Test():
            yield
        return into

    # ---

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._mpi.Exception as exc:
            raise TransportError(f"MPI failed: {exc}") from exc

    def _check_open(self) -> None:
        if self._closed:
            raise TransportError(f"the transport of {self.me} is closed")


def pause_s(quiet_s: float, busy: bool) -> float:
    """Seconds until the next look, when nothing has come or gone for `quiet_s`."""
    if busy or quiet_s < BUSY_S:
        return BUSY_POLL_S
    return min(max(POLL_S, quiet_s / 100), LONG_POLL_S)


def _inlined(lengths: Sequence[int]) -> int:
    """How many of the leading frames travel in the envelope; both sides count the same way."""
    total = 0
    for index, length in enumerate(lengths):
        total += length
        if total > INLINE_BYTES:
            return index
    return len(lengths)
