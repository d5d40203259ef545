"""``radixpoint convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radixpoint.cli.inputs import check_writable, write_quantized
from radixpoint.cli.options import AsJson
from radixpoint.cli.terminal import emit, say


def convert(
    model: Annotated[
        str,
        typer.Argument(
            help="A QONNX model (as Brevitas and QKeras write them), or ONNX with QuantizeLinear and "
            "DequantizeLinear; every scale a power of two."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The quantized network to write (.safetensors).")],
    image_format: Annotated[
        str | None,
        typer.Option(
            help="Format of the images, such as ufix8_En8 for bytes over 256. Default: what the model says."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a network that was trained quantized.

    It keeps the formats that it has, so nothing is chosen or rounded. 'export', 'verify', 'cost' and
    'compare' take what is written.

    Example: radixpoint convert brevitas.onnx -o network.safetensors
    """
    from radixpoint.importers.quantized import load_quantized

    check_writable(out)
    network = load_quantized(model, image_format)
    written = write_quantized(network, out)
    if as_json:
        emit(written)
        return
    say(f"{out}: {network.summary()}; widest accumulator {network.widest_accumulator} bits")
