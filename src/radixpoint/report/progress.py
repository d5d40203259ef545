"""How a search goes on, shown: bars on a terminal and in a notebook, lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any, Self

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

from radixpoint.measure.evaluate import Evaluation
from radixpoint.report.words import drop, number
from radixpoint.searching.criterion import Verdict
from radixpoint.searching.watcher import Watcher

SECONDS_A_LINE = 10.0
errors = Console(stderr=True)


def say(text: str, to: Console, style: str | None = None) -> None:
    """A line as it is: nothing in it is markup, no number is coloured, no name is broken."""
    to.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


class Bars(Watcher):
    """A watcher that shows a search: the current evaluation, and the estimated time left for all.

    ::

        with radixpoint.Bars() as bars:
            result = radixpoint.search(graph, images, calibration, "run", watcher=bars)

    A notebook needs ``ipywidgets`` for it. Where output is neither a terminal nor a notebook, lines are
    printed, one every ten seconds.

    Args:
        unit: of drops, as the metric has it.
        progress: what to show it in; default: its own.
    """

    def __init__(self, unit: str = "points", progress: Progress | None = None) -> None:
        self.bars, self.unit = progress or bars(), unit
        self.whole = self.bars.add_task("all, at most", total=None)
        self.task = self.bars.add_task("", total=None)
        self.done = self.before = 0

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

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
