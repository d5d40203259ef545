"""What rule ``loss`` makes small: by hand, and on a network where every simpler rule but one breaks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from radixpoint.demo import demo_images, demo_network
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer, divergence, longer
from radixpoint.quantization.rules.loss import narrowed


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
@pytest.mark.parametrize("scope", ["tensor", "channel"])
def test_short_batch_normalization_takes_points_beside_those_of_long(scope: str) -> None:
    """At every length what is chosen is no farther from float than either way to choose; by the second one,
    what is multiplied has the points that it has beside 16 bits."""
    graph = demo_network()
    quantizer = Quantizer(graph, calibrate(graph, demo_images("calibration")))
    options = {"unsigned": True, "binary_point": {"scope": scope, "rule": "loss"}}
    wide = Design.separate(6, 16, **options)
    assert longer(Design.separate(6, 9, **options)) == wide
    long, beside = quantizer.formats(wide), 0
    assert long == quantizer._chosen(wide)
    for bn in (9, 12):
        design = Design.separate(6, bn, **options)
        found = quantizer.formats(design)
        alone = quantizer._chosen(design)
        after = narrowed(quantizer._question(design), long)
        losses = [quantizer.loss(design, formats) for formats in (alone, after)]
        assert quantizer.loss(design, found) == min(losses)
        if losses[1] < losses[0]:
            beside += 1
            assert found == after
        multiplied = {layer.name for layer in graph.layers if layer.family == "product"}
        for (layer, role), form in after.items():
            if layer in multiplied and role in ("weight", "operand"):
                assert form == long[layer, role]
            elif form.word_length == bn and layer != graph.input:
                assert long[layer, role].word_length == 16
    assert beside  # else nothing here was tried


def test_stretching_a_design_leaves_what_is_multiplied() -> None:
    design = Design.joint(7, layers={"a": {"weights": 3}})
    assert longer(design).classes["conv"] == design.classes["conv"]
    assert longer(design).classes["bn"].activations == 16
    assert longer(design).layers == design.layers
    long = Design.separate(8, 20)
    assert longer(long) == long
