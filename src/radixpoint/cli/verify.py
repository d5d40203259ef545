"""``radixpoint verify``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.markup import escape
from rich.table import Table

from radixpoint.cli.inputs import read_images
from radixpoint.cli.options import AsJson, Classes, MaxImages, PreprocessingFile
from radixpoint.cli.terminal import bars, emit, out, say
from radixpoint.engines import quantize_images
from radixpoint.export import TIME_LIMIT, Verification, verify_export
from radixpoint.ir.network import IntGraph

BATCH = 64


def verify(
    folder: Annotated[Path, typer.Argument(help="A folder written by 'export'.")],
    images: Annotated[
        str | None, typer.Option("--images", "-i", help="Further images, whose logits are compared as well.")
    ] = None,
    classes: Classes = None,
    preprocessing: PreprocessingFile = None,
    max_images: MaxImages = None,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Refuse a folder in which anything was added or changed since the export."
        ),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            help="Run exported C on another machine: cortex-m7, which QEMU emulates (needs arm-none-eabi-gcc "
            "and qemu-system-arm), plain and with DSP instructions. Default: here.",
        ),
    ] = None,
    time_limit: Annotated[
        float, typer.Option(help="Seconds that a compiler, a simulator or the exported program may take.")
    ] = TIME_LIMIT,
    as_json: AsJson = False,
) -> None:
    """Run an export and compare every integer.

    Exit status 1 if any differs, 2 if it cannot be run. This compiles and runs what lies in the folder:
    verify only folders that you trust, or with --strict ones whose manifest you trust.
    """
    image_set = None if images is None else read_images(images, classes, preprocessing, max_images)

    def batches(network: IntGraph) -> Iterator[Any]:
        assert image_set is not None
        for first in range(0, len(image_set), BATCH):
            yield quantize_images(network, image_set.inputs(first, min(first + BATCH, len(image_set))))

    with bars() as shown:
        task = shown.add_task("verify", total=None if image_set is None else len(image_set))
        result = verify_export(
            folder,
            None if image_set is None else batches,
            lambda done: shown.update(task, completed=done),
            strict,
            time_limit,
            on,
        )
    _report(result, as_json)
    if result.mismatch is not None:
        raise typer.Exit(1)


def _report(result: Verification, as_json: bool) -> None:
    differs = result.mismatch
    if as_json:
        emit(msgspec.to_builtins(result) | {"equal": differs is None})
        return
    table = Table("run", "layer", "integers compared", "")
    for layer in result.layers:
        table.add_row(
            layer.engine, escape(layer.layer), f"{layer.values:,}", "differ" if layer.mismatch else "equal"
        )
    out.print(table)
    for name in result.changed:
        say(f"{name}: changed since the export")
    if differs is not None:
        index = ", ".join(map(str, differs.index))
        say(
            f"first difference: layer {result.layers[-1].layer!r}, tensor {differs.tensor!r}, "
            f"index [{index}] (image first): expected {differs.expected}, got {differs.got}"
        )
        return
    more = f", and the logits of {result.more_images} more" if result.more_images else ""
    say(f"equal: every tensor of {result.images} images{more}")
