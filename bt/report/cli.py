"""The command line of bt report, and the report at the end of bt train."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bt import options as opt

if TYPE_CHECKING:
    from rich.console import Console


def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_OR_EXPERIMENT", help="Its folder.", show_default=False)
    ],
    network: opt.Model = None,
) -> None:
    """Write report.html, one page with everything a run or an experiment found, into its folder.

    [bold]bt report runs/demo[/]
    """
    from bt.console import make_console, print_paths
    from bt.report.study import ReportError

    if why := opt.missing_for_pictures():
        raise ReportError(f"no report: {why}")
    from bt.report.page import write_report
    from bt.wording import printable

    console = make_console()
    with console.status("Writing the report"):
        path, missing = write_report(folder, network)
    for sentence in missing:
        console.print(printable(sentence), style="yellow", soft_wrap=True)
    print_paths(console, [("report", path)])


def report_of_run(folder: Path, network: str | None, console: Console) -> Path | None:
    """The page of a run that has just ended. None, and one line, where there is none.

    The run's results are on disk by now: whatever is wrong here must not make it a failed one.
    """
    if why := opt.missing_for_pictures():
        console.print(f"No report.html: {why}, then bt report {folder}",
                      style="dim", soft_wrap=True)  # fmt: skip
        return None
    from bt.report.page import write_report
    from bt.wording import printable

    try:
        with console.status("Writing the report"):
            return write_report(folder, network, quick=True)[0]
    except (Exception, KeyboardInterrupt) as exc:
        why = " ".join(printable(f"{type(exc).__name__}: {exc}").split()).rstrip(": ")
        console.print(f"No report.html ({why}); the run itself is whole",
                      style="yellow", soft_wrap=True)  # fmt: skip
        return None
