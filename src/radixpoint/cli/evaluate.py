"""``radixpoint evaluate``."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer
from msgspec import UNSET
from rich.markup import escape
from rich.table import Table

from radixpoint.cli.inputs import criterion, engine_of, read_images, read_model
from radixpoint.cli.options import (
    MODEL_HELP,
    AsJson,
    Classes,
    Confidence,
    Device,
    EngineName,
    Images,
    InputShape,
    Labels,
    MaxImages,
    Metric,
    Network,
    PreprocessingFile,
    Store,
    Threads,
    Weights,
)
from radixpoint.cli.terminal import bars, emit, note_the_engine, out, say
from radixpoint.data import ImageSet
from radixpoint.errors import ModelError
from radixpoint.ir.storage import load_network
from radixpoint.measure import evaluate as measure
from radixpoint.measure.metrics import find_metric
from radixpoint.report import words


def _alone(network: str, images: ImageSet, engine: str, threads: int, as_json: bool) -> None:
    quantized = load_network(network)
    with bars() as shown:
        task = shown.add_task("evaluate", total=len(images))
        found = measure.accuracy(
            quantized, images, engine, lambda done, _: shown.update(task, completed=done), threads
        )
    if as_json:
        emit({**msgspec.to_builtins(found), **_of_images(images)})
        return
    more = "" if found.top5 is None else f"; top-5 {found.top5:.2f} %"
    say(f"{found.summary()}{more}")


def _of_images(images: ImageSet) -> dict[str, object]:
    return {
        "preprocessing": msgspec.to_builtins(images.preprocessing),
        "unreadable": [list(pair) for pair in images.unreadable],
    }


def evaluate(
    network: Network,
    images: Images,
    model: Annotated[str | None, typer.Argument(help=MODEL_HELP)] = None,
    weights: Weights = None,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    labels: Labels = None,
    store: Store = None,
    metric: Metric = "top1",
    engine: EngineName = "auto",
    device: Device = None,
    threads: Threads = 0,
    layers: Annotated[
        bool, typer.Option(help="Also print each layer's SQNR on the first 64 images.")
    ] = False,
    confidence: Confidence = None,
    max_images: MaxImages = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy of a quantized network against float.

    Both run on the same images. Without MODEL, as for a network from 'convert', it is judged by itself.

    Example: radixpoint evaluate resnet50.onnx --network run/separate/network.safetensors --images val/
    """
    runner = engine_of(engine, device, threads)
    if engine == "auto":
        note_the_engine()
    if model is None:
        needing = {"--weights": weights, "--layers": layers, "--confidence": confidence}
        needing |= {"--input-shape": input_shape, "--metric": None if metric == "top1" else metric}
        for name, given in needing.items():
            if given:
                raise ModelError(f"{name} without MODEL: expected the float network, which it compares with")
        _alone(network, read_images(images, classes, preprocessing, max_images, None, labels, store), runner,
               threads, as_json)  # fmt: skip
        return
    criterion(metric, "0", confidence)
    quantized = load_network(network)
    if "network" not in quantized.metadata:
        raise ModelError(f"{network}: does not say which float network it was quantized from")
    image_set = read_images(images, classes, preprocessing, max_images, model, labels, store)
    graph = read_model(model, weights, input_shape, image_set)
    if layers:
        measure.check_comparable(quantized)
    with bars() as shown:
        task = shown.add_task("evaluate", total=len(image_set))
        result = measure.evaluate(
            graph,
            quantized,
            image_set,
            metric,
            runner,
            lambda done, _: shown.update(task, completed=done),
            threads,
            confidence,
        )
    sqnr = measure.layer_sqnr(graph, quantized, image_set.inputs(0, 64)) if layers else {}
    if as_json:
        emit(
            {
                **msgspec.to_builtins(result),
                **_of_images(image_set),
                "layer_sqnr": {name: value if abs(value) < 1e9 else None for name, value in sqnr.items()},
            }
        )
        return
    if layers:
        table = Table("layer", "SQNR, dB")
        for name, value in sqnr.items():
            table.add_row(escape(name), f"{value:.1f}")
        out.print(table)
    low, high = result.drop_interval
    if result.top1 is UNSET:
        scores = f"float {metric} {result.float_score:.4g}; quantized {result.score:.4g}"
    else:
        scores = (
            f"float top-1 {result.float_top1:.2f} %, top-5 {result.float_top5:.2f} %; "
            f"quantized top-1 {result.top1:.2f} %, top-5 {result.top5:.2f} %"
        )
    unit = find_metric(metric).unit
    drop, interval = words.drop(result.drop, unit), f"[{words.number(low, unit)}, {words.number(high, unit)}]"
    agree = "" if result.agreement is None else f"; the two agree on {result.agreement:.2f} % of the images"
    say(f"{result.images} images: {scores}\n{metric} drop {drop}, paired 95 % interval {interval}{agree}")
    if result.drop_bound is not None and confidence is not None:
        most = words.drop(result.drop_bound, unit)
        say(f"with {100 * confidence:g} % confidence the drop is at most {most}")
