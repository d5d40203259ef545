"""What rule ``loss`` makes small: by hand, and on a network where every simpler rule but one breaks."""

from __future__ import annotations

import math

import numpy as np
import pytest

from radixpoint.demo import demo_images, demo_network
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.evaluate import evaluate
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer, divergence


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
