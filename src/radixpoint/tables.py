"""Objects that show themselves: in a line, as a table in a notebook, as a pandas frame, as a chart."""

from __future__ import annotations

import html
import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, object]
MOST = 60
"""Rows of a table in a notebook."""
LONG = 30
"""Letters of a name beyond which bars lie."""


@dataclass(frozen=True, slots=True)
class Chart:
    """What ``Tabular.plot`` draws: numbers over word lengths as points, over names as bars.

    Attributes:
        x: word lengths of each series, or names that all series share.
        series: numbers by what they are; None is not drawn.
        spans: lower and upper end of each number's interval, by series.
        labels: of the axes.
        line: a number to compare with, and what it is.
    """

    x: Mapping[str, Sequence[float]] | Sequence[str]
    series: Mapping[str, Sequence[float | None]]
    labels: tuple[str, str]
    spans: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    line: tuple[float, str] | None = None


class Tabular:
    """Something that is a table. A class says its ``summary``, its ``rows`` and its ``chart``.

    What a class leaves out raises NotImplementedError where it is used. It cannot be abstract, which would be
    noticed earlier: structs of msgspec have a metaclass of their own, and no class has two.
    """

    __slots__ = ()

    def summary(self) -> str:
        """It in a line."""
        raise NotImplementedError

    def rows(self) -> list[Row]:
        """It as a table: of each row the cells by column."""
        raise NotImplementedError

    def chart(self) -> Chart:
        """What ``plot`` draws."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """The rows as a ``pandas.DataFrame``.

        Raises:
            ImportError: pandas is not installed.
        """
        return _library("pandas").DataFrame(self.rows())

    def plot(self, axes: Any = None) -> Any:
        """Draw it with matplotlib.

        Args:
            axes: to draw on; default: those of a new figure.

        Returns:
            The axes.

        Raises:
            ImportError: matplotlib is not installed.
        """
        pyplot = _library("matplotlib.pyplot")
        chart = self.chart()
        points = isinstance(chart.x, Mapping)
        across = not points and max(map(len, chart.x), default=0) > LONG
        if axes is None:
            many = 0.0 if points else 0.16 * len(chart.x)
            size = (10.0, max(4.0, 1 + many)) if across else (max(6.4, 1.5 + many), 4.0)
            axes = pyplot.subplots(figsize=size, layout="constrained")[1]
        (_points if points else _bars)(axes, chart, across)
        if chart.line is not None:
            axes.axhline(chart.line[0], color="0.3", linestyle="--", label=chart.line[1])
        first, second = reversed(chart.labels) if across else chart.labels
        axes.set_xlabel(first)
        axes.set_ylabel(second)
        if len(chart.series) > 1 or chart.line is not None:
            axes.legend()
        return axes

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = self.rows()
        columns = list(dict.fromkeys(name for row in rows for name in row))
        head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell(row.get(name)))}</td>" for name in columns) + "</tr>"
            for row in rows[:MOST]
        )
        more = f"<p>and {len(rows) - MOST} more: <code>to_pandas()</code></p>" if len(rows) > MOST else ""
        said = html.escape(self.summary())
        return f"<p>{said}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def ends(name: str, interval: tuple[float, float]) -> dict[str, object]:
    """Both ends of an interval as cells."""
    return {f"{name}_low": interval[0], f"{name}_high": interval[1]}


def cell(value: object) -> str:
    """A cell's text: fractions to four digits, nothing for None."""
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        plain = name.partition(".")[0]
        raise ImportError(f"{plain} is not installed: pip install 'radixpoint[plot]'") from None


def _points(axes: Any, chart: Chart, across: bool) -> None:
    assert isinstance(chart.x, Mapping)
    for name, values in chart.series.items():
        axes.plot(chart.x[name], values, "o-", label=name)
        if name in chart.spans:
            low, high = zip(*chart.spans[name], strict=True)
            axes.vlines(chart.x[name], low, high, color=axes.lines[-1].get_color())


def _bars(axes: Any, chart: Chart, across: bool) -> None:
    """``across``: lying, so that long names can be read, the first one on top."""
    count, names = len(chart.series), list(chart.x)
    for number, (label, values) in enumerate(chart.series.items()):
        places = [i + (number - (count - 1) / 2) * 0.8 / count for i in range(len(names))]
        draw = axes.barh if across else axes.bar
        draw(places, [0.0 if v is None else v for v in values], 0.8 / count, label=label)
    if across:
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.5, -0.5)
    else:
        axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 8 else 0)
        axes.set_xlim(-0.6, len(names) - 0.4)
