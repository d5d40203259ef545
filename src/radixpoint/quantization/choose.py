"""Where the binary points go: the rules that choose one for every quantized place of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from radixpoint.ir.graph import Graph
from radixpoint.measure.calibrate import Ranges, Statistics, bin_values
from radixpoint.quantization.codes import Grid
from radixpoint.quantization.design import Design, Rule
from radixpoint.quantization.output_error import best_fractions, operand_candidates
from radixpoint.quantization.patches import Patches
from radixpoint.quantization.sites import (
    Formats,
    Key,
    Site,
    Stored,
    affine_parameters,
    largest_fractions,
    sites,
)

Group = tuple[str, ...]
"""Who shares a binary point: () the network, (class, kind), (layer, role)."""

_CANDIDATES = 10
"""How many places beyond the ``max`` rule a rule may move the binary point."""
_PERCENTILES = (100.0, 99.99, 99.97, 99.95, 99.9, 99.85, 99.8, 99.7, 99.5)
"""Shares of activations that rule ``loss`` in turn keeps from saturating, where no binary point is shared."""
_VALUES = bin_values()


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


def choose(s: Statistics, levels: int | Grid, design: Design) -> NDArray[np.int64]:
    """Fraction length for each channel of the statistics by the design's rule."""
    start = largest_fractions(s.low, s.high, levels)
    match design.binary_point.rule:
        case "max":
            return start
        case "percentile":
            edge = _quantiles(s, design.binary_point.percentile)
            clipped = largest_fractions(np.maximum(s.low, -edge), np.minimum(s.high, edge), levels)
            return np.maximum(start, clipped)
        case _:  # mse; by the other rules, whatever they do not choose themselves
            candidates = np.arange(start.min(), start.max() + _CANDIDATES)
            # sums in one order, whatever the machine: a matrix product would have its own on each
            errors = np.stack(
                [(s.counts * _bin_errors(int(f) + s.unit, levels)).sum(1) for f in candidates], 1
            )
            near = (candidates >= start[:, None]) & (candidates < start[:, None] + _CANDIDATES)
            return np.asarray(candidates[np.argmin(np.where(near, errors, np.inf), 1)])


def _choose_group(members: Sequence[Site], design: Design) -> int:
    """Fraction length for several tensors by their statistics."""
    pooled = [(s.statistics.pooled, s.levels) for s in members]
    pooled = [(s, w) for s, w in pooled if s.low[0] < 0 or s.high[0] > 0]
    if not pooled:
        return 0
    own = [int(choose(s, w, design)[0]) for s, w in pooled]
    if design.binary_point.rule in ("max", "percentile") or len(own) == 1:
        return min(own)
    lowest = min(int(largest_fractions(s.low, s.high, w)[0]) for s, w in pooled)

    def relative_error(fraction: int) -> float:
        return sum(
            float((s.counts[0] * _bin_errors(fraction + s.unit, w)).sum())
            / (float((s.counts[0] * (_VALUES**2).mean(1)).sum()) or 1.0)
            for s, w in pooled
        )

    return min(range(lowest, max(own) + 1), key=lambda f: (relative_error(f), f))


def _group(site: Site, design: Design) -> Group:
    match design.binary_point.scope:
        case "network":
            return ()
        case "class":
            # add, pool and input share their fallback's group unless they have widths of their own
            cls = site.layer_class
            if cls not in design.classes:
                cls = {"fc": "conv", "input": "conv"}.get(cls, "bn")
            return (cls, site.kind)
        case _:
            return site.key


def _ruled(design: Design, rule: Rule, percentile: float = 100.0) -> Design:
    point = replace(design.binary_point, rule=rule, percentile=percentile)
    return replace(design, binary_point=point)


def _own_formats(everything: Sequence[Site], stored: Design, activations: Design) -> Formats:
    """Formats where no binary point is shared: stored parameters by one design, activations by another."""
    formats = {}
    for site in everything:
        design = activations if site.kind == "activations" else stored
        by_channel = site.by_channel and design.binary_point.scope == "channel"
        statistics = site.statistics if by_channel else site.statistics.pooled
        fractions = tuple(choose(statistics, site.levels, design).tolist())
        formats[site.key] = site.format(fractions)
    return formats


def _by_output(
    graph: Graph,
    everything: Sequence[Site],
    formats: Formats,
    design: Design,
    stored: Mapping[Key, Stored],
    patches: Patches,
    operands: bool,
) -> Formats:
    """Binary points of weights, with ``operands`` those of what they multiply too, by the layers' outputs."""
    sites_by_key = {site.key: site for site in everything}
    result = dict(formats)
    for name, seen in patches.items():
        weight, operand = sites_by_key[name, "weight"], sites_by_key[name, "operand"]
        candidates = operand_candidates(operand) if operands else formats[operand.key].fraction_lengths
        by_channel = weight.by_channel and design.binary_point.scope == "channel"
        values = stored[weight.key].values
        behind = graph.consumers(name)
        factors = np.ones(len(values))
        if [layer.op for layer in behind] == ["batch_norm"] and design.batch_norm != "folded":
            factors, _ = affine_parameters(graph, behind[0])
        fraction, fractions = best_fractions(weight, values, operand, candidates, seen, by_channel, factors)
        result[operand.key] = operand.format((fraction,))
        result[weight.key] = weight.format(tuple(fractions.tolist()))
    return result


def choose_formats(
    graph: Graph,
    ranges: Ranges,
    design: Design,
    stored: Mapping[Key, Stored],
    loss: Callable[[Formats], float] | None = None,
    patches: Callable[[], Patches] | None = None,
) -> Formats:
    """A format for every quantized place.

    Args:
        graph, ranges, design: what to quantize and how.
        stored: the network's parameters under the design's form of batch normalization.
        loss: error of the network under given formats; needed by rule ``loss``. Shared binary points start
            from ``mse`` and move one at a time while that lowers the error; where each tensor has its own,
            one share of activations that may not saturate is chosen for all, then ``max`` or ``mse`` for
            parameters, or ``sqnr`` for weights; or ``sqnr`` for weights and what they multiply.
        patches: of the float network; needed by rule ``sqnr``, and by ``loss`` where each tensor has its own.

    Raises:
        DesignError: a layer without a word length.
    """
    everything = list(sites(graph, ranges, design, stored))
    rule, scope = design.binary_point.rule, design.binary_point.scope
    if rule == "loss" and loss is None:
        raise ValueError("rule 'loss' needs a loss")
    if patches is None and scope in ("tensor", "channel") and rule in ("loss", "sqnr"):
        raise ValueError(f"rule {rule!r} needs patches")
    if scope in ("tensor", "channel"):
        own = _own_formats(everything, design, design)
        if rule not in ("sqnr", "loss") or patches is None:
            return own
        by_output = _by_output(graph, everything, own, design, stored, patches(), operands=True)
        if rule == "sqnr" or loss is None:
            return by_output
        plain = _ruled(design, "max")
        shares = {share: _ruled(design, "percentile", share) for share in _PERCENTILES}
        first = {share: _own_formats(everything, plain, one) for share, one in shares.items()}
        share = min(first, key=lambda share: loss(first[share]))
        candidates = [
            first[share],
            _own_formats(everything, _ruled(design, "mse"), shares[share]),
            _by_output(graph, everything, first[share], design, stored, patches(), operands=False),
            by_output,
        ]
        return min(candidates, key=loss)

    groups: dict[Group, list[Site]] = {}
    for site in everything:
        groups.setdefault(_group(site, design), []).append(site)

    def formats_of(fractions: Mapping[Group, int]) -> Formats:
        return {
            site.key: site.format((fractions[group],))
            for group, members in groups.items()
            for site in members
        }

    chosen = {group: _choose_group(members, design) for group, members in groups.items()}
    if design.binary_point.rule == "loss" and loss is not None:
        chosen = _descend(chosen, lambda fractions: loss(formats_of(fractions)))
    return formats_of(chosen)


def _descend(start: dict[Group, int], loss: Callable[[Mapping[Group, int]], float]) -> dict[Group, int]:
    """Coordinate descent: move each shared binary point up or down by one while the loss falls."""
    best, best_loss = dict(start), loss(start)
    improved = True
    while improved:
        improved = False
        for group in start:
            for step in (1, -1):
                while True:
                    trial = {**best, group: best[group] + step}
                    trial_loss = loss(trial)
                    if trial_loss >= best_loss:
                        break
                    best, best_loss, improved = trial, trial_loss, True
    return best
