"""The page: one HTML file that needs no network and no other file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from radixpoint.errors import RunError
from radixpoint.explaining.changes import FILE as ADVICE
from radixpoint.explaining.changes import Advice
from radixpoint.explaining.explain import FILE as EXPLANATION
from radixpoint.explaining.explain import Explanation
from radixpoint.files import read_regular, write_whole
from radixpoint.quantization.design import Design
from radixpoint.report import charts, words
from radixpoint.report.charts import Chart
from radixpoint.searching.facts import FILE as FACTS
from radixpoint.searching.facts import Facts, LayerFacts, Place
from radixpoint.searching.result import FILE as RESULT
from radixpoint.searching.result import PolicyResult, Result

FILE = "report.html"
_LIBRARIES = ("vega", "vega-lite")
_RUN_FILE = "run.toml"
_MOST = 1 << 20


@dataclass(frozen=True)
class _Row:
    """A layer in the table.

    Attributes:
        anchor: of its place on the page.
        layer: what is known of it.
        beneath: whether it is the batch normalization of the convolution above it.
        cells: figures by column; None where there is none.
    """

    anchor: str
    layer: LayerFacts
    beneath: bool
    cells: Mapping[str, float | str | None]


@dataclass(frozen=True)
class _Answer:
    """A strategy's answer on the page."""

    anchor: str
    name: str
    policy: PolicyResult
    words: str
    facts: Facts
    picture: Chart
    rows: tuple[_Row, ...]
    histograms: str
    explanation: Explanation | None
    advice: Advice | None


def _read_facts(run: Path, name: str) -> Facts:
    path = run / name / FACTS
    if not path.is_file():
        raise RunError(
            f"{path}: no such file: this run was made by an earlier version: expected the same search once "
            "more in the same folder, which takes what is known from its cache"
        )
    return Facts.load(path)


def _shown(place: Place | None) -> str | None:
    return None if place is None else place.format


def _rows(facts: Facts, anchor: str, sensitivities: Mapping[str, float]) -> tuple[_Row, ...]:
    sums, cells = charts.totals(facts), charts.placed(facts)
    result = []
    for number, layer in enumerate(facts.layers):
        if layer.name not in cells:
            continue
        found = charts.measures(layer, sums, sensitivities.get(layer.name))
        weight = layer.place("weight") or layer.place("scale") or layer.place("gamma")
        cells_of: dict[str, float | str | None] = {
            "operand": _shown(layer.place("operand")),
            "weights": _shown(weight),
            "result": _shown(layer.place("result")),
            "saturated, %": found["saturated, %"],
            "to zero, %": found["rounded to zero, %"],
            "SQNR, dB": layer.sqnr,
            "sensitivity": sensitivities.get(layer.name),
            "multipliers, %": found["share of the multipliers, %"],
            "weights, KiB": None if layer.cost is None else round(layer.cost.weight_bits / 8192, 1) or None,
            "energy, %": found["share of the energy, %"],
            "accumulator proven": None if layer.accumulator is None else layer.accumulator[0],
            "accumulator used": None if layer.accumulator is None else layer.accumulator[1],
        }
        result.append(_Row(f"{anchor}-layer-{number}", layer, bool(cells[layer.name].below), cells_of))
    return tuple(result)


def _answers(run: Path, result: Result) -> list[_Answer]:
    found = []
    for index, (name, policy) in enumerate(words.holding(result).items()):
        facts, anchor, folder = _read_facts(run, name), f"answer-{index}", run / name
        explanation = Explanation.load(folder / EXPLANATION) if (folder / EXPLANATION).is_file() else None
        advice = Advice.load(folder / ADVICE) if (folder / ADVICE).is_file() else None
        design = Design.load(folder / "design.json").to_json().decode()
        if explanation is not None and explanation.design != design:
            explanation = None  # of an earlier answer
        if advice is not None and advice.now.design != design:
            advice = None
        own = {} if explanation is None else explanation.sensitivities
        rows = _rows(facts, anchor, own)
        data = {row.anchor: charts.histogram_data(row.layer) for row in rows if row.layer.places}
        found.append(
            _Answer(
                *(anchor, name, policy, words.lengths(policy), facts),
                charts.picture(facts, anchor, own),
                rows,
                _json(data),
                *(explanation, advice),
            )
        )
    return found


def _json(data: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _libraries() -> list[str]:
    """The chart library's sources, without references to files that are not there."""
    folder = files("radixpoint.report") / "vega"
    sources = ((folder / f"{name}.min.js").read_text("utf-8") for name in _LIBRARIES)
    return [source.partition("//# sourceMappingURL")[0] for source in sources]


def _asked(run: Path) -> str | None:
    """What the run was asked for on the command line, if it was."""
    try:
        return read_regular(run / _RUN_FILE, _MOST).decode("utf-8", "replace")
    except OSError:
        return None


def write_report(run: str | Path, path: str | Path | None = None) -> Path:
    """Write the page of a search.

    It is made from what the run folder holds: neither the model nor the images are read.

    Args:
        run: the folder of a search that has ended.
        path: of the HTML file; default: ``report.html`` in the run folder.

    Returns:
        Where it is.

    Raises:
        RunError: the folder holds no result, or one of an earlier version; the file cannot be written.
    """
    target = Path(run) / FILE if path is None else Path(path)
    write_whole(target, page(run).encode())
    return target


def page(run: str | Path) -> str:
    """The page of a search, as HTML.

    Raises:
        RunError: the folder holds no result, or one of an earlier version.
    """
    folder = Path(run)
    if not (folder / RESULT).is_file():
        raise RunError(f"{folder}: no {RESULT}: expected the folder of a search that has ended")
    result = Result.load(folder / RESULT)
    holding = words.holding(result)
    answers = _answers(folder, result)
    pictures = [charts.strategies(result, holding)] if holding else []
    frontier = charts.frontier(result, holding)
    cost = charts.costs(result, {answer.name: answer.facts for answer in answers})
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("radixpoint.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"drop": words.number, "interval": words.interval}
    paths = list(charts.paths(result))
    everything = [*pictures, *paths, frontier, cost, *(answer.picture for answer in answers)]
    return environment.get_template("page.html").render(
        result=result,
        unit=words.unit_of(result),
        answer=words.answer(result),
        caution=words.caution(result),
        limit=words.limit(result),
        metric=words.metric(result),
        strategies=pictures[0] if pictures else None,
        paths=paths,
        frontier=frontier,
        cost=cost,
        answers=answers,
        specs=_json({chart.name: chart.spec for chart in everything if chart is not None}),
        histogram=_json(charts.HISTOGRAM),
        libraries=_libraries(),
        asked=_asked(folder),
        settings=msgspec.to_builtins({"options": result.options, "preprocessing": result.preprocessing}),
    )
