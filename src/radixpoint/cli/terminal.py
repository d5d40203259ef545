"""What the commands print to: tables on standard output, everything about progress on standard error."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import msgspec
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

from radixpoint.engines import instruction_sets
from radixpoint.measure.evaluate import Evaluation
from radixpoint.report.words import drop, number
from radixpoint.searching.criterion import Verdict
from radixpoint.searching.watcher import Watcher

SECONDS_A_LINE = 10.0
errors = Console(stderr=True)
out = Console()


def say(text: str, to: Console = out, style: str | None = None) -> None:
    """A line as it is: nothing in it is markup, no number is coloured, no name is broken."""
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def emit(document: Any) -> None:
    """One JSON document."""
    sys.stdout.write(json.dumps(msgspec.to_builtins(document), indent=2) + "\n")


class Bars(Watcher):
    """Shows a search on the terminal: the current evaluation, and the estimated time left for all."""

    def __init__(self, progress: Progress, unit: str = "points") -> None:
        self.bars, self.unit = progress, unit
        self.whole = progress.add_task("all, at most", total=None)
        self.task = progress.add_task("", total=None)
        self.done = self.before = 0

    def stage(self, text: str, images: int, images_left: int) -> None:
        self.before = self.done
        self.bars.reset(self.task, description=text, total=images)
        if images_left:
            self.bars.update(self.whole, total=self.done + images + images_left)

    def progress(self, images: int) -> None:
        self.bars.update(self.task, completed=images)
        self.done = self.before + images
        self.bars.update(self.whole, completed=self.done)

    def judged(self, text: str, evaluation: Evaluation, verdict: Verdict, cached: bool) -> None:
        low, high = evaluation.drop_interval
        known = " (known)" if cached else ""
        say(
            f"{text}: {evaluation.metric} drop {drop(evaluation.drop, self.unit)} "
            f"[{number(low, self.unit)}, {number(high, self.unit)}] on {evaluation.images} images: "
            f"{verdict}{known}",
            self.bars.console,
        )

    def warned(self, text: str) -> None:
        say(text, self.bars.console)


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
    """Progress bars on a terminal, lines elsewhere."""
    if not errors.is_terminal:
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


def note_the_engine() -> None:
    """One line where the fast engine is missing, lest its absence pass for slowness."""
    if not instruction_sets():
        say(
            "the native engine is not installed (no working C++ compiler at installation): using blas, which "
            "gives the same integers more slowly",
            errors,
        )
