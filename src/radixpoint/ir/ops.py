"""THE table of operators.

Two levels, one row an operator. A :class:`LayerOp` is what a network is made of; its ``lower`` writes it
as steps. A :class:`StepOp` is exact integer arithmetic, save ``cast`` and ``divide``, which are the only
steps that round. Every step has a shape rule and a rule for the range of its result, from which
accumulator widths are proven. Normative text: ``docs/ops.md``; a test walks both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import GraphError
from radixpoint.ir.domains import MAX_TABLE, check_padded, check_parameter_shape

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


@dataclass(frozen=True, slots=True)
class StepOp:
    """One integer operator.

    Attributes:
        name: its name in an IntGraph.
        attributes: names of its attributes.
        parameters: names of its integer parameters.
        arity: number of inputs, or None for one or more.
        shape: shape of the result from attributes, input shapes and parameters.
        bounds: range of the exact result; None for the steps that round (their target bounds them).
    """

    name: str
    attributes: tuple[str, ...]
    parameters: tuple[str, ...]
    arity: int | None
    shape: Callable[[Attributes, Sequence[Shape], Arrays], Shape]
    bounds: RangeRule | None


_WINDOWED = ("strides", "pads")

STEPS: Mapping[str, StepOp] = {
    row.name: row
    for row in (
        StepOp("cast", ("rounding", "overflow", "stream", "seed"), (), 1, _same_shape, None),
        StepOp("conv", (*_WINDOWED, "dilations", "groups"), ("weight",), 1, _conv_shape, _product_sum_range),
        StepOp("dense", (), ("weight",), 1, _dense_shape, _product_sum_range),
        StepOp("scale", (), ("factor",), 1, _same_shape, _scale_range),
        StepOp("offset", (), ("value",), 1, _same_shape, _offset_range),
        StepOp("add", (), (), 2, _same_shape, _add_range),
        StepOp("clamp", ("low", "high"), (), 1, _same_shape, _clamp_range),
        StepOp("lookup", ("first",), ("table",), 1, _lookup_shape, _lookup_range),
        StepOp("max_pool", ("kernel", *_WINDOWED), (), 1, _pool_shape, _union_range),
        StepOp("sum_pool", ("kernel", *_WINDOWED), (), 1, _pool_shape, _sum_pool_range),
        StepOp("divide", ("rounding", "overflow"), ("divisor",), 1, _same_shape, None),
        StepOp("flatten", (), (), 1, _flatten_shape, _union_range),
        StepOp("concat", (), (), None, _concat_shape, _union_range),
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


@dataclass(frozen=True, slots=True)
class LayerOp:
    """One operator of a network.

    Attributes:
        name: its name in a Graph.
        attributes: names of its attributes.
        parameters: names of its parameters; those in ``optional`` may be missing.
        arity: number of inputs, or None for one or more.
        shape: shape of the result from attributes, input shapes and parameters.
        layer_class: the class whose word lengths it takes; None if it keeps its input's format.
        lower: writes it as steps and returns the name of the result.
    """

    name: str
    attributes: tuple[str, ...]
    parameters: tuple[str, ...]
    optional: tuple[str, ...]
    arity: int | None
    shape: Callable[[Attributes, Sequence[Shape], Arrays], Shape]
    layer_class: str | None
    lower: Callable[[Lowering, LayerView], str]


LAYERS: Mapping[str, LayerOp] = {
    row.name: row
    for row in (
        LayerOp(
            "conv",
            (*_WINDOWED, "dilations", "groups"),
            ("weight", "bias"),
            ("bias",),
            1,
            _conv_shape,
            "conv",
            _lower_linear("conv"),
        ),
        LayerOp("fc", (), ("weight", "bias"), ("bias",), 1, _dense_shape, "fc", _lower_linear("dense")),
        LayerOp(
            "batch_norm",
            ("epsilon",),
            ("gamma", "beta", "mean", "variance"),
            (),
            1,
            _channel_shape,
            "bn",
            _lower_batch_norm,
        ),
        LayerOp(
            "relu",
            (),
            (),
            (),
            1,
            _same_shape,
            None,
            lambda to, layer: to.clamp(to.input(), 0.0, math.inf),
        ),
        LayerOp(
            "clip",
            ("low", "high"),
            (),
            (),
            1,
            _same_shape,
            None,
            lambda to, layer: to.clamp(to.input(), layer.attributes["low"], layer.attributes["high"]),
        ),
        LayerOp("add", (), (), (), 2, _same_shape, "add", _lower_add),
        LayerOp(
            "max_pool",
            ("kernel", *_WINDOWED),
            (),
            (),
            1,
            _pool_shape,
            None,
            lambda to, layer: to.step("max_pool", [to.input()], attributes=layer.attributes),
        ),
        LayerOp(
            "average_pool",
            ("kernel", *_WINDOWED, "count_include_pad"),
            (),
            (),
            1,
            _pool_shape,
            "pool",
            _lower_average_pool,
        ),
        LayerOp(
            "flatten",
            (),
            (),
            (),
            1,
            _flatten_shape,
            None,
            lambda to, layer: to.step("flatten", [to.input()]),
        ),
        LayerOp("concat", ("count",), (), (), None, _concat_shape, "add", _lower_concat),
    )
}
