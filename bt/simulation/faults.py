"""What goes wrong, and when: drawn from the seed before a schedule begins.

Every schedule has some of the kinds and not others, so that rare combinations come up. All ends
after a while: then links are whole, clocks run, and who is not dead for good lives.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from bt.config import ConfigError
from bt.schedule import Sequential
from bt.simulation.network import Cut, Weather

if TYPE_CHECKING:
    from bt.simulation.process import Process
    from bt.simulation.world import World

KINDS = (
    "delay",
    "loss",
    "twice",
    "order",
    "cut",
    "crash",
    "wipe",
    "full",
    "slow",
    "clock",
    "late",
    "leave",
    "liar",
)
_LIKELY = 0.4  # that a kind is in a schedule


def chosen(text: str) -> tuple[str, ...]:
    """ "all", "none", or kinds with commas between them. Raises ConfigError."""
    if text in ("all", "none"):
        return KINDS if text == "all" else ()
    kinds = tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(f"--faults {kind}: expected all, none, or some of {','.join(KINDS)}")
    return kinds


def plan(world: World, kinds: tuple[str, ...], until: float) -> None:
    """Put into the world's future what goes wrong before `until`, and the calm after it."""
    chance = world.chance
    drawn = {kind for kind in kinds if chance.random() < _LIKELY}
    if isinstance(world.setup.schedule, Sequential):
        drawn.discard("liar")  # a member that lies about its turn can stop all the others
    world.network.weather = Weather(
        delay_s=chance.choice((0.05, 0.5, 3.0)) if "delay" in drawn else 0.02,
        loss=chance.choice((0.02, 0.1, 0.4)) if "loss" in drawn else 0.0,
        twice=chance.choice((0.05, 0.3)) if "twice" in drawn else 0.0,
        in_order="order" not in drawn,
    )
    processes = list(world.processes.values())
    if "liar" in drawn and len(processes) > 2:
        world.lies = True
        chance.choice(processes).liar = True
    starts = {process.name: chance.random() * 0.1 for process in processes}
    if "late" in drawn:
        starts[chance.choice(processes).name] = until * chance.random()
    for process in processes:
        world.at(starts[process.name], lambda process: process.start(), process)
        process.revive = _reviver(world, process, until, gets_wiped="wipe" in drawn)
    if "cut" in drawn:
        for _ in range(chance.randint(1, 3)):
            _plan_cut(world, chance, until)
    if drawn & {"crash", "wipe"}:
        for _ in range(chance.randint(1, 4)):
            world.at(until * chance.random(), _crash, chance.choice(processes))
    if "full" in drawn:
        world.at(until * chance.random(), _fill, chance.choice(processes))
    if "slow" in drawn:
        process = chance.choice(processes)
        process.slowness = chance.choice((3.0, 8.0))
        for _ in range(chance.randint(0, 3)):
            seconds = chance.choice((0.1, 1.0, 8.0))
            process = chance.choice(processes)
            world.at(until * chance.random(), _pause, (process, seconds))
    if "clock" in drawn:
        for process in processes:
            process.rate = chance.choice((1.0, 0.8, 1.25))
        for _ in range(chance.randint(1, 3)):
            seconds = chance.choice((0.5, 5.0, 100.0))
            world.at(until * chance.random(), _jump, (chance.choice(processes), seconds))
    if "leave" in drawn:
        world.at(
            until * chance.random(), lambda process: process.leave(), chance.choice(processes)
        )
    world.at(until, _end, world)


def _reviver(
    world: World, process: Process, until: float, *, gets_wiped: bool
) -> Callable[[], None]:
    """What happens when `process` has died: perhaps it loses something, and it is started again,
    or not."""

    def revive() -> None:
        chance = world.chance
        if chance.random() < 0.5:
            world.note(process.name, "loses power")
            process.disk.lose_power(chance)
        if gets_wiped and chance.random() < 0.5:
            world.note(process.name, "loses its disk")
            process.disk.wipe()
            world.truth.wiped(process.name)
        if chance.random() < 0.1:
            process.ended = True  # for good
        else:
            at = min(until, world.now + chance.choice((0.01, 1.0, 10.0)) * chance.random())
            world.at(max(at, world.now), lambda process: process.start(), process)

    return revive


def _plan_cut(world: World, chance: random.Random, until: float) -> None:
    names = list(world.processes)
    chance.shuffle(names)
    at = chance.randint(1, len(names) - 1)
    some, rest = frozenset(names[:at]), frozenset(names[at:])
    begin = until * chance.random()
    end = begin + (until - begin) * chance.random()
    keeps, one_way = chance.random() < 0.5, chance.random() < 0.3

    def fall(_: None) -> None:
        world.note("network", f"cut between {sorted(some)} and {sorted(rest)} until {end:.3f} s")
        world.network.cuts.append(Cut(some, rest, end, keeps))
        if not one_way:
            world.network.cuts.append(Cut(rest, some, end, keeps))

    world.at(begin, fall, None)


def _crash(process: Process) -> None:
    chance = process.world.chance
    if chance.random() < 0.3:
        process.kill()
    elif process.up:
        process.fuse = chance.randrange(60)  # in the middle of something


def _fill(process: Process) -> None:
    process.disk.full = True
    process.world.at(process.world.now + 15.0 * process.world.chance.random(), _empty, process)


def _empty(process: Process) -> None:
    process.disk.full = False


def _pause(process_and_seconds: tuple[Process, float]) -> None:
    process, seconds = process_and_seconds
    process.world.note(process.name, f"stands still for {seconds:g} s")
    process.pause(seconds)


def _jump(process_and_seconds: tuple[Process, float]) -> None:
    process, seconds = process_and_seconds
    process.world.note(process.name, f"has its clock go forward by {seconds:g} s")
    process.jump(seconds)


def _end(world: World) -> None:
    """Nothing goes wrong from here on."""
    world.note("network", "no more faults")
    world.network.weather = Weather()
    world.network.cuts.clear()
    world.lies = False
    for process in world.processes.values():
        process.fuse = None if process.up else process.fuse
        process.disk.full = False
        process.slowness = 1.0
        process.paused_until = world.now
        process.revive = None
        if process.liar and process.up and world.chance.random() < 0.5:
            process.ended = True
            process.kill()
        process.wake()
        process.start()
