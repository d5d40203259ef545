"""Mean average precision of detected boxes, as a metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.errors import DataError, DesignError
from radixpoint.ir.graph import Graph
from radixpoint.measure.identity import identity
from radixpoint.measure.metrics import FEW_TOTALS, Outputs, Targets, check_enough
from radixpoint.measure.outcomes import Outcomes, Reals
from radixpoint.measure.pairs import Pair, Totals

COCO = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Overlaps of COCO's mAP."""
_RECALLS = np.linspace(0, 1, 101)


def overlaps_of(a: Reals, b: Reals) -> Reals:
    """Intersection over union of boxes (x0, y0, x1, y1): (len(a), len(b))."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.maximum(high - low, 0).prod(2)
    areas = [np.maximum(x[:, 2:] - x[:, :2], 0).prod(1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None] - inside
    return np.asarray(np.divide(inside, union, out=np.zeros_like(inside), where=union > 0))


@dataclass(frozen=True)
class MeanAveragePrecision:
    """Mean over classes and overlaps of the average precision, in percent (101 recalls, as COCO has it).

    Detections are matched to boxes of their class, the surest first, each box once. Of equally sure ones
    the earlier image's, and in it the earlier one, comes first.

    Attributes:
        decode: results (one array (images, ...), or a tuple) -> for each image (detections, 6): class, how
            sure, x0, y0, x1, y1. Targets are (boxes, 5) for each image: class, x0, y0, x1, y1.
        overlaps: intersections over union from which a detection counts.
        most: detections of an image that count, the surest.
        label: how it is called.
    """

    decode: Callable[[Any], Sequence[Any]]
    overlaps: tuple[float, ...] = COCO
    most: int = 100
    label: str = "map"
    total = True
    unit = "points"

    def __post_init__(self) -> None:
        if not self.overlaps or not all(0 < x <= 1 for x in self.overlaps):
            raise DesignError(f"overlaps {self.overlaps}: expected some above 0, at most 1")

    @property
    def name(self) -> str:
        return f"{self.label}:{','.join(f'{x:g}' for x in self.overlaps)}"

    @property
    def kept(self) -> str:
        return f"{self.name} {self.most} {identity(self.decode)}"

    def check(self, graph: Graph, images: ImageSet) -> None:
        images.check_shape(graph.shapes[graph.input])
        check_enough(self.name, images, FEW_TOTALS)
        for boxes in images.target(0, 1) if images.targets is not None else [None]:
            self._boxes(boxes)

    @staticmethod
    def _boxes(boxes: Any) -> Reals:
        try:
            found = np.zeros((0, 5)) if boxes is None else np.asarray(boxes, np.float64)
        except (TypeError, ValueError):
            raise DataError(
                f"metric map: targets of kind {type(boxes).__name__}: expected (boxes, 5)"
            ) from None
        if (
            boxes is None
            or not np.isfinite(found).all()
            or (found.size and (found.ndim != 2 or found.shape[1] != 5))
        ):
            raise DataError(
                f"metric map: targets of {found.shape}: expected (boxes, 5): class, x0, y0, x1, y1"
            )
        return found.reshape(-1, 5)

    def outcomes(self, outputs: Outputs, targets: Targets) -> Outcomes:
        """A row an image: counts of boxes and detections, the boxes' classes, detections with hits."""
        found = self.decode(outputs[0] if len(outputs) == 1 else tuple(outputs))
        if len(found) != len(outputs[0]):
            raise DataError(f"metric map: decode gives {len(found)} images of {len(outputs[0])}")
        rows = [self._row(self._detections(result), self._boxes(boxes))
                for result, boxes in zip(found, targets, strict=True)]  # fmt: skip
        return Outcomes.of(rows)

    @staticmethod
    def _detections(told: Any) -> Reals:
        found = np.asarray(told, np.float64)
        if (found.size and (found.ndim != 2 or found.shape[1] != 6)) or not np.isfinite(found).all():
            raise DataError(
                f"metric map: decode gives {found.shape} for an image: expected finite (detections, 6)"
            )
        return found.reshape(-1, 6)

    def _row(self, detections: Reals, boxes: Reals) -> Reals:
        order = np.argsort(-detections[:, 1], kind="stable")[: self.most]
        detections = detections[order]
        share = overlaps_of(detections[:, 2:], boxes[:, 1:])
        share[detections[:, :1] != boxes[None, :, 0]] = 0
        hits = np.zeros((len(detections), len(self.overlaps)))
        for column, least in enumerate(self.overlaps):
            free = np.ones(len(boxes), bool)
            for i, row in enumerate(share):
                best = int(np.argmax(np.where(free, row, -1))) if len(boxes) else -1
                if best >= 0 and free[best] and row[best] >= least:
                    free[best], hits[i, column] = False, 1
        told = np.concatenate([detections[:, :2], hits], 1)
        return np.concatenate([[len(boxes), len(detections)], boxes[:, 0], told.reshape(-1)])

    def pair(self, reference: Outcomes, candidate: Outcomes) -> Pair:
        return Totals(reference, candidate, _Scored(len(self.overlaps)), higher=True)


class _Scored:
    """The score of outcomes; what does not depend on the weights is sorted once."""

    def __init__(self, overlaps: int) -> None:
        self._overlaps = overlaps
        self._known: dict[int, tuple[Outcomes, list[Any]]] = {}

    def __call__(self, outcomes: Outcomes, weights: NDArray[np.int64]) -> float:
        if id(outcomes) not in self._known:
            self._known[id(outcomes)] = outcomes, self._sorted(outcomes)
        precisions = []
        for boxes, image, hits in self._known[id(outcomes)][1]:
            total = int(weights @ boxes)
            if not total:
                continue
            counts = weights[image][:, None]
            right, all_ = np.cumsum(counts * hits, 0), np.cumsum(counts, 0)
            for column in range(self._overlaps):
                precisions.append(_average(right[:, column], all_[:, 0], total))
        return 100 * float(np.mean(precisions)) if precisions else 0.0

    def _sorted(self, outcomes: Outcomes) -> list[Any]:
        """For each class: boxes by image; the images and hits of its detections, the surest first."""
        boxes: dict[float, NDArray[np.int64]] = {}
        detections = []
        for number, row in enumerate(outcomes.rows):
            count = int(row[0])
            for label in row[2 : 2 + count]:
                boxes.setdefault(float(label), np.zeros(len(outcomes), np.int64))[number] += 1
            table = row[2 + count :].reshape(int(row[1]), -1)
            detections.append(np.concatenate([np.full((len(table), 1), number), table], 1))
        everything = np.concatenate([*detections, np.zeros((0, 3 + self._overlaps))])
        found = []
        for label, own in sorted(boxes.items()):
            mine = everything[everything[:, 1] == label]
            mine = mine[np.argsort(-mine[:, 2], kind="stable")]
            found.append((own, mine[:, 0].astype(np.int64), mine[:, 3:]))
        return found


def _average(right: Reals, all_: Reals, total: int) -> float:
    """Average over 101 recalls of the best precision at that recall or a larger one."""
    if not len(right):
        return 0.0
    precision = np.divide(right, all_, out=np.zeros(len(right)), where=all_ > 0)
    best = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(right / total, _RECALLS, side="left")
    return float(np.where(places < len(best), best[np.minimum(places, len(best) - 1)], 0).mean())
