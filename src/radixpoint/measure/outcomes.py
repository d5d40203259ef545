"""What a metric keeps of each image: enough for its score, image by image, and to compare two networks."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]
_MOST = 1 << 31
"""Bytes of outcomes, taken out of a file."""


class _Stored(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcomes in a file: little-endian numbers, compressed."""

    images: int
    numbers: int
    packed: bytes


@dataclass(frozen=True, eq=False)
class Outcomes:
    """A row of numbers for each image, in the images' order; rows may differ in length.

    Attributes:
        values: float64, one row after the other.
        ends: int64 (images,), where each row ends in ``values``.
    """

    values: Reals
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, rows: Sequence[Reals] | NDArray[np.generic]) -> Outcomes:
        """Of one row an image: an array (images, numbers), or a sequence of vectors."""
        if isinstance(rows, np.ndarray):
            table = rows.astype(np.float64).reshape(len(rows), -1)
            return cls(table.reshape(-1), np.arange(1, len(table) + 1, dtype=np.int64) * table.shape[1])
        parts = [np.asarray(row, np.float64).reshape(-1) for row in rows]
        lengths = np.array([len(part) for part in parts], np.int64)
        return cls(np.concatenate([*parts, np.zeros(0)]), np.cumsum(lengths))

    def __len__(self) -> int:
        return len(self.ends)

    @property
    def table(self) -> Reals:
        """(images, numbers), where all rows are of one length.

        Raises:
            ValueError: they are not.
        """
        if not len(self):
            return np.zeros((0, 0))
        width = int(self.ends[0])
        if not np.array_equal(self.ends, np.arange(1, len(self) + 1) * width):
            raise ValueError("rows of different lengths")
        return self.values.reshape(len(self), width)

    @property
    def rows(self) -> list[Reals]:
        """One an image."""
        return np.split(self.values, self.ends[:-1]) if len(self) else []

    def first(self, count: int) -> Outcomes:
        """Of the first images."""
        ends = self.ends[:count]
        return Outcomes(self.values[: int(ends[-1]) if len(ends) else 0], ends)

    def chosen(self, places: NDArray[np.integer]) -> Outcomes:
        """Of the images at those places."""
        rows = self.rows
        return Outcomes.of([rows[place] for place in places.tolist()])

    def joined(self, more: Outcomes) -> Outcomes:
        """Followed by those of further images."""
        return Outcomes(np.concatenate([self.values, more.values]),
                        np.concatenate([self.ends, more.ends + len(self.values)]))  # fmt: skip

    def encoded(self) -> bytes:
        """As bytes: the same outcomes give the same."""
        numbers = (
            np.ascontiguousarray(self.ends, "<i8").tobytes()
            + np.ascontiguousarray(self.values, "<f8").tobytes()
        )
        return msgspec.msgpack.encode(_Stored(len(self), len(self.values), zlib.compress(numbers, 1)))

    @classmethod
    def decoded(cls, data: bytes) -> Outcomes:
        """What ``encoded`` gave.

        Raises:
            ValueError, zlib.error, msgspec.MsgspecError: something else.
        """
        stored = msgspec.msgpack.decode(data, type=_Stored)
        size = 8 * (stored.images + stored.numbers)
        if min(stored.images, stored.numbers) < 0 or size > _MOST:
            raise ValueError(f"outcomes of {stored.images} images with {stored.numbers} numbers")
        unpack = zlib.decompressobj()
        numbers = unpack.decompress(stored.packed, size + 1)
        if len(numbers) != size:
            raise ValueError("outcomes of another length than they say")
        ends = np.frombuffer(numbers, "<i8", stored.images)
        values = np.frombuffer(numbers, "<f8", stored.numbers, 8 * stored.images)
        return cls(values.astype(np.float64), ends.astype(np.int64)).checked()

    def checked(self) -> Outcomes:
        """Itself, as read from a file.

        Raises:
            ValueError: arrays that are not what they should be.
        """
        fits = self.values.dtype == np.float64 and self.ends.dtype == np.int64
        fits = fits and self.values.ndim == self.ends.ndim == 1
        steps = np.diff(self.ends, prepend=0) if fits else np.array([-1])
        if (steps < 0).any() or (int(self.ends[-1]) if len(self.ends) else 0) != len(self.values):
            raise ValueError("outcomes that do not fit together")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 of all of them."""
        return hashlib.sha256(self.ends.tobytes() + self.values.tobytes()).hexdigest()


NO_OUTCOMES = Outcomes(np.zeros(0), np.zeros(0, np.int64))
