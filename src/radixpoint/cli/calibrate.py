"""``radixpoint calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radixpoint.cli.inputs import check_writable, make_parents, read_images, read_model
from radixpoint.cli.options import (
    Calibration,
    Classes,
    InputShape,
    Labels,
    MaxImages,
    Metric,
    Model,
    PreprocessingFile,
    Store,
    Weights,
)
from radixpoint.cli.terminal import bars, say
from radixpoint.measure import calibrate as measure
from radixpoint.measure.metrics import check_metric


def calibrate(
    model: Model,
    calibration: Calibration,
    out: Annotated[Path, typer.Option("--out", "-o", help="The file of ranges to write (.npz).")],
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images", "-i", help="Images that a search will judge on, and those held out; repeatable."
        ),
    ] = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    labels: Labels = None,
    store: Store = None,
    metric: Metric = "top1",
    max_images: MaxImages = None,
) -> None:
    """Measure the float network once, for any machine.

    What is measured: the range of every tensor, and what the network makes of images. Searches take it up
    with --ranges.

    Example: radixpoint calibrate resnet50.onnx --calibration calib/ --images val/ -o ranges.npz
    """
    check_writable(out)
    check_metric(metric)
    calibration_set = read_images(calibration, classes, preprocessing, model=model, store=store)
    judged = [
        read_images(path, classes, preprocessing, max_images, model, labels, store) for path in images or []
    ]
    graph = read_model(model, weights, input_shape, calibration_set)
    with bars() as shown:
        task = shown.add_task("calibration", total=None)
        found = measure.calibrate(
            graph,
            calibration_set,
            lambda done, total: shown.update(task, completed=done, total=total),
            judged,
            metric,
        )
    make_parents(out)
    found.save(out)
    say(
        f"{out}: {len(found.tensors)} tensors on {len(calibration_set)} images, outcomes of "
        f"{sum(map(len, judged))} images"
    )
