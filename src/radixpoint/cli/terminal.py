"""What the commands print to: tables on standard output, everything about progress on standard error."""

from __future__ import annotations

import json
import sys
from typing import Any

import msgspec
from rich.console import Console

from radixpoint.report.console import bars, errors
from radixpoint.report.console import say as said

__all__ = ["bars", "emit", "errors", "note_the_engine", "out", "say"]
out = Console()


def say(text: str, to: Console = out, style: str | None = None) -> None:
    """A line as it is: on standard output, unless said otherwise."""
    said(text, to, style)


def emit(document: Any) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(document), indent=2) + "\n")


def note_the_engine() -> None:
    """One line where the fast engine is missing, lest its absence pass for slowness."""
    from radixpoint.engines import instruction_sets

    if not instruction_sets():
        say(
            "the native engine is not installed (no working C++ compiler at installation): using blas, which "
            "gives the same integers more slowly",
            errors,
        )
