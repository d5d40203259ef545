"""Where lines and bars go that tell how work goes on; nothing of the domain, so a command starts at once."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

SECONDS_A_LINE = 10.0
errors = Console(stderr=True)


def say(text: str, to: Console, style: str | None = None) -> None:
    """A line as it is: nothing in it is markup, no number is coloured, no name is broken."""
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class _Lines(Progress):
    """Progress where output is no terminal: a line when a stage begins and every ten seconds."""

    def __init__(self) -> None:
        super().__init__(console=errors, disable=True)
        self._said = time.monotonic()

    def update(self, task_id: TaskID, **fields: Any) -> None:
        super().update(task_id, **fields)
        if time.monotonic() - self._said > SECONDS_A_LINE:
            self._say(task_id)

    def reset(self, task_id: TaskID, **fields: Any) -> None:
        super().reset(task_id, **fields)
        self._say(task_id)

    def _say(self, task_id: TaskID) -> None:
        task = self._tasks[task_id]
        if not task.description:
            return
        self._said = time.monotonic()
        of = "" if task.total is None else f" of {task.total:,.0f}"
        say(f"{task.description}: {task.completed:,.0f}{of}", errors)


def bars() -> Progress:
    """Progress bars on a terminal or in a notebook, lines elsewhere."""
    if not (errors.is_terminal or errors.is_jupyter):
        return _Lines()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("images"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
    )
