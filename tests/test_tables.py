"""Objects that show themselves: a line, a table in a notebook, a frame, a chart whose numbers are theirs."""

from __future__ import annotations

import json
import math
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import exports
import networks
from radixpoint.accelerator.cost import cost
from radixpoint.accelerator.target import HardwareTarget
from radixpoint.engines import ReferenceEngine
from radixpoint.explaining.changes import advise
from radixpoint.explaining.compare import compare
from radixpoint.explaining.dump import Dumped, matched
from radixpoint.explaining.explain import explain
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.measure.metrics import TopK
from radixpoint.quantization.design import Design, Widths
from radixpoint.quantization.quantize import Quantizer
from radixpoint.searching import search
from radixpoint.searching.criterion import Criterion
from radixpoint.tables import MOST, Tabular

GRAPH = networks.residual()
IMAGES = networks.images(96, classes=10)
NETWORK = exports.quantized(GRAPH)
NAMES = (
    *("graph", "network", "design", "cost", "evaluation", "result", "explanation", "advice", "comparison"),
    "run",
)


def run_on_eyeriss() -> Tabular:
    run = HardwareTarget.load("eyeriss").moved(NETWORK)
    assert run is not None
    assert HardwareTarget.load("dsp48e2").moved(NETWORK) is None
    return run


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tabular]:
    ranges = calibrate(GRAPH, IMAGES)
    quantizer = Quantizer(GRAPH, ranges, IMAGES)
    run = tmp_path_factory.mktemp("tables") / "run"
    result = search(
        GRAPH, IMAGES, IMAGES, run, criterion=Criterion(limit=20.0), word_lengths=range(4, 9), at_chance=True
    )
    explanation = explain(quantizer, Design.separate(5, 8), IMAGES, TopK(1), deeper=1)
    stored = exports.example_images(NETWORK, 2)
    wrong = {k: -v for k, v in ReferenceEngine(NETWORK).run(stored, [NETWORK.output]).items()}
    dump = matched(NETWORK, [Dumped(NETWORK.output, wrong[NETWORK.output])], 2)
    return {
        "graph": GRAPH,
        "network": NETWORK,
        "design": Design.separate(10, 13, layers={"conv0": Widths(weights=5, activations=6)}),
        "cost": cost(NETWORK),
        "evaluation": evaluate(GRAPH, NETWORK, IMAGES),
        "result": result,
        "explanation": explanation,
        "advice": advise(
            *(quantizer, Design.separate(5, 8), explanation, IMAGES, TopK(1), Criterion(limit=20.0))
        ),
        "comparison": compare(NETWORK, dump, stored),
        "run": run_on_eyeriss(),
    }


class Cells(HTMLParser):
    """Texts of a table's cells, row by row; a tag that is not closed again is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.rows: list[list[str]] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


@pytest.mark.parametrize("name", NAMES)
def test_a_line_and_a_table(shown: dict[str, Tabular], name: str) -> None:
    one = shown[name]
    assert 0 < len(one.summary()) < 200
    assert "\n" not in one.summary()
    assert len(repr(one)) < 200 or name in (
        "design",
        "cost",
        "evaluation",
        "explanation",
        "advice",
        "comparison",
    )
    page = Cells()
    page.feed(one._repr_html_())
    assert not page.open
    rows = one.rows()
    assert len(page.rows) == 1 + min(len(rows), MOST)
    for texts, row in zip(page.rows[1:], rows, strict=False):
        first = next(iter(row.values()))
        assert texts[0] == (f"{first:.4g}" if isinstance(first, float) else str(first))


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_and_a_chart(shown: dict[str, Tabular], name: str) -> None:
    """The frame has the rows; the chart draws every number of the series."""
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("pandas")
    matplotlib.use("agg")
    one = shown[name]
    frame = one.to_pandas()
    assert len(frame) == len(one.rows())
    assert list(frame.columns) == list(one.rows()[0])
    chart, axes = one.chart(), one.plot()
    across = axes.get_ylabel() != chart.labels[1]
    assert across == (name == "advice")
    drawn = sorted(
        [float(bar.get_width() if across else bar.get_height()) for bar in axes.patches]
        + [float(y) for line in axes.lines if line.get_marker() == "o" for y in line.get_ydata()]
    )
    assert drawn == sorted(float(v or 0.0) for values in chart.series.values() for v in values)
    assert {axes.get_xlabel(), axes.get_ylabel()} == set(chart.labels)
    axes.figure.savefig(Path("/dev/null") if sys.platform != "win32" else "nul", format="png")
    assert one.plot(axes) is axes
    matplotlib.pyplot.close("all")


def test_figures_are_those_of_the_objects(shown: dict[str, Tabular]) -> None:
    frame = shown["result"].to_pandas()
    written = json.loads(shown["result"].encoded())
    tried = written["policies"]["joint"]["tried"]
    own = frame[frame.strategy == "joint"].set_index("word_length")["drop"].to_dict()
    assert own == {trial["word_length"]: trial["drop"] for trial in tried}
    assert set(frame.strategy) == set(written["policies"])
    layers = shown["network"].to_pandas()
    assert int((layers.operator == "conv").sum()) == 4
    multiplied = shown["network"].chart().series
    assert set(multiplied["operand"]) == {7.0, 11.0}
    cells = shown["cost"].to_pandas().set_index("figure")["value"]
    weights = {
        layer.name: GRAPH.parameter(layer, "weight") for layer in GRAPH.layers if "weight" in layer.parameters
    }
    products = [w[0].size * math.prod(GRAPH.shapes[name]) for name, w in weights.items()]
    assert cells["macs"] == sum(products)


def test_names_are_escaped() -> None:
    net = networks.Net(0)
    graph = net.graph(net.fc(net.simple("flatten", net.conv("input", 2)), 2 * 144, 3))
    evil = Graph("<script>", graph.input, graph.shapes, graph.layers, graph.output, graph.parameters)
    assert "<script>" not in evil._repr_html_()


@pytest.mark.parametrize(("library", "call"), [("pandas", "to_pandas"), ("matplotlib", "plot")])
def test_without_the_library(library: str, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == library]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"{library} is not installed: pip install 'radixpoint\[plot\]'"):
        getattr(GRAPH, call)()
