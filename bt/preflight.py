"""bt check: whether this site can take part; what is red, and what to do about it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

from bt import contacts, neighbours, roster
from bt import site as sites
from bt.aggregate import Like
from bt.config import Config, ConfigError, check_together
from bt.contacts import Contacts
from bt.data.cache import load_volumes
from bt.data.checks import BadScan
from bt.data.layouts import find_scans
from bt.data.scan import DataError
from bt.findings import Finding, Findings, State
from bt.models import build, describe, task_hash
from bt.peer import own_scans
from bt.site import Site
from bt.weights import FlatWeights
from bt.wording import counted, unnamed_labels
from transports import image
from transports.base import TransportError
from transports.keys import KeyPair

_MODELS_ON_DISK = 4  # checkpoint, aggregated, and each while it is replaced
_SPARE_BYTES = 200 << 20
_OLDEST = 1_735_689_600  # unix seconds, 2025: no clock of today says less
_DAY_S = 86_400


def examine(
    file: Path,
    *,
    wait_s: float = 0.0,
    tell: Callable[[Finding], None] = lambda finding: None,
    progress: Callable[[str], None] = lambda line: None,
) -> list[Finding]:
    """Look at everything that `file`, a federation.toml, names. Waits `wait_s` seconds for peers
    that don't answer yet."""
    found = Findings(tell)
    try:
        site, config = sites.read(file)
        check_together(config.federation)
        if site.roster is None or site.keys is None or site.out is None:
            raise ConfigError(f"{file}: [site] with roster, keys and out is needed")
    except ConfigError as exc:
        found.add("config", "red", str(exc), "mend it, or write another with bt init")
        return found.all
    found.add("config", "green", f"{file}: {config.federation.rounds} rounds")
    own = _who(site, found)
    like, samples = _data(config, found, progress)
    if own is not None and samples is not None:
        try:
            own.check_samples(samples)
        except ConfigError as exc:
            found.add("samples", "red", str(exc), "max_samples of this site's entry, everywhere")
    _disk(site.out, like, found)
    _clock([file, site.roster, site.keys], found)
    if own is not None:
        neighbours.look(site, config, own, (like, samples or 1), wait_s, found, progress)
    return found.all


def _who(site: Site, found: Findings) -> Contacts | None:
    """Keys and roster."""
    assert site.roster is not None
    assert site.keys is not None
    try:
        KeyPair.read(site.keys)
        found.add("keys", "green", f"{site.keys}: only its owner can read it")
    except TransportError as exc:
        found.add("keys", "red", str(exc), "the key file of this site, mode 0600; bt keys new")
        return None
    try:
        listed = roster.read(site.roster)
        own = contacts.from_roster(site.roster, site.keys, None, site.listen, site.announce)
    except ConfigError as exc:
        found.add("roster", "red", str(exc), "join the entries of all sites: bt roster make")
        return None
    everybody = f"{counted(len(listed.members), 'peer')}, this one is {own.name}"
    found.add("roster", "green", f"{everybody}; fingerprint {listed.fingerprint}")
    for doubt in roster.doubts(listed):
        found.add("roster", "note", doubt)
    return own


def _data(
    config: Config, found: Findings, progress: Callable[[str], None]
) -> tuple[Like | None, int | None]:
    """The scans, and what the models will be like; how many scans there are to train on."""
    try:
        own = own_scans(config, None)
        cohort = find_scans(Path(str(config.data.path)))
        weights = FlatWeights.of(build(config.model, own.labels.classes, config.seed))
    except (DataError, ConfigError) as exc:
        found.add("data", "red", str(exc), "the path in [data]; bt data show says what it sees")
        return None, None
    structures = own.labels.structures[1:]
    description = describe(config, own.labels)
    like = Like(weights, description, task_hash(weights.schema, description))
    scans = [*own.train, *own.test]
    bad: list[BadScan] = []
    unnamed: set[int] = set()
    for number, scan in enumerate(scans, start=1):
        progress(f"Reading scans: {number} of {len(scans)}")
        loaded = load_volumes([scan], own.labels, config.data.spacing_mm)
        bad += loaded.bad
        unnamed.update(loaded.unknown_ids)
    usable = [scan for scan in own.train if scan.id not in {each.id for each in bad}]
    what = f"{cohort.layout}: {counted(len(usable), 'training scan')}, {len(own.test)} held out"
    names = ", ".join(structures[:4]) + (", ..." if len(structures) > 4 else "")
    found.add(
        "data",
        "green" if usable else "red",
        f"{what}; {counted(len(structures), 'structure')}: {names}",
        "" if usable else "put labelled scans there",
    )
    for each in bad[:5]:
        state: State = "note" if config.data.skip_bad else "red"
        to_do = "" if config.data.skip_bad else "mend or remove it, or skip_bad = true in [data]"
        found.add("scan", state, f"{each.id}: {each.reason}", to_do)
    if len(bad) > 5:
        found.add("scan", "note", f"and {len(bad) - 5} more that can't be used: bt data show")
    for line in unnamed_labels(unnamed, config.data.path):
        found.add("labels", "note", line)
    return like, len(usable)


def _disk(out: Path, like: Like | None, found: Findings) -> None:
    there = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    try:
        free = shutil.disk_usage(there).free
    except OSError as exc:
        found.add("disk", "red", f"{there}: {exc.strerror}", "another out in [site]")
        return
    model = 0 if like is None else image.nbytes(like.weights.schema)
    need = _MODELS_ON_DISK * model + _SPARE_BYTES
    state: State = "green" if free >= need else "red"
    says = f"{free / 1e9:.1f} GB free at {there}, {need / 1e9:.1f} GB wanted"
    found.add("disk", state, says, "" if free >= need else "make room, or another out in [site]")


def _clock(files: list[Path | None], found: Findings) -> None:
    """Its own sanity: no message between peers tells the time."""
    now = time.time()
    newest = max(file.stat().st_mtime for file in files if file is not None and file.exists())
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < max(_OLDEST, newest - _DAY_S):
        found.add("clock", "red", f"{shown}: files here are newer", "set the clock (NTP)")
    else:
        found.add("clock", "green", f"{shown}, by itself: peers don't tell each other the time")
