"""Command-line options that several commands share, and how they become a Config."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from bt import config as configs
from bt.config import Config


class _PlainHelp:
    """Help in paragraphs as wide as the terminal, without the <bool> typer shows beside flags."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        if (text := settings.get("help")) is not None:
            settings["help"] = re.sub(r"(?<!\n)\n(?!\n)", " ", text)
        super().__init__(*args, **settings)

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class Command(_PlainHelp, TyperCommand):
    """A bt command."""


class Group(_PlainHelp, TyperGroup):
    """A command of commands."""


NIFTI = (".nii.gz", ".nii")
REPORT_EXTRA = "pip install 'braintorrent[report]'"
_DATA, _NETWORK, _RUN = "Scans", "Network and training", "Federation"

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE.toml", help="Settings; options given beside it win."),
]
_FOLDER = "Folder of scans (Decathlon/nnU-Net, BIDS, FreeSurfer, MALC) or a TSV manifest."
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        rich_help_panel=_DATA,
        help=f"{_FOLDER} Needed, if not in --config.",
    ),
]
DataOrDemo = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="DIR",
        rich_help_panel=_DATA,
        help=f"{_FOLDER} Default: a demo cohort is simulated.",
    ),
]
ScansPerPeer = Annotated[
    int | None,
    typer.Option(rich_help_panel=_DATA, help="Training scans each. Default: all, divided evenly."),
]
TestScans = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_DATA,
        help="Scans held out for testing. Default: 5; of bt peer without --part: 0.",
    ),
]
SplitBy = Annotated[
    str | None,
    typer.Option("--split", rich_help_panel=_DATA, help="uniform, bands or explicit (manifest)."),
]
BandsBy = Annotated[
    str | None, typer.Option(rich_help_panel=_DATA, help="participants.tsv column for bands.")
]
Spacing = Annotated[
    float | None,
    typer.Option(
        "--spacing",
        metavar="MM",
        rich_help_panel=_DATA,
        help="Isotropic voxel size to resample to. Default: each scan's own grid.",
    ),
]
View = Annotated[
    str | None,
    typer.Option(rich_help_panel=_DATA, help="Slices: coronal (default), axial or sagittal."),
]
SliceStep = Annotated[
    int | None, typer.Option(rich_help_panel=_DATA, help="Train on every n-th slice. Default: 1.")
]
Margin = Annotated[
    float | None,
    typer.Option(
        "--margin",
        metavar="MM",
        rich_help_panel=_DATA,
        help="Kept around a scan's labelled voxels in training. Default: 8.",
    ),
]
SkipBad = Annotated[
    bool | None,
    typer.Option("--skip-bad", rich_help_panel=_DATA, help="Go on without unusable scans."),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        rich_help_panel=_NETWORK,
        help="quicknat (default) or your own: package.module:factory.",
    ),
]
Filters = Annotated[
    int | None,
    typer.Option(rich_help_panel=_NETWORK, help="Feature maps per layer. Default: 64."),
]
Epochs = Annotated[
    int | None, typer.Option(rich_help_panel=_NETWORK, help="Epochs per fine-tune. Default: 2.")
]
BatchSize = Annotated[
    int | None, typer.Option(rich_help_panel=_NETWORK, help="Slices per step. Default: 4.")
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        rich_help_panel=_NETWORK,
        help="Adam's. Default: 0.001 at 64 filters, in inverse proportion for fewer.",
    ),
]
HalveEvery = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=_NETWORK,
        help="Updates of a peer after which its learning rate is halved. Default: 4.",
    ),
]
Crop = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        rich_help_panel=_NETWORK,
        help="Train on random windows of this share of a slice's sides. Default: 0.75; 1: whole.",
    ),
]
PrecisionName = Annotated[
    str | None,
    typer.Option(
        "--precision",
        rich_help_panel=_NETWORK,
        help="float32, bfloat16, or auto (default): the faster one here, by timing a few steps.",
    ),
]
Device = Annotated[
    str | None, typer.Option(rich_help_panel=_NETWORK, help="auto (default), cpu, cuda, cuda:1.")
]
Rounds = Annotated[
    int | None, typer.Option(rich_help_panel=_RUN, help="Updates per peer. Default: 8.")
]
ScheduleName = Annotated[
    str | None,
    typer.Option(
        "--schedule",
        rich_help_panel=_RUN,
        help="async (default): all in parallel; sequential: the paper's, one at a time.",
    ),
]
PingTimeout = Annotated[
    float | None,
    typer.Option(
        "--ping-timeout",
        metavar="S",
        rich_help_panel=_RUN,
        help="Silence that means gone. Default: 5.",
    ),
]
PullTimeout = Annotated[
    float | None,
    typer.Option(
        "--pull-timeout",
        metavar="S",
        rich_help_panel=_RUN,
        help="How long weights may take. Default: 60.",
    ),
]
LongestWait = Annotated[
    float | None,
    typer.Option(
        "--longest-wait",
        metavar="S",
        rich_help_panel=_RUN,
        help="How long to wait for the others once this peer is done. Default: 86400, a day.",
    ),
]
Compression = Annotated[
    str | None,
    typer.Option(
        "--compression",
        rich_help_panel=_RUN,
        help="Of models on the wire: none (default), fp16, int8, either with +zstd, or auto: "
        "what is fastest at the speed measured. For slow links.",
    ),
]
_MEET = "The other peers"
RosterFile = Annotated[
    Path | None,
    typer.Option(
        "--roster",
        metavar="FILE.toml",
        rich_help_panel=_MEET,
        help="Who takes part, under which names, addresses and keys. Goes with --keys.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--keys",
        metavar="FILE",
        rich_help_panel=_MEET,
        help="This peer's keys, as bt keys new makes. They say which peer of the roster it is.",
    ),
]
PeerName = Annotated[
    str | None,
    typer.Option("--name", rich_help_panel=_MEET, help="This peer's name. Default: the roster's."),
]
Listen = Annotated[
    str | None,
    typer.Option(
        "--listen",
        metavar="ADDRESS",
        rich_help_panel=_MEET,
        help="tcp://HOST:PORT or ipc://PATH to answer at. Default: its address in the roster; "
        "without any it opens no port, and only connects to others.",
    ),
]
Peers = Annotated[
    list[str] | None,
    typer.Option(
        "--peer",
        metavar="NAME=ADDRESS",
        rich_help_panel=_MEET,
        help="Another peer, where there is no roster; once for each of them. NAME alone: it "
        "connects to this one, or shares the folder.",
    ),
]
Announce = Annotated[
    str | None,
    typer.Option(
        "--announce",
        metavar="ADDRESS",
        rich_help_panel=_MEET,
        help="Where versions are announced. Default: any free port.",
    ),
]
Insecure = Annotated[
    bool,
    typer.Option(
        "--insecure",
        rich_help_panel=_MEET,
        help="Without keys, and yet beyond this machine: nothing is encrypted, and everybody is "
        "who they say. Think twice.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        "--metrics",
        metavar="HOST:PORT",
        rich_help_panel=_MEET,
        help="Serve this peer's numbers to Prometheus there, for example at 127.0.0.1:9100.",
    ),
]
MetricsPublic = Annotated[
    bool,
    typer.Option(
        "--metrics-public",
        rich_help_panel=_MEET,
        help="Also where other machines reach them, unencrypted.",
    ),
]
PeerTransport = Annotated[
    str | None,
    typer.Option(
        "--transport",
        rich_help_panel=_RUN,
        help="zmq (default); folder:DIR, which all share: no network needed; mpi: the others are "
        "the other ranks of an mpirun.",
    ),
]
LaunchedBy = Annotated[str | None, typer.Option(hidden=True)]  # train or launch
CONTACTS = ("roster", "keys", "name", "listen", "peer", "announce", "insecure")
Fanout = Annotated[
    int | None,
    typer.Option(
        "--fanout",
        rich_help_panel=_RUN,
        help="A round asks so many random peers. Default: all. For large federations.",
    ),
]
Merge = Annotated[
    str | None,
    typer.Option(
        "--merge",
        metavar="RULE",
        rich_help_panel=_RUN,
        help="mean (default, by number of scans), or, should one lie: clipped, median, trimmed.",
    ),
]
StaleWeight = Annotated[
    float | None,
    typer.Option(
        "--stale-weight",
        rich_help_panel=_RUN,
        help="What a model a round old counts, with --schedule sequential. Default: 1, like new.",
    ),
]
Seed = Annotated[int | None, typer.Option(help="Decides split, weights and batches. Default: 0.")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Where to write. Default: runs/NAME.")
]
Json = Annotated[
    bool, typer.Option("--json", help="Print the results as JSON; all else goes to stderr.")
]

# Options named otherwise than the setting they set.
_SETTINGS = {
    "data": "path",
    "spacing": "spacing_mm",
    "margin": "margin_mm",
    "model": "name",
    "ping_timeout": "ping_timeout_s",
    "pull_timeout": "pull_timeout_s",
    "longest_wait": "longest_wait_s",
}
_NOT_SETTINGS = ("config", "out", "json", "ctx")


def to_config(given: dict[str, Any], base: Config | None = None) -> Config:
    """`base`, the --config file, and then the options that were given.

    Raises ConfigError.
    """
    config = base or Config()
    if given.get("config") is not None:
        config = configs.read(given["config"], config)
    settings = {
        _SETTINGS.get(name, name): value
        for name, value in given.items()
        if name not in _NOT_SETTINGS
    }
    if settings.get("path") is not None:
        settings["path"] = str(Path(settings["path"]).expanduser().resolve())
    if settings.get("transport") and (folder := configs.folder_of(settings["transport"])):
        settings["transport"] = f"folder:{Path(folder).expanduser().resolve()}"
    return configs.change(config, settings)


# What trains in minutes on two processors; anything given on the command line wins.
DEMO = {
    "scans_per_peer": 4,
    "margin_mm": 0.0,
    "filters": 16,
    "epochs": 1,
    "rounds": 9,
}


def defaults(data: str | None, config: Path | None, ranks: int) -> Config:
    """What `bt train` starts from: smaller settings for the demo cohort, under MPI a rank a peer.

    A file or an option that says otherwise wins here, so that it can be refused and not ignored.
    """
    settings: dict[str, Any] = {} if data or config else dict(DEMO)
    if ranks > 1:
        settings |= {"peers": ranks, "transport": "mpi"}
    return configs.change(Config(), settings)


def missing_for_pictures() -> str | None:
    """What to say where the packages that draw are not there."""
    missing = [name for name in ("matplotlib", "jinja2") if find_spec(name) is None]
    return f"it takes {' and '.join(missing)}: {REPORT_EXTRA}" if missing else None


def refuse_overwriting(output: Path | None, *inputs: Path) -> None:
    """Raise BadParameter if what is to be written is one of the files read."""
    for path in inputs:
        if output is not None and output.exists() and path.exists() and output.samefile(path):
            raise typer.BadParameter(f"{output} is read by this command; choose another name")
