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


class StandIn:
    """What every convolution and fully connected layer multiplies, and what comes out at the end, of images.

    Args:
        graph: the network.
        ranges: of its tensors.

    Attributes:
        network: the one in long integers.
    """

    def __init__(self, graph: Graph, ranges: Ranges) -> None:
        design = Design(
            classes={"conv": Widths(WEIGHTS, WORD_LENGTH, WORD_LENGTH), "bn": Widths.all(WORD_LENGTH)},
            binary_point=BinaryPoint(scope="channel", rule="max"),
        )
        stored = stored_parameters(graph, design)
        formats = choose_formats(Question(graph, ranges, design, stored))
        self.network = network = settle_and_lower(graph, formats, stored, design)
        self._multiplied = {
            network.tensors[step.name].layer: step.inputs[0]
            for step in network.steps
            if step.family == "product"
        }
        self._engine = BlasEngine(network)

    def operands(self, inputs: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """What each layer multiplies, by layer."""
        tensors = self.network.tensors
        results = self._engine.run(quantize_images(self.network, inputs), set(self._multiplied.values()))
        return {
            layer: dequantize(results[name], tensors[name].format.fraction_lengths[0]).astype(np.float32)
            for layer, name in self._multiplied.items()
        }

    def answers(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """The network's first result."""
        network = self.network
        stored = self._engine.run(quantize_images(network, inputs))[network.output]
        return dequantize(stored, network.logit_fraction_length())
