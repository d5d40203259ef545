"""THE table of operators.

Two levels, one row an operator. A ``LayerOp`` is what a network is made of; its ``lower`` writes it
as steps. A ``StepOp`` is exact integer arithmetic, save ``cast`` and ``divide``, which are the only
steps that round. Every step has a shape rule and a rule for the range of its result, from which
accumulator widths are proven. Normative text: ``docs/ops.md``; a test walks both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import cast, divide, limit
from radixpoint.arithmetic.formats import (
    MAX_DIVIDE_SHIFT,
    MAX_DIVIDEND,
    MAX_STORED,
    Overflow,
    Rounding,
    TensorFormat,
    smallest_format,
)
from radixpoint.arithmetic.functions import FUNCTIONS
from radixpoint.errors import GraphError
from radixpoint.ir.domains import MAX_POINTS, MAX_TABLE, check_padded, check_parameter_shape

Shape = tuple[int, ...]
Attributes = Mapping[str, Any]
Arrays = Mapping[str, NDArray[Any]]
Range = tuple[int, int]


# --------------------------------------------------------------------------------------- shape rules


def _window(shape: Shape, kernel: Sequence[int], attributes: Attributes, what: str) -> Shape:
    """Spatial extent after sliding a window: floor((in + pads - dilation*(k-1) - 1) / stride) + 1."""
    top, left, bottom, right = attributes["pads"]
    check_padded(shape, attributes["pads"])
    dilations = attributes.get("dilations", (1, 1))
    result = []
    for size, before, after, k, stride, dilation in zip(
        shape[1:], (top, left), (bottom, right), kernel, attributes["strides"], dilations, strict=True
    ):
        extent = size + before + after - dilation * (k - 1) - 1
        if extent < 0:
            raise GraphError(f"{what}: a window of {tuple(kernel)} does not fit an input of {shape}")
        result.append(extent // stride + 1)
    return tuple(result)


def _conv_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    (shape,), weight = inputs, parameters["weight"]
    if len(shape) != 3 or weight.ndim != 4:
        raise GraphError(f"conv: expected a 3-D input and 4-D weights, got {shape} and {weight.shape}")
    if shape[0] != weight.shape[1] * attributes["groups"] or weight.shape[0] % attributes["groups"]:
        raise GraphError(
            f"conv: weights {weight.shape} in {attributes['groups']} group(s) do not fit "
            f"{shape[0]} input channels"
        )
    return (weight.shape[0], *_window(shape, weight.shape[2:], attributes, "conv"))


def _dense_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    (shape,), weight = inputs, parameters["weight"]
    if len(shape) != 1 or weight.ndim != 2 or weight.shape[1] != shape[0]:
        raise GraphError(f"fully connected: weights {weight.shape} do not fit an input of {shape}")
    return (weight.shape[0],)


def _same_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    if any(shape != inputs[0] for shape in inputs):
        raise GraphError(f"inputs of different shapes: {', '.join(map(str, inputs))}")
    for role, value in parameters.items():
        check_parameter_shape(role, value.shape, inputs[0])
    return inputs[0]


def _lookup_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    return inputs[0]


def _function_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    expected = FUNCTIONS[attributes["function"]].numbers
    if len(attributes["numbers"]) != len(expected):
        raise GraphError(
            f"function {attributes['function']}: {len(attributes['numbers'])} numbers, expected "
            f"{len(expected)}: {', '.join(expected) or 'none'}"
        )
    return inputs[0]


def _channel_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    for name, value in parameters.items():
        if value.shape != inputs[0][:1]:
            raise GraphError(f"parameter {name!r} of shape {value.shape} does not fit {inputs[0]}")
    return inputs[0]


def _pool_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    if len(inputs[0]) != 3:
        raise GraphError(f"pooling: expected a 3-D input, got {inputs[0]}")
    (top, left, bottom, right), (height, width) = attributes["pads"], attributes["kernel"]
    if max(top, bottom) >= height or max(left, right) >= width:
        raise GraphError(f"pooling: pads {attributes['pads']} leave windows of {height}x{width} empty")
    return (inputs[0][0], *_window(inputs[0], attributes["kernel"], attributes, "pooling"))


def _flatten_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    return (math.prod(inputs[0]),)


def _concat_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    if any(shape[1:] != inputs[0][1:] or len(shape) != len(inputs[0]) for shape in inputs):
        raise GraphError(f"concat: inputs differ beyond the channel: {', '.join(map(str, inputs))}")
    return (sum(shape[0] for shape in inputs), *inputs[0][1:])


def _broadcast_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    a, b = inputs
    if len(a) != len(b) or any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        raise GraphError(f"shapes that do not fit: {a} and {b}: expected sizes that are equal or 1")
    return tuple(max(sizes) for sizes in zip(a, b, strict=True))


def _select_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    (shape,) = inputs
    chosen = [attributes[name] for name in SELECTED]
    if len(shape) == 1 and (chosen[1] or chosen[2]):
        raise GraphError(f"select: rows or columns of a tensor of {shape}")
    for size, indices in zip(shape, chosen, strict=False):
        if indices and max(indices) >= size:
            raise GraphError(f"select: index {max(indices)} of an axis of {size}")
    return tuple(len(i) or size for i, size in zip(chosen, shape, strict=False))


def _rearranged_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    split, order, shape = (attributes[name] for name in ("split", "order", "shape"))
    count = math.prod(inputs[0])
    if math.prod(split) != count or math.prod(shape) != count or sorted(order) != list(range(len(split))):
        raise GraphError(f"rearrange: {inputs[0]} split into {split}, in the order {order}, as {shape}")
    return tuple(shape)


def _image_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    if len(inputs[0]) != 3:
        raise GraphError(f"expected channels, height and width, got {inputs[0]}")
    return inputs[0]


def _interpolated_shape(attributes: Attributes, inputs: Sequence[Shape], parameters: Arrays) -> Shape:
    channels, *sizes = _image_shape(attributes, inputs, parameters)
    result = [channels]
    for size, name in zip(sizes, ("rows", "columns"), strict=True):
        places = attributes[name]
        if any(max(a, b) >= size or share > 1 << attributes["places"] for a, b, share in places):
            raise GraphError(f"interpolate: {name} beyond {size}, or a share beyond one")
        result.append(len(places))
    return tuple(result)


def pool_counts(shape: Shape, attributes: Attributes) -> NDArray[np.int64]:
    """Number of terms each output of an average pooling divides by, shape (1, height, width)."""
    top, left, bottom, right = attributes["pads"]
    inside = np.pad(np.ones(shape[1:], np.int64), ((top, bottom), (left, right)))
    if attributes["count_include_pad"]:
        inside[:] = 1
    windows = np.lib.stride_tricks.sliding_window_view(inside, attributes["kernel"])
    step_y, step_x = attributes["strides"]
    return np.asarray(windows[::step_y, ::step_x].sum((2, 3)), np.int64)[None]


# --------------------------------------------------------------------------------------------- steps

RangeRule = Callable[[Attributes, Sequence[Range], Arrays, "Alignment"], Range]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Left shifts that bring each operand of a step to its result's binary point, largest per operand."""

    inputs: tuple[int, ...]
    parameters: Mapping[str, int]


def _scaled(bounds: Range, places: int) -> Range:
    return bounds[0] << places, bounds[1] << places


def _product_sum_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    """Per output channel: sum of positive and of negative weights against the ends of the input.

    Every partial sum, in any order, lies within the same bounds, since each term may be 0.
    """
    low, high = min(inputs[0][0], 0), max(inputs[0][1], 0)
    weight = parameters["weight"].reshape(parameters["weight"].shape[0], -1)
    positive = np.maximum(weight, 0).sum(1).tolist()
    negative = np.minimum(weight, 0).sum(1).tolist()
    return (
        min(p * low + n * high for p, n in zip(positive, negative, strict=True)),
        max(p * high + n * low for p, n in zip(positive, negative, strict=True)),
    )


def _scale_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    factor = parameters["factor"]
    corners = [x * f for x in inputs[0] for f in (int(factor.min()), int(factor.max()))]
    return min(corners), max(corners)


def _offset_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    x = _aligned(inputs[0], alignment.inputs[0])
    value = parameters["value"]
    t = _aligned((int(value.min()), int(value.max())), alignment.parameters["value"])
    return x[0] + t[0], x[1] + t[1]


def _aligned(bounds: Range, most: int) -> Range:
    """Bounds after a left shift by 0..most places (channels may differ)."""
    shifted = _scaled(bounds, most)
    return min(bounds[0], shifted[0]), max(bounds[1], shifted[1])


def _add_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    ends = [_aligned(bounds, places) for bounds, places in zip(inputs, alignment.inputs, strict=True)]
    return sum(low for low, _ in ends), sum(high for _, high in ends)


def _sum_pool_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    terms = math.prod(attributes["kernel"])
    return terms * min(inputs[0][0], 0), terms * max(inputs[0][1], 0)


def _product_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    corners = [x * y for x in inputs[0] for y in inputs[1]]
    return min(corners), max(corners)


def _extreme_range(join: Callable[[int, int], int]) -> RangeRule:
    def bounds(
        attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
    ) -> Range:
        # channels may be aligned by less than the most
        ends = [_aligned(bounds, places) for bounds, places in zip(inputs, alignment.inputs, strict=True)]
        lows = [min(low, bounds[0]) for (low, _), bounds in zip(ends, inputs, strict=True)]
        highs = [max(high, bounds[1]) for (_, high), bounds in zip(ends, inputs, strict=True)]
        return join(*lows), join(*highs)

    return bounds


def _channel_sum_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    return attributes["size"] * min(inputs[0][0], 0), attributes["size"] * max(inputs[0][1], 0)


def _select_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    if any(-1 in attributes[name] for name in SELECTED):
        return min(inputs[0][0], attributes["fill"]), max(inputs[0][1], attributes["fill"])
    return inputs[0]


def _clamp_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    low, high = attributes["low"], attributes["high"]
    return min(max(inputs[0][0], low), high), min(max(inputs[0][1], low), high)


def _lookup_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    first, last = (end - attributes["first"] for end in inputs[0])
    table = parameters["table"]
    if table.ndim != 1 or len(table) > MAX_TABLE or first < 0 or last >= len(table):
        raise GraphError(f"lookup of {inputs[0][0]}..{inputs[0][1]} in a table of shape {table.shape}")
    seen = table[first : last + 1]
    return int(seen.min()), int(seen.max())


def _union_range(
    attributes: Attributes, inputs: Sequence[Range], parameters: Arrays, alignment: Alignment
) -> Range:
    return min(low for low, _ in inputs), max(high for _, high in inputs)


# ---- the range after a rounding

RoundedRule = Callable[[Attributes, TensorFormat, Range, Arrays, TensorFormat], Range]


def _cast_range(
    attributes: Attributes, source: TensorFormat, bounds: Range, parameters: Arrays, to: TensorFormat
) -> Range:
    rounding, overflow = Rounding(attributes["rounding"]), Overflow(attributes["overflow"])
    fractions = np.broadcast_arrays(np.array(source.fraction_lengths), np.array(to.fraction_lengths))
    stochastic = rounding is Rounding.STOCHASTIC
    results = cast(
        np.array(bounds, np.int64)[:, None],
        fractions[0][None],
        to.channel(0),
        Rounding.TRN if stochastic else rounding,
        overflow,
        to_fraction_length=fractions[1][None],
    )
    if stochastic:  # the floor, or one more
        results = np.concatenate([results, limit(results + 1, to.channel(0), overflow)])
    return int(results.min()), int(results.max())


def _divide_range(
    attributes: Attributes, source: TensorFormat, bounds: Range, parameters: Arrays, to: TensorFormat
) -> Range:
    rounding, divisor = Rounding(attributes["rounding"]), parameters["divisor"]
    if source.per_channel or to.per_channel:
        raise GraphError("divide: one binary point for all channels, please")
    if rounding is Rounding.STOCHASTIC:
        raise GraphError("divide: has no STOCHASTIC rounding")
    if divisor.min() < 1 or divisor.max() >= 1 << 31:
        raise GraphError(f"divide: divisors {divisor.min()}..{divisor.max()}, expected 1..2**31-1")
    shift = source.fraction_lengths[0] - to.fraction_lengths[0]
    largest = max(-bounds[0], bounds[1]) << max(-shift, 0)
    if abs(shift) > MAX_DIVIDE_SHIFT or largest >= 1 << MAX_DIVIDEND:
        raise GraphError(f"divide: {source} to {to} leaves 62 bits")
    both = np.array([int(divisor.min()), int(divisor.max())])
    ends = np.array(bounds, np.int64)[:, None]
    results = divide(ends, both, shift, to.channel(0), rounding, Overflow(attributes["overflow"]))
    return int(results.min()), int(results.max())


# ---- binary points of an exact result

Formats = Mapping[str, TensorFormat]
FractionRule = Callable[[Sequence[Shape], Sequence[TensorFormat], Formats], tuple[int, ...]]


def _broadcast(a: tuple[int, ...], b: tuple[int, ...], join: Callable[[int, int], int]) -> tuple[int, ...]:
    count = max(len(a), len(b))
    if any(len(x) not in (1, count) for x in (a, b)):
        raise GraphError(f"binary points for {len(a)} and for {len(b)} channels do not fit")
    a, b = (x if len(x) == count else x * count for x in (a, b))
    return tuple(join(x, y) for x, y in zip(a, b, strict=True))


def _kept_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    return inputs[0].fraction_lengths


def _product_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    (first,) = inputs
    if first.per_channel:
        raise GraphError("a sum of products: its input must have one binary point for all channels")
    return tuple(first.fraction_lengths[0] + f for f in parameters["weight"].fraction_lengths)


def _scale_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    return _broadcast(inputs[0].fraction_lengths, parameters["factor"].fraction_lengths, lambda x, y: x + y)


def _sum_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    first, second = (form.fraction_lengths for form in (*inputs, *parameters.values()))
    return _broadcast(first, second, max)


def _both_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    first, second = (form.fraction_lengths for form in inputs)
    return _broadcast(first, second, lambda x, y: x + y)


def _shared_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    if inputs[0].per_channel:
        raise GraphError("its input must have one binary point for all channels")
    return inputs[0].fraction_lengths


def _table_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    return parameters["table"].fraction_lengths


def _concat_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    first = inputs[0].fraction_lengths
    if any(form.fraction_lengths != first or form.per_channel for form in inputs):
        raise GraphError("concat: its inputs must share one binary point")
    return first


def _flatten_fractions(
    shapes: Sequence[Shape], inputs: Sequence[TensorFormat], parameters: Formats
) -> tuple[int, ...]:
    (shape,), (first,) = shapes, inputs
    if not first.per_channel:
        return first.fraction_lengths
    inner = math.prod(shape[1:])
    if inner * len(first.fraction_lengths) > MAX_POINTS:
        raise GraphError(f"flatten: {shape} with a binary point a channel: at most {MAX_POINTS:,} values")
    return tuple(f for f in first.fraction_lengths for _ in range(inner))


# ---- the format of an exact result

FormatRule = Callable[[Attributes, Range, tuple[int, ...], Sequence[TensorFormat], Formats], TensorFormat]


def _accumulator(
    attributes: Attributes,
    bounds: Range,
    fractions: tuple[int, ...],
    inputs: Sequence[TensorFormat],
    parameters: Formats,
) -> TensorFormat:
    """The narrowest signed one: accumulators are signed, whatever their range."""
    fixed = smallest_format(min(bounds[0], -1), bounds[1], 0)
    return TensorFormat(True, fixed.word_length, fractions)


def _kept(
    attributes: Attributes,
    bounds: Range,
    fractions: tuple[int, ...],
    inputs: Sequence[TensorFormat],
    parameters: Formats,
) -> TensorFormat:
    """That of the inputs, which they must share."""
    word, signed = max(f.word_length for f in inputs), any(f.signed for f in inputs)
    if any((f.word_length, f.signed) != (word, signed) for f in inputs):
        raise GraphError("its inputs must share one format")
    return TensorFormat(signed, word, fractions)


def _clamped(
    attributes: Attributes,
    bounds: Range,
    fractions: tuple[int, ...],
    inputs: Sequence[TensorFormat],
    parameters: Formats,
) -> TensorFormat:
    form = _kept(attributes, bounds, fractions, inputs, parameters)
    if not form.min <= attributes["low"] <= attributes["high"] <= form.max:
        raise GraphError(f"clamp to {attributes['low']}..{attributes['high']} in {form}")
    return form


def _filled(
    attributes: Attributes,
    bounds: Range,
    fractions: tuple[int, ...],
    inputs: Sequence[TensorFormat],
    parameters: Formats,
) -> TensorFormat:
    form = _kept(attributes, bounds, fractions, inputs, parameters)
    if not form.min <= attributes["fill"] <= form.max:
        raise GraphError(f"select: fill {attributes['fill']} in {form}")
    return form


def _tabled(
    attributes: Attributes,
    bounds: Range,
    fractions: tuple[int, ...],
    inputs: Sequence[TensorFormat],
    parameters: Formats,
) -> TensorFormat:
    return parameters["table"]


# ---- the rows

Family = Literal["product", "window", "elementwise", "layout", "table"]
"""``product``: sums of products with stored weights. ``window``: each result sees a window of its input.
``elementwise``: each result is made of the element at its own place. ``layout``: elements move, and none
changes. ``table``: each element is looked up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOp:
    """One integer operator, whole.

    Attributes:
        name: its name in an IntGraph.
        family: what it does to elements; engines and exports take families.
        attributes: names of its attributes.
        parameters: names of its integer parameters.
        arity: number of inputs, or None for one or more.
        shape: shape of the result from attributes, input shapes and parameters.
        bounds: range of the exact result; None for the steps that round.
        fractions: fraction lengths of the exact result.
        format: its format.
        rounded: range of the result of a step that rounds to a given format, unless it wraps; every other
            mode is monotone, so the ends decide.
        aligned: whether operands are shifted left to the binary point of the result.
        factor: role of the parameter, or number of the input, that elements are multiplied by, or None.
    """

    name: str
    family: Family
    attributes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    arity: int | None = 1
    shape: Callable[[Attributes, Sequence[Shape], Arrays], Shape]
    bounds: RangeRule | None = None
    fractions: FractionRule = _kept_fractions
    format: FormatRule = _accumulator
    rounded: RoundedRule | None = None
    aligned: bool = False
    factor: str | int | None = None

    @property
    def pointwise(self) -> bool:
        """Whether each element of the result is made of one element of its one input."""
        return self.family in ("elementwise", "table") and self.arity == 1

    @property
    def rounds(self) -> bool:
        """Whether it rounds, to a format that is given; else its result and format are exact."""
        return self.rounded is not None


SELECTED = ("channels", "rows", "columns")
"""Attributes of a ``select``, axis by axis."""
_WINDOWED = ("strides", "pads")
_CONVERTS = ("rounding", "overflow")


STEPS: dict[str, StepOp] = {
    row.name: row
    for row in (
        StepOp(
            name="cast",
            family="elementwise",
            attributes=(*_CONVERTS, "stream", "seed"),
            shape=_same_shape,
            rounded=_cast_range,
        ),
        StepOp(
            name="conv",
            family="product",
            attributes=(*_WINDOWED, "dilations", "groups"),
            parameters=("weight",),
            shape=_conv_shape,
            bounds=_product_sum_range,
            fractions=_product_fractions,
            factor="weight",
        ),
        StepOp(
            name="dense",
            family="product",
            parameters=("weight",),
            shape=_dense_shape,
            bounds=_product_sum_range,
            fractions=_product_fractions,
            factor="weight",
        ),
        StepOp(
            name="scale",
            family="elementwise",
            parameters=("factor",),
            shape=_same_shape,
            bounds=_scale_range,
            fractions=_scale_fractions,
            factor="factor",
        ),
        StepOp(
            name="offset",
            family="elementwise",
            parameters=("value",),
            shape=_same_shape,
            bounds=_offset_range,
            fractions=_sum_fractions,
            aligned=True,
        ),
        StepOp(
            name="add",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            bounds=_add_range,
            fractions=_sum_fractions,
            aligned=True,
        ),
        StepOp(
            name="multiply",
            family="elementwise",
            arity=2,
            shape=_broadcast_shape,
            bounds=_product_range,
            fractions=_both_fractions,
            factor=1,
        ),
        StepOp(
            name="maximum",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            bounds=_extreme_range(max),
            fractions=_sum_fractions,
            aligned=True,
        ),
        StepOp(
            name="minimum",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            bounds=_extreme_range(min),
            fractions=_sum_fractions,
            aligned=True,
        ),
        StepOp(
            name="clamp",
            family="elementwise",
            attributes=("low", "high"),
            shape=_same_shape,
            bounds=_clamp_range,
            format=_clamped,
        ),
        StepOp(
            name="lookup",
            family="table",
            attributes=("first",),
            parameters=("table",),
            shape=_lookup_shape,
            bounds=_lookup_range,
            fractions=_table_fractions,
            format=_tabled,
        ),
        StepOp(
            name="max_pool",
            family="window",
            attributes=("kernel", *_WINDOWED),
            shape=_pool_shape,
            bounds=_union_range,
            format=_kept,
        ),
        StepOp(
            name="sum_pool",
            family="window",
            attributes=("kernel", *_WINDOWED),
            shape=_pool_shape,
            bounds=_sum_pool_range,
        ),
        StepOp(
            name="sum_channels",
            family="window",
            attributes=("size",),
            shape=_image_shape,
            bounds=_channel_sum_range,
            fractions=_shared_fractions,
        ),
        StepOp(
            name="divide",
            family="elementwise",
            attributes=_CONVERTS,
            parameters=("divisor",),
            shape=_same_shape,
            rounded=_divide_range,
        ),
        StepOp(
            name="flatten",
            family="layout",
            shape=_flatten_shape,
            bounds=_union_range,
            fractions=_flatten_fractions,
            format=_kept,
        ),
        StepOp(
            name="concat",
            family="layout",
            arity=None,
            shape=_concat_shape,
            bounds=_union_range,
            fractions=_concat_fractions,
            format=_kept,
        ),
        StepOp(
            name="select",
            family="layout",
            attributes=(*SELECTED, "fill"),
            shape=_select_shape,
            bounds=_select_range,
            fractions=_shared_fractions,
            format=_filled,
        ),
        StepOp(
            name="rearrange",
            family="layout",
            attributes=("split", "order", "shape"),
            shape=_rearranged_shape,
            bounds=_union_range,
            fractions=_shared_fractions,
            format=_kept,
        ),
    )
}


# -------------------------------------------------------------------------------------------- layers


class LayerView(Protocol):
    """What a lowering may know of the layer it lowers."""

    @property
    def name(self) -> str: ...
    @property
    def attributes(self) -> Attributes: ...
    @property
    def parameters(self) -> Mapping[str, str]: ...


class Lowering(Protocol):
    """What a lowering may use to write steps. Tensors are named by strings."""

    batch_norm: str

    @property
    def rank(self) -> int:
        """Axes of the layer's result."""
        ...

    def input(self, index: int = 0) -> str:
        """The layer's input, in the format in which it exists."""
        ...

    def operand(self) -> str:
        """The layer's input, cast to the operand format of its layer class."""
        ...

    def step(
        self,
        op: str,
        inputs: Sequence[str],
        parameters: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> str:
        """Write an exact step; its format is proven."""
        ...

    def parameter(self, role: str) -> str:
        """The layer's stored parameter of that role."""
        ...

    def cast(self, tensor: str, role: str) -> str:
        """Cast to the format of that role of the layer."""
        ...

    def clamp(self, tensor: str, low: float, high: float) -> str:
        """Limit to real values low..high."""
        ...

    def average(self, tensor: str) -> str:
        """Divide sums by the number of terms, and cast to the result's format, with one rounding."""
        ...

    def tabulate(self, tensor: str) -> str:
        """Look up the layer's function, rounded once to the result's format."""
        ...

    def constant(self, role: str, values: NDArray[np.int64], fraction_length: int) -> str:
        """A parameter of stored integers that are the same in every design, in the format that just fits."""
        ...

    def nearest(self, tensor: str, value: float) -> int:
        """A real number in the format of ``tensor`` (RND, SAT)."""
        ...


def _lower_linear(step: str) -> Callable[[Lowering, LayerView], str]:
    def lower(to: Lowering, layer: LayerView) -> str:
        y = to.step(step, [to.operand()], {"weight": to.parameter("weight")}, layer.attributes)
        if "bias" in layer.parameters:
            y = to.step("offset", [y], {"value": to.parameter("bias")})
        return to.cast(y, "result")

    return lower


def _lower_batch_norm(to: Lowering, layer: LayerView) -> str:
    if to.batch_norm == "staged":
        centred = to.step("offset", [to.input()], {"value": to.parameter("negative_mean")})
        y = to.step("scale", [centred], {"factor": to.parameter("reciprocal_deviation")})
        y = to.cast(y, "normalized")
        y = to.step("scale", [y], {"factor": to.parameter("gamma")})
        y = to.step("offset", [y], {"value": to.parameter("beta")})
    else:
        y = to.step("scale", [to.input()], {"factor": to.parameter("scale")})
        y = to.step("offset", [y], {"value": to.parameter("offset")})
    return to.cast(y, "result")


def _lower_add(to: Lowering, layer: LayerView) -> str:
    return to.cast(to.step("add", [to.input(0), to.input(1)]), "result")


def _lower_concat(to: Lowering, layer: LayerView) -> str:
    count = layer.attributes["count"]
    return to.step("concat", [to.cast(to.input(i), "result") for i in range(count)])


def _lower_average_pool(to: Lowering, layer: LayerView) -> str:
    window = {name: layer.attributes[name] for name in ("kernel", *_WINDOWED)}
    return to.average(to.step("sum_pool", [to.input()], attributes=window))


def _lower_affine(to: Lowering, layer: LayerView) -> str:
    y = to.input()
    if "scale" in layer.parameters:
        y = to.step("scale", [y], {"factor": to.parameter("scale")})
    if "offset" in layer.parameters:
        y = to.step("offset", [y], {"value": to.parameter("offset")})
    return to.cast(y, "result")


def _lower_prelu(to: Lowering, layer: LayerView) -> str:
    positive = to.clamp(to.input(), 0.0, math.inf)
    negative = to.clamp(to.input(), -math.inf, 0.0)
    scaled = to.step("scale", [negative], {"factor": to.parameter("slope")})
    return to.cast(to.step("add", [positive, scaled]), "result")


def _lower_pair(step: str) -> Callable[[Lowering, LayerView], str]:
    return lambda to, layer: to.cast(to.step(step, [to.input(0), to.input(1)]), "result")


def _lower_subtract(to: Lowering, layer: LayerView) -> str:
    minus = to.constant("minus", np.full((1,) * to.rank, -1, np.int64), 0)
    negative = to.step("scale", [to.input(1)], {"factor": minus})
    return to.cast(to.step("add", [to.input(0), negative]), "result")


def _lower_square_sum(to: Lowering, layer: LayerView) -> str:
    square = to.step("multiply", [to.operand(), to.operand()])
    return to.cast(to.step("sum_channels", [square], attributes=layer.attributes), "result")


def _lower_select(to: Lowering, layer: LayerView) -> str:
    x = to.input()
    fill = to.nearest(x, layer.attributes["fill"])
    return to.step("select", [x], attributes={**layer.attributes, "fill": fill})


def _lower_interpolate(to: Lowering, layer: LayerView) -> str:
    """First along the rows, then along the columns, exactly: weights are multiples of a power of two."""
    y, places = to.input(), layer.attributes["places"]
    for axis, name in ((1, "rows"), (2, "columns")):
        triples = layer.attributes[name]
        shape = [1, 1, 1]
        shape[axis] = len(triples)
        shares = np.array([share for _, _, share in triples], np.int64).reshape(shape)
        nothing: dict[str, Any] = {"channels": (), "rows": (), "columns": (), "fill": 0}
        ends = [
            to.step("select", [y], attributes={**nothing, name: tuple(triple[i] for triple in triples)})
            for i in (0, 1)
        ]
        if not shares.any():
            y = ends[0]
            continue
        weights = (to.constant(f"{name}/first", (1 << places) - shares, places),
                   to.constant(f"{name}/second", shares, places))  # fmt: skip
        parts = [to.step("scale", [x], {"factor": w}) for x, w in zip(ends, weights, strict=True)]
        y = to.step("add", parts)
    return to.cast(y, "result")


# ---- where a layer is quantized

Kind = Literal["weights", "activations", "parameters"]


@dataclass(frozen=True, slots=True)
class Place:
    """One quantized place of a layer.

    Attributes:
        role: its name in the layer.
        kind: what is stored there.
        layer_class: whose word length it takes.
        values: where the values that it takes are seen: what the layer reads (``input``), its ``result``,
            batch normalization's ``normalized`` input, or what is ``stored``.
        by_channel: whether each channel may have a binary point: ``always``, ``never``, or only
            ``before batch_norm`` of which the layer is read alone.
        single: whether a word length for this layer alone replaces that of the class.
        most: bits that it has at most, whatever the design says.
    """

    role: str
    kind: Kind
    layer_class: str
    values: Literal["input", "result", "normalized", "stored"]
    by_channel: Literal["always", "never", "before batch_norm"] = "never"
    single: bool = True
    most: int = MAX_STORED


PlaceRule = Callable[[str], tuple[Place, ...]]
"""From the form of batch normalization to the places, in the order in which they are settled."""


def _no_places(form: str) -> tuple[Place, ...]:
    return ()


def _product_places(layer_class: str) -> PlaceRule:
    """Result and bias have batch normalization's widths: that is where the classes meet."""
    places = (
        Place("operand", "activations", layer_class, "input"),
        Place("weight", "weights", layer_class, "stored", "always"),
        Place("bias", "parameters", "bn", "stored", "always"),
        Place("result", "activations", "bn", "result", "before batch_norm", single=False),
    )
    return lambda form: places


def _batch_norm_places(form: str) -> tuple[Place, ...]:
    result = Place("result", "activations", "bn", "result")
    if form != "staged":
        roles = ("scale", "offset")
        return (*(Place(role, "parameters", "bn", "stored", "always") for role in roles), result)
    staged = ("negative_mean", "reciprocal_deviation", "gamma", "beta")
    return (
        *(Place(role, "parameters", "bn", "stored", "always") for role in staged),
        Place("normalized", "activations", "bn", "normalized", "always"),
        result,
    )


def _result_place(layer_class: str) -> PlaceRule:
    places = (Place("result", "activations", layer_class, "result"),)
    return lambda form: places


def _affine_places(form: str) -> tuple[Place, ...]:
    return (
        Place("scale", "parameters", "bn", "stored", "always"),
        Place("offset", "parameters", "bn", "stored", "always"),
        Place("result", "activations", "bn", "result"),
    )


def _prelu_places(form: str) -> tuple[Place, ...]:
    return (
        Place("slope", "parameters", "bn", "stored", "always"),
        Place("result", "activations", "bn", "result"),
    )


def _table_places(form: str) -> tuple[Place, ...]:
    """A table has an entry for every integer of its operand, which is no wider than a table may be."""
    most = MAX_TABLE.bit_length() - 1
    return (
        Place("operand", "activations", "table", "input", most=most),
        Place("result", "activations", "table", "result"),
    )


def _square_places(form: str) -> tuple[Place, ...]:
    return (
        Place("operand", "activations", "lrn", "input"),
        Place("result", "activations", "lrn", "result"),
    )


# ---- the rows

SignRule = Callable[[Attributes, bool], bool]
"""From attributes, and whether no input is ever negative, to whether no result is."""


def _any_sign(attributes: Attributes, inputs: bool) -> bool:
    return False


def _kept_sign(attributes: Attributes, inputs: bool) -> bool:
    return inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOp:
    """One operator of a network, whole.

    Attributes:
        name: its name in a Graph.
        family: what it does to elements.
        attributes: names of its attributes.
        parameters: names of its parameters; those in ``optional`` may be missing.
        optional: see there.
        arity: number of inputs, or None for one or more.
        shape: shape of the result from attributes, input shapes and parameters.
        layer_class: the class whose word lengths it takes; None if it keeps its input's format.
        lower: writes it as steps and returns the name of the result.
        places: where it is quantized.
        never_negative: whether its result is never negative.
        limits: whether it only limits values, so that what it cuts off needs no range before it.
    """

    name: str
    family: Family
    attributes: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    arity: int | None = 1
    shape: Callable[[Attributes, Sequence[Shape], Arrays], Shape]
    layer_class: str | None = None
    lower: Callable[[Lowering, LayerView], str]
    places: PlaceRule = _no_places
    never_negative: SignRule = _any_sign
    limits: bool = False


LAYERS: dict[str, LayerOp] = {
    row.name: row
    for row in (
        LayerOp(
            name="conv",
            family="product",
            attributes=(*_WINDOWED, "dilations", "groups"),
            parameters=("weight", "bias"),
            optional=("bias",),
            shape=_conv_shape,
            layer_class="conv",
            lower=_lower_linear("conv"),
            places=_product_places("conv"),
        ),
        LayerOp(
            name="fc",
            family="product",
            parameters=("weight", "bias"),
            optional=("bias",),
            shape=_dense_shape,
            layer_class="fc",
            lower=_lower_linear("dense"),
            places=_product_places("fc"),
        ),
        LayerOp(
            name="batch_norm",
            family="elementwise",
            attributes=("epsilon",),
            parameters=("gamma", "beta", "mean", "variance"),
            shape=_channel_shape,
            layer_class="bn",
            lower=_lower_batch_norm,
            places=_batch_norm_places,
        ),
        LayerOp(
            name="relu",
            family="elementwise",
            shape=_same_shape,
            lower=lambda to, layer: to.clamp(to.input(), 0.0, math.inf),
            never_negative=lambda attributes, inputs: True,
            limits=True,
        ),
        LayerOp(
            name="clip",
            family="elementwise",
            attributes=("low", "high"),
            shape=_same_shape,
            lower=lambda to, layer: to.clamp(to.input(), layer.attributes["low"], layer.attributes["high"]),
            never_negative=lambda attributes, inputs: bool(attributes["low"] >= 0),
            limits=True,
        ),
        LayerOp(
            name="add",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            layer_class="add",
            lower=_lower_add,
            places=_result_place("add"),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="affine",
            family="elementwise",
            parameters=("scale", "offset"),
            optional=("scale", "offset"),
            shape=_channel_shape,
            layer_class="bn",
            lower=_lower_affine,
            places=_affine_places,
        ),
        LayerOp(
            name="prelu",
            family="elementwise",
            parameters=("slope",),
            shape=_channel_shape,
            layer_class="bn",
            lower=_lower_prelu,
            places=_prelu_places,
        ),
        LayerOp(
            name="function",
            family="table",
            attributes=("function", "numbers"),
            shape=_function_shape,
            layer_class="table",
            lower=lambda to, layer: to.tabulate(to.operand()),
            places=_table_places,
            never_negative=lambda attributes, inputs: FUNCTIONS[attributes["function"]].never_negative,
        ),
        LayerOp(
            name="multiply",
            family="elementwise",
            arity=2,
            shape=_broadcast_shape,
            layer_class="mul",
            lower=_lower_pair("multiply"),
            places=_result_place("mul"),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="subtract",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            layer_class="add",
            lower=_lower_subtract,
            places=_result_place("add"),
        ),
        LayerOp(
            name="maximum",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            layer_class="add",
            lower=_lower_pair("maximum"),
            places=_result_place("add"),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="minimum",
            family="elementwise",
            arity=2,
            shape=_same_shape,
            layer_class="add",
            lower=_lower_pair("minimum"),
            places=_result_place("add"),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="square_sum",
            family="window",
            attributes=("size",),
            shape=_image_shape,
            layer_class="lrn",
            lower=_lower_square_sum,
            places=_square_places,
            never_negative=lambda attributes, inputs: True,
        ),
        LayerOp(
            name="select",
            family="layout",
            attributes=(*SELECTED, "fill"),
            shape=_select_shape,
            lower=_lower_select,
            never_negative=lambda attributes, inputs: inputs and attributes["fill"] >= 0,
        ),
        LayerOp(
            name="rearrange",
            family="layout",
            attributes=("split", "order", "shape"),
            shape=_rearranged_shape,
            lower=lambda to, layer: to.step("rearrange", [to.input()], attributes=layer.attributes),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="interpolate",
            family="window",
            attributes=("rows", "columns", "places"),
            shape=_interpolated_shape,
            layer_class="pool",
            lower=_lower_interpolate,
            places=_result_place("pool"),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="max_pool",
            family="window",
            attributes=("kernel", *_WINDOWED),
            shape=_pool_shape,
            lower=lambda to, layer: to.step("max_pool", [to.input()], attributes=layer.attributes),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="average_pool",
            family="window",
            attributes=("kernel", *_WINDOWED, "count_include_pad"),
            shape=_pool_shape,
            layer_class="pool",
            lower=_lower_average_pool,
            places=_result_place("pool"),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="flatten",
            family="layout",
            shape=_flatten_shape,
            lower=lambda to, layer: to.step("flatten", [to.input()]),
            never_negative=_kept_sign,
        ),
        LayerOp(
            name="concat",
            family="layout",
            attributes=("count",),
            arity=None,
            shape=_concat_shape,
            layer_class="add",
            lower=_lower_concat,
            places=_result_place("add"),
            never_negative=_kept_sign,
        ),
    )
}
