"""Charts of the report as Vega-Lite specifications (https://vega.github.io/vega-lite/): data and marks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from msgspec import UNSET

from radixpoint.report.words import metric, number, unit_of
from radixpoint.searching.facts import Facts, LayerFacts
from radixpoint.searching.result import PolicyResult, Result, Trial

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
SCHEMA = "https://vega.github.io/schema/vega-lite/v6.json"
HOLDS, FAILS, LIMIT, QUIET = "#0072b2", "#d55e00", "#444444", "#bbbbbb"
"""Colours that the colour-blind tell apart (Okabe and Ito)."""
PASSING = frozenset({"relu", "clip", "flatten", "select", "rearrange"})
"""Operators without a cell of their own in the picture of the network."""


@dataclass(frozen=True)
class Chart:
    """A chart with what a reader of its text needs.

    Attributes:
        name: identifier within the page.
        title: above it.
        text: what it shows, in a sentence.
        spec: for Vega-Lite.
        columns: header of the same data as a table.
        rows: cells of that table.
        zooms: whether its axes can be zoomed.
    """

    name: str
    title: str
    text: str
    spec: Spec
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    zooms: bool = False


def _spec(values: Rows, description: str, **more: Any) -> Spec:
    return {
        "$schema": SCHEMA,
        "description": description,
        "data": {"values": values},
        "width": "container",
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": {"font": "system-ui, sans-serif", "view": {"stroke": None}, "axis": {"labelLimit": 260}},
        **more,
    }


def strategies(result: Result, found: Mapping[str, PolicyResult]) -> Chart:
    """Drops of the answers side by side, with intervals and the limit."""
    unit, title = unit_of(result), f"Drop of {metric(result)}"
    values: Rows = []
    for name, policy in found.items():
        assert policy.drop_interval is not None
        values.append(_drop(policy.drop, policy.drop_interval) | {"strategy": name, "images": "searched"})
        if policy.held_out is not None:
            held = policy.held_out
            values.append(_drop(held.drop, held.drop_interval) | {"strategy": name, "images": "held out"})
    axis = {"title": f"drop, {unit}" if unit else "drop"}
    y = {"field": "strategy", "type": "nominal", "title": None, "sort": None}
    offset = {"field": "images", "sort": None} if any(v["images"] != "searched" for v in values) else None
    place: Spec = {"y": y} | ({"yOffset": offset} if offset else {})
    colour = {"field": "images", "scale": {"range": [HOLDS, "#cc79a7"]}, "legend": {} if offset else None}
    text = f"Each bar is a paired 95 % interval; the line is the limit, {result.criterion.limit:g}."
    layers: list[Spec] = [
        {
            "mark": {"type": "rule", "strokeWidth": 3},
            "encoding": {
                **place,
                "x": {"field": "low", "type": "quantitative", **axis},
                "x2": {"field": "high"},
                "color": colour,
            },
        },
        {
            "mark": {"type": "point", "filled": True, "size": 90, "opacity": 1, "tooltip": True},
            "encoding": {**place, "x": {"field": "drop", "type": "quantitative"}, "color": colour},
        },
        *_limit_rule(result, "x"),
    ]
    rows = [
        [v["strategy"], v["images"], number(v["drop"], unit), number(v["low"], unit), number(v["high"], unit)]
        for v in values
    ]
    spec = _spec(values, f"{title} by strategy. {text}", layer=layers, height=20 + 34 * len(values))
    return Chart("strategies", title, text, spec, ("strategy", "images", "drop", "from", "to"), rows)


def _drop(drop: float | None, bounds: tuple[float, float]) -> dict[str, Any]:
    return {"drop": drop, "low": bounds[0], "high": bounds[1]}


def _limit_rule(result: Result, channel: str) -> list[Spec]:
    """A dashed line at the limit; a relative one is drawn where it was for this float network."""
    criterion = result.criterion
    at = criterion.limit * abs(result.floating.score) / 100 if criterion.relative else criterion.limit
    return [
        {
            "data": {"values": [{"limit": at}]},
            "mark": {"type": "rule", "strokeDash": [6, 4], "color": LIMIT, "tooltip": True},
            "encoding": {channel: {"field": "limit", "type": "quantitative"}},
        }
    ]


def _intervals(x: Spec, y: Spec, looks: Spec) -> list[Spec]:
    """Points with their intervals, whose axes can be zoomed."""
    point = {"type": "point", "filled": True, "size": 80, "opacity": 1, "tooltip": {"content": "data"}}
    bar = {"x": x, "y": {"field": "low", **y}, "y2": {"field": "high"}, "color": looks["color"]}
    return [
        {
            "params": [{"name": "zoom", "select": "interval", "bind": "scales"}],
            "mark": {"type": "rule", "strokeWidth": 2},
            "encoding": bar,
        },
        {"mark": point, "encoding": {"x": x, "y": {"field": "drop", **y}, **looks}},
    ]


def paths(result: Result) -> Iterator[Chart]:
    """What each search tried: the drop with its interval against bits, and where it stopped."""
    unit, count = unit_of(result), 0
    for name, policy in result.policies.items():
        for what, trials in policy.stages:
            ordered = sorted(trials, key=lambda trial: trial.word_length)
            values: Rows = [
                _drop(t.drop, t.drop_interval)
                | {"bits": t.word_length, "verdict": t.verdict, "images looked at": t.images}
                for t in ordered
            ]
            text = f"Strategy {name}: {len(values)} designs were tried. " + _stopped(ordered)
            x = {
                "field": "bits",
                "type": "quantitative",
                "title": what,
                "axis": {"tickMinStep": 1, "format": "d"},
                "scale": {"zero": False, "padding": 16},
            }
            drop = f"drop, {unit}" if unit else "drop"
            colour = {
                "field": "verdict",
                "scale": {"domain": ["holds", "fails"], "range": [HOLDS, FAILS]},
                "legend": {"title": None, "orient": "top"},
            }
            shape = {
                "field": "verdict",
                "scale": {"domain": ["holds", "fails"], "range": ["circle", "cross"]},
                "legend": {"title": None, "orient": "top"},
            }
            y = {"type": "quantitative", "title": drop, "scale": {"type": "symlog"}}
            layers = [*_intervals(x, y, {"color": colour, "shape": shape}), *_limit_rule(result, "y")]
            rows = [
                [
                    str(v["bits"]),
                    number(v["drop"], unit),
                    number(v["low"], unit),
                    number(v["high"], unit),
                    str(v["images looked at"]),
                    v["verdict"],
                ]
                for v in values
            ]
            spec = _spec(values, text, layer=layers, height=240)
            header = (what, "drop", "from", "to", "images looked at", "verdict")
            count += 1
            yield Chart(f"path-{count}", f"{name}: {what}", text, spec, header, rows, True)


def _stopped(trials: Sequence[Trial]) -> str:
    held = [t.word_length for t in trials if t.verdict == "holds"]
    failed = [t.word_length for t in trials if t.verdict == "fails"]
    if not held:
        return "None holds."
    shortest = min(held)
    below = [length for length in failed if length < shortest]
    if below:
        return f"{shortest} holds, {max(below)} fails."
    return f"{shortest} holds; nothing shorter was asked for."


def frontier(result: Result, found: Mapping[str, PolicyResult]) -> Chart | None:
    """Drop against the cost of the multipliers, of the answers and of the points between them."""
    unit = unit_of(result)
    values: Rows = []
    base = next((p.multiplier_cost for p in found.values() if isinstance(p.multiplier_cost, int)), None)
    joint = result.policies.get("joint")
    if joint is not None and isinstance(joint.multiplier_cost, int):
        base = joint.multiplier_cost
    if base is None:
        return None
    for name, policy in found.items():
        assert policy.drop_interval is not None
        if isinstance(policy.multiplier_cost, int):
            values.append(
                _drop(policy.drop, policy.drop_interval)
                | {"cost": policy.multiplier_cost / base, "design": name, "what": "answer"}
            )
        if policy.frontier is not UNSET and result.objective == "multipliers":
            values += [
                _drop(point.drop, point.drop_interval)
                | {
                    "cost": point.cost / base,
                    "design": f"{name}, {point.average.multiplier:.2f} bits",
                    "what": "frontier",
                }
                for point in policy.frontier
            ]
    of = "joint" if joint is not None and joint.multiplier_cost == base else next(iter(found))
    text = f"Left is cheaper, down is better. The cost is that of all multipliers, relative to {of}."
    x = {
        "field": "cost",
        "type": "quantitative",
        "title": f"cost of the multipliers, relative to {of}",
        "scale": {"zero": False, "padding": 20},
    }
    y = {"type": "quantitative", "title": f"drop, {unit}" if unit else "drop"}
    colour = {
        "field": "what",
        "scale": {"domain": ["answer", "frontier"], "range": [HOLDS, "#999999"]},
        "legend": {"title": None, "orient": "top"},
    }
    named: Spec = {
        "transform": [{"filter": "datum.what == 'answer'"}],
        "mark": {"type": "text", "align": "left", "dx": 9, "dy": -9},
        "encoding": {"x": x, "y": {"field": "drop", **y}, "text": {"field": "design"}},
    }
    layers = [*_intervals(x, y, {"color": colour}), named, *_limit_rule(result, "y")]
    rows = [
        [
            v["design"],
            f"{v['cost']:.3f}",
            number(v["drop"], unit),
            number(v["low"], unit),
            number(v["high"], unit),
        ]
        for v in values
    ]
    return Chart(
        "frontier",
        "Cost and drop",
        text,
        _spec(values, text, layer=layers, height=280),
        ("design", "cost", "drop", "from", "to"),
        rows,
        True,
    )


# ---------------------------------------------------------------------------------------- the network

MEASURES = (
    "operand bits",
    "weight bits",
    "SQNR, dB",
    "saturated, %",
    "rounded to zero, %",
    "share of the multipliers, %",
    "share of the energy, %",
    "sensitivity",
)
"""What the picture can be coloured by; the sensitivity is what is lost when the layer alone is quantized."""


def measures(
    layer: LayerFacts, totals: Mapping[str, float], sensitivity: float | None
) -> dict[str, float | None]:
    """What the picture can be coloured by."""
    operand = layer.place("operand") or layer.place("result")
    weight = layer.place("weight") or layer.place("scale") or layer.place("gamma")
    saturated = [p.saturated for p in layer.places if p.saturated is not None]
    cost = layer.cost

    def share(what: str) -> float | None:
        value = 0 if cost is None else getattr(cost, what)
        return round(100 * value / totals[what], 3) if value and totals[what] else None

    found = (
        None if operand is None else operand.word_length,
        None if weight is None else weight.word_length,
        layer.sqnr,
        max(saturated, default=None),
        max((p.to_zero for p in layer.places), default=None),
        share("multiplier_cost"),
        share("energy"),
        sensitivity,
    )
    return dict(zip(MEASURES, found, strict=True))


def totals(facts: Facts) -> dict[str, float]:
    """Sums over the layers, of what they have a share of."""
    costs = [layer.cost for layer in facts.layers if layer.cost is not None]
    return {
        name: float(sum(getattr(c, name) for c in costs))
        for name in ("multiplier_cost", "energy", "weight_bits")
    }


@dataclass(frozen=True)
class _Cell:
    """Where a layer stands in the picture: column, lane, and 1 for what stands beneath a convolution."""

    column: int
    lane: int
    below: int


def placed(facts: Facts) -> dict[str, _Cell]:
    """A column a step, from left to right; batch normalization beneath its convolution; branches in lanes."""
    cells: dict[str, _Cell] = {}
    stands: dict[str, _Cell] = {facts.input: _Cell(-1, 0, 0)}
    readers: dict[str, int] = {}
    ops = {layer.name: layer.op for layer in facts.layers}
    for layer in facts.layers:
        for name in layer.inputs:
            readers[name] = readers.get(name, 0) + 1
    taken: set[tuple[int, int]] = set()
    for layer in facts.layers:
        sources = [stands[name] for name in layer.inputs]
        if layer.op in PASSING:
            stands[layer.name] = sources[0]
            continue
        first = layer.inputs[0]
        if layer.op == "batch_norm" and ops.get(first) == "conv" and readers[first] == 1 and first in cells:
            cell = _Cell(cells[first].column, cells[first].lane, 1)
        else:
            column, lane = max(s.column for s in sources) + 1, min(s.lane for s in sources)
            while (column, lane) in taken:
                lane += 1
            cell = _Cell(column, lane, 0)
            taken.add((column, lane))
        cells[layer.name] = stands[layer.name] = cell
    return cells


def picture(facts: Facts, anchor: str, sensitivities: Mapping[str, float]) -> Chart:
    """The network from left to right, coloured by a measure that the reader chooses."""
    cells, sums = placed(facts), totals(facts)
    values: Rows = []
    for number_, layer in enumerate(facts.layers):
        if layer.name in cells:
            cell = cells[layer.name]
            found = measures(layer, sums, sensitivities.get(layer.name))
            values.append(
                {
                    "layer": layer.name,
                    "operator": layer.op,
                    "shape": " x ".join(map(str, layer.shape)),
                    "x": cell.column,
                    "x2": cell.column + 0.92,
                    "y": -3 * cell.lane - cell.below,
                    "y2": -3 * cell.lane - cell.below - 0.92,
                    "href": f"#{anchor}-layer-{number_}",
                    **{key: value for key, value in found.items() if value is not None},
                }
            )
    ends: dict[str, _Cell] = {facts.input: _Cell(-1, 0, 0)}
    edges: Rows = []
    for layer in facts.layers:
        sources = [ends[source] for source in layer.inputs]
        own = cells.get(layer.name, sources[0])
        ends[layer.name] = own
        if layer.name in cells and not own.below:
            edges += [
                {"x": s.column + 0.92, "y": -3 * s.lane - 0.46, "x2": own.column, "y2": -3 * own.lane - 0.46}
                for s in sources
                if s.lane != own.lane or s.column + 1 == own.column or len(sources) > 1
            ]
    shown = [key for key in MEASURES if any(key in value for value in values)]
    hidden = {"axis": None, "type": "quantitative", "scale": {"zero": False, "nice": False}}
    tooltip = [{"field": key} for key in ("layer", "operator", "shape", *shown)]
    lanes = 1 + max((cell.lane for cell in cells.values()), default=0)
    text = (
        "Each column is a step; batch normalization stands beneath its convolution, a branch beneath "
        "the trunk. The menu chooses what the colour means; a click leads to the layer."
    )
    spec = _spec(
        values,
        "The network, layer by layer. " + text,
        height=30 + 66 * lanes,
        params=[
            {
                "name": "shown",
                "value": shown[0],
                "bind": {"input": "select", "options": shown, "name": "colour: "},
            }
        ],
        layer=[
            {
                "data": {"values": edges},
                "mark": {"type": "rule", "color": QUIET},
                "encoding": {
                    "x": {"field": "x", **hidden},
                    "x2": {"field": "x2"},
                    "y": {"field": "y", **hidden},
                    "y2": {"field": "y2"},
                },
            },
            {
                "transform": [{"calculate": "datum[shown]", "as": "value"}],
                "mark": {"type": "rect", "cornerRadius": 2, "stroke": "#666666", "strokeWidth": 0.5},
                "encoding": {
                    "x": {"field": "x", **hidden},
                    "x2": {"field": "x2"},
                    "y": {"field": "y", **hidden},
                    "y2": {"field": "y2"},
                    "href": {"field": "href"},
                    "tooltip": tooltip,
                    "color": {
                        "condition": {"test": "!isValid(datum.value)", "value": "#eeeeee"},
                        "field": "value",
                        "type": "quantitative",
                        "title": None,
                        "scale": {"scheme": "viridis", "reverse": True, "zero": False},
                        "legend": {"orient": "top", "gradientLength": 220},
                    },
                },
            },
        ],
    )
    return Chart(f"{anchor}-picture", "The network, layer by layer", text, spec)


HISTOGRAM: Spec = {
    "$schema": SCHEMA,
    "description": "Histograms of a layer's values by magnitude, and over them the range of each format.",
    "data": {"name": "values", "values": []},
    "facet": {
        "field": "place",
        "type": "nominal",
        "title": None,
        "sort": None,
        "header": {"labelFontWeight": "bold"},
    },
    "columns": 1,
    "resolve": {"scale": {"x": "independent", "y": "independent"}},
    "config": {"font": "system-ui, sans-serif"},
    "spec": {
        "width": 250,
        "height": 130,
        "layer": [
            {
                "transform": [{"filter": "datum.kind == 'format'"}],
                "mark": {"type": "rect", "color": HOLDS, "opacity": 0.16, "tooltip": True},
                "encoding": {"x": {"field": "from", "type": "quantitative"}, "x2": {"field": "to"}},
            },
            {
                "transform": [{"filter": "datum.kind == 'format'"}],
                "mark": {"type": "rule", "color": HOLDS, "strokeWidth": 2},
                "encoding": {"x": {"field": "to", "type": "quantitative"}},
            },
            {
                "transform": [{"filter": "datum.kind == 'values'"}],
                "mark": {
                    "type": "rect",
                    "color": "#555555",
                    "stroke": "white",
                    "strokeWidth": 0.4,
                    "tooltip": True,
                },
                "encoding": {
                    "x": {"field": "from", "type": "quantitative", "title": "magnitude, as a power of two"},
                    "x2": {"field": "to"},
                    "y": {"field": "share", "type": "quantitative", "title": "share of the values, %"},
                    "y2": {"datum": 0},
                },
            },
        ],
    },
}
"""For the values of one layer, which the page puts in."""


def histogram_data(layer: LayerFacts) -> Rows:
    """Of each place: half octaves from ``octave`` on, and the range of its format.

    The range goes from half of the smallest unit to the largest value, as powers of two.
    """
    return [
        {
            "place": f"{place.role}, {place.word_length} bits",
            "octave": place.octave,
            "shares": place.histogram,
            "from": -place.fractions[1] - 1,
            "to": place.word_length - place.signed - place.fractions[0],
        }
        for place in layer.places
    ]


def costs(result: Result, found: Mapping[str, Facts]) -> Chart | None:
    """What each answer costs, relative to the first one: multipliers, memory of weights, energy."""
    kinds = {
        "multiplier_cost": "multipliers",
        "weight_bits": "memory for weights",
        "energy": "energy of the arithmetic",
    }
    sums = {name: totals(facts) for name, facts in found.items() if any(layer.cost for layer in facts.layers)}
    if len(sums) < 2:
        return None
    base_name = "joint" if "joint" in sums else next(iter(sums))
    base = sums[base_name]
    values: Rows = [
        {"strategy": name, "what": title, "relative": round(own[kind] / base[kind], 4)}
        for name, own in sums.items()
        for kind, title in kinds.items()
        if base[kind]
    ]
    text = f"Each bar is relative to {base_name}."
    spec = _spec(
        values,
        "What the answers cost. " + text,
        height=10 + 20 * len(values),
        mark={"type": "bar", "tooltip": True},
        encoding={
            "y": {"field": "what", "type": "nominal", "title": None, "sort": None},
            "yOffset": {"field": "strategy", "sort": None},
            "x": {"field": "relative", "type": "quantitative", "title": f"relative to {base_name}"},
            "color": {
                "field": "strategy",
                "sort": None,
                "scale": {"scheme": "tableau10"},
                "legend": {"orient": "top", "title": None},
            },
        },
    )
    rows = [[v["strategy"], v["what"], f"{v['relative']:.3f}"] for v in values]
    return Chart("costs", "What it costs in hardware", text, spec, ("strategy", "what", "relative"), rows)
