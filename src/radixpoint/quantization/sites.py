"""The quantized places of a network: what is stored there, and what values it takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import MAX_FRACTION, Overflow, TensorFormat
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph, Layer
from radixpoint.measure.calibrate import Ranges, Statistics
from radixpoint.quantization.codes import ENTRY_BITS, Grid, codebook, operand_grid, weight_grid
from radixpoint.quantization.design import KINDS, Codes, Design, Kind

Key = tuple[str, str]
"""(layer, role): one quantized place."""
Formats = Mapping[Key, TensorFormat]


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
        if layer.row.never_negative(layer.attributes, found.issuperset(layer.inputs)):
            found.add(layer.name)
    return frozenset(found)


def folded_batch_norm(graph: Graph, layer: Layer, design: Design) -> Layer | None:
    """The batch normalization that ``design`` folds into this convolution, or None."""
    if design.batch_norm != "folded" or layer.op != "conv":
        return None
    consumers = graph.consumers(layer.name)
    if len(consumers) == 1 and consumers[0].op == "batch_norm" and layer.name not in graph.outputs:
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
    """A stored parameter.

    Attributes:
        held: its real values, in 32 bits where these hold them exactly, as most weights; a large network's
            take half as much memory then.
        statistics: of the values.
    """

    held: NDArray[np.float32] | NDArray[np.float64]
    statistics: Statistics

    @classmethod
    def of(cls, values: NDArray[np.float64]) -> Stored:
        """From real values."""
        short = values.astype(np.float32)
        return cls(short if np.array_equal(short, values) else values, Statistics.of(short))

    @property
    def values(self) -> NDArray[np.float64]:
        """The real values."""
        return self.held.astype(np.float64, copy=False)


def stored_parameters(graph: Graph, design: Design) -> dict[Key, Stored]:
    """Every parameter that is stored under the design's form of batch normalization."""
    return {
        (layer.name, role): Stored.of(values)
        for layer in graph.layers
        for role, values in _parameters(graph, layer, design).items()
    }


def _parameters(graph: Graph, layer: Layer, design: Design) -> dict[str, NDArray[np.float64]]:
    """Real values of what a layer stores, by role."""
    values = {role: graph.parameter(layer, role).astype(np.float64) for role in layer.parameters}
    if layer.family == "product":
        bn = folded_batch_norm(graph, layer, design)
        if bn is not None:
            scale, offset = affine_parameters(graph, bn)
            values["bias"] = offset + scale * values.get("bias", 0.0)
            values["weight"] = values["weight"] * scale[:, None, None, None]
        if design.codes.weights is not None and design.codes.weights.kind == "codebook":
            values["weight"] = codebook(values["weight"], 1 << design.width(layer.name, layer.op, "weights"))
        return values
    if layer.op != "batch_norm":
        return values
    if design.batch_norm == "staged":
        return {
            "negative_mean": -values["mean"],
            "reciprocal_deviation": 1 / np.sqrt(values["variance"] + layer.attributes["epsilon"]),
            "gamma": values["gamma"],
            "beta": values["beta"],
        }
    scale, offset = affine_parameters(graph, layer)
    return {"scale": scale, "offset": offset}


def real_weights(graph: Graph, design: Design) -> dict[str, NDArray[np.float64]]:
    """The weights of convolutions and fully connected layers before any code, folded if the design folds."""
    uncoded = replace(design, codes=Codes())
    products = (layer for layer in graph.layers if layer.family == "product")
    return {layer.name: _parameters(graph, layer, uncoded)["weight"] for layer in products}


def sites(graph: Graph, ranges: Ranges, design: Design, stored: Mapping[Key, Stored]) -> Iterator[Site]:
    """Every quantized place of the network under this design.

    The result and the bias of a convolution or fully connected layer have batch normalization's widths:
    that is where the classes meet.

    Raises:
        DesignError: a layer without a word length.
    """

    yield Site(
        (graph.input, "result"),
        "input",
        "activations",
        design.width(graph.input, "input", "activations"),
        ranges.tensors[graph.input],
        False,
    )
    unsigned = never_negative(graph) if design.unsigned else frozenset()
    folds = {layer.name: folded_batch_norm(graph, layer, design) for layer in graph.layers}
    folded = {bn.name for bn in folds.values() if bn is not None}
    for layer in graph.layers:
        if layer.name in folded:
            continue
        bn = folds[layer.name]
        seen = layer.name if bn is None else bn.name
        if design.overflow is not Overflow.WRAP:  # which would make large values of negative ones
            seen = graph.seen_by_reader(seen)
        feeds_bn = [c.op for c in graph.consumers(layer.name)] == ["batch_norm"] and bn is None
        feeds_bn = feeds_bn and layer.name not in graph.outputs
        for place in layer.row.places(design.batch_norm):
            key, signed, grid = (layer.name, place.role), True, None
            match place.values:
                case "stored" if key not in stored:
                    continue
                case "stored":
                    statistics = stored[key].statistics
                    if place.kind == "weights":
                        grid = weight_grid(design, layer.name, place.layer_class)
                case "input":
                    statistics = ranges.tensors[layer.inputs[0]]
                    signed = layer.inputs[0] not in unsigned
                    if layer.family == "product":
                        grid = operand_grid(design, layer.name, place.layer_class, signed)
                case "normalized":
                    statistics = ranges.normalized[layer.name]
                case "result":
                    statistics = ranges.tensors[seen]
            width = design.width(layer.name if place.single else "", place.layer_class, place.kind)
            if grid is not None:
                width = grid.word_length
            elif place.kind == "weights" and design.codes.weights is not None:
                width = ENTRY_BITS
            width = min(width, place.most)
            by_channel = place.by_channel == "always" or (place.by_channel != "never" and feeds_bn)
            yield Site(key, place.layer_class, place.kind, width, statistics, by_channel, signed, grid)


@dataclass(frozen=True, slots=True)
class Width:
    """Word length of a quantized place, which needs no statistics to be known.

    Attributes:
        layer: the layer.
        layer_class, kind: whose word length it is.
        bits: the word length.
        numbers: how many are stored there, of a parameter; else 0.
    """

    layer: str
    layer_class: str
    kind: Kind
    bits: int
    numbers: int = 0


def widths(graph: Graph, design: Design) -> Iterator[Width]:
    """Word length of every quantized place of the network under this design, before any work.

    Raises:
        DesignError: a layer without a word length.
    """
    yield Width(graph.input, "input", "activations", design.width(graph.input, "input", "activations"))
    folds = {layer.name: folded_batch_norm(graph, layer, design) for layer in graph.layers}
    folded = {bn.name for bn in folds.values() if bn is not None}
    for layer in graph.layers:
        if layer.name in folded:
            continue
        for place in layer.row.places(design.batch_norm):
            bits = min(
                design.width(layer.name if place.single else "", place.layer_class, place.kind), place.most
            )
            if place.values != "stored":
                yield Width(layer.name, place.layer_class, place.kind, bits)
                continue
            role = place.role
            if layer.op == "batch_norm":
                role = "gamma"  # of whatever form, there is one number a channel
            elif role == "bias" and folds[layer.name] is not None:
                yield Width(layer.name, place.layer_class, place.kind, bits, graph.shapes[layer.name][0])
                continue
            if role in layer.parameters:
                numbers = graph.parameter(layer, role).size
                yield Width(layer.name, place.layer_class, place.kind, bits, numbers)


def check_layers(graph: Graph, design: Design, everything: Iterable[Site]) -> None:
    """Check that every word length of a single layer has a place that takes it.

    Raises:
        DesignError: one that would change nothing.
    """
    taken = {(site.key[0], site.kind) for site in everything}
    if design.average_pool == "reciprocal":
        taken |= {(layer.name, "parameters") for layer in graph.layers if layer.op == "average_pool"}
    for name, widths in design.layers.items():
        for kind in KINDS:
            if getattr(widths, kind) is not None and (name, kind) not in taken:
                raise DesignError(
                    f"layer {name!r}: a word length for its {kind}, but it has none of its own with batch "
                    f"normalization {design.batch_norm} and average pooling by {design.average_pool}"
                )


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
