"""Everything a run can be told, as frozen dataclasses read from and written to TOML.

Units are in the names. The defaults are the paper's where it gives one (section 3).
"""

from __future__ import annotations

import json
import tomllib
import types
import typing
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from bt.wording import meant
from transports.encodings import ENCODINGS


@dataclass(frozen=True)
class DataConfig:
    """Which scans, and how they become slices."""

    path: str | None = None  # folder or manifest; None: the demo cohort
    spacing_mm: float | None = None  # isotropic grid to resample to; None: each scan's own grid
    view: str = "coronal"  # coronal, axial or sagittal slices
    slice_step: int = 1  # train on every n-th slice
    margin_mm: float = 8.0  # around the labelled voxels of a training scan; the rest is cut off
    scans_per_peer: int | None = None  # None: all, divided evenly
    test_scans: int = 5
    split: str = "uniform"  # uniform, bands or explicit (the manifest's own columns)
    bands_by: str | None = None  # participants.tsv column for split = "bands"
    exclude: tuple[str, ...] = ()  # ids of scans to leave out
    skip_bad: bool = False  # go on without the scans that can't be used


@dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    name: str = "quicknat"  # or package.module:factory
    filters: int = 64


@dataclass(frozen=True)
class TrainConfig:
    """One fine-tune."""

    epochs: int = 2
    batch_size: int = 4
    learning_rate: float | None = None  # None: 0.001, more for a QuickNAT narrower than 64
    halve_every: int = 4  # updates of this peer after which the learning rate is halved
    crop: float = 0.75  # each batch is a random window of this share of height and width
    precision: str = "auto"  # auto, float32 or bfloat16
    device: str = "auto"  # auto, cpu, cuda, cuda:1 ...


@dataclass(frozen=True)
class FederationConfig:
    """Who, how often, and how long to wait for whom."""

    peers: int = 5
    rounds: int = 8  # updates per peer
    schedule: str = "async"  # async or sequential
    transport: str = "zmq"  # zmq, mpi, inproc or folder:DIR
    ping_timeout_s: float = 5.0
    pull_timeout_s: float = 60.0
    longest_wait_s: float = 86_400.0  # once done, for the others, whatever progress they make
    pulls_at_once: int = 2
    fanout: int | None = None  # random peers a round asks; None: all
    stale_weight: float = 1.0  # sequential: what a model a round old counts, beside a new one
    merge: str = "mean"  # or a rule that one liar can't bend far: clipped, median or trimmed
    compression: str = "none"  # of models on the wire: none, auto or one of ENCODINGS


@dataclass(frozen=True)
class Config:
    """A run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    federation: FederationConfig = field(default_factory=FederationConfig)
    seed: int = 0


class ConfigError(ValueError):
    """A setting that can't be used; the message names it and says what it takes."""


CHOICES = {
    "view": ("coronal", "axial", "sagittal"),
    "split": ("uniform", "bands", "explicit"),
    "precision": ("auto", "float32", "bfloat16"),
    "schedule": ("async", "sequential"),
    "transport": ("zmq", "mpi", "inproc", "folder:DIR"),
    "merge": ("mean", "clipped", "median", "trimmed"),
    "compression": ("auto", *ENCODINGS),
}
_AT_LEAST = {
    "spacing_mm": 0.01,
    "slice_step": 1,
    "margin_mm": 0,
    "scans_per_peer": 1,
    "test_scans": 0,
    "filters": 1,
    "epochs": 1,
    "batch_size": 1,
    "halve_every": 1,
    "peers": 1,
    "rounds": 1,
    "pulls_at_once": 1,
    "fanout": 1,
}
_AT_MOST = {
    "crop": 1,
    "stale_weight": 1,
    "spacing_mm": 100,
    "margin_mm": 1000,
    "filters": 1024,
    "peers": 10_000,
    "rounds": 1_000_000,
}
_LARGEST = (1 << 31) - 1  # of any other whole number: what every library below can take
_IN_WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_POSITIVE = (
    "crop",
    "stale_weight",
    "spacing_mm",
    "learning_rate",
    "ping_timeout_s",
    "pull_timeout_s",
    "longest_wait_s",
)


def change(config: Config, settings: dict[str, Any]) -> Config:
    """`config` with settings by their bare names (unique over all sections), None left out.

    Raises ConfigError for an unknown name or a value out of range.
    """
    sections = {part.name: getattr(config, part.name) for part in fields(config)}
    for name, value in settings.items():
        if value is None:
            continue
        if name == "seed":
            sections["seed"] = _checked(name, value, int)
            continue
        for key, section in sections.items():
            if key != "seed" and name in (hints := typing.get_type_hints(type(section))):
                sections[key] = replace(section, **{name: _checked(name, value, hints[name])})
                break
        else:
            raise ConfigError(f"unknown setting {name}")
    return Config(**sections)


def _checked(name: str, value: Any, hint: Any) -> Any:
    if hint == tuple[str, ...]:
        if not isinstance(value, list | tuple) or not all(type(v) is str for v in value):
            raise ConfigError(f"{name} = {value!r:.80}: expected a list of strings")
        return tuple(value)
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if float in kinds and type(value) is int and abs(value) <= _LARGEST:
        value = float(value)
    if type(value) not in kinds:
        wanted = " or ".join(_IN_WORDS[kind] for kind in kinds if kind is not type(None))
        raise ConfigError(f"{name} = {value!r:.80}: expected {wanted}")
    if isinstance(value, str) and not value.isprintable():
        raise ConfigError(f"{name} = {value!a:.80}: expected printable characters")
    if name == "transport" and folder_of(value) is not None:
        return value
    if name in CHOICES and value not in CHOICES[name]:
        raise ConfigError(f"{name} = {value!r:.80}: expected one of {', '.join(CHOICES[name])}")
    if name == "seed":
        if not 0 <= value < 1 << 63:
            raise ConfigError(f"seed = {value}: expected 0 to 2^63 - 1")
        return value
    if name in _POSITIVE and not 0 < value < float("inf"):
        raise ConfigError(f"{name} = {value}: expected a positive number")
    if name in _AT_LEAST and not value >= _AT_LEAST[name]:  # NaN neither
        raise ConfigError(f"{name} = {value}: expected at least {_AT_LEAST[name]}")
    most = _AT_MOST.get(name, _LARGEST if type(value) is int else None)
    if most is not None and not value <= most:
        raise ConfigError(f"{name} = {value}: expected at most {most}")
    return value


def check_together(federation: FederationConfig) -> None:
    """Raise ConfigError where a setting has no effect because of another one."""
    if federation.stale_weight == 1:
        return
    weight = f"stale_weight = {federation.stale_weight}"
    if federation.schedule != "sequential":
        raise ConfigError(
            f"{weight} needs --schedule sequential: where nobody takes turns, nobody knows how "
            "old a model is"
        )
    if federation.merge in ("median", "trimmed"):
        raise ConfigError(f"{weight} needs --merge mean or clipped: the others count all alike")


def folder_of(transport: str) -> str | None:
    """The folder of "folder:DIR"; None for another transport. Raises ConfigError."""
    kind, colon, folder = transport.partition(":")
    if kind != "folder" or not colon:
        return None
    if not folder or folder == "DIR":
        raise ConfigError(f"transport = {transport!r}: which folder? folder:/shared/dir")
    return folder


def read(path: Path, config: Config | None = None, beside: tuple[str, ...] = ()) -> Config:
    """`config` (default: all defaults) with what the TOML file at `path` sets; as for `take`."""
    try:
        return parse(path.read_text(encoding="utf-8"), config, beside)
    except OSError as exc:
        raise ConfigError(f"can't read {path}: {exc.strerror}") from exc
    except (ConfigError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except RecursionError as exc:  # of a setting that is to be shown
        raise ConfigError(f"{path}: its tables are nested too deeply") from exc


def parse(text: str, config: Config | None = None, beside: tuple[str, ...] = ()) -> Config:
    """`config` (default: all defaults) with what the TOML `text` sets. Raises ConfigError."""
    try:
        content = tomllib.loads(text)
    except (ValueError, RecursionError) as exc:  # ValueError: also for a number of 5000 digits
        raise ConfigError(f"not valid TOML: {exc}") from exc
    return take(content, config or Config(), beside)


def take(content: dict[str, Any], config: Config, beside: tuple[str, ...] = ()) -> Config:
    """`config` with what sections of TOML, parsed, set. Raises ConfigError.

    `beside`: other sections that such a file may have, to be named where one is unknown.
    """
    known = [part.name for part in fields(config)]
    for section, settings in content.items():
        if section not in known:
            sections = [name for name in known if name != "seed"]
            hint = meant(section, [*sections, *beside], "[{}]")
            raise ConfigError(f"unknown section [{section}]; {hint}")
        names = {"seed": settings} if section == "seed" else settings
        if not isinstance(names, dict):
            raise ConfigError(f"{section} is a section, write [{section}]")
        for name in names:
            if section != "seed" and not hasattr(getattr(config, section), name):
                hint = meant(name, [part.name for part in fields(getattr(config, section))])
                raise ConfigError(f"unknown setting {name} in [{section}]; {hint}")
        config = change(config, names)
    return config


def to_toml(config: Config, *, unlike: Config | None = None) -> str:
    """The config as TOML: the whole of it, or what is unlike another.

    Settings that are None are left out, as TOML has no null.
    """
    other = {} if unlike is None else asdict(unlike)
    lines = [f"seed = {config.seed}"]
    for section, settings in asdict(config).items():
        if isinstance(settings, dict):
            known = other.get(section, {})
            told = {k: v for k, v in settings.items() if v is not None}
            said = [f"{k} = {_toml(v)}" for k, v in told.items() if known.get(k) != v]
            lines += ["", f"[{section}]", *said] if said else []
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists are TOML's, but for escaped surrogates."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def differences(one: Config, other: Config) -> list[str]:
    """The names of the settings in which two configs differ."""
    names = [] if one.seed == other.seed else ["seed"]
    for part in fields(one):
        if part.name != "seed":
            mine, theirs = asdict(getattr(one, part.name)), asdict(getattr(other, part.name))
            names += [name for name, value in mine.items() if theirs[name] != value]
    return names
