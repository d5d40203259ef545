"""What a network makes of each image: whether it is right, and what it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.errors import DataError, DesignError
from radixpoint.measure.intervals import Bits

Metric = Literal["top1", "top5"]
BEST: Mapping[Metric, int] = {"top1": 1, "top5": 5}
"""Classes among which the label must be, by metric."""
Prepared = TypeVar("Prepared")

BATCH = 250
"""Images between two looks at the interval."""


def check_metric(metric: str) -> Metric:
    """The metric of that name.

    Raises:
        DesignError: there is none.
    """
    if metric not in BEST:
        raise DesignError(f"metric {metric!r}: expected {' or '.join(BEST)}")
    return metric  # type: ignore[return-value]  # it is one of the names


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What a network makes of each image, in the images' order.

    Attributes:
        top1, top5: whether the label is among the best one, five.
        prediction: index of the best class.
    """

    top1: Bits
    top5: Bits
    prediction: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.top1)

    def first(self, count: int) -> Outcomes:
        return Outcomes(self.top1[:count], self.top5[:count], self.prediction[:count])

    def joined(self, more: Outcomes) -> Outcomes:
        return Outcomes(
            np.concatenate([self.top1, more.top1]),
            np.concatenate([self.top5, more.top5]),
            np.concatenate([self.prediction, more.prediction]),
        )

    def checked(self) -> Outcomes:
        """Itself, as read from a file.

        Raises:
            ValueError: arrays that are not what they should be.
        """
        kinds = self.top1.dtype == self.top5.dtype == np.bool_ and self.prediction.dtype.kind == "i"
        if not kinds or not self.top1.shape == self.top5.shape == self.prediction.shape == (len(self),):
            raise ValueError("outcomes that do not fit together")
        return self

    def check(self, images: int, outputs: int) -> None:
        """See that these are outcomes of so many images and of a network with so many outputs.

        Raises:
            DataError: they are not.
        """
        within = len(self) == images and bool(((self.prediction >= 0) & (self.prediction < outputs)).all())
        if not within or (self.top1 & ~self.top5).any():
            raise DataError(
                f"outcomes of {len(self)} images: expected those of {images}, of {outputs} outputs"
            )

    def hits(self, metric: Metric) -> Bits:
        """By image.

        Raises:
            DesignError: an unknown metric.
        """
        return self.top1 if check_metric(metric) == "top1" else self.top5


NO_OUTCOMES = Outcomes(np.zeros(0, bool), np.zeros(0, bool), np.zeros(0, np.int64))


def outcomes(logits: NDArray[Any], labels: NDArray[np.int64]) -> Outcomes:
    """Judge logits (images, classes). Among equal logits the lower class index ranks first."""
    own = np.take_along_axis(logits, labels[:, None], 1)
    earlier = np.arange(logits.shape[1])[None] < labels[:, None]
    rank = (logits > own).sum(1) + ((logits == own) & earlier).sum(1)
    return Outcomes(rank < 1, rank < 5, logits.argmax(1).astype(np.int64))


def ahead(
    images: ImageSet, start: int, prepare: Callable[[NDArray[np.float32]], Prepared]
) -> Iterator[tuple[Prepared, NDArray[np.int64]]]:
    """Prepared batches and their labels from image ``start`` on; one batch is decoded ahead of its use."""

    def batch(begin: int) -> Prepared:
        return prepare(images.inputs(begin, min(begin + BATCH, len(images))))

    begins = range(start, len(images), BATCH)
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(batch, start) if begins else None
        for begin in begins:
            assert following is not None
            ready = following.result()
            following = pool.submit(batch, begin + BATCH) if begin + BATCH < len(images) else None
            yield ready, images.labels[begin : begin + BATCH]
