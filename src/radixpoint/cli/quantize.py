"""``radixpoint quantize``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.markup import escape
from rich.table import Table

from radixpoint.accelerator.target import HardwareTarget
from radixpoint.cli.inputs import check_writable, ranges_of, read_images, read_model, write_quantized
from radixpoint.cli.options import (
    AsJson,
    Calibration,
    Classes,
    InputShape,
    Model,
    PreprocessingFile,
    RangesFile,
    Target,
    Weights,
)
from radixpoint.cli.terminal import bars, emit, say
from radixpoint.cli.terminal import out as terminal
from radixpoint.quantization import quantize as quantization
from radixpoint.quantization.design import Design


def quantize(
    model: Model,
    design: Annotated[str, typer.Option("--design", "-d", help="The design file (docs/design-file.md).")],
    calibration: Calibration,
    out: Annotated[Path, typer.Option("--out", "-o", help="The quantized network to write (.safetensors).")],
    weights: Weights = None,
    input_shape: InputShape = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    ranges: RangesFile = None,
    target: Target = None,
    as_json: AsJson = False,
) -> None:
    """Quantize a network by a design.

    What is written are stored integers and casts.

    Example: radixpoint quantize resnet50.onnx -d design.json -c calib/ -o network.safetensors
    """
    chosen = Design.load(design)
    hardware = None if target is None else HardwareTarget.load(target)
    check_writable(out)
    images = read_images(calibration, classes, preprocessing, model=model)
    graph = read_model(model, weights, input_shape, images)
    chosen.check(graph)
    if hardware is not None:
        chosen = replace(chosen, target=hardware.name)
        hardware.check(hardware.problems_of_design(chosen, graph), design)
    measured = ranges_of(ranges, graph, images)
    with bars() as shown:
        shown.add_task("choosing formats and rounding", total=None)
        network = quantization.quantize(graph, measured, chosen, images)
    if hardware is not None:
        hardware.check(hardware.problems(network), design)
    written = write_quantized(network, out)
    if as_json:
        emit(written)
        return
    table = Table("layer", "step", "format of its result", "proven range of stored integers")
    for step in network.steps:
        t = network.tensors[step.name]
        table.add_row(escape(t.layer), step.op, str(t.format), f"{t.low} .. {t.high}")
    terminal.print(table)
    say(f"{out}: {len(network.steps)} steps, widest accumulator {network.widest_accumulator} bits")
