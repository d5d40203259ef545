"""Where the binary points go: every quantized place of a network, and the rules that choose for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from radixpoint.calibrate import Ranges, Statistics, bin_values, normalized_name
from radixpoint.codes import ENTRY_BITS, Grid, codebook, operand_grid, weight_grid
from radixpoint.design import Design, Kind, Rule
from radixpoint.formats import MAX_FRACTION
from radixpoint.ir import Graph, Layer, TensorFormat

Key = tuple[str, str]
"""(layer, role): one quantized place."""
Formats = Mapping[Key, TensorFormat]
Group = tuple[str, ...]
"""Who shares a binary point: () the network, (class, kind), (layer, role)."""

_BN_ROLES = (("scale", "offset"), ("negative_mean", "reciprocal_deviation", "gamma", "beta"))
_CANDIDATES = 10
"""How many places beyond the ``max`` rule a rule may move the binary point."""
_PERCENTILES = (100.0, 99.99, 99.97, 99.95, 99.9, 99.85, 99.8, 99.7, 99.5)
"""Shares of activations that rule ``loss`` in turn keeps from saturating, where no binary point is shared."""
_VALUES = bin_values()


@dataclass(frozen=True, eq=False)
class Site:
    """One quantized place of a network.

    Attributes:
        key: layer and role.
        layer_class, kind: whose word length it takes.
        word_length: in bits.
        statistics: the values it takes.
        by_channel: whether it may have a binary point for each channel.
        signed: whether it may be negative; an unsigned format of W bits has the binary points of a signed
            one of W + 1.
        grid: the values of its code, or None if it is fixed-point; ``word_length`` is then the decoded one.
    """

    key: Key
    layer_class: str
    kind: Kind
    word_length: int
    statistics: Statistics
    by_channel: bool
    signed: bool = True
    grid: Grid | None = None

    @property
    def levels(self) -> int | Grid:
        """What it can hold: a grid, or the word length of the signed format with the same largest value."""
        return self.word_length + (not self.signed) if self.grid is None else self.grid

    def format(self, fractions: tuple[int, ...]) -> TensorFormat:
        return TensorFormat(self.signed, self.word_length, fractions)


def never_negative(graph: Graph) -> frozenset[str]:
    """Tensors that no image makes negative: a ReLU's result, and what only passes such values on."""
    found: set[str] = set()
    for layer in graph.layers:
        cuts = layer.op == "relu" or (layer.op == "clip" and layer.attributes["low"] >= 0)
        passes = layer.op in ("max_pool", "average_pool", "flatten", "concat", "add")
        if cuts or (passes and found.issuperset(layer.inputs)):
            found.add(layer.name)
    return frozenset(found)


def folded_batch_norm(graph: Graph, layer: Layer, design: Design) -> Layer | None:
    """The batch normalization that ``design`` folds into this convolution, or None."""
    if design.batch_norm != "folded" or layer.op != "conv":
        return None
    consumers = graph.consumers(layer.name)
    if len(consumers) == 1 and consumers[0].op == "batch_norm" and layer.name != graph.output:
        return consumers[0]
    return None


def affine_parameters(graph: Graph, bn: Layer) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scale and offset of y = s*x + t, in float64: s = gamma/sqrt(var+eps), t = beta - mean*s."""
    gamma, beta, mean, variance = (
        graph.parameter(bn, role).astype(np.float64) for role in ("gamma", "beta", "mean", "variance")
    )
    scale = gamma / np.sqrt(variance + bn.attributes["epsilon"])
    return scale, beta - mean * scale


@dataclass(frozen=True, eq=False)
class Stored:
    """A stored parameter: its real values (float64) and their statistics."""

    values: NDArray[np.float64]
    statistics: Statistics


def stored_parameters(graph: Graph, design: Design) -> dict[Key, Stored]:
    """Every parameter that is stored under the design's form of batch normalization."""
    return {
        (layer.name, role): Stored(values, Statistics.of(values.astype(np.float32)))
        for layer in graph.layers
        for role, values in _parameters(graph, layer, design).items()
    }


def _parameters(graph: Graph, layer: Layer, design: Design) -> dict[str, NDArray[np.float64]]:
    """Real values of what a layer stores, by role."""
    values = {role: graph.parameter(layer, role).astype(np.float64) for role in layer.parameters}
    if layer.op in ("conv", "fc"):
        bn = folded_batch_norm(graph, layer, design)
        if bn is not None:
            scale, offset = affine_parameters(graph, bn)
            values["bias"] = offset + scale * values.get("bias", 0.0)
            values["weight"] = values["weight"] * scale[:, None, None, None]
        if design.codes.weights is not None and design.codes.weights.kind == "codebook":
            values["weight"] = codebook(values["weight"], 1 << design.width(layer.name, layer.op, "weights"))
        return values
    if layer.op != "batch_norm":
        return {}
    if design.batch_norm == "staged":
        return {
            "negative_mean": -values["mean"],
            "reciprocal_deviation": 1 / np.sqrt(values["variance"] + layer.attributes["epsilon"]),
            "gamma": values["gamma"],
            "beta": values["beta"],
        }
    scale, offset = affine_parameters(graph, layer)
    return {"scale": scale, "offset": offset}


def seen_by_reader(graph: Graph, tensor: str) -> str:
    """``tensor``, or the ReLU that alone reads it: what a ReLU cuts off needs no range."""
    consumers = graph.consumers(tensor)
    if len(consumers) == 1 and consumers[0].op in ("relu", "clip") and tensor != graph.output:
        return consumers[0].name
    return tensor


def sites(graph: Graph, ranges: Ranges, design: Design, stored: Mapping[Key, Stored]) -> Iterator[Site]:
    """Every quantized place of the network under this design.

    The result and the bias of a convolution or fully connected layer have batch normalization's widths:
    that is where the classes meet.

    Raises:
        DesignError: a layer without a word length.
    """

    def parameter(layer: Layer, role: str, cls: str, kind: Kind) -> Site:
        width, grid = design.width(layer.name, cls, kind), None
        if role == "weight" and design.codes.weights is not None:
            grid = weight_grid(design, layer.name, cls)
            width = ENTRY_BITS if grid is None else grid.word_length
        return Site(
            (layer.name, role), cls, kind, width, stored[layer.name, role].statistics, True, True, grid
        )

    yield Site(
        (graph.input, "result"),
        "input",
        "activations",
        design.width(graph.input, "input", "activations"),
        ranges.tensors[graph.input],
        False,
    )
    unsigned = never_negative(graph) if design.unsigned else frozenset()
    folded = {}
    for layer in graph.layers:
        bn = folded_batch_norm(graph, layer, design)
        if bn is not None:
            folded[bn.name] = layer
    for layer in graph.layers:
        if layer.name in folded:
            continue
        bn = folded_batch_norm(graph, layer, design)
        result = ranges.tensors[seen_by_reader(graph, layer.name if bn is None else bn.name)]
        if layer.op in ("conv", "fc"):
            signed = layer.inputs[0] not in unsigned
            grid = operand_grid(design, layer.name, layer.op, signed)
            yield Site(
                (layer.name, "operand"),
                layer.op,
                "activations",
                design.width(layer.name, layer.op, "activations") if grid is None else grid.word_length,
                ranges.tensors[layer.inputs[0]],
                False,
                signed,
                grid,
            )
            yield parameter(layer, "weight", layer.op, "weights")
            if (layer.name, "bias") in stored:
                yield parameter(layer, "bias", "bn", "parameters")
            feeds_bn = [c.op for c in graph.consumers(layer.name)] == ["batch_norm"] and bn is None
            yield Site(
                (layer.name, "result"),
                "bn",
                "activations",
                design.width("", "bn", "activations"),
                result,
                feeds_bn,
            )
        elif layer.op == "batch_norm":
            for role in _BN_ROLES[design.batch_norm == "staged"]:
                yield parameter(layer, role, "bn", "parameters")
            width = design.width(layer.name, "bn", "activations")
            if design.batch_norm == "staged":
                normalized = ranges.tensors[normalized_name(layer.name)]
                yield Site((layer.name, "normalized"), "bn", "activations", width, normalized, True)
            yield Site((layer.name, "result"), "bn", "activations", width, result, False)
        elif layer.op in ("add", "concat", "average_pool"):
            cls = "pool" if layer.op == "average_pool" else "add"
            width = design.width(layer.name, cls, "activations")
            yield Site((layer.name, "result"), cls, "activations", width, result, False)


# ------------------------------------------------------------------------------------------ rules


def largest_fractions(
    low: NDArray[np.float64], high: NDArray[np.float64], levels: int | Grid
) -> NDArray[np.int64]:
    """Most fraction bits at which low..high, rounded to nearest, fits; element by element.

    ``levels``: word length of a signed format, or a grid.
    """
    if isinstance(levels, Grid):
        return levels.largest_fractions(low, high)
    word_length = levels
    top = (1 << (word_length - 1)) - 1
    magnitude = np.maximum(-low, high)
    fraction = word_length + 1 - np.frexp(magnitude)[1].astype(np.int64)
    for _ in range(3):  # starts at most three places too high
        over = (np.ldexp(high, fraction) >= top + 0.5) | (np.ldexp(low, fraction) < -top - 1.5)
        fraction -= over
    fraction = np.where(magnitude > 0, fraction, word_length - 1)
    return np.clip(fraction, -MAX_FRACTION // 4, MAX_FRACTION // 4)


@lru_cache(maxsize=4096)
def _bin_errors(fraction: int, levels: int | Grid) -> NDArray[np.float64]:
    """Mean squared error of rounding and saturating the values of each bin."""
    scaled = np.ldexp(_VALUES, fraction)
    if isinstance(levels, Grid):
        stored = levels.round(scaled).astype(np.float64)
    else:
        top = (1 << (levels - 1)) - 1
        stored = np.clip(np.floor(scaled + 0.5), -top - 1, top)
    return np.asarray(((np.ldexp(stored, -fraction) - _VALUES) ** 2).mean(1))


def _quantiles(s: Statistics, percentile: float) -> NDArray[np.float64]:
    """Magnitude that this share of each channel's values does not exceed (upper edge of its bin)."""
    half = s.counts.shape[1] // 2
    magnitudes = s.counts[:, :half] + s.counts[:, half:]
    share = np.cumsum(magnitudes, 1) / magnitudes.sum(1, keepdims=True)
    index = np.argmax(share >= percentile / 100, 1)
    return np.asarray(_VALUES[half + index, -1])


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
        case _:
            candidates = np.arange(start.min(), start.max() + _CANDIDATES)
            errors = s.counts @ np.stack([_bin_errors(int(f), levels) for f in candidates], 1)
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
            float(s.counts[0] @ _bin_errors(fraction, w)) / (float(s.counts[0] @ (_VALUES**2).mean(1)) or 1.0)
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


def choose_formats(
    graph: Graph,
    ranges: Ranges,
    design: Design,
    stored: Mapping[Key, Stored],
    loss: Callable[[Formats], float] | None = None,
) -> Formats:
    """A format for every quantized place.

    Args:
        graph, ranges, design: what to quantize and how.
        stored: the network's parameters under the design's form of batch normalization.
        loss: error of the network under given formats; needed by rule ``loss``. Shared binary points start
            from ``mse`` and move one at a time while that lowers the error; where each tensor has its own,
            one share of activations that may not saturate is chosen for all, and ``max`` or ``mse`` for
            parameters.

    Raises:
        DesignError: a layer without a word length.
    """
    everything = list(sites(graph, ranges, design, stored))
    if design.binary_point.rule == "loss" and loss is None:
        raise ValueError("rule 'loss' needs a loss")
    if design.binary_point.scope in ("tensor", "channel"):
        if design.binary_point.rule != "loss" or loss is None:
            return _own_formats(everything, design, design)
        candidates = [
            _own_formats(everything, _ruled(design, rule), _ruled(design, "percentile", share))
            for rule in ("max", "mse")
            for share in _PERCENTILES
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
