"""What faults cost: real peers on real scans are killed, stopped, cut off; the others are watched.

Everything is read from the peers' own logs. A round's wait is from the moment it could begin to
the moment training begins: who is silent can cost it a deadline there, and nothing elsewhere.
"""

from __future__ import annotations

import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path

from benchmarks.children import Failed, Unavailable
from benchmarks.mute import Relay
from benchmarks.peers import Federation, Site, rounds_of, wait_for
from benchmarks.results import Fault, Found, Undisturbed
from bt.config import Config, change
from bt.data.cache import load_volumes
from bt.data.layouts import find_scans
from bt.evaluation import evaluate
from bt.federation import split_of
from bt.modelfile import read_model
from bt.models import restore

DEADLINE_S = 5.0  # the default of --ping-timeout
ENDLESS = 100_000  # rounds
NAMES = ("A", "B", "C", "D", "E")
CPU = ("--precision", "float32", "--device", "cpu", "--view", "sagittal")
SMALL = (*CPU, "--filters", "4", "--epochs", "1", "--scans-per-peer", "1", "--test-scans", "2")
JOB = {
    "view": "sagittal",
    "filters": 8,
    "epochs": 1,
    "scans_per_peer": 4,
    "test_scans": 40,
    "rounds": 8,
}


def run(
    quick: bool, progress: Callable[[str], None], data: Path, seeds: int, only: str = ""
) -> Found:
    """Cases chaos/FAULT, and chaos/dice: five peers, each killed twice, beside calm runs.

    `only`: "faults" or "dice".
    """
    found = Found()
    if not data.is_dir():
        found.trouble("chaos", Unavailable(f"no folder {data}: --data DIR, of labelled scans"))
        return found
    if only != "dice":
        with tempfile.TemporaryDirectory(prefix="bt-chaos-") as folder:
            try:
                _faults(found, Path(folder), data, progress, times=1 if quick else 3)
            except Failed as exc:
                found.trouble("chaos/faults", exc)
    if only != "faults" and not quick:
        _same_dice(found, data, progress, seeds)
    return found


# What one fault costs the others ---------------------------------------------------------------
def _faults(
    found: Found, folder: Path, data: Path, progress: Callable[[str], None], times: int
) -> None:
    options = [*SMALL, "--data", str(data.resolve()), "--rounds", str(ENDLESS)]
    with ExitStack() as stack:
        federation = stack.enter_context(Federation(folder, NAMES[:3], options))
        relays = [stack.enter_context(closing(Relay(federation.addresses[name]))) for name in "AB"]
        # C and the others reach each other through relays, A and B directly
        federation.reach("C", {"A": relays[0].address, "B": relays[1].address})
        to_c = stack.enter_context(closing(Relay(federation.addresses["C"])))
        for name in "AB":
            federation.reach(name, {"C": to_c.address})
        progress("three peers start")
        federation.start_together()
        federation.wait_for_updates(3)
        trial = _Trial(federation["C"], [federation["A"], federation["B"]])
        found.cases["chaos/no fault"] = trial.of("", lambda: None, times=1)
        mute = [relay.mute for relay in (*relays, to_c)]
        for name, (inject, mend) in {
            "kill -9": (trial.kill, trial.restart),
            "kill -9 while saving": (trial.kill_while_saving, trial.restart),
            "kill -9 while sending": (trial.kill_while_sending, trial.restart),
            "SIGSTOP for longer than a deadline": (trial.stop, trial.go_on),
            "a mute link": (
                lambda: [one.set() for one in mute],
                lambda: [one.clear() for one in mute],
            ),
            "a flipped bit in the checkpoint": (trial.flip, trial.restart),
            "a truncated checkpoint": (trial.truncate, trial.restart),
        }.items():
            progress(name)
            found.cases[f"chaos/{name}"] = trial.of(name, inject, mend, times)
    try:
        with _small_disk(folder / "disk") as disk:
            progress("a full disk")
            found.cases["chaos/a full disk"] = _full_disk(folder, disk, options, times)
    except Unavailable as exc:
        found.trouble("chaos/a full disk", exc)


class _Trial:
    """Faults of one peer, and what they cost the others."""

    def __init__(self, victim: Site, others: Sequence[Site]) -> None:
        self.victim = victim
        self.others = others
        self.chance = random.Random(0)
        self.saved = 0  # updates, before a fault

    def of(
        self,
        name: str,
        inject: Callable[[], object],
        mend: Callable[[], object] = lambda: None,
        times: int = 1,
        lasts_s: float = DEADLINE_S + 8.0,
    ) -> Fault:
        worst, after, lost, back = [], [], [], []
        for _ in range(times):
            self.wait_for_merges()
            time.sleep(self.chance.random())
            self.saved, starts = self.victim.count, self.victim.starts
            began = time.time()
            inject()
            time.sleep(lasts_s)
            ended = time.time()
            mend()
            again = self.victim.starts > starts
            lost.append(max(0, self.saved - self.victim.resumed) if again else 0)
            back.append(self.wait_for_merges() - ended)
            for other in self.others:
                waits = [
                    waited_s
                    for at, waited_s in rounds_of(other)
                    if at + waited_s >= began and at < ended
                ]
                worst.append(max(waits))
                waits.remove(max(waits))
                after += waits
        return Fault(
            times=times,
            worst_round_s=max(worst),
            rounds_after_s=statistics.median(after),
            lost_updates=max(lost),
            merged_again_after_s=statistics.median(back),
        )

    def wait_for_merges(self) -> float:
        """Until each of the others has merged the victim again, and it them; when."""
        now = time.time()

        def all_have() -> bool:
            theirs = all(
                any(e["time"] > now and e["from"] == self.victim.name for e in o.events("merge"))
                for o in self.others
            )
            return theirs and any(e["time"] > now for e in self.victim.events("merge"))

        wait_for(all_have, f"{self.victim.name} and the others merge each other")
        return time.time()

    def kill(self) -> None:
        self.victim.kill()
        self.saved = self.victim.count

    def kill_while_saving(self) -> None:
        self.victim.kill_while_saving()
        self.saved = self.victim.count

    def kill_while_sending(self) -> None:
        self.victim.kill_while_sending()
        self.saved = self.victim.count

    def restart(self) -> None:
        before = len(self.victim.events("start"))
        self.victim.start()
        wait_for(lambda: len(self.victim.events("start")) > before, "it has started again")

    def stop(self) -> None:
        self.victim.signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.victim.signal(signal.SIGCONT)

    def flip(self) -> None:
        self.kill()
        path = self.victim.folder / "checkpoint.safetensors"
        content = bytearray(path.read_bytes())
        content[self.chance.randrange(len(content) // 2, len(content))] ^= 1
        path.write_bytes(content)

    def truncate(self) -> None:
        self.kill()
        path = self.victim.folder / "checkpoint.safetensors"
        content = path.read_bytes()
        path.write_bytes(content[: self.chance.randrange(len(content))])


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "bt-chaos", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"no small disk can be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _full_disk(folder: Path, disk: Path, options: list[str], times: int) -> Fault:
    with Federation(folder / "full", NAMES[:3], options) as federation:
        victim = federation["C"]
        victim.folder.parent.mkdir(parents=True, exist_ok=True)
        victim.folder.symlink_to(disk)
        federation.start_together()
        federation.wait_for_updates(3)
        trial = _Trial(victim, [federation["A"], federation["B"]])
        ballast = disk / "ballast"

        def fill() -> None:
            """Until a checkpoint does not fit: replacing one gives room for the next."""
            for _ in range(100):
                with ballast.open("ab", buffering=0) as file, suppress(OSError):
                    while True:
                        file.write(bytes(4096))
                time.sleep(0.02)

        return trial.of("a full disk", fill, ballast.unlink, times)


# The same Dice in the end ----------------------------------------------------------------------
def _same_dice(found: Found, data: Path, progress: Callable[[str], None], seeds: int) -> None:
    calm: list[float] = []
    disturbed: list[float] = []
    models: list[int] = []
    kills = 0
    for seed in range(seeds):
        for kills_each in (0, 2):
            progress(f"Dice, seed {seed}, every peer killed {kills_each} times")
            try:
                dice, averaged = _dice(data, seed, kills_each)
            except Failed as exc:
                found.trouble("chaos/dice", exc)
                return
            if kills_each:
                disturbed.append(dice)
                models.append(averaged)
                kills += kills_each * len(NAMES)
            else:
                calm.append(dice)
    difference = statistics.fmean(disturbed) - statistics.fmean(calm)
    found.cases["chaos/dice"] = Undisturbed(kills, calm, disturbed, difference, models)


def _dice(data: Path, seed: int, kills_each: int) -> tuple[float, int]:
    """Of the aggregated model of most peers, on the test scans; and of how many it is."""
    settings = JOB | {"path": str(data.resolve()), "peers": len(NAMES), "seed": seed}
    config = change(Config(), settings)
    options = ["--data", str(config.data.path), "--seed", str(seed), *CPU]
    for name, value in JOB.items():
        if name != "view":
            options += [f"--{name.replace('_', '-')}", str(value)]
    chance = random.Random(seed)
    spans = ((1, 3), (4, 6))  # of the 8 updates
    with (
        tempfile.TemporaryDirectory(prefix="bt-chaos-") as folder,
        Federation(Path(folder), NAMES, options) as federation,
    ):
        plan = {name: [chance.randint(*span) for span in spans[:kills_each]] for name in NAMES}
        federation.start_together()
        while any(plan.values()):
            for name, due in plan.items():
                site = federation[name]
                if due and site.code is not None:
                    raise Failed(f"{name} ended before it could be killed: {site.said()[-200:]}")
                if not due or site.count < due[0]:
                    continue
                time.sleep(2 * chance.random())
                site.kill()
                site.start()
                # Not before it has trained again: who is only just starting loses nothing.
                plan[name] = [max(count, site.count + 1) for count in due[1:]]
            time.sleep(0.05)
        codes = federation.finish(seconds=1800)
        if any(codes.values()):
            raise Failed(f"exit codes {codes}")
        files = [site.folder / "aggregated.safetensors" for site in federation.sites.values()]
        models = [read_model(path) for path in files]
        best = max(models, key=lambda model: len(model[1]["aggregated_of"]))
        cohort = find_scans(data)
        parts = split_of(config, cohort)
        network, labels = restore(*best, factory=config.model.name)
        volumes = load_volumes(parts.test, labels, config.data.spacing_mm).volumes
        metrics = evaluate(network, volumes, config.data.view, labels.structures[1:])
        return metrics.dice or 0.0, len(best[1]["aggregated_of"])
