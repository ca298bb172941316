"""One peer of a run: its part of the scans, a trainer, a transport, a runner, and its files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from bt.checkpoint import CheckpointFile
from bt.config import Config, DataConfig, check_together
from bt.data.cache import load_volumes
from bt.data.labels import LabelTable
from bt.data.scan import DataError, Scan
from bt.data.slices import slices_of
from bt.data.volumes import Volume
from bt.delta import chooser
from bt.eventlog import EventLog, warn
from bt.fanout import Fanout
from bt.files import remove_leftovers, write_atomic
from bt.modelfile import BadModelFile, read_model, write_model
from bt.models import build, describe, task_hash
from bt.others import Timing
from bt.outcome import Outcome
from bt.protocol import Peer
from bt.quicknat import MULTIPLE_OF
from bt.robust import LEAST_MODELS, check_enough, rule_named
from bt.runner import Runner
from bt.schedule import Async, Schedule, Sequential
from bt.trainer import SegmentationTrainer, Trainer
from bt.transfer import LARGEST_RANGE
from bt.weights import FlatWeights
from bt.wording import counted, the_first
from transports import image
from transports.base import Transport
from transports.messages import PLAIN, Limits, Report

_SMALL_MESSAGE_BYTES = 1 << 20


def load_usable(
    scans: Sequence[Scan], labels: LabelTable, data: DataConfig
) -> tuple[tuple[Volume, ...], list[str]]:
    """The volumes of `scans`, and a line for each one left out, or for the first of them.

    Raises DataError, with these lines, if one can't be used and bad ones aren't to be skipped.
    """
    loaded = load_volumes(scans, labels, data.spacing_mm)
    lines = the_first(map(str, loaded.bad), f"bt data show {data.path}")
    if lines and not data.skip_bad:
        lines.append("mend or remove these scans, or go on without them with --skip-bad")
        raise DataError("\n".join(lines))
    return loaded.volumes, lines


def make_trainer(
    config: Config,
    name: str,
    labels: LabelTable,
    train: Sequence[Volume],
    test: Sequence[Volume],
    kind: Callable[..., SegmentationTrainer] = SegmentationTrainer,
) -> SegmentationTrainer:
    """The configured network on a peer's volumes.

    All peers of a federation start from the same weights; each shuffles its slices its own way.
    """
    data = config.data
    try:
        slices = slices_of(train, data.view, data.slice_step, data.margin_mm)
    except MemoryError as exc:
        raise DataError(
            f"the slices of {len(train)} scans are too large for this machine's memory; take "
            "fewer scans, a higher --slice-step or a larger --spacing"
        ) from exc
    smallest_batch = len(slices) // -(-len(slices) // config.train.batch_size)
    if (
        smallest_batch * slices.images[0].size == MULTIPLE_OF**2
        and config.model.name == "quicknat"
    ):
        raise DataError(  # one pixel is left after four poolings: no statistics of a batch
            f"slices of {MULTIPLE_OF}x{MULTIPLE_OF} pixels can't be learned from one by one; take "
            "a larger --batch-size or --margin, or more scans"
        )
    return kind(
        build(config.model, labels.classes, config.seed),
        slices,
        samples=len(train),
        structures=labels.structures[1:],
        view=data.view,
        test_volumes=test,
        config=config.train,
        seed=zlib.crc32(f"{config.seed}/{name}".encode()),
    )


def make_schedule(config: Config, names: Sequence[str]) -> Schedule:
    """The configured schedule; the same at every peer."""
    federation = config.federation
    if federation.schedule == "sequential":
        return Sequential(names, federation.rounds, config.seed, federation.stale_weight)
    return Async()


def message_limit(weights: FlatWeights) -> int:
    """The largest message a peer with this model accepts, in bytes: a range of its image."""
    return image.header_bytes(weights.schema) + LARGEST_RANGE + _SMALL_MESSAGE_BYTES


class Node:
    """A peer with its folder: checkpoint.safetensors, events.jsonl, results.json."""

    def __init__(
        self,
        name: str,
        others: Sequence[str],
        folder: Path,
        config: Config,
        labels: LabelTable | None = None,  # None: what the model means is the caller's business
        samples_of: Mapping[str, int] | None = None,  # the most that each peer may claim
        serves: Callable[[str], bool] = lambda name: True,  # models, to who asks from outside
    ) -> None:
        self.name = name
        self.others = tuple(others)
        self.folder = folder
        self._config = config
        self._labels = labels
        self._samples_of = {} if samples_of is None else samples_of
        self._serves = serves
        self._description = describe(config, labels) if labels else {}
        self.tell = warn  # a line, to a person
        self._runner: Runner | None = None
        self._stop_reason: str | None = None

    def stop(self, reason: str) -> None:
        """Leave the federation soon. Safe from signal handlers and other threads."""
        self._stop_reason = reason
        if self._runner is not None:
            self._runner.stop(reason)

    def report(self) -> Report | None:
        """How this peer is doing, once it runs. Any thread may ask."""
        return None if self._runner is None else self._runner.report()

    def run(self, trainer: Trainer, connect: Callable[[int], Transport]) -> Outcome:
        """Take part until the end; `connect(max_message_bytes)` makes the transport."""
        remove_leftovers(self.folder)
        federation = self._config.federation
        check_enough(federation.merge, len(self.others), federation.fanout)
        check_together(federation)
        weights = trainer.weights()
        sequential = federation.schedule == "sequential"
        peer = Peer(
            me=self.name,
            others=self.others,
            samples=trainer.samples,
            schema=self._schema(weights),
            rounds=federation.rounds,
            image_bytes=image.nbytes(weights.schema),
            header_bytes=image.header_bytes(weights.schema),
            schedule=make_schedule(self._config, (self.name, *self.others)),
            timing=Timing(
                ping_s=federation.ping_timeout_s,
                pull_s=federation.pull_timeout_s,
                longest_s=federation.longest_wait_s,
            ),
            # One after the other where runs must repeat exactly: sums depend on their order.
            pulls_at_once=1 if sequential else federation.pulls_at_once,
            choose=chooser(federation.compression, weights.schema.nbytes),
            fanout=Fanout(federation.fanout, Random(f"{self._config.seed}/{self.name}")),
            least_models=LEAST_MODELS[federation.merge],
        )
        checkpoints = CheckpointFile(self.folder / "checkpoint.safetensors")
        self._refuse_other_structures(checkpoints)
        transport = connect(message_limit(weights))
        log = EventLog(self.folder / "events.jsonl", self.tell)
        try:
            self._runner = Runner(
                peer,
                transport,
                trainer,
                checkpoints,
                log,
                epochs=self._config.train.epochs,
                limits=Limits(message_limit(weights), samples_of=self._samples_of),
                description=self._description,
                differences=federation.compression != PLAIN,
                rule=rule_named(federation.merge, self.folder),
                serves=self._serves,
                tell=self.tell,
            )
            if self._stop_reason is not None:
                self._runner.stop(self._stop_reason)
            outcome = self._runner.run()
        finally:
            transport.close()
            log.close()
        if outcome.aggregated is not None and not self._keeps_fuller(outcome):
            write_model(
                self.folder / "aggregated.safetensors",
                outcome.aggregated,
                self._description | {"aggregated_of": outcome.aggregated_of},
            )
        write_json(self.folder / "results.json", self.results(outcome))
        return outcome

    def _keeps_fuller(self, outcome: Outcome) -> bool:
        """Whether an earlier start, when more of the others were there, left an average of more
        models. It stays: this peer came back after its end, and found less."""
        try:
            weights, description = read_model(self.folder / "aggregated.safetensors", checked=True)
        except (BadModelFile, FileNotFoundError):
            return False
        before, now = description.get("aggregated_of"), outcome.aggregated_of
        if not isinstance(before, dict) or weights.schema != outcome.weights.schema:
            return False
        if before.get(self.name) != str(outcome.version) or len(before) <= len(now):
            return False
        self.tell(
            f"aggregated.safetensors stays as it is, the average of {len(before)} models: "
            f"now only {counted(len(now), 'model')} could be had"
        )
        outcome.aggregated, outcome.aggregated_of = weights, before
        return True

    def _refuse_other_structures(self, checkpoints: CheckpointFile) -> None:
        """The scans may have got other labels since: the same tensors, another meaning."""
        checkpoint = checkpoints.load()
        if checkpoint is None or self._labels is None:
            return
        stored = checkpoint.description.get("labels")
        structures = stored.get("structures") if isinstance(stored, dict) else None
        if not isinstance(structures, list) or structures[1:] != [*self._labels.structures[1:]]:
            raise BadModelFile(
                f"{checkpoints.path} was trained on other structures than the scans have now; "
                "choose another --out"
            )

    def _schema(self, weights: FlatWeights) -> str:
        """What the others' models must agree with before any weights move."""
        if self._labels is None:
            return weights.schema.hash
        return task_hash(weights.schema, self._description)

    def results(self, outcome: Outcome) -> dict[str, Any]:
        """What results.json says of this peer."""
        totals, scores = outcome.totals, outcome.evaluation
        return {
            "dice": scores.dice if scores else None,
            "structures": scores.by_structure() if scores else None,
            "version": outcome.version.count,
            "samples": outcome.samples,
            "merged": int(totals["merged"]),
            "bytes_in": int(totals["bytes_in"]),
            "bytes_out": int(totals["bytes_out"]),
            "seconds_training": round(totals["seconds_training"], 2),
            "seconds_waiting": round(totals["seconds"] - totals["seconds_training"], 2),
            "aggregated_of": outcome.aggregated_of,
            "ended": outcome.reason,
        }


def write_json(path: Path, content: Any) -> None:
    """Indented JSON, written atomically."""
    write_atomic(path, json.dumps(content, indent=2).encode() + b"\n")
