"""Equalization changes no float result, and does even ranges out."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace as replace_fields

import networks
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import calibrate
from radixpoint.measure.floating import FloatingEngine
from radixpoint.quantization.design import Design
from radixpoint.quantization.equalize import equalized, pairs
from radixpoint.quantization.quantize import quantize


def spread(seed: int = 0) -> tuple[Graph, np.ndarray]:
    """The residual network with channels of a batch normalization 2**-6 .. 2**6 apart."""
    graph = networks.residual(seed)
    bn, _, conv = pairs(graph)[0]
    factor = 2.0 ** np.random.default_rng(seed).integers(-6, 7, len(graph.parameter(bn, "gamma")))
    rows = factor.astype(np.float32)
    changed = {bn.parameters[role]: graph.parameter(bn, role) * rows for role in ("gamma", "beta")}
    weight = graph.parameter(conv, "weight") / rows[None, :, None, None]
    changed[conv.parameters["weight"]] = weight
    return replace(graph, parameters={**graph.parameters, **changed}), factor


def merged() -> Graph:
    """Without batch normalization: convolutions with biases, fully connected layers, all behind a ReLU."""
    n = networks.Net(3)
    x = n.simple("relu", n.conv("input", 6, bias=True))
    x = n.simple("relu", n.conv(x, 4, strides=(2, 2)))
    x = n.simple("relu", n.fc(n.simple("flatten", n.simple("relu", n.conv(x, 3, bias=True))), 108, 9))
    return n.graph(n.fc(x, 9, 7))


def test_which_layers_arepairs() -> None:
    """In ``mixed`` a depthwise convolution, a sum, a clip stand between."""
    ops = [(first.op, reader.op) for first, _, reader in pairs(merged())]
    assert ops == [("conv", "conv"), ("conv", "conv"), ("fc", "fc")]
    assert [(a.op, b.op) for a, _, b in pairs(networks.residual())] == [("batch_norm", "conv")]
    graph = networks.mixed()
    with pytest.raises(DesignError, match="this one has none"):
        equalized(graph, networks.calibrated(graph))


def test_shared_parameters_stay() -> None:
    graph = merged()
    first, _, reader = pairs(graph)[0]
    own = replace(reader, parameters={"weight": first.parameters["weight"]})
    layers = tuple(own if layer.name == reader.name else layer for layer in graph.layers)
    assert len(pairs(replace(graph, layers=layers))) == 1


def test_float_results_are_the_same_bits() -> None:
    for graph in (networks.residual(), merged(), spread()[0]):
        images = networks.images(96, 0, graph.shapes["input"])
        other, _ = equalized(graph, calibrate(graph, images))
        inputs = images.inputs(0, 32)
        before = FloatingEngine(graph).run(inputs)[graph.output]
        after = FloatingEngine(other).run(inputs)[graph.output]
        assert np.array_equal(before, after)
        assert other.digest != graph.digest
        assert other.shapes == graph.shapes


def test_channels_become_more_equal() -> None:
    graph, _ = spread()
    images = networks.images(96, 0, graph.shapes["input"])
    ranges = calibrate(graph, images)
    other, _ = equalized(graph, ranges)
    assert graph.digest != other.digest
    after = calibrate(other, images)
    _, relu, _ = pairs(graph)[0]
    high = [r.tensors[relu.name].high for r in (ranges, after)]
    apart = [np.log2(h[h > 0].max() / h[h > 0].min()) for h in high]
    assert apart[1] < apart[0] - 3


def test_designs_that_equalize() -> None:
    """The same integers as of the equalized network; the design alone says so."""
    graph, _ = spread()
    images = networks.images(96, 0, graph.shapes["input"])
    ranges = calibrate(graph, images)
    point = {"scope": "channel", "rule": "loss"}
    design = Design.separate(5, 12, binary_point=point, equalize=True, refine=["offsets"])
    found = quantize(graph, ranges, design, images)
    other, _ = equalized(graph, ranges)
    plain = Design.separate(5, 12, binary_point=point, refine=["offsets"])
    expected = quantize(other, calibrate(other, images), plain, images)
    assert found.parameters.keys() == expected.parameters.keys()
    for key, parameter in expected.parameters.items():
        assert np.array_equal(parameter.data, found.parameters[key].data)
    assert found.metadata["network"] == graph.digest
    assert msgspec.json.decode(found.metadata["design"], type=Design) == design
    without = quantize(graph, ranges, plain, images)
    assert any(
        not np.array_equal(one.data, found.parameters[key].data) for key, one in without.parameters.items()
    )
    assert quantize(graph, ranges, replace_fields(design, refine=[])).metadata["network"] == graph.digest


def test_ranges_move_along() -> None:
    """What is known of the network gives what calibrating the other one would see, value for value."""
    for graph in (networks.residual(), merged(), spread()[0]):
        images = networks.images(96, 0, graph.shapes["input"])
        other, moved = equalized(graph, calibrate(graph, images))
        seen = calibrate(other, images)
        assert moved.content == seen.content
        assert moved.network == seen.network != graph.digest


def test_by_hand() -> None:
    """Activations up to 16 and 1, weights 1 and 1: half of the logarithms is 2 and 0, their median 1."""
    n = networks.Net(0)
    x = n.bn(n.conv("input", 2))
    relu = n.simple("relu", x)
    graph = n.graph(n.fc(n.simple("flatten", n.conv(relu, 1)), 144, 7))
    bn, _, conv = pairs(graph)[0]
    weight = np.ones_like(graph.parameter(conv, "weight"))
    graph = replace(graph, parameters={**graph.parameters, conv.parameters["weight"]: weight})
    ranges = calibrate(graph, networks.images(8, 0, graph.shapes["input"]))
    seen = replace(ranges.tensors[relu], high=np.array([16.0, 1.0]))
    ranges = replace(ranges, tensors={**ranges.tensors, relu: seen})
    other, _ = equalized(graph, ranges)
    expected = graph.parameter(bn, "gamma") * np.array([0.5, 2.0], np.float32)
    assert np.array_equal(other.parameter(bn, "gamma"), expected)
    assert np.unique(other.parameter(conv, "weight")[:, 0]).tolist() == [2.0]
    assert np.unique(other.parameter(conv, "weight")[:, 1]).tolist() == [0.5]
