"""``radixpoint demo``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from radixpoint.cli import options
from radixpoint.cli.inputs import DEMO_IMAGES, DEMO_NETWORK, criterion
from radixpoint.cli.search import run_search
from radixpoint.demo import demo_images, demo_network

EMBEDDED = {"model": DEMO_NETWORK} | dict(zip(("images", "calibration"), DEMO_IMAGES, strict=True))
"""What the run file says the search was made of."""


def demo(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Run folder; default: a new one among temporary files.")
    ] = None,
    limit: options.Limit = "1.0",
    metric: options.Metric = "top1",
    batch_norm: options.BatchNorm = "affine",
    scope: options.Scope = "tensor",
    rule: options.Rule = None,
    as_json: options.AsJson = False,
) -> None:
    """The whole job on a network inside the package.

    It is a ResNet-50 of quarter width, trained on Fashion-MNIST, with images to judge it on.

    Example: radixpoint demo -o run
    """
    asked = criterion(metric, limit)
    folder = out or Path(tempfile.mkdtemp(prefix="radixpoint-demo-"))
    run_search(
        demo_network(),
        demo_images("test"),
        demo_images("calibration"),
        folder,
        as_json,
        True,
        (
            {**context.params, **EMBEDDED},
            {parameter.name or "": parameter.default for parameter in context.command.params},
        ),
        criterion=asked,
        batch_norm=batch_norm,
        binary_point={"scope": scope} if rule is None else {"scope": scope, "rule": rule},
    )
