"""Two networks on the same images: how much the score drops from one to the other, and how sure that is.

Three kinds, by what a score is made of. Hits: an image is right or wrong, and the test is exact. Scores: each
image has a number of its own, and the interval is that of a paired t test. Totals: only all images together
have a score (mean IoU, mAP), and the interval is that of a bootstrap over images. Drops are positive where
the second network is worse.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import DataError, DesignError
from radixpoint.measure.intervals import Z95, Bits, DropTest, drop, drop_interval, least_share
from radixpoint.measure.outcomes import Outcomes, Reals

RESAMPLES = 2000
"""Of a bootstrap."""
_SEED = 2018


class Pair(Protocol):
    """Scores of two networks on the same images."""

    @property
    def early(self) -> bool:
        """Whether an interval over the first images says something about all of them."""
        ...

    @property
    def higher(self) -> bool:
        """Whether a larger score is better."""
        ...

    @property
    def before(self) -> float:
        """Score of the first network."""
        ...

    @property
    def after(self) -> float:
        """Score of the second."""
        ...

    @property
    def drop(self) -> float:
        """How much worse the second is."""
        ...

    def interval(self, z: float = Z95) -> tuple[float, float]:
        """Of the drop; ``z`` is the normal quantile, 1.96 for 95 %."""
        ...

    def within(self, limit: float, error: float) -> bool:
        """Whether the drop is at most ``limit`` also on other images, but for the error."""
        ...

    def bound(self, error: float) -> float:
        """The smallest limit that the drop is within."""
        ...

    def lowest(self, error: float) -> float:
        """The first network's score is at least this also on other images, but for the error."""
        ...


@dataclass(frozen=True, eq=False)
class Hits:
    """Right or wrong, image by image; in percent and percentage points."""

    reference: Bits
    candidate: Bits
    early = True
    higher = True

    @property
    def before(self) -> float:
        return 100 * int(np.count_nonzero(self.reference)) / len(self.reference)

    @property
    def after(self) -> float:
        return 100 * int(np.count_nonzero(self.candidate)) / len(self.candidate)

    @property
    def drop(self) -> float:
        return drop(self.reference, self.candidate)

    def interval(self, z: float = Z95) -> tuple[float, float]:
        return drop_interval(self.reference, self.candidate, z)

    def within(self, limit: float, error: float) -> bool:
        return DropTest(self.reference, self.candidate, error).within(limit)

    def bound(self, error: float) -> float:
        return DropTest(self.reference, self.candidate, error).bound()

    def lowest(self, error: float) -> float:
        return 100 * least_share(int(np.count_nonzero(self.reference)), len(self.reference), error)


def t_quantile(z: float, freedom: int) -> float:
    """Quantile of Student's t where the normal distribution's is ``z``.

    An expansion in the inverse degrees of freedom (Abramowitz and Stegun 1964, 26.7.5); within 0.04 % from 9
    degrees of freedom on, for |z| up to 3.3.
    """
    x, v = z, float(freedom)
    terms = (
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return x + sum(term / v ** (i + 1) for i, term in enumerate(terms))


@dataclass(frozen=True, eq=False)
class Scores:
    """A number for each image; the score is their mean.

    Attributes:
        reference, candidate: (images,).
        higher: whether more is better.
    """

    reference: Reals
    candidate: Reals
    higher: bool
    early = True

    @property
    def _losses(self) -> Reals:
        difference = self.reference - self.candidate
        return difference if self.higher else -difference

    @property
    def before(self) -> float:
        return float(self.reference.mean())

    @property
    def after(self) -> float:
        return float(self.candidate.mean())

    @property
    def drop(self) -> float:
        return float(self._losses.mean())

    def interval(self, z: float = Z95) -> tuple[float, float]:
        half = self._half(z)
        return self.drop - half, self.drop + half

    def _half(self, z: float) -> float:
        count = len(self.reference)
        if count < 2:
            return math.inf
        spread = float(self._losses.std(ddof=1)) / math.sqrt(count)
        return t_quantile(z, count - 1) * spread

    def within(self, limit: float, error: float) -> bool:
        return self.bound(error) <= limit

    def bound(self, error: float) -> float:
        return self.drop + self._half(NormalDist().inv_cdf(1 - error))

    def lowest(self, error: float) -> float:
        spread = float(self.reference.std(ddof=1)) / math.sqrt(len(self.reference))
        return self.before - t_quantile(NormalDist().inv_cdf(1 - error), len(self.reference) - 1) * spread


@dataclass(frozen=True, eq=False)
class Totals:
    """A score that only all images together have.

    Attributes:
        reference, candidate: what is kept of each image.
        score: of outcomes, where each image counts as often as its weight says.
        higher: whether more is better.
    """

    reference: Outcomes
    candidate: Outcomes
    score: Callable[[Outcomes, NDArray[np.int64]], float]
    higher: bool
    early = False

    @property
    def _once(self) -> NDArray[np.int64]:
        return np.ones(len(self.reference), np.int64)

    @cached_property
    def before(self) -> float:
        return self._finite(self.reference, self._once)

    @cached_property
    def after(self) -> float:
        return self._finite(self.candidate, self._once)

    def _worse(self, before: float, after: float) -> float:
        return before - after if self.higher else after - before

    @property
    def drop(self) -> float:
        return self._worse(self.before, self.after)

    def _finite(self, outcomes: Outcomes, weights: NDArray[np.int64]) -> float:
        found = float(self.score(outcomes, weights))
        if not math.isfinite(found):
            raise DataError(f"a metric of all images together gives {found}: expected a number")
        return found

    def _draws(self) -> Iterator[NDArray[np.int64]]:
        """How often each image is drawn; always the same draws."""
        random, count = np.random.default_rng(_SEED), len(self.reference)
        for _ in range(RESAMPLES):
            yield np.bincount(random.integers(0, count, count), minlength=count)

    @cached_property
    def _resampled(self) -> Reals:
        """Drops of as many images drawn from these, sorted; the same draws for both networks."""
        drops = np.empty(RESAMPLES)
        for i, weights in enumerate(self._draws()):
            drops[i] = self._worse(
                self._finite(self.reference, weights), self._finite(self.candidate, weights)
            )
        return np.sort(drops)

    def _quantile(self, share: float) -> float:
        return float(self._resampled[min(max(math.ceil(share * RESAMPLES) - 1, 0), RESAMPLES - 1)])

    def interval(self, z: float = Z95) -> tuple[float, float]:
        tail = 1 - NormalDist().cdf(z)
        return self._quantile(tail), self._quantile(1 - tail)

    def within(self, limit: float, error: float) -> bool:
        return self.bound(error) <= limit

    def bound(self, error: float) -> float:
        check_resamples(error)
        return self._quantile(1 - error)

    def lowest(self, error: float) -> float:
        check_resamples(error)
        scores = np.sort([self._finite(self.reference, weights) for weights in self._draws()])
        return float(scores[max(math.floor(error * RESAMPLES) - 1, 0)])


def check_resamples(error: float) -> None:
    """See that a bootstrap can tell so small an error.

    Raises:
        DesignError: it cannot.
    """
    if error * RESAMPLES < 10:
        raise DesignError(
            f"an error of {error:.2g} by {RESAMPLES} resamples: expected at least {10 / RESAMPLES:.2g} for "
            "each look: a smaller confidence, or fewer policies and word lengths"
        )
