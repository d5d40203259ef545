"""Runs the accelerator rx_axi from Python on a board, with PYNQ or anything alike; needs NumPy alone.

overlay = pynq.Overlay("network.bit")
accelerator = Accelerator(overlay.rx_axi_0.mmio, pynq.allocate, Path("exported"))
results = accelerator.run(images)
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

IDENTIFIER, CONTROL, STATUS, PROGRAM, PROGRAM_BEATS, BATCHES = 0x00, 0x04, 0x08, 0x10, 0x18, 0x1C
IMAGES, RESULTS, CLOCKS, WAITED = 0x20, 0x28, 0x30, 0x34
START, STOP, BUSY, DONE = 1, 2, 1, 2
ERRORS = {
    1: "the memory answered a read with an error",
    2: "the memory answered a write with an error",
    3: "the program ended too soon",
    4: "words of the program were left: it is another's",
    5: "an address between two beats, no batch, or no program",
    6: "stopped",
}


class AcceleratorError(Exception):
    """The accelerator is another one, or ended with an error."""


class Accelerator:
    """The accelerator of one exported network.

    Args:
        mmio: reads and writes registers: ``read(offset)``, ``write(offset, value)``.
        allocate: makes memory that both see: ``allocate(shape=..., dtype=...)`` answers with an array that
            has ``device_address``, ``flush()`` and ``invalidate()``.
        folder: the export: ``program.bin`` and ``radixpoint_network.json``.

    Raises:
        AcceleratorError: the registers are those of another accelerator.
    """

    def __init__(self, mmio: Any, allocate: Any, folder: str | Path) -> None:
        self.mmio, self._allocate = mmio, allocate
        self.facts: dict[str, Any] = json.loads((Path(folder) / "radixpoint_network.json").read_text())
        found = mmio.read(IDENTIFIER)
        if found != self.facts["identifier"]:
            raise AcceleratorError(
                f"the accelerator says {found:#010x}: expected {self.facts['identifier']:#010x}"
            )
        program = np.fromfile(Path(folder) / "program.bin", np.uint8)
        self._program = allocate(shape=program.shape, dtype=np.uint8)
        self._program[:] = program
        self._program.flush()

    def run(self, images: Any, timeout: float = 10.0) -> Any:
        """Results of images.

        Args:
            images: stored integers, (count, channels, rows, columns).
            timeout: seconds.

        Returns:
            Stored integers, (count, values).

        Raises:
            AcceleratorError: a run is going on, ended with an error, or was stopped since its time was over.
            ValueError: the images are not this network's: their shape, or values that it has no number for.
        """
        facts = self.facts
        images = np.asarray(images)
        own = tuple(facts[f"image_{name}"] for name in ("channels", "rows", "columns"))
        if images.ndim != 4 or images.shape[1:] != own or not np.issubdtype(images.dtype, np.integer):
            raise ValueError(f"images of {images.dtype} {images.shape}: expected integers (count, {own})")
        low, high = facts["image_low"], facts["image_high"]
        if images.size and not low <= images.min() <= images.max() <= high:
            raise ValueError(
                f"images hold {images.min()} to {images.max()}: expected stored integers, {low} to {high}"
            )
        batches = -(-len(images) // facts["batch"])
        if batches == 0:
            return np.zeros((0, facts["result_values"]), np.int64)
        words = (batches * facts["batch"], facts["image_words"], facts["image_word_bytes"])
        given = self._allocate(shape=words, dtype=np.uint8)
        given[:] = 0
        index = self._index()
        for place, image in zip(given, images, strict=False):  # the last batch may not be full
            place[:] = self._put(image, index)
        given.flush()
        words = (batches * facts["batch"], facts["result_words"], facts["result_word_bytes"])
        taken = self._allocate(shape=words, dtype=np.uint8)
        taken.flush()
        self._run(given.device_address, taken.device_address, batches, timeout)
        taken.invalidate()
        return self._take(np.asarray(taken)[: len(images)])

    @property
    def clocks(self) -> int:
        """Clocks of the last run."""
        return int(self.mmio.read(CLOCKS))

    @property
    def waited(self) -> int:
        """Those of them in which the accelerator waited for memory."""
        return int(self.mmio.read(WAITED))

    def _run(self, images: int, results: int, batches: int, timeout: float) -> None:
        if self.mmio.read(STATUS) & BUSY:
            raise AcceleratorError("a run is going on")
        for register, address in (
            (PROGRAM, self._program.device_address),
            (IMAGES, images),
            (RESULTS, results),
        ):
            self.mmio.write(register, address & 0xFFFFFFFF)
            self.mmio.write(register + 4, address >> 32)
        self.mmio.write(PROGRAM_BEATS, self.facts["program_bytes"] // self.facts["beat_bytes"])
        self.mmio.write(BATCHES, batches)
        self.mmio.write(CONTROL, START)
        until = time.monotonic() + timeout
        try:
            while not (status := self.mmio.read(STATUS)) & DONE:
                if error := status >> 8:
                    raise AcceleratorError(ERRORS.get(error, f"error {error}"))
                if time.monotonic() > until:
                    raise AcceleratorError(f"not done after {timeout:g} seconds")
        except BaseException:  # an interrupt, too: memory that goes back must not be written any more
            self.mmio.write(CONTROL, STOP)
            while self.mmio.read(STATUS) & BUSY:
                pass
            raise

    def _index(self) -> Any:
        """(words, lanes): where in an image each value lies, -1 for none."""
        f = self.facts
        places, slots = f["image_words"] // f["image_place_words"], f["image_place_words"] * f["lanes"]
        place, slot = np.arange(places)[:, None], np.arange(slots)
        inside, channel = np.divmod(slot, f["image_channels"])
        row = (
            f["image_first_row"]
            + place // f["image_place_columns"] * f["image_fold_rows"]
            + inside // f["image_fold_columns"]
        )
        column = (
            f["image_first_column"]
            + place % f["image_place_columns"] * f["image_fold_columns"]
            + inside % f["image_fold_columns"]
        )
        there = (slot < f["image_channels"] * f["image_fold_rows"] * f["image_fold_columns"]) & (row >= 0)
        there = there & (column >= 0) & (row < f["image_rows"]) & (column < f["image_columns"])
        index = (channel * f["image_rows"] + row) * f["image_columns"] + column
        return np.where(there, index, -1).reshape(f["image_words"], f["lanes"])

    def _put(self, image: Any, index: Any) -> Any:
        f = self.facts
        values = np.where(index < 0, 0, image.ravel().astype(np.int64)[index])
        bits = ((values[..., None] >> np.arange(f["image_bits"])) & 1).astype(np.uint8)
        bits = bits.reshape(len(values), -1)
        room = 8 * f["image_word_bytes"] - bits.shape[-1]
        return np.packbits(np.pad(bits, ((0, 0), (0, room))), axis=-1, bitorder="little")

    def _take(self, words: Any) -> Any:
        f = self.facts
        bits = np.unpackbits(words, axis=-1, bitorder="little")[..., : f["lanes"] * f["result_bits"]]
        bits = bits.reshape(len(words), -1, f["result_bits"]).astype(np.int64)
        values = (bits << np.arange(f["result_bits"])).sum(-1)
        values -= bits[..., -1] << f["result_bits"]
        slots, places = np.array(f["result_slots"]), f["result_places"]
        values = values.reshape(len(words), places, len(slots)).swapaxes(1, 2)
        results = np.zeros((len(words), f["result_values"] // places, places), np.int64)
        results[:, slots[slots >= 0]] = values[:, slots >= 0]
        return results.reshape(len(words), -1)
