"""Cross-layer equalization by powers of two: the same float network, with channels of more equal range.

Between a batch normalization and the convolution behind its ReLU, a channel may be divided by any
positive number in the one and multiplied in the other (Nagel et al., "Data-Free Quantization Through Weight
Equalization and Bias Correction", 2019, section 4.1). By a power of two nothing is rounded: the logits of
the float network stay what they were, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from radixpoint.calibrate import Ranges
from radixpoint.ir import Graph, Layer, verify_graph

MOST = 8
"""Largest magnitude of an exponent: a channel beyond is all but dead."""


def _pairs(graph: Graph) -> list[tuple[Layer, Layer, Layer]]:
    """(batch normalization, ReLU, convolution) in which each is the only reader of the one before."""
    found = []
    for bn in graph.layers:
        relu = graph.consumers(bn.name)
        if bn.op != "batch_norm" or [layer.op for layer in relu] != ["relu"]:
            continue
        conv = graph.consumers(relu[0].name)
        if [layer.op for layer in conv] != ["conv"] or graph.output in (bn.name, relu[0].name):
            continue
        if conv[0].attributes["groups"] == 1:
            found.append((bn, relu[0], conv[0]))
    return found


def equalized(graph: Graph, ranges: Ranges) -> Graph:
    """The network with powers of two moved from activations to weights, channel by channel.

    Channel c is divided by 2**k, k the nearest integer to half of log2(r1 / r2) less its median over the
    layer, where r1 is the largest activation seen and r2 the largest weight that multiplies it. A channel
    in which either is zero stays.

    Args:
        graph: the network.
        ranges: of its tensors.

    Returns:
        A network with the same results in float, exactly.
    """
    parameters = dict(graph.parameters)
    for bn, relu, conv in _pairs(graph):
        weight = parameters[conv.parameters["weight"]]
        activations = np.maximum(ranges.tensors[relu.name].high, 0.0)
        weights = np.abs(weight).max((0, 2, 3)).astype(np.float64)
        alive = (activations > 0) & (weights > 0)
        if not alive.any():
            continue
        half = np.zeros(len(alive))
        half[alive] = np.log2(activations[alive] / weights[alive]) / 2
        k = np.where(alive, np.rint(half - np.median(half[alive])), 0).astype(np.int32)
        k = np.clip(k, -MOST, MOST)
        for role in ("gamma", "beta"):
            key = bn.parameters[role]
            parameters[key] = np.ldexp(parameters[key], -k)
        parameters[conv.parameters["weight"]] = np.ldexp(weight, k[None, :, None, None])
    result = replace(graph, parameters=parameters)
    verify_graph(result)
    return result
