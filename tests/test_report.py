"""The report: its facts against brute force, its page complete in itself, and in a real browser."""

from __future__ import annotations

import html.parser
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import networks
from radixpoint.accelerator.cost import cost, layer_costs
from radixpoint.data import ImageSet
from radixpoint.engines import ReferenceEngine, quantize_images
from radixpoint.errors import RunError
from radixpoint.ir.graph import Graph
from radixpoint.ir.network import IntGraph
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.report import charts, words
from radixpoint.report.page import page, write_report
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.facts import IMAGES, Facts, facts_of, histogram
from radixpoint.searching.result import Result
from radixpoint.searching.task import search

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search that has ended, with class names that nobody should have."""
    graph, folder = networks.balanced(), tmp_path_factory.mktemp("report") / "run"
    images = networks.labelled(graph, 600, 1)
    names = tuple(f"{HOSTILE} {index}" for index in range(graph.classes))
    named = ImageSet(images.source, images.pixels, images.targets, names, images.preprocessing)
    search(graph, named, networks.images(), folder, Criterion(limit=5.0), at_chance=True)
    return folder


def quantized(graph: Graph, design: Design) -> tuple[Quantizer, IntGraph]:
    quantizer = Quantizer(graph, networks.calibrated(graph))
    return quantizer, quantizer.quantize(design)


def by_layer(facts: Facts) -> dict[str, Any]:
    return {layer.name: layer for layer in facts.layers}


# ------------------------------------------------------------------------------------------------ facts


@pytest.mark.parametrize("scope", ["tensor", "channel"])
@pytest.mark.parametrize("rule", ["max", "mse"])
def test_saturated_shares_by_hand(scope: str, rule: str) -> None:
    """Operands beyond the format: real values compared with its ends."""
    graph = networks.residual()
    design = Design.separate(4, 8, binary_point={"scope": scope, "rule": rule})
    quantizer, network = quantized(graph, design)
    facts = by_layer(facts_of(quantizer, design))
    inputs = quantizer.ranges.sample[:IMAGES]
    engine = ReferenceEngine(network)
    seen = 0
    for step in network.steps:
        tensor = network.tensors[step.name]
        if step.op != "cast" or tensor.value is not None or len(tensor.format.fraction_lengths) > 1:
            continue
        source = engine.run(quantize_images(network, inputs), [step.inputs[0]])[step.inputs[0]]
        own = network.tensors[step.inputs[0]].format
        units = np.ldexp(source.astype(float), -own.fractions(len(tensor.shape)))
        units *= 2.0 ** tensor.format.fraction_lengths[0]
        beyond = (units >= tensor.format.max + 0.5) | (units < tensor.format.min - 0.5)
        place = facts[tensor.layer].place("operand")
        assert place.saturated == float(f"{100 * int(beyond.sum()) / beyond.size:.4g}")
        seen += int(beyond.sum())
    assert seen > 0 or rule == "max", "nothing saturates: the test shows nothing"


def test_accumulators_used_are_within_those_proven() -> None:
    graph = networks.residual()
    quantizer, network = quantized(graph, Design.joint(8))
    facts = by_layer(facts_of(quantizer, Design.joint(8)))
    stored = quantize_images(network, quantizer.ranges.sample[:IMAGES])
    for step in network.steps:
        if step.family != "product":
            continue
        sums = ReferenceEngine(network).run(stored, [step.name])[step.name]
        bits = next(b for b in range(1, 65) if -(1 << (b - 1)) <= sums.min() and sums.max() < 1 << (b - 1))
        proven, used = facts[network.tensors[step.name].layer].accumulator
        assert (proven, used) == (network.tensors[step.name].format.word_length, bits)
        assert used <= proven


def test_layer_costs_add_up() -> None:
    """To the cost of the whole, whatever the form; what layers share counts once."""
    for form in ("affine", "staged", "folded"):
        _, network = quantized(networks.varied(), Design.separate(6, 9, batch_norm=form))
        whole, layers = cost(network), layer_costs(network).values()
        for name in ("macs", "scalings", "multiplier_cost", "weight_bits", "parameter_bits"):
            assert getattr(whole, name) == sum(getattr(one, name) for one in layers), (form, name)
        bits = sum(p.data.size * p.format.word_length for p in network.parameters.values())
        assert whole.weight_bits + whole.parameter_bits == bits


def test_histograms_hold_every_value() -> None:
    """Shares of half octaves against a count of the values themselves."""
    graph = networks.residual()
    name = next(layer.name for layer in graph.layers if layer.op == "batch_norm")
    begin, shares = histogram(networks.calibrated(graph).tensors[name])
    inputs = networks.images(shape=graph.shapes[graph.input])
    values = np.abs(FloatingEngine(graph, [name]).run(inputs.inputs(0, len(inputs)))[name]).ravel()
    places = begin + np.arange(len(shares) + 1) / 2
    edges = np.ldexp(np.where(places % 1 == 0, 1.0, 1.5), np.floor(places).astype(int))
    counted, _ = np.histogram(values, edges)
    assert shares == [float(f"{share:.4g}") for share in counted / values.size * 100]
    assert counted.sum() == (values > 0).sum()


def test_changed_images_are_those_whose_answers_differ(run: Path) -> None:
    facts, result = Facts.load(run / "joint" / "facts.json"), Result.load(run / "result.json")
    policy = result.policies["joint"]
    assert policy.agreement is not None
    assert facts.changed is not None
    assert facts.changed_count == round((1 - policy.agreement / 100) * result.images.count)
    falls = [one.rank_before - one.rank_after for one in facts.changed]
    assert falls == sorted(falls)
    assert all(one.before != one.after for one in facts.changed)


# ------------------------------------------------------------------------------------------------- page


class Reader(html.parser.HTMLParser):
    """What a page refers to, its scripts' text, and whether its elements are closed."""

    def __init__(self) -> None:
        super().__init__()
        self.references: list[str] = []
        self.open: list[str] = []
        self.scripts: list[str] = []
        self.identifiers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        own = dict(attrs)
        self.references += [own[key] or "" for key in ("src", "href", "xlink:href") if key in own]
        self.identifiers += [own["id"] or ""] if "id" in own else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


@pytest.fixture(scope="module")
def read(run: Path) -> Reader:
    reader = Reader()
    reader.feed(page(run))
    reader.close()
    return reader


def test_the_page_needs_nothing_else(read: Reader) -> None:
    """No reference leaves the page; those inside lead somewhere; elements are closed, identifiers single."""
    assert not read.open
    assert len(set(read.identifiers)) == len(read.identifiers)
    for reference in read.references:
        assert reference.startswith(("data:", "#"))
        if reference.startswith("#"):
            assert reference[1:] in read.identifiers


def test_names_cannot_leave_their_place(run: Path, read: Reader) -> None:
    assert "alert(1)" in page(run), "no hostile name is there: the test shows nothing"
    assert not any("alert(1)" in script for script in read.scripts)


def test_charts_hold_what_was_found(run: Path, read: Reader) -> None:
    specs = json.loads(next(s for s in read.scripts if s.startswith('{"strategies"')))
    result = Result.load(run / "result.json")
    drops = {v["strategy"]: v["drop"] for v in specs["strategies"]["data"]["values"]}
    assert drops == {name: p.drop for name, p in result.policies.items() if p.holds}
    tried = specs["path-1"]["data"]["values"]
    assert {(v["bits"], v["verdict"]) for v in tried} == {
        (t.word_length, t.verdict) for t in result.policies["joint"].tried
    }
    assert words.answer(result) in page(run).replace("&#39;", "'")


def test_every_layer_has_one_cell_and_stands_by_its_convolution() -> None:
    for graph in (networks.residual(), networks.mixed(), networks.varied()):
        quantizer, _ = quantized(graph, Design.joint(8))
        facts = facts_of(quantizer, Design.joint(8))
        cells = charts.placed(facts)
        assert len({(c.column, c.lane, c.below) for c in cells.values()}) == len(cells)
        assert {layer.name for layer in facts.layers if layer.op not in charts.PASSING} == set(cells)
        for layer in graph.layers:
            if (
                layer.op == "batch_norm"
                and len(graph.consumers(layer.inputs[0])) == 1
                and layer.inputs[0] in cells
            ):
                below, above = cells[layer.name], cells[layer.inputs[0]]
                assert (below.column, below.lane, below.below) == (above.column, above.lane, 1)


def test_the_answer_in_words(run: Path) -> None:
    result = Result.load(run / "result.json")
    text = words.answer(result)
    joint = result.policies["joint"]
    assert f"must be {joint.word_length} bits" in text
    nothing = msgspec.structs.replace(
        result, policies={"joint": msgspec.structs.replace(joint, drop=None, word_length=None)}
    )
    assert words.answer(nothing).startswith("No design with word lengths up to 16 bits")
    assert words.amount("1", "points") == "1 point"
    assert words.amount("1.5", "points") == "1.5 points"
    assert words.drop(0.25, "") == "+0.25"


def test_runs_that_cannot_be_shown(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="expected the folder of a search"):
        write_report(tmp_path)
    older = shutil.copytree(run, tmp_path / "older", ignore=shutil.ignore_patterns("cache"))
    (older / "joint" / "facts.json").unlink()
    with pytest.raises(RunError, match="earlier version"):
        write_report(older)
    (older / "joint" / "facts.json").write_text("{}")
    with pytest.raises(RunError, match="not the facts"):
        write_report(older)
    assert not (older / "report.html").exists()


# ---------------------------------------------------------------------------------------------- browser

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((path for name in BROWSERS if (path := shutil.which(name))), None)


@pytest.mark.skipif(CHROMIUM is None, reason="needs a browser: apt install chromium")
def test_in_a_browser(run: Path, tmp_path: Path) -> None:
    """No message on the console; charts are drawn; keys open, sort and zoom; it fits a telephone."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = write_report(run, tmp_path / "report.html")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 1280, "height": 900}, offline=True)
        said: list[str] = []
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("dialog", lambda dialog: said.append("a name was run as a program"))
        shown.goto(path.as_uri())
        count = shown.locator("[data-chart]").count()
        shown.wait_for_function(f"document.querySelectorAll('[data-chart] svg.marks').length == {count}")
        assert count >= 6

        more = shown.locator("button.more").first
        more.focus()
        shown.keyboard.press("Enter")
        shown.wait_for_selector("tr[id$=-histogram] svg.marks")
        assert more.get_attribute("aria-expanded") == "true"
        shown.keyboard.press("Enter")
        assert shown.locator("tr[id$=-histogram]").count() == 0

        button = shown.locator("table.layers").first.get_by_role("button", name="SQNR, dB")
        button.focus()
        shown.keyboard.press("Enter")
        column = button.evaluate("b => [...b.closest('tr').children].indexOf(b.closest('th'))")
        cells = shown.locator("table.layers").first.locator("tbody tr")
        texts = [row.locator("th, td").nth(column).inner_text() for row in cells.all()]
        numbers = [float(text) for text in texts if text]
        assert numbers == sorted(numbers, reverse=True)
        assert len(set(numbers)) > 3

        axis = "views['path-1'].scale('x').domain().join()"
        before = shown.evaluate(axis)
        zoom = shown.locator("#path-1 .zoom button").first
        zoom.focus()
        shown.keyboard.press("Enter")
        shown.wait_for_function(f"{axis} != {json.dumps(before)}")
        shown.locator("#path-1 .zoom button").last.press("Enter")
        shown.wait_for_function(f"{axis} == {json.dumps(before)}")

        assert shown.locator("[data-chart][role=graphics-document][aria-label]").count() == count
        assert shown.locator("img:not([alt]), button:empty").count() == 0
        assert not said

        phone = browser.new_page(viewport={"width": 390, "height": 844}, offline=True)
        phone.goto(path.as_uri())
        phone.wait_for_selector("[data-chart] svg.marks")
        assert phone.evaluate("document.documentElement.scrollWidth") <= 390
        browser.close()
