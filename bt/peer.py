"""bt peer: one peer of a federation, started by hand or by a launcher."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console

from bt import rundir
from bt.config import Config, change, check_together
from bt.console import Progress, print_paths, print_results
from bt.contacts import Contacts
from bt.data.labels import LabelTable
from bt.data.layouts import find_scans
from bt.data.scan import DataError, Scan
from bt.federation import split_of
from bt.node import Node, load_usable, make_trainer, write_json
from bt.threads import threads_each
from bt.trainer import SegmentationTrainer
from bt.watching.metrics import serving
from bt.wording import counted, unnamed_labels
from launchers import lifeline

MERGED_NOBODY = 3  # exit code
STOPPING = "Stopping. Checkpoints are kept: the same command goes on from them."
_FOLLOW_S = 0.5  # between two looks at the log
_LAST_CHANCE_S = 4.0  # for leaving cleanly once the launcher is gone


class Own(NamedTuple):
    """What is one peer's."""

    labels: LabelTable
    train: Sequence[Scan]
    test: Sequence[Scan]


def parse_part(part: str) -> tuple[int, int]:
    """ "2/5" -> (2, 5). Raises DataError."""
    number, slash, count = part.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal()):
        raise DataError(f"--part {part}: expected NUMBER/COUNT, for example 2/5")
    if not 1 <= int(number) <= int(count):
        raise DataError(f"--part {part}: the number must be between 1 and {int(count)}")
    return int(number), int(count)


def own_scans(config: Config, part: str | None) -> Own:
    """Which scans are this peer's; they are not read yet.

    With a part, that part of the split `bt train` makes; without, all scans are this peer's, but
    for `test_scans` held out.
    """
    if config.data.path is None:
        raise DataError("a peer needs --data: the folder of its scans")
    number, count = parse_part(part) if part else (1, 1)
    federation = replace(config.federation, peers=count)
    cohort = find_scans(Path(config.data.path))
    kept = tuple(scan for scan in cohort.scans if scan.id not in config.data.exclude)
    found = split_of(replace(config, federation=federation), replace(cohort, scans=kept))
    # Without a part all scans are this peer's, and one without a label map must be named.
    unlabelled = [scan for scan in kept if scan.label_map is None and part is None]
    return Own(cohort.labels, (*found.peers[number - 1], *unlabelled), found.test)


def build_trainer(
    config: Config, name: str, own: Own, console: Console, *, alone: bool = False
) -> SegmentationTrainer:
    """Read this peer's scans and make its trainer, saying what was found and chosen.

    `alone`: no run has looked at all scans before.
    """
    with console.status("Reading scans"):
        volumes, left_out = load_usable(own.train, own.labels, config.data)
        test_volumes, left_out_too = load_usable(own.test, own.labels, config.data)
    for line in left_out + left_out_too:
        console.print(f"left out: {line}", style="yellow", soft_wrap=True)
    unnamed = {number for each in (*volumes, *test_volumes) for number in each.unknown_ids}
    for line in unnamed_labels(unnamed, config.data.path) if alone else ():
        console.print(line, style="yellow", soft_wrap=True)
    with console.status("Making the network"):
        trainer = make_trainer(config, name, own.labels, volumes, test_volumes)
    console.print(
        f"{name}: {counted(len(volumes), 'training scan')}, "
        f"{counted(len(test_volumes), 'test scan')}, {counted(len(trainer.images), 'slice')}; "
        f"{trainer.precision.name} on {trainer.precision.device} ({trainer.precision.reason}), "
        f"{counted(torch.get_num_threads(), 'thread')}",
        soft_wrap=True,
    )
    return trainer


def run(
    config: Config,
    contacts: Contacts,
    part: str | None,
    out: Path,
    console: Console,
    launched_by: str | None = None,
    metrics: tuple[str, int] | None = None,
) -> int:
    """Take part until the end. Returns the exit code: 0 unless the run merged nobody.

    `launched_by`: "train" keeps the config of its run and evaluates the aggregated model itself,
    once for all; "launch" shows what this peer finds, from its results.json. `metrics`: host and
    port where they are served.
    """
    check_together(config.federation)
    name = contacts.name
    nodes: list[Node] = []  # this one, once there is one
    lifeline.watch(lambda: _launcher_is_gone(nodes))
    own = own_scans(config, part)
    if launched_by == "train":
        rundir.lock(out)
    else:
        config = change(config, {"peers": 1 + len(contacts.others)})  # not bt train's default
        rundir.reenter(out, config)
    torch.set_num_threads(threads_each(1 + contacts.neighbours))
    trainer = build_trainer(config, name, own, console, alone=launched_by != "train")
    contacts.check_samples(trainer.samples)
    others, about = sorted(contacts.others), (contacts.samples_of, contacts.serves)
    node = Node(name, others, out, config, own.labels, *about)
    contacts.tell = node.tell = lambda line: console.print(line, style="yellow", soft_wrap=True)
    nodes.append(node)
    with (
        stopping(node),
        contacts.rereading(),
        following(console, {name: out}, config.federation.rounds),
        serving(metrics, node.report),
    ):
        outcome = node.run(trainer, contacts.connect)
    results = {name: node.results(outcome)}
    if outcome.aggregated is not None and launched_by != "train":
        with console.status("Evaluating the aggregated model"):
            trainer.load(outcome.aggregated)
            scores = trainer.evaluate()
        aggregated = {"dice": scores.dice, "structures": scores.by_structure()}
        write_json(out / "results.json", results[name] | {"aggregated": aggregated})
        if launched_by is None:
            print_results(console, {"peers": results, "aggregated": aggregated})
            print_paths(console, [("aggregated model", out / "aggregated.safetensors")])
    if outcome.totals["merged"] == 0 and outcome.reason == "finished":
        why = "Were the other peers running, their addresses right, their networks the same?"
        if contacts.keys is not None:
            why += " Is the key of this peer in their rosters?"
        if len(outcome.aggregated_of) > 1:  # it met them in the end
            why = "The others had nothing newer when it asked: try more --rounds."
        console.print(
            f"{name} merged nobody: its model knows its own scans only. {why}",
            style="red",
            soft_wrap=True,
        )
        return MERGED_NOBODY
    if outcome.reason == "interrupted":
        console.print(STOPPING)
        return 130
    return 0


def _launcher_is_gone(nodes: Sequence[Node]) -> None:
    if not nodes:
        os._exit(1)  # there is nothing yet that could be lost
    nodes[0].stop("launcher is gone")
    timer = threading.Timer(_LAST_CHANCE_S, os._exit, (1,))
    timer.daemon = True
    timer.start()


@contextmanager
def stopping(node: Node) -> Iterator[None]:
    """SIGTERM and Ctrl-C make the node leave cleanly; mpirun and srun hand SIGUSR1 on."""
    signals = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def leave(number: int, frame: object) -> None:
        node.stop("interrupted" if number == signal.SIGINT else "left")

    before = {number: signal.signal(number, leave) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def following(console: Console, folders: dict[str, Path], rounds: int) -> Iterator[None]:
    """Show the event logs of `folders` (none: nothing) from a thread beside the main one."""
    if not folders:
        yield
        return
    ended = threading.Event()
    progress = Progress(console, folders, rounds)  # now: it passes over what is there already

    def follow() -> None:
        with progress:
            while not ended.wait(_FOLLOW_S):
                progress.update()

    thread = threading.Thread(target=follow, name="console", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
