"""Commands that use a trained model: bt eval, bt predict, bt export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bt import options as opt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from bt.inference import Model
    from bt.predicting import Job, Segmented

ModelFile = Annotated[Path, typer.Argument(metavar="MODEL", help="A model file of a run.")]


def evaluate(
    model: ModelFile,
    data: Annotated[str, typer.Option("--data", metavar="DIR", help="Folder of labelled scans.")],
    surface: Annotated[
        bool, typer.Option("--surface", help="Also HD95 and mean surface distance, in mm.")
    ] = False,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out", help="Only the test scans of the model's run, by its results.json."
        ),
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A line per scan and structure.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
    network: opt.Model = None,
    device: opt.Device = None,
) -> None:
    """Score a model on labelled scans: Dice per structure and scan.

    [bold]bt eval runs/demo/aggregated.safetensors --data brains[/]

    It scores all labelled scans of the folder, those that the model was trained on included;
    with --held-out those alone that its run kept for testing.
    """
    from json import dumps

    from bt import inference
    from bt.console import make_console, print_scores, progress_bar

    opt.refuse_overwriting(csv, model)
    console = make_console(to_stderr=json)
    loaded = inference.load_model(model, network, device or "auto")
    with progress_bar(console) as bar:
        task = bar.add_task("Evaluating", total=None)
        metrics, bad = inference.evaluate_folder(
            loaded,
            Path(data),
            only=inference.held_out(model) if held_out else None,
            surface=surface,
            progress=lambda done, of: bar.update(task, completed=done, total=of),
            warn=lambda line: console.print(line, style="yellow", soft_wrap=True),
        )
    for one in bad:
        console.print(f"left out: {one}", style="yellow", soft_wrap=True)
    if csv is not None:
        inference.write_scores(csv, metrics)
    scores = inference.to_json(metrics)
    if json:
        typer.echo(dumps(scores, indent=2))
    else:
        print_scores(console, scores)


def predict(
    model: ModelFile,
    scans: Annotated[
        Path,
        typer.Argument(metavar="SCANS", help="A NIfTI or MGZ scan, a folder of scans, or BIDS."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="OUT", help="A .nii.gz file, or a folder.")
    ],
    also: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="MODEL", help="Another model, of another view: they answer together. Repeat."
        ),
    ] = None,
    volumes: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.tsv",
            help="Volume of every structure, in ml. Default for folders: OUT/volumes.tsv.",
        ),
    ] = None,
    qc: Annotated[
        bool, typer.Option("--qc", help="Also a PNG of each, in three planes, to look at.")
    ] = False,
    missing: Annotated[
        bool, typer.Option("--missing", help="Only scans without a segmentation in OUT yet.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print volumes as JSON.")] = False,
    network: opt.Model = None,
    device: opt.Device = None,
) -> None:
    """Segment scans, each in its own geometry, with the label numbers the model was trained on.

    Research software, not a medical device.

    [bold]bt predict runs/demo/aggregated.safetensors T1.nii.gz -o seg.nii.gz[/]

    [bold]bt predict runs/demo/aggregated.safetensors brains -o segmented --qc[/]

    A folder gives NAME_dseg.nii.gz for each scan (BIDS: derivatives of the same shape), with
    volumes.tsv, and the names and colours of the numbers in dseg.tsv (BIDS) and lookup.txt
    (freeview, FSLeyes).
    """
    from json import dumps

    from bt import inference, predicting
    from bt.console import make_console, print_paths
    from bt.data.scan import DataError
    from bt.wording import counted

    if scans.is_file() and out.suffix and not out.is_dir() and not out.name.endswith(opt.NIFTI):
        raise typer.BadParameter(f"{out}: expected a folder, or a name ending in .nii.gz or .nii")
    opt.refuse_overwriting(volumes, model, scans)
    if qc and (why := opt.missing_for_pictures()):
        raise typer.BadParameter(f"--qc: {why}")
    console = make_console(to_stderr=json)
    jobs = predicting.jobs_of(scans, out)
    todo = [job for job in jobs if not (missing and job.out.exists())]
    models = [
        inference.load_model(path, network, device or "auto") for path in (model, *(also or []))
    ]
    predicting.check_views(models)
    found, bad = _predict(console, models, todo, pictures=qc)
    if missing:
        earlier, unreadable = predicting.measured(models[0].labels, [*{*jobs} - {*todo}])
        found = sorted([*earlier, *found], key=lambda one: jobs.index(one.job))
        bad = [*unreadable, *bad]
    for one in bad:
        console.print(f"left out: {one}", style="yellow", soft_wrap=True)
    one_file = out.name.endswith(opt.NIFTI)
    paths = [("segmentation" if one_file else counted(len(found), "segmentation"), out)]
    if found and not one_file:
        predicting.write_tables(out, models[0])
        volumes = volumes or out / "volumes.tsv"
    if found and volumes is not None:
        predicting.write_volumes(volumes, found)
        paths.append(("volumes", volumes))
    if json:
        typer.echo(dumps({one.job.name: one.ml for one in found}, indent=2))
    if found or not todo:
        print_paths(console, paths)
    if bad:
        raise DataError(f"{len(bad)} of {counted(len(jobs), 'scan')} could not be segmented")


def _predict(
    console: Console, models: Sequence[Model], jobs: Sequence[Job], *, pictures: bool
) -> tuple[Sequence[Segmented], Sequence[object]]:
    """All jobs, with a bar that tells the time left."""
    from bt import predicting
    from bt.console import progress_bar

    try:
        with progress_bar(console) as bar:
            task = bar.add_task("Segmenting", total=len(jobs))
            return predicting.predict_all(
                models, jobs, pictures=pictures, done=lambda job: bar.advance(task)
            )
    except KeyboardInterrupt:
        if len(jobs) > 1:
            console.print("Interrupted. The same command with --missing does the rest.")
        raise


def export(
    model: ModelFile,
    out: Annotated[
        Path,
        typer.Option("-o", "--out", metavar="OUT", help="A name in .safetensors, or .onnx."),
    ],
    network: opt.Model = None,
) -> None:
    """Write a model for other software: plain safetensors, or ONNX.

    [bold]bt export runs/demo/aggregated.safetensors -o model.onnx[/]

    A .safetensors file holds the state dict alone, for torch's load_state_dict. An .onnx file
    maps slices (batch, 1, height, width) to logits (batch, classes, height, width); structures,
    label numbers, view and voxel size stand in its metadata.
    """
    from bt import exporting
    from bt.console import make_console, print_paths

    opt.refuse_overwriting(out, model)
    console = make_console()
    with console.status("Exporting"):
        exporting.export(model, out, network)
    print_paths(console, [("exported", out)])
