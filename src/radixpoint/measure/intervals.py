"""What images can tell about the accuracy of two networks that both saw them: drops, intervals, tests."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.bool_]

Z95 = 1.959963984540054
SURE = 0.01
"""A network at chance looks better than chance in at most this share of cases."""
_NUISANCE = 0.05
"""Share of a test's error that the bound on the number of disagreements may take."""
_STEPS = 40
"""Halvings of a bound: to less than 1e-9 percentage points."""


def drop(reference: Bits, candidate: Bits) -> float:
    """Accuracy of ``reference`` minus that of ``candidate``, in percentage points."""
    difference = int(np.count_nonzero(reference)) - int(np.count_nonzero(candidate))
    return 100 * difference / len(reference)


def drop_interval(reference: Bits, candidate: Bits, z: float = Z95) -> tuple[float, float]:
    """Interval of the accuracy drop of two networks that saw the same images, in percentage points.

    Only images on which the two differ carry information. The adjusted Wald interval for a difference of
    paired proportions (Bonett and Price, "Adjusted Wald Confidence Interval for a Difference of Binomial
    Proportions Based on Paired Data", J. Educ. Behav. Stat. 37(4), 2012, equation 9 there: one image is
    added to each kind of disagreement).

    Args:
        reference, candidate: whether each network is right about each image; same length, at least 1.
        z: normal quantile; 1.96 gives 95 %.
    """
    n = len(reference)
    lost = (int(np.count_nonzero(reference & ~candidate)) + 1) / (n + 2)
    gained = (int(np.count_nonzero(candidate & ~reference)) + 1) / (n + 2)
    middle = lost - gained
    half = z * math.sqrt(max(lost + gained - middle**2, 0.0) / (n + 2))
    return 100 * max(middle - half, -1.0), 100 * min(middle + half, 1.0)


def _log_choose(n: int) -> NDArray[np.float64]:
    """Logarithms of the binomial coefficients of n."""
    logs = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return np.asarray(logs[n] - logs - logs[::-1])


def _binomial(n: int, p: float, choose: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of 0..n hits; ``choose`` as of ``_log_choose``."""
    if p <= 0 or p >= 1:
        return np.asarray(np.eye(1, n + 1, 0 if p <= 0 else n)[0])
    hits = np.arange(n + 1)
    return np.asarray(np.exp(choose + hits * math.log(p) + (n - hits) * math.log1p(-p)))


def better_than_chance(hits: Bits, chance: float) -> bool:
    """Whether so many hits cannot be told off as luck: an exact one-sided binomial test at ``SURE``.

    Args:
        hits: whether each image was a hit.
        chance: probability of a hit by guessing.
    """
    n = len(hits)
    tail = _binomial(n, chance, _log_choose(n))[int(np.count_nonzero(hits)) :].sum()
    return bool(tail <= SURE)


def _most_disagreements(seen: int, n: int, error: float) -> float:
    """Upper bound on the probability of a disagreement (Clopper and Pearson 1934, one-sided)."""
    choose, low, high = _log_choose(n), seen / n, 1.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if _binomial(n, middle, choose)[: seen + 1].sum() > error:
            low = middle
        else:
            high = middle
    return high


def least_share(seen: int, n: int, error: float) -> float:
    """Lower bound on a probability of which ``seen`` of ``n`` were seen (Clopper and Pearson, one-sided)."""
    return 1 - _most_disagreements(n - seen, n, error)


def _at_most(total: int, n: int, lost: float, gained: float) -> float:
    """Probability that n images lose at most ``total`` more than they gain.

    The distribution of a sum of n independent values 1, -1, 0 by its characteristic function.
    """
    size = 1 << (2 * n + 1).bit_length()
    angle = 2 * np.pi * np.arange(size) / size
    single = lost * np.exp(1j * angle) + gained * np.exp(-1j * angle) + (1 - lost - gained)
    with np.errstate(divide="ignore"):
        whole = np.exp(n * np.log(single))
    chances = np.fft.fft(whole).real / size
    return float(chances[np.arange(-n, total + 1)].sum())


class DropTest:
    """An exact one-sided test of the drop of one network against another on the same images.

    Small drops are told from large ones by the difference of images lost and gained. How often the two
    networks disagree at all is not known: the largest probability is taken over all that lie within a bound
    which holds but for a twentieth of the error, and that is added (Berger and Boos, "P Values Maximized Over
    a Confidence Set for the Nuisance Parameter", J. Amer. Stat. Assoc. 89, 1994).

    Args:
        reference, candidate: whether each network is right about each image.
        error: probability with which a drop beyond a limit may pass for one within it, 0 < error < 1.
    """

    def __init__(self, reference: Bits, candidate: Bits, error: float) -> None:
        self._n, self._error = len(reference), error
        lost = int(np.count_nonzero(reference & ~candidate))
        gained = int(np.count_nonzero(candidate & ~reference))
        self._total = lost - gained
        self._most = _most_disagreements(lost + gained, self._n, error * _NUISANCE)

    def p_value(self, limit: float) -> float:
        """Of the hypothesis that the drop is more than ``limit`` percentage points."""
        shift = limit / 100
        if shift >= 1:
            return 0.0
        least = max(abs(shift), 0.0)
        found = 0.0
        for part in (0.25, 0.5, 0.75, 1.0):
            some = least + part * max(self._most - least, 0.0)
            found = max(found, _at_most(self._total, self._n, (some + shift) / 2, (some - shift) / 2))
        return min(found + self._error * _NUISANCE, 1.0)

    def within(self, limit: float) -> bool:
        """Whether the drop is at most ``limit`` percentage points, but for the error."""
        return self.p_value(limit) <= self._error

    def bound(self) -> float:
        """The smallest limit, in percentage points, that the drop is within; rounded up to 0.0001."""
        low, high = -100.0, 100.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (low, middle) if self.within(middle) else (middle, high)
        return min(math.ceil(high * 1e4 - 1e-3) / 1e4, 100.0)
