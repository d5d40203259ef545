"""What a design must keep, and how sure that has to be."""

from __future__ import annotations

import math
from typing import Literal

import msgspec

from radixpoint.errors import DataError, DesignError
from radixpoint.measure.evaluate import check_confidence
from radixpoint.measure.metrics import check_metric
from radixpoint.measure.pairs import Pair

Verdict = Literal["holds", "fails"]


class Criterion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A design holds if its drop of ``metric`` is at most ``limit``.

    Attributes:
        metric: its name: top1, top5, or another (``radixpoint.measure.metrics``).
        limit: in the metric's unit, which is percentage points for shares; or percent of the float network's
            score.
        confidence: None judges the images that were looked at, as the paper does. Else the drop on images
            that nobody looked at is within the limit, for all answers of a search together, with at least
            this probability (``radixpoint.searching.strategies`` says how).
        relative: whether the limit is in percent of the float network's score.

    Raises:
        DesignError: an unknown metric, or a number that cannot be meant.
    """

    metric: str = "top1"
    limit: float = 1.0
    confidence: float | None = None
    relative: bool = False

    def __post_init__(self) -> None:
        check_metric(self.metric)
        share = self.relative or self.metric.startswith("top") or self.metric in ("agreement", "miou")
        if not 0 <= self.limit < (100 if share else math.inf):
            unit = "percent" if self.relative else "percentage points" if share else "units of the metric"
            raise DesignError(
                f"a limit of {self.limit} {unit}: expected 0 to {'100' if share else 'any number'}"
            )
        if self.confidence is not None:
            check_confidence(self.confidence)

    @property
    def error(self) -> float | None:
        """Probability with which an answer may break the limit; None without confidence."""
        return None if self.confidence is None else 1 - self.confidence

    def allowed(self, floating: Pair, error: float | None) -> float:
        """The drop that is allowed, in the metric's unit.

        Args:
            floating: the float network against itself, on all images.
            error: where the limit has to hold on other images too: a relative one is then that share of a
                lower bound of the float network's score.

        Raises:
            DataError: a relative limit of a score that is not positive.
        """
        if not self.relative:
            return self.limit
        score = floating.before if error is None else floating.lowest(error)
        if not score > 0:
            raise DataError(
                f"a limit of {self.limit:g} % of the float network's {self.metric}, which is "
                f"{floating.before:.4g}: "
                "expected a positive score, or an absolute limit"
            )
        return self.limit / 100 * score
