"""What the accelerator reads from a bus: words in the order in which ``rtl/rx_control.v`` needs them.

Of each descriptor its fields; then of each of its tiles the weights, if it is a convolution, and the
parameters. Every word begins with a beat of the bus of its own, lowest bits first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import islice

from radixpoint.accelerator.machine import Machine, descriptor_fields, sizes_file
from radixpoint.errors import ExportError

BUSES = (32, 64, 128, 256, 512, 1024)
"""Bits of a beat that AXI4 allows, and that hold a register."""
BUS = 64
LOG_DEPTH = 6
"""Of the FIFO of what is read, in beats: four bursts of 16."""
_OF_THE_LISTS = ("DESCRIPTOR", "STORE", "PARAMETER", "DESCRIPTORS", "STORES", "PARAMETERS")
"""Sizes that a bus makes free: how many words a program has."""


class Program:
    """A machine's program as it lies in memory, and the bytes that images and results take there.

    Args:
        machine: the accelerator for a network.
        bus: bits of a beat.

    Raises:
        ExportError: no such bus, or values that the drivers' integers do not hold.
    """

    def __init__(self, machine: Machine, bus: int) -> None:
        if bus not in BUSES:
            raise ExportError(f"option bus={bus}: expected one of {', '.join(map(str, BUSES))}")
        self.machine, self.bus = machine, bus
        numbers = machine.parameters
        for name in (machine.network.input, machine.network.output):
            tensor = machine.network.tensors[name]
            if not -(1 << 31) <= tensor.low <= tensor.high < 1 << 31:
                raise ExportError(
                    f"layer {tensor.layer!r}: values of {tensor.low} to {tensor.high}: "
                    "the drivers of the bus take images and results of 32 bits, signed"
                )
        self.image_bytes = numbers["IMAGE_WORDS"] * self.word_bytes(machine.lanes * numbers["PIXEL"])
        self.result_bytes = numbers["LOGIT_WORDS"] * self.word_bytes(machine.lanes * numbers["WIDE"])

    def word_bytes(self, bits: int) -> int:
        """Bytes of a word of ``bits`` in memory: whole beats."""
        return -(-bits // self.bus) * self.bus // 8

    @property
    def identifier(self) -> int:
        """32 bits of a digest of all sizes of the hardware on which the program depends."""
        sizes = {k: v for k, v in self.machine.parameters.items() if k not in _OF_THE_LISTS}
        return int(hashlib.sha256(f"{self.bus} {sorted(sizes.items())}".encode()).hexdigest()[:8], 16)

    def parameters_file(self, program_beats: int, count: int) -> str:
        """``parameters.vh`` for a program of so many beats, and so many images beside the testbench."""
        own: dict[str, int | str] = {"BUS": self.bus, "LOG_DEPTH": LOG_DEPTH}
        own |= {"IDENTIFIER": f"32'h{self.identifier:08x}", "PROGRAM_BEATS": program_beats, "COUNT": count}
        return sizes_file({**self.machine.parameters, **own})

    def _spread(self, words: Iterable[str]) -> bytes:
        return b"".join(int(word, 16).to_bytes(self.word_bytes(4 * len(word)), "little") for word in words)

    def _words(self) -> Iterator[str]:
        descriptors, weights = self.machine.descriptor_words(), self.machine.weight_words()
        parameters = self.machine.parameter_words()
        for d in self.machine.descriptors:
            yield from islice(descriptors, len(descriptor_fields()))
            tiles = d.fields["TILES"]
            for _ in range(tiles):
                yield from islice(weights, d.weights // tiles)
                yield from islice(parameters, d.parameters // tiles)

    def program(self) -> bytes:
        """``program.bin``."""
        return self._spread(self._words())
