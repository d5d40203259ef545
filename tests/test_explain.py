"""Explaining: planted causes are found, losses add up as said, and every advice is a design that was run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

import networks
from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.cli.inputs import without_held_out
from radixpoint.data import ImageSet
from radixpoint.engines import quantize_images
from radixpoint.errors import DesignError
from radixpoint.explaining.changes import Advice, advise
from radixpoint.explaining.explain import Explanation, explain
from radixpoint.explaining.probe import FREE, Lost, Probe, freed
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.measure.metrics import TopK, find_metric
from radixpoint.quantization.design import BinaryPoint, Code, Codes, Design, Widths
from radixpoint.quantization.quantize import Quantizer
from radixpoint.report.page import page
from radixpoint.searching.criterion import Criterion
from radixpoint.searching.result import Result
from test_cli import fails
from test_cli import run as command

pytestmark = pytest.mark.slow("it runs a network for every layer")

GRAPH = networks.balanced()
QUANTIZER = Quantizer(GRAPH, calibrate(GRAPH, networks.images()), networks.images())
IMAGES = networks.labelled(GRAPH, 300, 1)
CONVS = [layer.name for layer in GRAPH.layers if layer.op == "conv"]


def explained(design: Design, deeper: int = 1) -> Explanation:
    return explain(QUANTIZER, design, IMAGES.first(64), TopK(1), deeper)


@given(st.integers(2, 24), st.integers(-8, 20), st.booleans(), st.integers(2, 32))
def test_freed_formats_hold_all_that_the_format_holds(
    word: int, fraction: int, signed: bool, to: int
) -> None:
    form = TensorFormat(signed, word, (fraction, fraction + 3))
    wider = freed(form, to)
    if to <= word:
        assert wider == form
        return
    assert wider.word_length == to
    for before, after in zip(form.fraction_lengths, wider.fraction_lengths, strict=True):
        assert after >= before
        assert wider.max * 2.0**-after >= form.max * 2.0**-before
        assert wider.min * 2.0**-after <= form.min * 2.0**-before


@pytest.mark.parametrize("kind", ["weights", "activations"])
@pytest.mark.parametrize("layer", [CONVS[1], CONVS[-1]])
def test_a_layer_with_too_few_bits_is_named(layer: str, kind: str) -> None:
    """And in it the place, and that rounding is to blame."""
    found = explained(Design.separate(10, 14, layers={layer: {kind: 3}}))
    assert found.layers[0].layer == layer
    assert found.layers[0].share > 50
    place = found.places[0]
    assert place.role == {"weights": "weight", "activations": "operand"}[kind]
    assert place.without.loss < found.whole.loss / 4
    assert place.unrounded is not None
    assert place.unsaturated is not None
    assert place.unrounded.loss < place.unsaturated.loss


def test_a_layer_that_saturates_is_named() -> None:
    """Its binary point is chosen for half of the values: the others are beyond the range."""
    layer = CONVS[2]
    points = {layer: BinaryPoint("tensor", "percentile", 60.0)}
    found = explained(Design.separate(10, 14, binary_points=points))
    assert found.layers[0].layer == layer
    worst = max(found.places, key=lambda part: part.alone.loss)
    assert worst.unsaturated is not None
    assert worst.unrounded is not None
    assert worst.unsaturated.loss < worst.unrounded.loss


def test_losses_add_up_as_said() -> None:
    found = explained(Design.separate(6, 10), 2)
    alone = [part.alone.loss - found.free.loss for part in found.layers]
    added = found.free.loss + sum(alone)
    assert found.left_over == pytest.approx(100 * (found.whole.loss - added) / found.whole.loss)
    assert sum(part.share for part in found.layers) == pytest.approx(100)
    losses = [part.alone.loss for part in found.layers]
    assert losses == sorted(losses, reverse=True)
    sites = {site.key[0] for site, _ in QUANTIZER.places(Design.separate(6, 10))}
    assert {part.layer for part in found.layers} == sites
    assert found.free.loss < found.whole.loss / 100


def test_losses_are_those_of_networks_that_run() -> None:
    """Alone and without, by lowering by hand."""
    design = Design.separate(5, 9)
    probe = Probe(QUANTIZER, design, IMAGES.first(64), TopK(1))
    found = explained(design)
    part = found.layers[0]
    own = {key for key in probe.places if key[0] == part.layer}
    alone = {key: form if key in own else probe.free[key] for key, form in probe.formats.items()}
    without = {key: probe.free[key] if key in own else form for key, form in probe.formats.items()}
    assert probe.lost(alone) == part.alone
    assert probe.lost(without) == part.without
    assert found.whole == probe.lost_by(QUANTIZER.quantize(design))
    assert all(form.word_length >= FREE - 1 for form in probe.free.values())


def test_what_names_no_classes_has_a_relative_loss() -> None:
    """A second result makes it no classifier: the loss is the squared error of the first, by hand here."""
    graph = dataclasses.replace(GRAPH, other_outputs=(GRAPH.layers[-4].name,))
    quantizer = Quantizer(graph, calibrate(graph, networks.images()))
    real = FloatingEngine(graph).run(IMAGES.inputs(0, 48))[graph.output].astype(np.float64)
    images = IMAGES.first(48).with_targets(real)
    images = ImageSet(images.source, IMAGES.pixels[:48], real, (), IMAGES.preprocessing)
    found = explain(quantizer, Design.joint(7), images, find_metric("mse"), 1)
    network = quantizer.quantize(Design.joint(7))
    stored = network.run(quantize_images(network, images.inputs(0, 48)))[network.output]
    values = np.ldexp(stored.astype(np.float64), -network.logit_fraction_length())
    assert found.unit == "relative"
    assert found.whole.agreement is None
    assert found.whole.loss == pytest.approx(((values - real) ** 2).sum() / (real**2).sum())


def test_coded_designs_have_no_formats_to_change() -> None:
    coded = Design.separate(4, 12, codes=Codes(weights=Code("log2")))
    with pytest.raises(DesignError, match="expected a fixed-point one"):
        explained(coded)


@pytest.fixture(scope="module")
def advice() -> Advice:
    design = Design.separate(5, 10)
    return advise(QUANTIZER, design, explained(design, 3), IMAGES, TopK(1), Criterion(limit=1.0))


def test_every_advice_was_tried(advice: Advice) -> None:
    """What is said of a change is what ``evaluate`` finds of its design."""
    assert len(advice.changes) > 20
    for change in (advice.now, *advice.changes):
        design = msgspec.json.decode(change.design, type=Design)
        own = evaluate(GRAPH, QUANTIZER.quantize(design), IMAGES)
        assert (own.drop, own.drop_interval, own.agreement) == (
            change.drop,
            change.drop_interval,
            change.agreement,
        ), change.name
        assert change.gain == pytest.approx(advice.now.drop - change.drop)
    assert len({change.name for change in advice.changes}) == len(advice.changes)


def test_the_best_is_the_cheapest_that_holds(advice: Advice) -> None:
    holding = [change for change in advice.changes if change.drop <= 1.0]
    assert advice.now.drop > 1.0, "it holds as it is: the test shows nothing"
    assert advice.best is not None
    best = advice.change(advice.best)
    if holding:
        assert best.multiplier_cost == min(change.multiplier_cost for change in holding)
    else:
        assert best.drop == min(change.drop for change in advice.changes)


def test_what_a_part_of_the_images_chose_is_judged_on_all() -> None:
    """Ninety images choose, and are wrong again and again: the first that holds on all is the best."""
    design = Design.separate(5, 10)
    limit = Criterion(limit=1.0)
    found = advise(QUANTIZER, design, explained(design, 3), IMAGES, TopK(1), limit, first=90)
    assert found.images == 90
    assert found.confirmed
    for one in found.confirmed:
        tried = msgspec.json.decode(found.change(one.name).design, type=Design)
        own = evaluate(GRAPH, QUANTIZER.quantize(tried), IMAGES)
        assert (one.images, one.drop, one.drop_interval) == (len(IMAGES), own.drop, own.drop_interval)
    *failed, last = found.confirmed
    assert all(one.drop > 1.0 for one in failed)
    assert any(one.drop != found.change(one.name).drop for one in found.confirmed), "the test shows nothing"
    if last.drop <= 1.0:
        assert found.best == last.name
    else:
        assert found.best == min(found.confirmed, key=lambda one: one.drop).name


def test_a_planted_cause_is_cured() -> None:
    """One operand has two bits: more bits for it are advised, at next to no cost."""
    layer = CONVS[1]
    design = Design.separate(9, 13, layers={layer: Widths(activations=2)})
    found = advise(QUANTIZER, design, explained(design, 3), IMAGES, TopK(1), Criterion(limit=5.0))
    assert found.best is not None
    assert layer in found.best
    assert found.change(found.best).gain > 0


# ------------------------------------------------------------------------------------------ from a run


def folder_with_another_network(run: Path, to: Path) -> Path:
    """A run folder whose result is of another network than its run file names."""
    shutil.copytree(run, to, ignore=shutil.ignore_patterns("cache"))
    result = Result.load(to / "result.json")
    (to / "result.json").write_bytes(replace(result, network="0" * 64).encoded())
    return to


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain") / "run"
    command("demo", "-o", folder)
    return folder


def test_from_a_run_to_a_better_network(run: Path, tmp_path: Path) -> None:
    """The demo: the fully connected layer's operand needs the bits, not the convolutions."""
    quick = ("--look-at", 16, "--max-images", 300)
    said = json.loads(command("explain", run, *quick, "--json", "--apply", tmp_path / "better").stdout)
    assert said["explanation"]["layers"][0]["layer"] == "fc"
    assert said["explanation"]["places"][0]["role"] == "operand"
    best = said["advice"]["best"]
    assert best is not None
    tried = {change["name"]: change for change in said["advice"]["changes"]}
    assert tried[best]["multiplier_cost"] < 0.9
    files = sorted((run / "separate" / "changes").iterdir())
    assert len(files) == len(tried)
    design = Design.load(tmp_path / "better" / "design.json")
    assert design == msgspec.json.decode(tried[best]["design"], type=Design)
    network = tmp_path / "better" / "network.safetensors"
    judged = command("evaluate", "demo:network", "-n", network, "-i", "demo:test", "--json")
    assert json.loads(judged.stdout)["drop"] < 1.5
    text = page(run)
    assert "Why accuracy falls" in text
    assert best in text
    command("explain", run / "joint" / "network.safetensors", "--no-changes", "--look-at", 16)
    assert (run / "joint" / "explanation.json").is_file()


def test_an_explanation_of_an_earlier_answer_is_not_shown(run: Path) -> None:
    text = Explanation(
        *(16, "top1", "bits", Lost(0.1, 90.0, 1.0), Lost(0.0, 100.0, 0.0), [], 0.0, []),
        design=Design.joint(3).to_json().decode(),
    )
    path = run / "joint" / "explanation.json"
    kept = path.read_bytes() if path.exists() else None
    path.write_bytes(text.encoded())
    try:
        assert "Why accuracy falls" not in page(run).partition("joint: 12 bits")[2]
        own = replace(text, design=(run / "joint" / "design.json").read_text())
        path.write_bytes(own.encoded())
        assert "Why accuracy falls" in page(run).partition("joint: 12 bits")[2]
    finally:
        path.unlink()
        if kept is not None:
            path.write_bytes(kept)


def test_a_class_longer_is_longer_in_every_layer() -> None:
    """Layers with a word length of their own, too: else one bit more for all would be less than it says."""
    design = Design.separate(5, 10, layers={CONVS[1]: Widths(weights=4, activations=6)})
    found = advise(QUANTIZER, design, explained(design, 1), IMAGES, TopK(1), Criterion(limit=1.0))
    longer = msgspec.json.decode(found.change("convolutions: 1 bit longer").design, type=Design)
    assert longer.layers[CONVS[1]] == Widths(weights=5, activations=7)
    assert longer.classes["conv"].weights == 6


def test_images_that_were_held_out_take_no_part() -> None:
    """What a search set aside, ``explain`` sets aside, too."""
    apart = without_held_out(IMAGES, "100")
    kept, held = IMAGES.parted(len(IMAGES) - 100)
    assert apart.digest == kept.digest
    assert not apart.shared_with(held)
    assert without_held_out(IMAGES, None) is IMAGES
    assert without_held_out(IMAGES, "folder/") is IMAGES


def test_what_cannot_be_explained(run: Path, tmp_path: Path) -> None:
    fails("expected the folder of a search", "explain", tmp_path)
    fails("no such file", "explain", tmp_path / "none.safetensors")
    fails("those with one are: separate, joint", "explain", run, "--policy", "greedy")
    network = run / "joint" / "network.safetensors"
    fails("expected it with a run folder", "explain", network, "--policy", "joint")
    alone = tmp_path / "alone" / "deep" / "network.safetensors"
    alone.parent.mkdir(parents=True)
    alone.write_bytes(network.read_bytes())
    fails("expected --model, --images, --calibration", "explain", alone)
    other = folder_with_another_network(run, tmp_path / "other")
    fails("their digests differ", "explain", other, "--no-changes", "--look-at", 16)
