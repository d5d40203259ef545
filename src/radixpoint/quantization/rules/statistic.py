"""Rules that look at one tensor's values: the largest, a percentile, the squared error."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from radixpoint.ir.graph import freeze
from radixpoint.measure.calibrate import Statistics, bin_values
from radixpoint.quantization.codes import Grid
from radixpoint.quantization.design import SCOPES, BinaryPoint
from radixpoint.quantization.rules.question import Need, Question, formats_of
from radixpoint.quantization.sites import Formats, Site, largest_fractions

_CANDIDATES = 10
"""How many places beyond the ``max`` rule a rule may move the binary point."""
_VALUES = bin_values()
_KNOWN: WeakKeyDictionary[Statistics, dict[tuple[object, ...], NDArray[np.int64]]] = WeakKeyDictionary()
"""What ``fractions`` gave: the many designs of a search ask the same of the same values."""


@lru_cache(maxsize=4096)
def _bin_errors(fraction: int, levels: int | Grid) -> NDArray[np.float64]:
    """Mean squared error of rounding and saturating the values of each bin, in its unit."""
    scaled = np.ldexp(_VALUES, fraction)
    if isinstance(levels, Grid):
        stored = levels.round(scaled).astype(np.float64)
    else:
        top = (1 << (levels - 1)) - 1
        stored = np.clip(np.floor(scaled + 0.5), -top - 1, top)
    return np.asarray(((np.ldexp(stored, -fraction) - _VALUES) ** 2).mean(1))


def _quantiles(s: Statistics, percentile: float) -> NDArray[np.float64]:
    """Magnitude that this share of each channel's values does not exceed (upper end of its bin)."""
    half = s.counts.shape[1] // 2
    magnitudes = s.counts[:, :half] + s.counts[:, half:]
    share = np.cumsum(magnitudes, 1) / magnitudes.sum(1, keepdims=True)
    index = np.argmax(share >= percentile / 100, 1)
    return np.asarray(np.ldexp(_VALUES[half + index, -1], s.unit))


def fractions(s: Statistics, levels: int | Grid, point: BinaryPoint) -> NDArray[np.int64]:
    """Fraction length for each channel of the statistics.

    Args:
        s: of the values.
        levels: word length of a signed format, or a grid.
        point: its rule is ``max``, ``percentile`` or ``mse``.
    """
    known = _KNOWN.setdefault(s, {})
    asked = levels, point.rule, point.percentile
    if asked not in known:
        known[asked] = freeze(_fractions(s, levels, point))
    return known[asked]


def _fractions(s: Statistics, levels: int | Grid, point: BinaryPoint) -> NDArray[np.int64]:
    start = largest_fractions(s.low, s.high, levels)
    match point.rule:
        case "max":
            return start
        case "percentile":
            edge = _quantiles(s, point.percentile)
            clipped = largest_fractions(np.maximum(s.low, -edge), np.minimum(s.high, edge), levels)
            return np.maximum(start, clipped)
        case _:
            candidates = np.arange(start.min(), start.max() + _CANDIDATES)
            # sums in one order, whatever the machine: a matrix product would have its own on each
            errors = np.stack(
                [(s.counts * _bin_errors(int(f) + s.unit, levels)).sum(1) for f in candidates], 1
            )
            near = (candidates >= start[:, None]) & (candidates < start[:, None] + _CANDIDATES)
            return np.asarray(candidates[np.argmin(np.where(near, errors, np.inf), 1)])


def shared_fraction(members: Sequence[Site], point: BinaryPoint) -> int:
    """Fraction length for several tensors by their statistics."""
    pooled = [(s.statistics.pooled, s.levels) for s in members]
    pooled = [(s, w) for s, w in pooled if s.low[0] < 0 or s.high[0] > 0]
    if not pooled:
        return 0
    own = [int(fractions(s, w, point)[0]) for s, w in pooled]
    if point.rule in ("max", "percentile") or len(own) == 1:
        return min(own)
    lowest = min(int(largest_fractions(s.low, s.high, w)[0]) for s, w in pooled)

    def relative_error(fraction: int) -> float:
        return sum(
            float((s.counts[0] * _bin_errors(fraction + s.unit, w)).sum())
            / (float((s.counts[0] * (_VALUES**2).mean(1)).sum()) or 1.0)
            for s, w in pooled
        )

    return min(range(lowest, max(own) + 1), key=lambda f: (relative_error(f), f))


def own_formats(question: Question, point: BinaryPoint, activations: BinaryPoint | None = None) -> Formats:
    """Formats where no binary point is shared: of stored parameters by ``point``, and of activations by
    ``activations``, which is the same if it is not given."""
    formats = {}
    for site in question.sites:
        rule = activations if activations is not None and site.kind == "activations" else point
        statistics = site.statistics if question.by_channel(site) else site.statistics.pooled
        formats[site.key] = site.format(tuple(fractions(statistics, site.levels, rule).tolist()))
    return formats


class ByStatistic:
    """``max``: the largest value seen does not overflow. ``percentile``: that share of values does not.
    ``mse``: least squared error, relative to each tensor's power where a scope holds several."""

    scopes = SCOPES

    def __init__(self, name: Literal["max", "percentile", "mse"]) -> None:
        self.name = name

    def needs(self, shared: bool) -> frozenset[Need]:
        """Nothing."""
        return frozenset()

    def choose(self, question: Question) -> Formats:
        """See ``radixpoint.quantization.rules.question.Rule``."""
        point = question.design.binary_point
        if not question.shared:
            return own_formats(question, point)
        groups = question.groups
        return formats_of(groups, {group: shared_fraction(own, point) for group, own in groups.items()})
