"""``radixpoint export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from radixpoint.accelerator.target import HardwareTarget
from radixpoint.cli.inputs import read_images
from radixpoint.cli.options import Classes, PreprocessingFile, Target
from radixpoint.cli.terminal import say
from radixpoint.engines import quantize_images
from radixpoint.errors import DesignError
from radixpoint.export import TARGETS, example_images, export_network
from radixpoint.export.folder import check_replaceable
from radixpoint.ir.storage import load_network

if TYPE_CHECKING:
    TargetName = str
else:
    TargetName = StrEnum("TargetName", {name: name for name in TARGETS})


def export(
    network: Annotated[str, typer.Argument(help="The quantized network (from 'quantize' or a run folder).")],
    to: Annotated[
        TargetName,
        typer.Option(help="; ".join(f"{name}: {target.summary}" for name, target in TARGETS.items())),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The folder to write: new, or an earlier export nobody changed."),
    ],
    images: Annotated[
        str | None,
        typer.Option(
            "--images",
            "-i",
            help="Images to verify on, every tensor of each. Default: random stored integers.",
        ),
    ] = None,
    count: Annotated[
        int | None, typer.Option(min=1, help="How many of the images (default: 2), or random ones (4).")
    ] = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    target: Target = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a target, name=value; vectors: memory=hex+coe+mif+raw; c: parameters=arrays or blob; "
            "verilog: lanes=16."
        ),
    ] = None,
) -> None:
    """Write a quantized network for another tool.

    'verify' then runs what was written and compares every integer.

    Example: radixpoint export run/separate/network.safetensors --to c -o firmware
    """
    check_replaceable(out)
    options = {}
    for text in option or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise DesignError(f"--option {text!r}: expected name=value")
        options[name] = value
    quantized = load_network(network)
    if target is not None:
        hardware = HardwareTarget.load(target)
        hardware.check(hardware.problems(quantized), network)
    stored = None
    if images is not None:
        image_set = read_images(images, classes, preprocessing, count or 2)
        stored = quantize_images(quantized, image_set.inputs(0, len(image_set)))
    elif count is not None:
        stored = example_images(quantized, count)
    export_network(quantized, to, out, stored, options)
    say(f"{out}: written; 'radixpoint verify {out}' runs it")
