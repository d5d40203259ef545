"""``radixpoint compare``."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Table

from radixpoint.cli import options
from radixpoint.cli.inputs import read_images
from radixpoint.cli.terminal import bars, emit, out, say
from radixpoint.data import ImageSet
from radixpoint.engines import quantize_images
from radixpoint.errors import DataError
from radixpoint.explaining.compare import Comparison
from radixpoint.explaining.compare import compare as compared
from radixpoint.explaining.dump import Dumped, Form, Matched, matched, read_dump
from radixpoint.ir.network import IntGraph
from radixpoint.ir.storage import load_network

SHOWN = 10
"""Tensors, and causes, that are listed."""


def compare(
    network: Annotated[Path, typer.Argument(metavar="NETWORK", help="The quantized network (.safetensors).")],
    dump: Annotated[
        Path,
        typer.Argument(
            metavar="DUMP",
            help="Your tensors: .npz, .npy, .bin, .hex, .mem, .txt, .csv, or a folder of such files, named "
            "by tensors or layers.",
        ),
    ],
    images: Annotated[
        str | None,
        typer.Option("--images", "-i", help="What was put in, as images. Default: the input in the dump."),
    ] = None,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="What was put in, as stored integers: a file like DUMP.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", "-n", min=1, help="The dump is of the first so many images.")
    ] = 1,
    tensor: Annotated[
        str | None, typer.Option("--tensor", "-t", help="What a dump of one tensor is of.")
    ] = None,
    form: Annotated[
        Form,
        typer.Option(
            help="What numbers are: hex words, decimal integers, real values; where it cannot be seen."
        ),
    ] = "auto",
    word_bytes: Annotated[
        int | None, typer.Option(help="Bytes of a word in .bin; little-endian. Default: 1.")
    ] = None,
    classes: options.Classes = None,
    preprocessing: options.PreprocessingFile = None,
    as_json: options.AsJson = False,
) -> None:
    """Tell where tensors of a board, a simulator or another tool differ, and why.

    The first value that differs is named, then what people get wrong is tried: rounding, overflow, shifts,
    order of additions, signs, bytes, layout, padding, kernels, biases, preprocessing. A cause is named if it
    explains every value. Exit status: 0 if all is equal, 1 if not.

    Example: radixpoint compare network.safetensors dump.npz --images picture/ --count 2
    """
    quantized = load_network(network)
    given = read_dump(dump, form, word_bytes)
    stored, image_set, given = _put_in(
        *(quantized, given, images, inputs, count, form, word_bytes, classes, preprocessing)
    )
    found = matched(quantized, given, len(stored), tensor)
    if not found:
        raise DataError(f"{dump}: nothing but the input: expected tensors to compare")
    with bars() as shown:
        task = shown.add_task("comparing", total=None)
        result = compared(
            *(quantized, found, stored, image_set),
            lambda done, what: shown.update(task, completed=done, description=f"trying: {what}"),
        )
    if as_json:
        emit(asdict(result))
    else:
        _show(quantized, found, result)
    raise typer.Exit(0 if result.equal else 1)


def _put_in(
    network: IntGraph,
    given: list[Dumped],
    images: str | None,
    inputs: Path | None,
    count: int,
    form: Form,
    word_bytes: int | None,
    classes: str | None,
    preprocessing: str | None,
) -> tuple[Any, ImageSet | None, list[Dumped]]:
    """Stored integers that were put in, the images that they are of, and what of the dump is left.

    Raises:
        DataError: nothing says what was put in.
    """
    own = [tensor for tensor in given if tensor.name == network.input]
    rest = [tensor for tensor in given if tensor.name != network.input]
    if images is not None:
        found = read_images(images, classes, preprocessing)
        found.check_shape(network.tensors[network.input].shape)
        first = found.leading(count)
        return quantize_images(network, first.inputs(0, count)), first, given
    if inputs is not None:
        own, rest = read_dump(inputs, form, word_bytes), given
    if len(own) != 1:
        raise DataError(
            f"what was put in is not known: expected --images, --input, or {network.input!r} in the dump"
        )
    size = int(np.prod(network.tensors[network.input].shape))
    if not own[0].values.size or own[0].values.size % size:
        raise DataError(f"an input of {own[0].values.size} values: expected a multiple of {size}")
    (put_in,) = matched(network, [replace(own[0], name=network.input)], own[0].values.size // size)
    stored = network.tensors[network.input].format
    if put_in.values.min() < stored.min or put_in.values.max() > stored.max:
        raise DataError(
            f"an input of {put_in.values.min()}..{put_in.values.max()}: expected stored integers of {stored}"
        )
    return put_in.values, None, rest


def _show(network: IntGraph, found: list[Matched], result: Comparison) -> None:
    by = ", ".join(sorted({how.by for how in found}))
    layouts = ", ".join(sorted({how.layout for how in found}))
    say(f"{len(result.tensors)} tensors, matched by {by}, laid out as {layouts}")
    if result.equal:
        say("equal: every value")
        return
    table = Table()
    for column in ("tensor", "image: place", "expected", "got", "differ", "off by"):
        table.add_column(column, no_wrap=column == "tensor")
    for difference in result.differences[:SHOWN]:
        image, *place = map(str, difference.place)
        differ = f"{difference.count}/{difference.values}"
        cells = (
            f"{image}: {', '.join(place)}",
            str(difference.expected),
            str(difference.got),
            differ,
            str(difference.largest),
        )
        table.add_row(escape(difference.tensor), *cells)
    out.print(table)
    first = result.differences[0]
    say(
        f"the first to differ is {first.tensor} of layer {first.layer} "
        f"({network.tensors[first.tensor].format}); {len(result.differences)} of {len(result.tensors)} differ"
    )
    whole = [cause for cause in result.causes if cause.whole]
    if whole:
        say(
            "this explains every value of the dump:"
            if len(whole) == 1
            else "each of these explains every value:"
        )
    elif result.causes:
        say(
            "nothing explains the whole dump; these explain the first tensor that differs, not all behind it:"
        )
    else:
        say(f"none of {result.tried} faults explains it, alone or in pairs")
    for cause in (whole or result.causes)[:SHOWN]:
        say(f"  {' and '.join(cause.texts)} [{', '.join(cause.kinds)}]")
