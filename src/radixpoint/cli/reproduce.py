"""``radixpoint reproduce``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer

from radixpoint.cli import options
from radixpoint.cli.inputs import criterion, read_images, read_model, read_prepared
from radixpoint.cli.terminal import bars, note_the_engine, say
from radixpoint.errors import DataError
from radixpoint.report.progress import Bars
from radixpoint.searching import reproduce as again


def reproduce(
    paper: Annotated[
        Literal["kang2018"], typer.Argument(help="kang2018: He's ResNet-50, ImageNet's validation images.")
    ],
    model: Annotated[
        str, typer.Option("--model", help="ResNet-50-deploy.prototxt, or any model that 'search' takes.")
    ],
    images: options.Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the searches and kang2018.md.")],
    weights: options.Weights = None,
    labels: options.Labels = None,
    mean: Annotated[str | None, typer.Option(help="Caffe's mean image (ResNet_mean.binaryproto).")] = None,
    resize: Annotated[
        int,
        typer.Option(min=1, help="With --mean: shorter side to which images are resized before the crop."),
    ] = 256,
    preprocessing: options.PreprocessingFile = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            "--calibration", "-c", help="Images to choose binary points from. Default: drawn from --images."
        ),
    ] = None,
    drawn: Annotated[
        int, typer.Option(min=1, help="So many are drawn, and judged no more, if --calibration is not given.")
    ] = 1000,
    limit: options.Limit = "1.0",
    metric: options.Metric = "top1",
    scope: Annotated[
        list[str] | None, typer.Option(help="Repeatable; default: network, class, tensor, channel.")
    ] = None,
    form: Annotated[
        list[str] | None, typer.Option(help="Repeatable; default: affine, staged, folded.")
    ] = None,
    max_images: options.MaxImages = None,
    store: options.Store = None,
    executor: Annotated[str, typer.Option(help="As of 'search'.")] = "here",
    threads: options.Threads = 0,
) -> None:
    """Search for a published claim, and print it beside what is found.

    Kang (2018): one representation for all of ResNet-50 takes 16 bits; with one of its own for batch
    normalization the convolutions take 10.

    Example: radixpoint reproduce kang2018 --model ResNet-50-deploy.prototxt
    --weights ResNet-50-model.caffemodel --mean ResNet_mean.binaryproto --images ILSVRC2012_img_val.tar
    --labels ILSVRC2012_devkit_t12.tar.gz -o kang
    """
    asked = criterion(metric, limit)
    if mean is not None:
        if preprocessing is not None:
            raise DataError("--mean with --preprocessing: expected one of them")
        from radixpoint.data.caffe_images import caffe_preprocessing

        prepared = msgspec.structs.replace(caffe_preprocessing(model, mean), resize_size=resize)
        judged = read_prepared(images, prepared, None, max_images, labels, store)
    else:
        judged = read_images(images, None, preprocessing, max_images, model, labels, store)
    if calibration is None:
        calibrating, judged = judged.parted(drawn)
    else:
        calibrating = read_prepared(calibration, judged.preprocessing, store=store)
    graph = read_model(model, weights, None, judged)
    note_the_engine()
    with bars() as shown:
        found = again.kang2018(
            *(graph, judged, calibrating, out, asked),
            *(scope or again.SCOPES, form or again.FORMS),
            watcher=Bars(progress=shown),
            executor=executor,
            threads=threads,
        )
    say(found.page())
    say(f"{out / again.PAGE}: this page; a run folder for each row beside it")
