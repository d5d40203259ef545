"""What rule ``loss`` makes small: by hand, and on a network where every simpler rule but one breaks."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import networks
from radixpoint.arithmetic.cast import quantize
from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.demo import demo_images, demo_network
from radixpoint.ir.network import IntGraph
from radixpoint.measure.calibrate import Statistics, calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.quantization.design import BinaryPoint, Design, Widths
from radixpoint.quantization.lower import ParameterCache
from radixpoint.quantization.quantize import LONG, SHORT, SHORTEST, Quantizer, between, divergence
from radixpoint.quantization.rules.loss import beside, finer, wider
from radixpoint.quantization.rules.statistic import _fractions, fractions
from radixpoint.quantization.sites import Formats, Stored


def test_divergence_by_hand() -> None:
    even, sure = np.zeros((1, 2)), np.array([[0.0, -2000.0]])  # probabilities 1/2, 1/2 and 1, 0
    # entropy of the mean (3/4, 1/4), less the mean of the entropies 1 and 0
    by_hand = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert divergence(even, sure) == pytest.approx(by_hand, rel=1e-12)
    assert divergence(sure, even) == pytest.approx(by_hand, rel=1e-12)
    assert divergence(sure, sure[:, ::-1]) == 1.0
    logits = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    assert divergence(logits, logits) == 0.0
    assert divergence(logits + 8, logits) == pytest.approx(0.0, abs=1e-12)  # the same probabilities
    both = divergence(np.vstack([even, sure]), np.vstack([sure, sure]))
    assert both == pytest.approx(by_hand / 2)  # mean over images


def test_an_image_of_large_logits_does_not_outweigh_the_others() -> None:
    reference = np.eye(10)
    reference[0] *= 1000
    large_one_off = reference.copy()
    large_one_off[0] *= 0.8  # still certain of the class
    others_lost = reference.copy()
    others_lost[1:] = 0
    assert divergence(large_one_off, reference) < 1e-6 < divergence(others_lost, reference)
    squares = [((one - reference) ** 2).sum() for one in (large_one_off, others_lost)]
    assert squares[0] > squares[1]  # their squared error says the opposite


def test_formats_asked_again_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other formats, or the same ones under another design, are."""
    graph = networks.residual()
    images = networks.images(8, 1, graph.shapes["input"])
    quantizer = Quantizer(graph, calibrate(graph, images))
    designs = Design.separate(8, 12), Design.separate(8, 12, overflow="WRAP")
    runs = list[Design]()
    plain = Quantizer.lowered

    def counted(own: Quantizer, design: Design, formats: Formats) -> IntGraph:
        runs.append(design)
        return plain(own, design, formats)

    monkeypatch.setattr(Quantizer, "lowered", counted)
    formats = quantizer.formats(designs[0])
    weight = next(key for key in formats if key[1] == "weight")
    moved = formats[weight].fraction_lengths[0] - 2
    other = {**formats, weight: replace(formats[weight], fraction_lengths=(moved,))}
    losses = [quantizer.loss(designs[0], asked) for asked in (formats, other, dict(formats), other)]
    assert losses[:2] == losses[2:]
    assert losses[0] != losses[1]
    assert len(runs) == 2
    quantizer.loss(designs[1], formats)
    assert len(runs) == 3


def test_parameters_known_in_few_bytes_are_the_same() -> None:
    """Whether a network that has them is alive, they are known, or they were thrown out for others."""
    design, key = Design.joint(8), ("a", "weight")
    for word, kept in (
        (4, np.int8),
        (8, np.int8),
        (9, np.int16),
        (16, np.int16),
        (17, np.int32),
        (32, np.int32),
    ):
        low, high = -(1 << (word - 1)), (1 << (word - 1)) - 1
        values = np.array([low - 9.0, low, -0.75, 0.25, high, high + 9.0]).reshape(3, 2, 1, 1)
        forms = TensorFormat(True, word, (0,)), TensorFormat(True, word, (-1,))
        expected = {
            form: quantize(
                values,
                form.channel(0),
                Rounding.RND,
                Overflow.SAT,
                to_fraction_length=form.fraction_lengths[0],
            )
            for form in forms
        }
        cache = ParameterCache(limit=values.size * np.dtype(kept).itemsize)  # one of them
        first = cache.quantize(key, values, forms[0], design, 0)
        assert cache.quantize(key, values, forms[0], design, 0) is first
        assert not first.data.flags.writeable
        del first
        for form in (forms[0], forms[1], forms[0]):
            again = cache.quantize(key, values, form, design, 0)
            assert again.data.dtype == np.int64
            assert np.array_equal(again.data, expected[form])
            assert [array.dtype for array in cache._known.values()] == [kept]
            del again


def test_parameters_are_held_as_they_are() -> None:
    """In 32 bits where these hold every value, in 64 where not."""
    exact = np.array([[0.5, -3.0, 2.0**-149, 1e30 * 0]])
    for values, held in ((exact, np.float32), (exact + 2.0**-40, np.float64), (exact - 1e300, np.float64)):
        with np.errstate(over="ignore"):
            stored = Stored.of(values)
        assert stored.held.dtype == held
        assert stored.values.dtype == np.float64
        assert np.array_equal(stored.values, values)


def test_what_is_asked_of_the_same_values_again_is_known() -> None:
    """And only that: another length, rule, share or values have their own answer."""
    random = np.random.default_rng(0)
    first, second = (
        Statistics.of((random.normal(size=(3, 500)) ** 5 * size).astype(np.float32)) for size in (1, 9)
    )
    points = [BinaryPoint(rule="max"), BinaryPoint(rule="mse")]
    points += [BinaryPoint(rule="percentile", percentile=share) for share in (99.0, 90.0)]
    asked = [(s, levels, point) for s in (first, second) for levels in (4, 8) for point in points]
    answers = [fractions(*one) for one in asked]
    assert len({answer.tobytes() for answer in answers}) > len(asked) // 2
    for one, answer in zip(asked, answers, strict=True):
        assert fractions(*one) is answer
        assert np.array_equal(_fractions(*one), answer)


@pytest.mark.slow("it chooses binary points by loss")
@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_loss_holds_where_other_rules_break(scope: str) -> None:
    """Convolutions of the embedded network at 8 bits: ranges of a few images are far from those of others."""
    graph, images = demo_network(), demo_images("test").first(500)
    quantizer = Quantizer(graph, calibrate(graph, demo_images("calibration")))
    agreement = {}
    for rule in ("max", "mse", "loss"):
        design = Design.separate(8, 16, binary_point={"scope": scope, "rule": rule})
        agreement[rule] = evaluate(graph, quantizer.quantize(design), images).agreement
    assert agreement["max"] < 50
    assert agreement["mse"] < 50
    assert agreement["loss"] > 95


@pytest.mark.slow("it chooses binary points by loss")
def test_one_bit_more_takes_the_points_of_one_less_where_they_are_better() -> None:
    """Of batch normalization; with binary points chosen for each length alone, 8 bits are worse than 7."""
    graph = demo_network()
    quantizer = Quantizer(graph, calibrate(graph, demo_images("calibration")))
    options = {"unsigned": True, "binary_point": {"scope": "channel", "rule": "loss"}}
    long, *designs = (Design.separate(6, bn, **options) for bn in (LONG, *range(SHORTEST, 12)))
    bases = [quantizer.formats(long), quantizer._chosen(designs[SHORT - SHORTEST])]
    assert bases[0] == quantizer._chosen(long)
    multiplied = {layer.name for layer in graph.layers if layer.family == "product"}
    losses, taken, shorter = [], 0, None
    for bn, design in enumerate(designs, SHORTEST):
        found, question = quantizer.formats(design), quantizer._question(design)
        candidates = [quantizer._chosen(design), *(beside(question, base) for base in bases)]
        if shorter is not None:
            candidates += [finer(question, shorter), wider(question, shorter)]
        taken += found not in candidates[:3]
        losses.append(quantizer.loss(design, found))
        assert losses[-1] == min(quantizer.loss(design, formats) for formats in candidates)
        for (layer, role), form in found.items():
            if layer in multiplied and role in ("weight", "operand"):
                assert form in [one[layer, role] for one in (candidates[0], *bases)]
            elif layer != graph.input:
                assert form.word_length == bn
        shorter = found
    assert taken  # else nothing here was tried
    assert losses == sorted(losses, reverse=True)
    at_seven, at_eight = (quantizer._chosen(designs[bn - SHORTEST]) for bn in (7, 8))
    assert quantizer.loss(designs[8 - SHORTEST], at_eight) > quantizer.loss(designs[7 - SHORTEST], at_seven)


@pytest.mark.slow("it chooses binary points by loss")
def test_word_lengths_by_layer_beside_short_batch_normalization() -> None:
    """What is multiplied has the points that its length has beside long or short words; the others are chosen
    for this mixture, not for one length of all."""
    graph = demo_network()
    quantizer = Quantizer(graph, calibrate(graph, demo_images("calibration")))
    names = [layer.name for layer in graph.layers if layer.family == "product"]
    bits = {name: 4 + number % 4 for number, name in enumerate(names)}
    layers = {name: Widths(weights=own, activations=own) for name, own in bits.items()}
    options = {"unsigned": True, "binary_point": {"scope": "channel", "rule": "loss"}}
    design = Design.separate(6, 8, layers=layers, **options)
    found = quantizer.formats(design)
    bases = [
        {own: quantizer._for_all(Design.separate(own, bn, **options)) for own in (4, 5, 6, 7)}
        for bn in (LONG, SHORT)
    ]
    for name in names:
        for role in ("weight", "operand"):
            assert found[name, role] in [base[bits[name]][name, role] for base in bases]
    mixed = {
        **bases[1][6],
        **{key: bases[1][bits[key[0]]][key] for key in found if key[0] in names},
    }
    assert quantizer.loss(design, found) < 0.9 * quantizer.loss(design, mixed)


def test_formats_of_another_length_beside_what_is_multiplied() -> None:
    """``finer`` keeps ranges and ``wider`` binary points; both leave words that have their length."""
    graph = demo_network()
    quantizer = Quantizer(graph, calibrate(graph, demo_images("calibration").first(8)))
    base = quantizer.formats(Design.separate(6, 8, unsigned=True))
    question = quantizer._question(Design.separate(6, 10, unsigned=True))
    ranges, points = finer(question, base), wider(question, base)
    changed = [key for key in base if points[key] != base[key]]
    assert changed == [key for key, form in base.items() if form.word_length == 8]
    for key in base:
        more = 2 if key in changed else 0
        assert {f - more for f in ranges[key].fraction_lengths} == {*base[key].fraction_lengths}
        assert points[key].fraction_lengths == base[key].fraction_lengths
        assert ranges[key].word_length == points[key].word_length == base[key].word_length + more
        assert ranges[key].signed == points[key].signed == base[key].signed


def test_other_words_between_what_is_multiplied() -> None:
    design = Design.joint(7, layers={"a": {"weights": 3}})
    longer = between(design, lambda bits: bits + 2)
    assert longer.classes["conv"] == design.classes["conv"]
    assert longer.classes["bn"].activations == 9
    assert longer.layers == design.layers
    long = Design.separate(8, 20)
    assert between(long, lambda bits: 8) == long
