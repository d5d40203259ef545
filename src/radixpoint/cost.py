"""What a quantized network's multipliers cost."""

from __future__ import annotations

import math

from radixpoint.ir import IntGraph, Step


def _products(graph: IntGraph, step: Step) -> int:
    result = graph.tensors[step.name].shape
    if step.op == "scale":
        return math.prod(result)
    weight = graph.arrays(step)["weight"]
    return math.prod(result) * math.prod(weight.shape[1:])


def multiplier_cost(graph: IntGraph) -> int:
    """Partial-product bits an image: over all multiplications, the product of both operands' word lengths.

    An array multiplier's area and switched capacitance grow with it; the count of "bit operations" (BOPs) of
    the literature (Baskin et al., UNIQ, 2018) is the same without its additions.
    """
    total = 0
    for step in graph.steps:
        if step.op in ("conv", "dense", "scale"):
            source = graph.tensors[step.inputs[0]].format.word_length
            role = "factor" if step.op == "scale" else "weight"
            stored = graph.parameters[step.parameters[role]].format.word_length
            total += _products(graph, step) * source * stored
    return total
