"""``radixpoint worker``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from radixpoint.cli.inputs import engine_of
from radixpoint.cli.options import Device, EngineName, Threads
from radixpoint.cli.terminal import errors, say
from radixpoint.searching.shared_folder import POLL, Worker


def worker(
    run: Annotated[Path, typer.Argument(help="Run folder of a search with --executor folder.")],
    engine: EngineName = "auto",
    device: Device = None,
    threads: Threads = 0,
    wait: Annotated[
        float,
        typer.Option(
            min=0, help="Seconds to wait for work, also before the search begins; then the worker ends."
        ),
    ] = 600.0,
) -> None:
    """Evaluate designs for a search on another machine that shares the run folder.

    Any number may run, started and killed at any time. It ends when the search does.

    Example: radixpoint worker run
    """
    own = Worker(run, engine_of(engine, device, threads), threads)
    idle = time.monotonic()
    while not own.over and time.monotonic() - idle <= wait:
        if own.work_once():
            idle = time.monotonic()
        else:
            time.sleep(POLL)
    say(f"{run}: {own.done} units done{'; the search has ended' if own.over else ''}", errors)
