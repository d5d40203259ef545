"""The float network in integers long enough to stand for real numbers: the same on every machine.

Rules and techniques that look at what layers multiply look at this network. Its formats follow from the
measured ranges, and its arithmetic is exact, so nothing that they choose depends on how a machine adds
floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import dequantize
from radixpoint.engines import BlasEngine, quantize_images
from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges
from radixpoint.quantization.design import BinaryPoint, Design, Widths
from radixpoint.quantization.passes import settle_and_lower
from radixpoint.quantization.rules import choose_formats
from radixpoint.quantization.rules.question import Question
from radixpoint.quantization.sites import stored_parameters

WORD_LENGTH, WEIGHTS = 24, 16
"""Of weights 16 bits, of everything else 24: sums of their products stay within what binary64 holds
exactly.
"""

Operands = Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
"""From network input (N, C, H, W) to what each convolution and fully connected layer multiplies, by layer."""


def stand_in(graph: Graph, ranges: Ranges) -> Operands:
    """What every convolution and fully connected layer multiplies, of images.

    Args:
        graph: the network.
        ranges: of its tensors.
    """
    design = Design(
        classes={"conv": Widths(WEIGHTS, WORD_LENGTH, WORD_LENGTH), "bn": Widths.all(WORD_LENGTH)},
        binary_point=BinaryPoint(scope="channel", rule="max"),
    )
    stored = stored_parameters(graph, design)
    network = settle_and_lower(graph, choose_formats(Question(graph, ranges, design, stored)), stored, design)
    names = {
        network.tensors[step.name].layer: step.inputs[0] for step in network.steps if step.family == "product"
    }
    engine = BlasEngine(network)

    def operands(inputs: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        results = engine.run(quantize_images(network, inputs), set(names.values()))
        return {
            layer: dequantize(results[name], network.tensors[name].format.fraction_lengths[0]).astype(
                np.float32
            )
            for layer, name in names.items()
        }

    return operands
