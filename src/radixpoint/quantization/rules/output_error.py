"""Rule ``sqnr``: binary points by the error of a layer's output, of weights and what they multiply together.

A layer computes w x; quantized, Q(w) Q(x). What is made small is the sum over output channels of
a^2 E|w x - Q(w) Q(x)|^2, over patches x of the float network, with a the factor of the batch normalization
behind the channel (1 without): least error, so highest SQNR, of what the next layer sees. The best of all
pairs of binary points that are tried.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from radixpoint.quantization.codes import Grid
from radixpoint.quantization.design import Scope
from radixpoint.quantization.rules.question import Need, Question
from radixpoint.quantization.rules.statistic import own_formats
from radixpoint.quantization.sites import Formats, Site, affine_parameters, largest_fractions

WEIGHT_CANDIDATES = 3
OPERAND_CANDIDATES = 6
"""Places from that of the ``max`` rule on that are tried."""
Reals = NDArray[np.float64]
_PATCH_BITS, _WEIGHT_BITS = 23, 23
"""Of magnitudes, at most; patches are those of ``radixpoint.quantization.stand_in``."""


def _rounded(values: Reals, site: Site, fractions: NDArray[np.int64]) -> Reals:
    """Rounded to nearest and saturated in the site's format, in real values."""
    scaled = np.ldexp(values, fractions)
    if isinstance(site.grid, Grid):
        stored = site.grid.round(scaled).astype(np.float64)
    else:
        form = site.format((0,)).channel(0)
        stored = np.clip(np.floor(scaled + 0.5), form.min, form.max)
    return np.asarray(np.ldexp(stored, -fractions))


def _shortened(rows: Reals) -> Reals:
    """Weights to so many bits that sums of their products with patches are exact in binary64, in any order.

    Then the best of several binary points is the same on every machine, however that adds.
    """
    bits = min(_WEIGHT_BITS, 53 - _PATCH_BITS - math.ceil(math.log2(rows.shape[1] + 1)))
    _, exponents = np.frexp(np.abs(rows).max(1, keepdims=True))
    return np.asarray(np.ldexp(np.rint(np.ldexp(rows, bits - exponents)), exponents - bits))


def _start(site: Site, by_channel: bool) -> NDArray[np.int64]:
    statistics = site.statistics if by_channel else site.statistics.pooled
    return largest_fractions(statistics.low, statistics.high, site.levels)


def operand_candidates(site: Site) -> range:
    """Fraction lengths to try for what a layer multiplies."""
    first = int(_start(site, False)[0])
    return range(first, first + OPERAND_CANDIDATES)


def best_fractions(
    weight: Site,
    values: Reals,
    operand: Site,
    candidates: Iterable[int],
    patches: NDArray[np.float32],
    by_channel: bool,
    factors: Reals,
) -> tuple[int, NDArray[np.int64]]:
    """Fraction lengths of the operand and of the weights with the least error of the output.

    Args:
        weight, operand: the layer's sites.
        values: real-valued weights (outputs, ...), as they will be quantized.
        candidates: fraction lengths to try for the operand.
        patches: of the float network, (groups, patches, inputs of a group * kernel).
        by_channel: whether each output channel's weights have a binary point of their own.
        factors: of each output channel's error, (outputs,).

    Returns:
        The operand's, and the weights': one, or one an output channel.
    """
    groups, multiplied = len(patches), patches.astype(np.float64)
    rows = _shortened(values.reshape(len(values), -1))

    def outputs(x: Reals, w: Reals) -> Reals:
        """(groups, patches, outputs of a group)."""
        return x @ w.reshape(groups, -1, w.shape[1]).transpose(0, 2, 1)

    start = _start(weight, by_channel)
    tried = start + np.arange(WEIGHT_CANDIDATES)[:, None]  # (candidates, channels or 1)
    rounded = [_rounded(rows, weight, fractions[:, None]) for fractions in tried]
    exact = outputs(multiplied, rows)
    best: tuple[float, int, NDArray[np.int64]] | None = None
    for fraction in candidates:
        x = _rounded(multiplied, operand, np.array(fraction))
        wrong = (np.square(exact - outputs(x, w)).sum(1, dtype=np.float64).ravel() for w in rounded)
        errors = np.stack([np.square(factors) * error for error in wrong])
        if not by_channel:
            errors = errors.sum(1, keepdims=True)
        chosen = errors.argmin(0)
        total = float(np.take_along_axis(errors, chosen[None], 0).sum())
        if best is None or total < best[0]:
            best = total, fraction, np.take_along_axis(tried, chosen[None], 0)[0]
    if best is None:
        raise ValueError("no candidates for the operand")
    return best[1], best[2]


def by_output(question: Question, formats: Formats, operands: bool) -> Formats:
    """Binary points of weights by the layers' outputs; with ``operands`` those of what they multiply too."""
    if question.patches is None:
        raise ValueError("this rule needs patches")
    graph, design = question.graph, question.design
    sites_by_key = {site.key: site for site in question.sites}
    result = dict(formats)
    for name, seen in question.patches().items():
        weight, operand = sites_by_key[name, "weight"], sites_by_key[name, "operand"]
        candidates = tuple(operand_candidates(operand) if operands else formats[operand.key].fraction_lengths)
        by_channel = question.by_channel(weight)
        levels = (weight.levels, operand.levels, operand.signed)
        key = (name, *levels, candidates, by_channel)
        if key not in question.best:
            values = question.stored[weight.key].values
            behind = graph.consumers(name)
            factors = np.ones(len(values))
            if [layer.op for layer in behind] == ["batch_norm"] and design.batch_norm != "folded":
                factors, _ = affine_parameters(graph, behind[0])
            fraction, fractions = best_fractions(
                weight, values, operand, candidates, seen, by_channel, factors
            )
            question.best[key] = fraction, tuple(fractions.tolist())
        fraction, own = question.best[key]
        result[operand.key] = operand.format((fraction,))
        result[weight.key] = weight.format(own)
    return result


class ByOutputError:
    """``sqnr``: least error of a layer's output, over the binary points of its weights and of what they
    multiply together; ``mse`` for everything else."""

    scopes: frozenset[Scope] = frozenset({"tensor", "channel"})

    def needs(self, shared: bool) -> frozenset[Need]:
        """Patches."""
        return frozenset({"patches"})

    def choose(self, question: Question) -> Formats:
        """See ``radixpoint.quantization.rules.question.Rule``."""
        return by_output(question, own_formats(question, question.design.binary_point), operands=True)
