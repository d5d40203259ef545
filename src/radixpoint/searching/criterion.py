"""What a design must keep, and how sure that has to be."""

from __future__ import annotations

from typing import Literal

import msgspec

from radixpoint.errors import DesignError
from radixpoint.measure.evaluate import check_confidence
from radixpoint.measure.metrics import Metric, check_metric

Verdict = Literal["holds", "fails"]


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A design holds if its drop of ``metric`` is at most ``limit`` percentage points.

    Attributes:
        metric: top1 or top5.
        limit: in percentage points.
        confidence: None judges the images that were looked at, as the paper does. Else the drop on images
            that nobody looked at is within the limit, for all answers of a search together, with at least
            this probability (``radixpoint.searching.strategies`` says how).

    Raises:
        DesignError: an unknown metric, or a number that cannot be meant.
    """

    metric: Metric = "top1"
    limit: float = 1.0
    confidence: float | None = None

    def __post_init__(self) -> None:
        check_metric(self.metric)
        if not 0 <= self.limit < 100:
            raise DesignError(f"a limit of {self.limit} percentage points: expected 0 to 100")
        if self.confidence is not None:
            check_confidence(self.confidence)

    @property
    def error(self) -> float | None:
        """Probability with which an answer may break the limit; None without confidence."""
        return None if self.confidence is None else 1 - self.confidence
