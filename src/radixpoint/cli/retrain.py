"""``radixpoint retrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radixpoint.cli.inputs import check_writable, read_images, read_model, write_quantized
from radixpoint.cli.options import (
    AsJson,
    Classes,
    Images,
    InputShape,
    Labels,
    MaxImages,
    Model,
    Network,
    PreprocessingFile,
    Store,
    Threads,
    Weights,
)
from radixpoint.cli.terminal import bars, emit, say
from radixpoint.importers.torch import require_torch
from radixpoint.ir.storage import load_network
from radixpoint.quantization.retrain import retrain as train
from radixpoint.quantization.training import Training

_DEFAULT = Training()


def retrain(
    model: Model,
    network: Network,
    images: Images,
    out: Annotated[Path, typer.Option("--out", "-o", help="The retrained network to write (.safetensors).")],
    weights: Weights = None,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    labels: Labels = None,
    store: Store = None,
    epochs: Annotated[int, typer.Option(help="How often every image is seen.")] = _DEFAULT.epochs,
    rate: Annotated[
        float,
        typer.Option(
            help="How far a step moves a number at most, as a share of its tensor's root mean square."
        ),
    ] = _DEFAULT.rate,
    batch: Annotated[int, typer.Option(help="Images in a step.")] = _DEFAULT.batch,
    mirror: Annotated[
        bool, typer.Option("--mirror", help="Mirror half of the images, left to right.")
    ] = False,
    shift: Annotated[int, typer.Option(help="Move images by so many pixels at most.")] = _DEFAULT.shift,
    label_share: Annotated[
        float, typer.Option(help="Share of what is made small that comes from labels; 0 needs none.")
    ] = _DEFAULT.labels,
    seed: Annotated[int, typer.Option(help="Of the order of the images.")] = _DEFAULT.seed,
    device: Annotated[str, typer.Option(help="PyTorch's name of a device, as cpu or cuda:0.")] = "cpu",
    threads: Threads = 0,
    max_images: MaxImages = None,
    as_json: AsJson = False,
) -> None:
    """Train a quantized network on its own fixed-point grid.

    The float network is the teacher, so images need no labels. Formats stay: fewer bits hold the limit. A run
    that is interrupted goes on where it was, from a file beside --out.

    Example: radixpoint retrain resnet50.onnx -n network.safetensors -i train/ -o retrained.safetensors
    """
    training = Training(epochs, rate, batch, mirror, shift, label_share, seed)
    training.check()
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    check_writable(out)
    check_writable(checkpoint)
    require_torch("retraining")
    quantized = load_network(network)
    image_set = read_images(images, classes, preprocessing, max_images, model, labels, store)
    graph = read_model(model, weights, input_shape, image_set)
    with bars() as shown:
        task = shown.add_task("retraining", total=epochs)

        def progress(done: int, loss: float) -> None:
            shown.update(task, completed=done, description=f"retraining, apart by {loss:.4g}")

        made = train(graph, quantized, image_set, training, checkpoint, progress, device, threads)
    written = write_quantized(made, out)
    checkpoint.unlink(missing_ok=True)
    if as_json:
        emit(written)
        return
    say(f"{out}: {made.summary()}; 'radixpoint evaluate' tells what it is worth")
