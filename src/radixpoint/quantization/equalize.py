"""Cross-layer equalization by powers of two: the same float network, with channels of more equal range.

Between a batch normalization, a convolution or a fully connected layer and the next one behind its ReLU, a
channel may be divided by any positive number in the one and multiplied in the other (Nagel et al.,
"Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, section 4.1). By a power of
two nothing is rounded: the logits of the float network stay what they were, bit for bit.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from radixpoint.arithmetic.elementary import log2
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph, Layer, verify_graph
from radixpoint.measure.calibrate import Ranges

MOST = 8
"""Largest magnitude of an exponent: a channel beyond is all but dead."""


_ROLES = {"batch_norm": ("gamma", "beta"), "conv": ("weight", "bias"), "fc": ("weight", "bias")}
"""Parameters that a channel of the result is in proportion to."""


def pairs(graph: Graph) -> list[tuple[Layer, Layer, Layer]]:
    """(first layer, its ReLU, the layer that multiplies what it passes), each alone reading the one before.

    Layers that share parameters with others are left alone.

    Raises:
        DesignError: there are none: nothing can be moved.
    """
    users = Counter(key for layer in graph.layers for key in layer.parameters.values())
    found = []
    for first in graph.layers:
        relu = graph.consumers(first.name)
        if first.op not in _ROLES or [layer.op for layer in relu] != ["relu"]:
            continue
        readers = graph.consumers(relu[0].name)
        if len(readers) != 1 or not {first.name, relu[0].name}.isdisjoint(graph.outputs):
            continue
        alone = all(users[key] == 1 for user in (first, *readers) for key in user.parameters.values())
        whole = readers[0].op == "fc" or (readers[0].op == "conv" and readers[0].attributes["groups"] == 1)
        if alone and whole:
            found.append((first, relu[0], readers[0]))
    if not found:
        raise DesignError(
            "equalize: expected a network with a convolution or fully connected layer that alone reads a "
            "ReLU behind another or a batch normalization; this one has none"
        )
    return found


def equalized(graph: Graph, ranges: Ranges) -> tuple[Graph, Ranges]:
    """The network with powers of two moved from activations to weights, channel by channel, and its ranges.

    Channel c is divided by 2**k, k the nearest integer to half of log2(r1 / r2) less its median over the
    layer, where r1 is the largest activation seen and r2 the largest weight that multiplies it. A channel
    in which either is zero stays.

    Args:
        graph: the network.
        ranges: of its tensors.

    Returns:
        A network with the same results in float, exactly; and what calibrating it would see, since a power of
        two moves every value of a channel alike.

    Raises:
        DesignError: it has no two layers to move anything between.
    """
    parameters, tensors = dict(graph.parameters), dict(ranges.tensors)
    for first, relu, reader in pairs(graph):
        weight = parameters[reader.parameters["weight"]]
        activations = np.maximum(ranges.tensors[relu.name].high, 0.0)
        weights = np.abs(weight).reshape(*weight.shape[:2], -1).max((0, 2)).astype(np.float64)
        alive = (activations > 0) & (weights > 0)
        if not alive.any():
            continue
        half = np.zeros(len(alive))
        half[alive] = log2(activations[alive] / weights[alive]) / 2
        k = np.where(alive, np.rint(half - np.median(half[alive])), 0).astype(np.int32)
        k = np.clip(k, -MOST, MOST)
        for role in _ROLES[first.op]:
            if role in first.parameters:
                key = first.parameters[role]
                rows = -k.reshape(-1, *[1] * (parameters[key].ndim - 1))
                parameters[key] = np.ldexp(parameters[key], rows)
        parameters[reader.parameters["weight"]] = np.ldexp(weight, k.reshape(-1, *[1] * (weight.ndim - 2)))
        for moved in (first.name, relu.name):
            tensors[moved] = tensors[moved].scaled(-k)
    result = replace(graph, parameters=parameters)
    verify_graph(result)
    return result, replace(ranges, tensors=tensors, network=result.digest)
