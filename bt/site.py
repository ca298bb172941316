"""federation.toml: all that one site has to say, in one file that bt init writes.

The sections of any config (bt/config.py), and [site]: who takes part, as whom, where to write.
Paths in it are relative to its folder.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bt import config as configs
from bt.config import Config, ConfigError
from bt.wording import meant

FILE = Path("federation.toml")


@dataclass(frozen=True)
class Site:
    """The [site] section."""

    roster: Path | None = None
    keys: Path | None = None
    out: Path | None = None
    listen: str | None = None  # None: the address of the roster
    announce: str | None = None


_BESIDE = ("site",)
_PATHS = ("roster", "keys", "out")


def read(path: Path) -> tuple[Site, Config]:
    """Both halves of a file; without a [site] it is a config like any other.

    Where it has one all scans are this site's own: none is held out unless it says so. Raises
    ConfigError.
    """
    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text)
    except OSError as exc:
        raise ConfigError(f"can't read {path}: {exc.strerror}") from exc
    except (ValueError, RecursionError):
        return Site(), configs.read(path)  # which says what is wrong
    if "site" not in content:
        return Site(), configs.read(path, beside=_BESIDE)
    try:
        site = _site(content.pop("site"), path.parent)
        base = configs.change(Config(), {"test_scans": 0})
        config = configs.take(content, base, _BESIDE)
    except ConfigError as exc:
        raise ConfigError(f"{path}: {exc}") from exc
    except RecursionError as exc:  # of a setting that is to be shown
        raise ConfigError(f"{path}: its tables are nested too deeply") from exc
    if config.data.path is not None:
        config = configs.change(config, {"path": _from(path.parent, config.data.path)})
    return site, config


def filled(given: Mapping[str, Any]) -> tuple[dict[str, Any], Config | None]:
    """Options of a command, those not given as the [site] of its --config says; its settings."""
    options = dict(given)
    if options.get("config") is None:
        return options, None
    site, config = read(options["config"])
    for part in fields(Site):
        if part.name in options and options[part.name] is None:
            options[part.name] = getattr(site, part.name)
    return options, config


def here(config: Path | None) -> Path | None:
    """The file that was named, or federation.toml if there is one in this folder."""
    return FILE if config is None and FILE.exists() else config


def _site(section: Any, folder: Path) -> Site:
    known = [part.name for part in fields(Site)]
    if not isinstance(section, dict):
        raise ConfigError("site is a section, write [site]")
    for name, value in section.items():
        if name not in known:
            raise ConfigError(f"unknown setting {name} in [site]; {meant(name, known)}")
        if not isinstance(value, str) or not value or not value.isprintable():
            raise ConfigError(f"{name} in [site]: expected text")
    paths = {name: Path(_from(folder, section[name])) for name in _PATHS if name in section}
    return Site(**{**section, **paths})


def _from(folder: Path, path: str) -> str:
    return str(folder / Path(path).expanduser())
