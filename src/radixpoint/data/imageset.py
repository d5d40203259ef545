"""A set of decoded images with labels: what networks are calibrated and judged on.

Pixels are kept as uint8; each batch is normalized when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.data.preprocessing import Preprocessing
from radixpoint.errors import DataError
from radixpoint.ir.ops import Shape

_HOW = "--classes (in Python: classes) names the class of every output, in the order of the outputs"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images with labels.

    Attributes:
        source: where they come from, for messages.
        pixels: uint8 (images, channels, height, width).
        labels: int64 (images,), indices of the network's outputs.
        classes: names of the classes in the order of the network's outputs; () where the source itself says
            the outputs' indices.
        preprocessing: how a pixel becomes an input.
        unreadable: (name, reason) of every image that could not be read; they take no part.
        unordered: why the order of the classes cannot be known, or None if it is; labels then mean nothing.

    Raises:
        DataError: pixels or labels of another type or shape.
    """

    source: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    unreadable: tuple[tuple[str, str], ...] = ()
    unordered: str | None = None

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4:
            raise DataError(
                f"{self.source}: pixels are {self.pixels.dtype} of shape {self.pixels.shape}: expected uint8 "
                "(images, channels, height, width)"
            )
        if self.labels.dtype.kind not in "iu" or self.labels.shape != (len(self.pixels),):
            raise DataError(
                f"{self.source}: labels are {self.labels.dtype} of shape {self.labels.shape}: expected "
                f"{len(self.pixels)} integers"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, start: int, stop: int) -> NDArray[np.float32]:
        """Network input of the images start..stop-1."""
        return self.preprocessing.normalize(self.pixels[start:stop])

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """All images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.inputs(start, start + size)

    def first(self, count: int) -> ImageSet:
        """The first ``count`` of a fixed shuffle: a random choice from all classes."""
        order = np.sort(np.random.default_rng(0).permutation(len(self))[:count])
        return replace(self, pixels=self.pixels[order], labels=self.labels[order])

    def parted(self, count: int) -> tuple[ImageSet, ImageSet]:
        """The ``count`` images of ``first``, and the others; the first part tells what was unreadable.

        Raises:
            DataError: one of the two would be empty.
        """
        if not 0 < count < len(self):
            raise DataError(
                f"{self.source}: {len(self)} images, {len(self) - count} of them held out: "
                f"expected at least one held out and one left"
            )
        order = np.random.default_rng(0).permutation(len(self))
        rest = np.sort(order[count:])
        return self.first(count), replace(
            self, pixels=self.pixels[rest], labels=self.labels[rest], unreadable=()
        )

    def shared_with(self, other: ImageSet) -> int:
        """How many of these images, by their pixels, are in ``other`` too."""
        known = {hashlib.sha256(image.tobytes()).digest() for image in other.pixels}
        return sum(hashlib.sha256(image.tobytes()).digest() in known for image in self.pixels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels, labels and preprocessing."""
        content = hashlib.sha256(msgspec.json.encode(self.preprocessing))
        content.update(repr(self.pixels.shape).encode())
        content.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        for start in range(0, len(self), 256):
            content.update(np.ascontiguousarray(self.pixels[start : start + 256]).tobytes())
        return content.hexdigest()

    def check_shape(self, shape: Shape) -> None:
        """Check that a network can take the images, whatever their labels are: enough to calibrate on them.

        Raises:
            DataError: no images, or another shape than ``shape``.
        """
        if not len(self):
            raise DataError(f"{self.source}: no images: expected at least one")
        if self.pixels.shape[1:] != shape:
            raise DataError(
                f"{self.source}: images of {self.pixels.shape[1:]} (channels, height, width) after "
                f"preprocessing, but the network takes {shape}"
            )

    def check(self, shape: Shape, outputs: int) -> None:
        """Check that a network can be judged on the images: their shape, and what their labels mean.

        Raises:
            DataError: another shape than ``shape``; classes that do not account for every one of the
                network's ``outputs``, or in an order that cannot be known; labels that name no output.
        """
        self.check_shape(shape)
        if self.unordered is not None:
            raise DataError(f"{self.source}: {self.unordered}: {_HOW}")
        if self.classes and len(self.classes) != outputs:
            raise DataError(
                f"{self.source}: {len(self.classes)} classes, but the network has {outputs} outputs: which "
                f"class belongs to which output cannot be known: {_HOW}"
            )
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= outputs:
            raise DataError(
                f"{self.source}: labels {int(self.labels.min())}..{int(self.labels.max())}, but the network "
                f"has {outputs} outputs: expected 0..{outputs - 1}"
            )
