"""A set of decoded images with their targets: what networks are calibrated and judged on.

Pixels are kept as they were decoded; each batch is normalized when it is asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.data.preprocessing import Preprocessing
from radixpoint.data.store import StoredPixels
from radixpoint.errors import DataError
from radixpoint.ir.ops import Shape

_HOW = "--classes (in Python: classes) names the class of every output, in the order of the outputs"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images with targets.

    Attributes:
        source: where they come from, for messages.
        pixels: (images, channels, height, width), in memory or in a file: whole numbers as stored, or,
            without preprocessing, float32 inputs of a network.
        targets: what a metric compares results with: int64 (images,), indices of the network's outputs; or an
            array, or a tuple, with an entry of any kind for each image; or None.
        classes: names of the classes in the order of the network's outputs; () where the source itself says
            the outputs' indices.
        preprocessing: how a pixel becomes an input; None if pixels are inputs.
        unreadable: (name, reason) of every image that could not be read; they take no part.
        unordered: why the order of the classes cannot be known, or None if it is; labels then mean nothing.

    Raises:
        DataError: pixels or targets of another type, shape or number.
    """

    source: str
    pixels: NDArray[Any] | StoredPixels
    targets: NDArray[Any] | tuple[Any, ...] | None
    classes: tuple[str, ...]
    preprocessing: Preprocessing | None
    unreadable: tuple[tuple[str, str], ...] = ()
    unordered: str | None = None

    def __post_init__(self) -> None:
        kinds = "f" if self.preprocessing is None else "iu"
        if self.pixels.dtype.kind not in kinds or len(self.pixels.shape) != 4:
            wanted = "float32" if self.preprocessing is None else "uint8 or other whole numbers,"
            raise DataError(
                f"{self.source}: pixels are {self.pixels.dtype} of shape {self.pixels.shape}: expected "
                f"{wanted} (images, channels, height, width)"
            )
        if self.targets is not None and len(self.targets) != len(self.pixels):
            raise DataError(
                f"{self.source}: {len(self.targets)} targets of {len(self.pixels)} images: expected one for "
                "each"
            )

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Targets that are classes: int64 (images,), indices of the network's outputs.

        Raises:
            DataError: they are no classes.
        """
        own = self.targets
        if own is None:
            raise DataError(
                f"{self.source}: images without labels: expected a folder for each class, or labels"
            )
        if not isinstance(own, np.ndarray) or own.dtype.kind not in "iu" or own.ndim != 1:
            shape = f"{own.dtype} of {own.shape[1:]}" if isinstance(own, np.ndarray) else "of other kinds"
            raise DataError(f"{self.source}: targets are {shape} an image: expected the number of a class")
        return own.astype(np.int64, copy=False)

    def target(self, start: int, stop: int) -> Any:
        """Targets of the images start..stop-1."""
        return None if self.targets is None else self.targets[start:stop]

    def with_targets(self, targets: Any) -> ImageSet:
        """The same images with other targets, one for each: an array, or a sequence of anything.

        Raises:
            DataError: another number of them.
        """
        own = targets if targets is None or isinstance(targets, np.ndarray) else tuple(targets)
        return replace(self, targets=own, classes=(), unordered=None)

    def inputs(self, start: int, stop: int) -> NDArray[np.float32]:
        """Network input of the images start..stop-1."""
        own = self.pixels[start:stop]
        return own.astype(np.float32) if self.preprocessing is None else self.preprocessing.normalize(own)

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """All images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.inputs(start, start + size)

    def taken(self, places: NDArray[np.int64]) -> ImageSet:
        """The images at those places, which ascend."""
        own = self.targets
        chosen = (
            own[places] if isinstance(own, np.ndarray) else own and tuple(own[i] for i in places.tolist())
        )
        return replace(self, pixels=self.pixels[places], targets=chosen)

    def first(self, count: int) -> ImageSet:
        """The first ``count`` of a fixed shuffle: a random choice from all classes."""
        return self.taken(np.array(chosen_places(len(self), count), np.int64))

    def leading(self, count: int) -> ImageSet:
        """The images 0..count-1.

        Raises:
            DataError: there are fewer.
        """
        if count > len(self):
            raise DataError(f"{self.source}: {len(self)} images: expected at least {count}")
        return self.taken(np.arange(count))

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
        return self.first(count), replace(self.taken(np.sort(order[count:])), unreadable=())

    @cached_property
    def marks(self) -> tuple[bytes, ...]:
        """SHA-256 of each image's pixels."""
        if isinstance(self.pixels, StoredPixels):
            return self.pixels.marks
        return tuple(hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in self.pixels)

    def shared_with(self, other: ImageSet) -> int:
        """How many of these images, by their pixels, are in ``other`` too."""
        known = set(other.marks)
        return sum(mark in known for mark in self.marks)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels, targets and preprocessing."""
        content = hashlib.sha256(msgspec.json.encode(self.preprocessing))
        content.update(f"{self.pixels.dtype.str} {tuple(self.pixels.shape)}".encode())
        content.update(b"".join(self.marks))
        content.update(_content(self.targets))
        return content.hexdigest()

    def check_shape(self, shape: Shape) -> None:
        """Check that a network can take the images, whatever their labels are: enough to calibrate on them.

        Raises:
            DataError: no images, or another shape than ``shape``.
        """
        if not len(self):
            raise DataError(f"{self.source}: no images: expected at least one")
        if tuple(self.pixels.shape[1:]) != shape:
            raise DataError(
                f"{self.source}: images of {tuple(self.pixels.shape[1:])} (channels, height, width) after "
                f"preprocessing, but the network takes {shape}"
            )

    def check(self, shape: Shape, outputs: int) -> None:
        """Check that a network can be judged on the images: their shape, and what their labels mean.

        Raises:
            DataError: another shape than ``shape``; classes that do not account for every one of the
                network's ``outputs``, or in an order that cannot be known; labels that name no output.
        """
        self.check_shape(shape)
        labels = self.labels
        if self.unordered is not None:
            raise DataError(f"{self.source}: {self.unordered}: {_HOW}")
        if self.classes and len(self.classes) != outputs:
            raise DataError(
                f"{self.source}: {len(self.classes)} classes, but the network has {outputs} outputs: which "
                f"class belongs to which output cannot be known: {_HOW}"
            )
        if int(labels.min()) < 0 or int(labels.max()) >= outputs:
            raise DataError(
                f"{self.source}: labels {int(labels.min())}..{int(labels.max())}, but the network "
                f"has {outputs} outputs: expected 0..{outputs - 1}"
            )


def chosen_places(count: int, most: int) -> list[int]:
    """The first ``most`` of a fixed shuffle of ``count`` places, ascending."""
    return sorted(np.random.default_rng(0).permutation(count)[:most].tolist())


def _content(value: Any) -> bytes:
    """What tells targets apart, whatever they are made of.

    Raises:
        DataError: a kind whose content cannot be told.
    """
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return f"{type(value).__name__} {value!r}".encode()
    if isinstance(value, np.ndarray | np.generic):
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<")))
            kind = "b" if array.dtype.kind == "b" else array.dtype.str[1:]
            if (
                array.dtype.kind in "iu"
                and array.size
                and -(1 << 63) <= int(array.min()) <= int(array.max()) < 1 << 63
            ):
                plain, kind = np.ascontiguousarray(array.astype("<i8")), "i"  # whatever width they came in
            return f"{kind}{array.shape}".encode() + hashlib.sha256(plain.tobytes()).digest()
        if array.dtype.kind in "US":
            return _content(array.tolist())
    if isinstance(value, Mapping):
        return b"{" + b",".join(_content(k) + b":" + _content(v) for k, v in sorted(value.items())) + b"}"
    if isinstance(value, tuple | list | range):
        return b"[" + b",".join(map(_content, value)) + b"]"
    if hasattr(value, "detach"):
        return _content(np.asarray(value.detach().cpu()))
    raise DataError(
        f"a target of kind {type(value).__name__}: expected numbers, text, arrays, or lists and dictionaries "
        "of these"
    )
