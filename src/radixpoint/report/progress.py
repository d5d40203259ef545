"""How a search goes on, shown: bars on a terminal and in a notebook, lines elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.progress import Progress

from radixpoint.measure.evaluate import Evaluation
from radixpoint.report.console import bars, say
from radixpoint.report.words import drop, number
from radixpoint.searching.criterion import Verdict
from radixpoint.searching.watcher import Watcher


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
