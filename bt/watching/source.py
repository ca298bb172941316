"""Where the reports come from: peers that are asked, a run's folder, or a simulation."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from bt import site
from bt.config import ConfigError
from bt.outside import NoAnswer
from transports.reports import Report


class Source(Protocol):
    """Made with `of`."""

    label: str  # what is looked at, for people
    simulated: bool
    closed: bool  # nobody takes part but those that a look tells of

    def look(self, now: float) -> dict[str, Report | NoAnswer]:
        """How each peer is doing at `now`, seconds of any monotonic clock."""

    def close(self) -> None:
        """Free what it holds."""


def of(
    folder: Path | None,
    roster: Path | None,
    keys: Path | None,
    peers: list[str],
    simulate: int | None,
    timeout_s: float,
    *,
    insecure: bool,
) -> Source:
    """As the options say; where they say nothing, the federation of the federation.toml here.

    Raises ConfigError, BadKey, NothingToWatch.
    """
    asked = roster is not None or keys is not None or bool(peers)
    if not asked and folder is None and simulate is None and site.FILE.exists():
        own, _ = site.read(site.FILE)
        roster, keys = own.roster, own.keys
        asked = roster is not None and keys is not None
    if (folder is not None) + asked + (simulate is not None) > 1:
        raise ConfigError("one of the three: a run's folder, peers to ask, or --simulate")
    if simulate is not None:
        from bt.watching.simulated import Simulated

        return Simulated(simulate)
    if folder is not None:
        from bt.watching.folder import Folder

        return Folder(folder)
    if not asked:
        raise ConfigError(
            "what to look at? the folder of a run, or --roster FILE and --keys FILE, or --peer "
            "NAME=ADDRESS for peers without keys, or start it beside a federation.toml"
        )
    from bt import outside
    from bt.watching.asking import Asking

    return Asking(outside.of(roster, keys, peers, insecure=insecure), timeout_s)
