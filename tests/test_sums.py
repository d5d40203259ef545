"""Terms of a sum that are too far apart: channels that training has all but switched off."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import networks
from radixpoint.arithmetic.cast import dequantize
from radixpoint.engines import BlasEngine, make_engine, quantize_images
from radixpoint.engines.reference import ReferenceEngine
from radixpoint.ir.graph import Graph
from radixpoint.measure.evaluate import first_mismatch
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.quantize import Quantizer
from radixpoint.quantization.settle import settled
from radixpoint.quantization.sites import stored_parameters

TINY = (1e-12, 1e-20, 1e-38)


def changed(graph: Graph, key: str, factor: float, channels: slice) -> Graph:
    values = graph.parameters[key].copy()
    values[channels] *= np.float32(factor)
    return replace(graph, parameters={**graph.parameters, key: values})


def error(graph: Graph, design: Design) -> float:
    """Of the logits, relative; every engine computes the same."""
    network = Quantizer(graph, networks.calibrated(graph)).quantize(design)
    inputs = networks.images(48, shape=graph.shapes["input"]).inputs(0, 48)
    stored = quantize_images(network, inputs)
    few = stored[:4]
    reference = ReferenceEngine(network)
    assert first_mismatch(network, reference, BlasEngine(network), few) is None
    assert first_mismatch(network, reference, make_engine(network), few) is None
    got = dequantize(make_engine(network).run(stored)[network.output], network.logit_fraction_length())
    exact = FloatingEngine(graph).run(inputs)[graph.output]
    return float(np.sqrt(np.square(got - exact).mean() / np.square(exact).mean()))


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("scope", ["tensor", "channel"])
@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
@pytest.mark.parametrize(
    "key", ["batch_norm1.gamma", "batch_norm1.beta", "conv0.weight", "batch_norm5.gamma"]
)
def test_channels_that_count_for_nothing(key: str, form: str, scope: str) -> None:
    """One channel, and a whole tensor, at 16 bits: as near to float as a network without them."""
    graph = networks.residual()
    design = Design.separate(
        12, 16, batch_norm=form, binary_point={"scope": scope, "rule": "max"}, unsigned=True
    )
    for channels in (slice(1), slice(None)):
        usual = error(changed(graph, key, 0.0, channels), design)
        for factor in TINY:
            assert error(changed(graph, key, factor, channels), design) < 1.5 * usual + 1e-6


@pytest.mark.parametrize("rule", ["sqnr", "loss"])
def test_rules_that_try_networks(rule: str) -> None:
    graph = changed(networks.residual(), "batch_norm1.gamma", 1e-20, slice(1))
    design = Design.separate(8, 16, binary_point={"scope": "channel", "rule": rule}, refine=["offsets"])
    images = networks.images(32)
    network = Quantizer(graph, networks.calibrated(graph), images).quantize(design)
    assert not network.parameters["batch_norm1/scale"].data[0].any()


@pytest.mark.parametrize("factor", TINY)
def test_biases_that_count_for_nothing(factor: float) -> None:
    design = Design.separate(12, 16, binary_point={"scope": "channel", "rule": "max"})
    graph = networks.mixed()
    for channels in (slice(1), slice(None)):
        assert error(changed(graph, "conv0.bias", factor, channels), design) < 0.02


def test_a_branch_that_counts_for_nothing() -> None:
    """Both inputs of an addition: gamma and beta of one."""
    graph = networks.residual()
    for factor in TINY:
        tiny = changed(graph, "batch_norm8.gamma", factor, slice(None))
        tiny = changed(tiny, "batch_norm8.beta", factor, slice(None))
        assert error(tiny, Design.separate(12, 16)) < 0.01


def preactivated(pooled: bool = False) -> Graph:
    """Batch normalizations that nothing folds: on the image, behind an addition, behind and before a pool."""
    n = networks.Net(3)
    x = n.conv(n.simple("relu", n.bn("input")), 4)
    x = n.bn(n.add(x, n.conv(n.simple("relu", n.bn(x)), 4)))
    window = {"kernel": (4, 4), "strides": (4, 4), "pads": (0,) * 4, "count_include_pad": False}
    y = n.simple("average_pool", x, **window)
    if pooled:
        y = n.add(y, n.conv(x, 4, 4, strides=(4, 4), pads=(0,) * 4))
    y = n.simple("flatten", n.simple("relu", n.bn(y)))
    return n.graph(n.fc(y, 36, 7))


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("scope", ["network", "class", "tensor", "channel"])
@pytest.mark.parametrize("form", ["affine", "staged", "folded"])
def test_batch_normalizations_anywhere(form: str, scope: str) -> None:
    graph = preactivated()
    design = Design.separate(12, 16, batch_norm=form, binary_point={"scope": scope, "rule": "max"})
    for layer in graph.layers:
        if layer.op == "batch_norm":
            for factor in (1.0, 1e-20):
                found = error(changed(graph, f"{layer.name}.gamma", factor, slice(1)), design)
                assert found < (0.03 if scope == "network" else 0.004)


@pytest.mark.slow("many networks")
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("form", ["affine", "staged"])
def test_what_moves_can_still_be_divided(form: str, pooled: bool) -> None:
    """A tensor of 1e-20 that an average pooling reads, before an addition or a batch normalization."""
    graph = preactivated(pooled)
    names = [layer.name for layer in graph.layers if layer.op == "batch_norm"]
    for factor in (1e-20, 1e-30):
        tiny = graph
        for role in ("gamma", "beta"):
            tiny = changed(tiny, f"{names[2]}.{role}", factor, slice(None))
        for word in (2, 8, 16, 24):
            for scope in ("tensor", "channel"):
                error(tiny, Design.separate(8, word, batch_norm=form, binary_point={"scope": scope}))


@pytest.mark.parametrize(
    ("word", "scope"),
    [(16, "channel"), (28, "channel"), (28, "tensor"), (30, "tensor"), (30, "class"), (32, "network")],
)
def test_nothing_moves_where_sums_fit(word: int, scope: str) -> None:
    """Long words, whose sums are nearly as long as they may be."""
    graph = networks.residual()
    quantizer = Quantizer(graph, networks.calibrated(graph))
    design = Design.separate(8, word, batch_norm="staged", binary_point={"scope": scope, "rule": "max"})
    network, formats = quantizer.quantize(design), quantizer.formats(design)
    for (layer, role), form in formats.items():
        if f"{layer}/{role}" in network.parameters:
            assert network.parameters[f"{layer}/{role}"].format == form


def test_all_else_stays() -> None:
    """Nothing moves in a network of ordinary values; and where something must, it alone."""
    ordinary = networks.residual()
    for form in ("affine", "staged", "folded"):
        for word in (2, 8, 16, 24):
            design = Design.separate(
                8, word, batch_norm=form, binary_point={"scope": "channel", "rule": "max"}
            )
            formats = Quantizer(ordinary, networks.calibrated(ordinary)).formats(design)
            assert settled(ordinary, formats, stored_parameters(ordinary, design), design) == formats
    graph = changed(ordinary, "batch_norm1.gamma", 1e-20, slice(1))
    design = Design.separate(8, 16, binary_point={"scope": "channel", "rule": "max"})
    formats = Quantizer(graph, networks.calibrated(graph)).formats(design)
    found = settled(graph, formats, stored_parameters(graph, design), design)
    differs = {key for key in formats if formats[key] != found[key]}
    assert differs == {("batch_norm1", "scale")}
    place = ("batch_norm1", "scale")
    before, after = formats[place].fraction_lengths, found[place].fraction_lengths
    assert after[1:] == before[1:]
    # the product of 15 and 15 bits and the offset of 15: 62 bits hold the offset 47 places up
    x = formats["conv0", "result"].fraction_lengths[0]
    offset = formats["batch_norm1", "offset"].fraction_lengths[0]
    assert after[0] == offset + 62 - 15 - x < before[0]


def test_zeros_take_the_binary_point_of_their_neighbour() -> None:
    """Weights of 1e-18 beside a bias of zero keep all their bits."""
    graph = networks.mixed()
    tiny = changed(changed(graph, "conv0.weight", 1e-18, slice(None)), "conv0.bias", 0.0, slice(None))
    for scope in ("tensor", "channel"):
        design = Design.separate(8, 16, binary_point={"scope": scope, "rule": "max"})
        formats = Quantizer(tiny, networks.calibrated(tiny)).formats(design)
        found = settled(tiny, formats, stored_parameters(tiny, design), design)
        assert found["conv0", "weight"] == formats["conv0", "weight"]
        assert found["conv0", "bias"] != formats["conv0", "bias"]
