"""Unrolled windows: the Zynq design of Qiu et al. A clock multiplies many windows of one place.

Qiu et al., "Going Deeper with Embedded FPGA Platform for Convolutional Neural Network", FPGA 2016.
"""

from __future__ import annotations

import math

import msgspec

from radixpoint.accelerator.dataflows.moves import BUFFER, DRAM, LayerRun, Move, check_sizes, kept_sums
from radixpoint.accelerator.workloads import Loops


class Unrolled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="unrolled", tag_field="kind"):
    """Convolvers for windows of a fixed size, over tiles of a fixed size.

    A tile is swept whole, also where the layer is smaller. A larger window takes several sweeps. Inputs of a
    tile are loaded once, all channels of it; weights are loaded for each tile.

    Attributes:
        inputs, outputs: channels that meet in a clock.
        kernel: side of a convolver's window.
        rows, columns: of a tile.
        connected: products of a fully connected layer a clock.
        sums: bits to which unfinished sums are cut; None keeps them whole.
    """

    inputs: int
    outputs: int
    kernel: int
    rows: int
    columns: int
    connected: int
    sums: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self)

    def layer(self, layer: Loops) -> LayerRun:
        """One layer."""
        stored = layer.groups * layer.outputs * layer.inputs * math.prod(layer.kernel)
        results = layer.groups * layer.outputs * math.prod(layer.places)
        if layer.places == (1, 1) and layer.kernel == (1, 1):
            clocks, tiles, read = -(-stored // self.connected), 1, layer.groups * layer.inputs
            seen, summed = float(clocks), 2.0 * results
        else:
            strips = [
                -(-side // own) for side, own in zip(layer.places, (self.rows, self.columns), strict=True)
            ]
            tiles = math.prod(strips)
            sweeps = math.prod(-(-side // self.kernel) for side in layer.kernel)
            sweeps *= layer.groups * -(-layer.inputs // self.inputs) * -(-layer.outputs // self.outputs)
            clocks = tiles * self.rows * self.columns * sweeps
            read = layer.groups * layer.inputs
            for axis, count in enumerate(strips):
                read *= (layer.places[axis] - count) * layer.strides[axis] + count * layer.kernel[axis]
            seen, summed = float(clocks * self.inputs), 2.0 * clocks * self.outputs
        held = kept_sums(layer, self.sums)
        moves = (
            Move("buffer", "inputs", seen, layer.operand_bits, BUFFER[1]),
            Move("buffer", "sums", summed, held, BUFFER[1]),
            Move("buffer", "weights", float(stored * tiles), layer.weight_bits, BUFFER[1]),
            Move("DRAM", "weights", float(stored * tiles), layer.weight_bits, DRAM),
            Move("DRAM", "inputs", float(read), layer.stored_bits, DRAM),
            Move("DRAM", "sums", float(results), layer.result_bits, DRAM),
        )
        return LayerRun(layer, clocks, moves)
