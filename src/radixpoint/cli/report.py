"""``radixpoint report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from radixpoint.cli.inputs import check_writable, make_parents
from radixpoint.cli.terminal import say
from radixpoint.report.page import FILE, write_report


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a search that has ended.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="The HTML file; default: report.html in the run folder."),
    ] = None,
) -> None:
    """Show what a search found, on one page that opens without a network.

    Example: radixpoint report run -o report.html
    """
    target = run / FILE if out is None else out
    check_writable(target)
    if out is not None:
        make_parents(out)
    say(f"{write_report(run, target)}: the report; a browser opens it")
