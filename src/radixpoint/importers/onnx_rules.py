"""What each operator of ONNX becomes; ``docs/importing.md`` lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.importers.builder import Builder, Refused, View, padded_indices
from radixpoint.importers.onnx_node import Node
from radixpoint.importers.sampling import linear_places, nearest_places
from radixpoint.ir.ops import Shape


class Importer(Protocol):
    """What rules may use of the importer."""

    build: Builder
    batch: int
    opset: int
    constants: Any
    views: dict[str, View]
    sequences: dict[str, list[View]]

    def constant(self, node: Node, index: int, what: str) -> NDArray[Any]: ...
    def view(self, node: Node, index: int = 0) -> View: ...
    def with_bias(self, node: Node, view: View, bias: NDArray[Any]) -> bool: ...


Rule = Callable[[Importer, Node], list[View]]
FINAL = ("Softmax", "LogSoftmax", "ArgMax", "Hardmax")
"""What may end a network and is left out: classes are judged by the scores before."""
RESCALING = ("Add", "Sub", "Mul", "Div", "Neg", "Clip", "Cast", "Identity", "Pad", "Slice", "Gather")
"""What may stand between a channels-last image and its Transpose: axes stay where they are."""
PASSES_FINAL = (*FINAL, "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Dropout")


def _axis(node: Node, rank: int, default: int) -> int:
    """The number of an axis, without the batch.

    Raises:
        Refused: it is the batch.
    """
    return _image_axis(int(node.get("axis", default)), rank)


def _image_axis(axis: int, rank: int) -> int:
    own = axis + rank + 1 if axis < 0 else axis
    if not 1 <= own <= rank:
        raise Refused(f"axis {axis} of a tensor of {rank + 1} axes: expected one of an image's")
    return own - 1


def _whole_numbers(array: NDArray[Any]) -> list[int]:
    return [int(v) for v in np.reshape(array, -1)]


# ------------------------------------------------------------------------------------------ windows


def _spatial(view: View) -> int:
    axes = len(view.shape) - 1
    if axes not in (1, 2):
        raise Refused(f"images of {axes} spatial axes: expected one or two")
    return axes


def _two(values: Sequence[int], axes: int, fill: int) -> tuple[int, int]:
    """Of rows and columns; a one-dimensional image has one row."""
    if len(values) != axes:
        raise Refused(f"{tuple(values)}: expected {axes} numbers")
    return (fill, values[0]) if axes == 1 else (values[0], values[1])


def _window(
    node: Node, view: View, kernel: Sequence[int]
) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int, int, int], tuple[int, int]]:
    """Kernel, strides, pads (top, left, bottom, right), dilations."""
    axes = _spatial(view)
    kernel = _two(kernel, axes, 1)
    strides = _two(node.ints("strides", (1,) * axes), axes, 1)
    dilations = _two(node.ints("dilations", (1,) * axes), axes, 1)
    if min(*kernel, *strides, *dilations) < 1:
        raise Refused(
            f"a window of {kernel}, strides {strides}, dilations {dilations}: expected two of each, from 1"
        )
    sizes = (1, view.shape[1]) if axes == 1 else view.shape[1:]
    auto = node.get("auto_pad", "NOTSET")
    if auto == "VALID":
        return kernel, strides, (0, 0, 0, 0), dilations
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        befores, afters = [], []
        for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
            total = max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
            befores.append(total // 2 if auto == "SAME_UPPER" else total - total // 2)
            afters.append(total - befores[-1])
        return kernel, strides, (befores[0], befores[1], afters[0], afters[1]), dilations
    if auto != "NOTSET":
        raise Refused(f"auto_pad {auto!r}")
    pads = node.ints("pads", (0,) * (2 * axes))
    if len(pads) != 2 * axes or min(pads) < 0:
        raise Refused(f"pads {pads}: expected {2 * axes}, from 0 (a negative one would crop)")
    if axes == 1:
        pads = (0, pads[0], 0, pads[1])
    return kernel, strides, (pads[0], pads[1], pads[2], pads[3]), dilations


def _four(weight: NDArray[Any], axes: int) -> NDArray[Any]:
    """Weights of a convolution with two spatial axes."""
    if weight.ndim != axes + 2:
        raise Refused(f"weights of {weight.shape} for images of {axes} spatial axes")
    return weight[:, :, None] if axes == 1 else weight


def _conv(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    axes, weight = _spatial(view), to.constant(node, 1, "weight")
    if node.ints("kernel_shape", weight.shape[2:]) != weight.shape[2:]:
        raise Refused(f"kernel_shape {node.ints('kernel_shape', ())} with weights {weight.shape}")
    _, strides, pads, dilations = _window(node, view, weight.shape[2:])
    bias = None
    if node.given(2):
        bias = to.constant(node, 2, "bias")
        if bias.shape != weight.shape[:1]:
            raise Refused(f"a bias of shape {bias.shape}: expected {weight.shape[:1]}")
    attributes = {"strides": strides, "pads": pads, "dilations": dilations,
                  "groups": int(node.get("group", 1))}  # fmt: skip
    return [to.build.conv(view, _four(weight, axes), bias, attributes, axes)]


def _conv_transpose(to: Importer, node: Node) -> list[View]:
    view, weight = to.view(node), to.constant(node, 1, "weight")
    axes, groups = _spatial(view), int(node.get("group", 1))
    if node.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or "output_shape" in node.attributes:
        raise Refused("auto_pad or output_shape: expected explicit pads")
    _, strides, pads, dilations = _window(node, view, weight.shape[2:])
    more = _two(node.ints("output_padding", (0,) * axes), axes, 0)
    if weight.shape[0] != view.shape[0] or view.shape[0] % groups:
        raise Refused(
            f"weights {weight.shape} in {groups} group(s) do not fit {view.shape[0]} input channels"
        )
    bias = to.constant(node, 2, "bias") if node.given(2) else None
    full = _four(weight, axes)
    return [to.build.transposed_conv(view, full, bias, strides, pads, dilations, groups, more, axes)]


def _pool(kind: str) -> Rule:
    def rule(to: Importer, node: Node) -> list[View]:
        view = to.view(node)
        kernel, strides, pads, dilations = _window(node, view, node.ints("kernel_shape", ()))
        several = len(list(filter(None, node.outputs))) > 1
        if dilations != (1, 1) or node.get("storage_order", 0) or several:
            raise Refused("dilation, column order or indices")
        made = to.build.windowed(
            view, kind, kernel, strides, pads, bool(node.get("ceil_mode", 0)),
            bool(node.get("count_include_pad", 0)), _spatial(view),
        )  # fmt: skip
        return [made]

    return rule


def _global_pool(kind: str) -> Rule:
    def rule(to: Importer, node: Node) -> list[View]:
        view = to.view(node)
        return [to.build.reduced(view, kind, range(1, len(view.shape)), True)]

    return rule


def _reduce(kind: str) -> Rule:
    def rule(to: Importer, node: Node) -> list[View]:
        view = to.view(node)
        axes = node.get("axes", None)
        if node.given(1):
            axes = _whole_numbers(to.constant(node, 1, "axes"))
        if not axes and node.get("noop_with_empty_axes", 0):
            return [view]
        if not axes:
            raise Refused("over the batch: expected the axes of an image")
        over = [_image_axis(int(a), len(view.shape)) for a in axes]
        result = to.build.reduced(
            view, "max" if kind == "max" else "average", over, bool(node.get("keepdims", 1))
        )
        if kind == "sum":
            result = to.build.affine(result, scale=np.array(float(math.prod(view.shape[a] for a in over))))
        return [result]

    return rule


def _batch_norm(to: Importer, node: Node) -> list[View]:
    several = len(list(filter(None, node.outputs))) > 1
    if node.get("training_mode", 0) or not node.get("spatial", 1) or several:
        raise Refused("training mode, or statistics of each place")
    view, roles = to.view(node), ("gamma", "beta", "mean", "variance")
    arrays = {role: to.constant(node, i + 1, role) for i, role in enumerate(roles)}
    for role, value in arrays.items():
        if value.shape != view.shape[:1]:
            raise Refused(f"{role} of shape {value.shape}: expected {view.shape[:1]}")
    return [to.build.by_channel(view, "batch_norm", arrays, {"epsilon": float(node.get("epsilon", 1e-5))})]


def _lrn(to: Importer, node: Node) -> list[View]:
    beta, bias = float(node.get("beta", 0.75)), float(node.get("bias", 1.0))
    return [to.build.lrn(to.view(node), int(node.get("size", 0)), float(node.get("alpha", 1e-4)), beta, bias)]


# ------------------------------------------------------------------------------------- elementwise


def _function(name: str, *numbers: tuple[str, float]) -> Rule:
    def rule(to: Importer, node: Node) -> list[View]:
        values = [float(node.get(key, default)) for key, default in numbers]
        return [to.build.function(to.view(node), name, *values)]

    return rule


def _gelu(to: Importer, node: Node) -> list[View]:
    exact = node.get("approximate", "none") == "none"
    return [to.build.function(to.view(node), "gelu" if exact else "gelu_tanh")]


def _swish(to: Importer, node: Node) -> list[View]:
    if node.get("alpha", 1.0) != 1.0:
        raise Refused(f"alpha {node.get('alpha', 1.0)}: expected 1")
    return [to.build.function(to.view(node), "silu")]


def _clip(to: Importer, node: Node) -> list[View]:
    limits = [float(node.get("min", -np.inf)), float(node.get("max", np.inf))]
    for index in (1, 2):
        if node.given(index):
            limit = to.constant(node, index, "limit")
            if limit.size != 1:
                raise Refused(f"a limit of shape {limit.shape}: expected one number")
            limits[index - 1] = float(limit.reshape(()))
    return [to.build.unary(to.view(node), "clip", {"low": limits[0], "high": limits[1]})]


def _leaky_relu(to: Importer, node: Node) -> list[View]:
    slope = np.array([float(node.get("alpha", 0.01))])
    return [to.build.by_channel(to.view(node), "prelu", {"slope": slope})]


def _prelu(to: Importer, node: Node) -> list[View]:
    view, slope = to.view(node), to.constant(node, 1, "slope")
    own = (1,) * (len(view.shape) - slope.ndim) + slope.shape
    own = own[1:] if len(own) > len(view.shape) and own[0] == 1 else own  # of the batch
    if own not in ((1,) * len(view.shape), (view.shape[0], *[1] * (len(view.shape) - 1))):
        raise Refused(f"slopes of shape {slope.shape}: expected one, or one a channel")
    return [to.build.by_channel(view, "prelu", {"slope": slope.reshape(-1)})]


def _operands(to: Importer, node: Node) -> tuple[View | None, View | None, Any, Any]:
    """Both operands: as views, and as constants."""
    if len(node.inputs) != 2:
        raise Refused(f"{len(node.inputs)} operands: expected two")
    views = [to.views.get(name) for name in node.inputs]
    constants = [to.constants.get(name) for name in node.inputs]
    if node.get("broadcast", 0) and node.get("axis", None) is not None and constants[1] is not None:
        view = views[0]  # as up to opset 6
        if view is not None:
            behind = len(view.shape) + 1 - int(node.get("axis", 0)) - constants[1].ndim
            constants[1] = constants[1].reshape(*constants[1].shape, *[1] * behind)
    return views[0], views[1], constants[0], constants[1]


def _add(to: Importer, node: Node) -> list[View]:
    a, b, c, d = _operands(to, node)
    if a is not None and b is not None:
        return [to.build.binary("add", a, b)]
    view, constant = (a, d) if a is not None else (b, c)
    assert view is not None
    if to.with_bias(node, view, constant):
        return [view]
    return [to.build.affine(view, offset=constant)]


def _subtract(to: Importer, node: Node) -> list[View]:
    a, b, c, d = _operands(to, node)
    if a is not None and b is not None:
        return [to.build.binary("subtract", a, b)]
    if a is not None:
        return [to.build.affine(a, offset=-d)]
    assert b is not None
    return [to.build.affine(b, np.array(-1.0), c)]


def _multiply(to: Importer, node: Node) -> list[View]:
    a, b, c, d = _operands(to, node)
    if a is not None and b is not None:
        return [to.build.multiply(a, b)]
    view, constant = (a, d) if a is not None else (b, c)
    assert view is not None
    return [to.build.affine(view, scale=constant)]


def _divide(to: Importer, node: Node) -> list[View]:
    a, b, c, d = _operands(to, node)
    if b is None:
        assert a is not None
        if not np.all(d):
            raise Refused("a division by 0")
        return [to.build.affine(a, scale=1 / np.asarray(d, np.float64))]
    inverse = to.build.function(b, "reciprocal")
    return [to.build.multiply(a, inverse) if a is not None else to.build.affine(inverse, scale=c)]


def _extreme(op: str) -> Rule:
    def rule(to: Importer, node: Node) -> list[View]:
        result: View | None = None
        limit: float | None = None
        join = max if op == "maximum" else min
        for name in node.inputs:
            if name in to.constants:
                if to.constants[name].size != 1:
                    raise Refused("a constant that differs from place to place")
                value = float(to.constants[name].reshape(()))
                limit = value if limit is None else join(limit, value)
            else:
                own = to.views[name]
                result = own if result is None else to.build.binary(op, result, own)
        assert result is not None
        if limit is not None:
            low, high = (limit, math.inf) if op == "maximum" else (-math.inf, limit)
            zero = low == 0 and high == math.inf
            result = to.build.unary(result, "relu" if zero else "clip",
                                    {} if zero else {"low": low, "high": high})  # fmt: skip
        return [result]

    return rule


def _sum(to: Importer, node: Node) -> list[View]:
    if any(name in to.constants for name in node.inputs):
        raise Refused("a constant among its operands")
    result = reduce(lambda a, b: to.build.binary("add", a, b), [to.views[name] for name in node.inputs])
    if node.op == "Mean":
        result = to.build.affine(result, scale=np.array(1 / len(node.inputs)))
    return [result]


def _power(to: Importer, node: Node) -> list[View]:
    exponent = to.constant(node, 1, "exponent")
    if exponent.size != 1:
        raise Refused(f"exponents of shape {exponent.shape}: expected one number")
    view, value = to.view(node), float(exponent.reshape(()))
    if value == 1:
        return [view]
    return [to.build.function(view, "power", 1.0, 0.0, value)]


# -------------------------------------------------------------------------------------- products


def _gemm(to: Importer, node: Node) -> list[View]:
    if node.get("transA", 0):
        raise Refused("transA: expected features of each image")
    weight = to.constant(node, 1, "weight")
    if weight.ndim != 2 or len(to.view(node).shape) != 1:
        raise Refused("only a vector of features by a matrix")
    weight = (weight if node.get("transB", 0) else weight.T) * np.float32(node.get("alpha", 1.0))
    bias = None
    if node.given(2) and node.get("beta", 1.0) != 0:
        bias, outputs = to.constant(node, 2, "bias"), weight.shape[:1]
        if bias.shape not in ((), (1,), (1, 1), outputs, (1, *outputs)):
            raise Refused(f"a bias of shape {bias.shape}: expected {outputs}")
        bias = np.broadcast_to(bias.reshape(-1), outputs) * np.float32(node.get("beta", 1.0))
    return [to.build.linear(to.view(node), weight, bias)]


def _matmul(to: Importer, node: Node) -> list[View]:
    if node.inputs[0] in to.constants:
        raise Refused("a constant on the left")
    weight = to.constant(node, 1, "right operand")
    if weight.ndim != 2:
        raise Refused(f"a right operand of shape {weight.shape}: expected a matrix")
    return [to.build.linear(to.view(node), weight.T)]


def _einsum(to: Importer, node: Node) -> list[View]:
    equation = str(node.get("equation", "")).replace(" ", "")
    places = [i for i, name in enumerate(node.inputs) if name in to.views]
    if len(node.inputs) != 2 or len(places) != 1 or "->" not in equation or "." in equation:
        raise Refused(f"{equation}: expected a tensor and a matrix")
    sides, result = equation.split("->")
    names = sides.split(",")
    own, other = names[places[0]], names[1 - places[0]]
    weight = to.constant(node, 1 - places[0], "matrix")
    view = to.view(node, places[0])
    shared = [c for c in own if c in other and c not in result]
    new = [c for c in other if c not in own]
    if len(other) != 2 or len(shared) != 1 or len(new) != 1 or own[0] != result[:1]:
        raise Refused(f"{equation}: expected a product over one axis of an image and one of a matrix")
    if sorted(result) != sorted((set(own) - set(shared)) | set(new)):
        raise Refused(f"{equation}: expected each other axis once")
    axis = own.index(shared[0]) - 1
    matrix = weight if other.index(new[0]) == 0 else weight.T
    moved = [i for i in range(len(own) - 1) if i != axis]
    made = to.build.linear(view.permuted([*moved, axis]), matrix)
    have = [c for c in own[1:] if c != shared[0]] + new
    return [made.permuted([have.index(c) for c in result[1:]])]


# ---------------------------------------------------------------------------------------- moving


def _flatten(to: Importer, node: Node) -> list[View]:
    view, axis = to.view(node), node.get("axis", 1)
    if axis % (len(view.shape) + 1) != 1:
        raise Refused("only flattening to (batch, features)")
    return [to.build.reshaped(view, (math.prod(view.shape),))]


def _reshape(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    asked = _whole_numbers(to.constant(node, 1, "shape")) if node.given(1) else list(node.ints("shape", ()))
    whole, zero_is_zero = (to.batch, *view.shape), bool(node.get("allowzero", 0))
    if not zero_is_zero:
        asked = [whole[i] if size == 0 and i < len(whole) else size for i, size in enumerate(asked)]
    if asked.count(-1) == 1:
        known = math.prod(size for size in asked if size != -1)
        if known <= 0 or math.prod(whole) % known:
            raise Refused(f"{whole} reshaped to {tuple(asked)}")
        asked[asked.index(-1)] = math.prod(whole) // known
    if not asked or min(asked) < 1:
        raise Refused(f"{whole} reshaped to {tuple(asked)}")
    if asked[0] != to.batch or math.prod(asked) != math.prod(whole):
        raise Refused(f"{whole} reshaped to {tuple(asked)}: expected one row for each image")
    return [to.build.reshaped(view, tuple(asked[1:]))]


def _squeezed_axes(to: Importer, node: Node, rank: int) -> list[int] | None:
    if node.given(1):
        axes = _whole_numbers(to.constant(node, 1, "axes"))
    elif node.get("axes", None) is not None:
        axes = [int(a) for a in node.get("axes", None)]
    else:
        return None
    return [a + rank if a < 0 else a for a in axes]


def _squeeze(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    axes = _squeezed_axes(to, node, len(view.shape) + 1)
    gone = [i for i, s in enumerate(view.shape) if s == 1] if axes is None else [a - 1 for a in axes]
    if any(i < 0 or i >= len(view.shape) or view.shape[i] != 1 for i in gone):
        raise Refused(f"axes {axes} of a tensor of {view.shape}: expected axes of size 1, not the batch")
    return [View(view.name, view.factors, tuple(a for i, a in enumerate(view.axes) if i not in gone))]


def _unsqueeze(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    given = _squeezed_axes(to, node, 0) or []
    rank = len(view.shape) + 1 + len(given)
    axes = sorted(a % rank for a in given)
    if 0 in axes:
        raise Refused("an axis before the batch")
    own = list(view.axes)
    for axis in axes:
        own.insert(axis - 1, ())
    return [View(view.name, view.factors, tuple(own))]


def _transpose(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    rank = len(view.shape) + 1
    order = node.ints("perm", tuple(reversed(range(rank))))
    if sorted(order) != list(range(rank)) or order[0] != 0:
        raise Refused(f"axes in the order {order}: expected the batch first")
    return [view.permuted([i - 1 for i in order[1:]])]


def _slice(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    rank = len(view.shape) + 1
    if node.given(1):
        starts, ends = (_whole_numbers(to.constant(node, i, "bounds")) for i in (1, 2))
        axes = _whole_numbers(to.constant(node, 3, "axes")) if node.given(3) else list(range(len(starts)))
        steps = _whole_numbers(to.constant(node, 4, "steps")) if node.given(4) else [1] * len(starts)
    else:
        starts, ends = list(node.ints("starts", ())), list(node.ints("ends", ()))
        axes, steps = list(node.ints("axes", tuple(range(len(starts))))), [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        own = axis % rank
        size = to.batch if own == 0 else view.shape[own - 1]
        indices = range(size)[slice(start, end if step > 0 or end >= -size else None, step)]
        if own == 0:
            if indices != range(size):
                raise Refused("part of the batch")
            continue
        if not indices:
            raise Refused(f"nothing of axis {axis}")
        view = to.build.along(view, own - 1, indices)
    return [view]


def _split(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    axis = _axis(node, len(view.shape), 0)
    size, count = view.shape[axis], len(node.outputs)
    if node.given(1):
        sizes = _whole_numbers(to.constant(node, 1, "sizes"))
    else:
        each = -(-size // count)
        sizes = list(node.ints("split", ())) or [min(each, size - each * i) for i in range(count)]
    if sum(sizes) != size or min(sizes) < 1 or len(sizes) != count:
        raise Refused(f"{size} split into {sizes}")
    return _parts(to, view, axis, sizes)


def _parts(to: Importer, view: View, axis: int, sizes: Sequence[int]) -> list[View]:
    ends = np.cumsum(sizes).tolist()
    return [to.build.along(view, axis, range(end - own, end)) for own, end in zip(sizes, ends, strict=True)]


def _split_to_sequence(to: Importer, node: Node) -> list[View]:
    """A sequence of parts, as torch's exporter writes ``chunk``: nothing is computed until one is taken."""
    view = to.view(node)
    axis = _axis(node, len(view.shape), 0)
    size, given = view.shape[axis], node.given(1)
    asked = to.constant(node, 1, "sizes") if given else np.array(1)
    sizes = _whole_numbers(asked)
    if asked.ndim == 0:
        if sizes[0] < 1:
            raise Refused(f"{size} split into parts of {sizes[0]}")
        sizes = [min(sizes[0], size - begin) for begin in range(0, size, sizes[0])]
    if sum(sizes) != size or min(sizes) < 1:
        raise Refused(f"{size} split into {sizes}")
    parts = _parts(to, view, axis, sizes)
    if not given and not node.get("keepdims", 1):
        parts = [_without(part, axis) for part in parts]
    to.sequences[node.outputs[0]] = parts
    return []


def _sequence(to: Importer, node: Node) -> list[View]:
    if node.inputs[0] not in to.sequences:
        raise Refused("a sequence that is not made of parts of one tensor, or of tensors that are known")
    return to.sequences[node.inputs[0]]


def _sequence_at(to: Importer, node: Node) -> list[View]:
    parts, at = _sequence(to, node), to.constant(node, 1, "position")
    (place,) = _whole_numbers(at)
    if not -len(parts) <= place < len(parts):
        raise Refused(f"position {place} of a sequence of {len(parts)}")
    return [parts[place]]


def _sequence_construct(to: Importer, node: Node) -> list[View]:
    to.sequences[node.outputs[0]] = [to.view(node, index) for index in range(len(node.inputs))]
    return []


def _concat_from_sequence(to: Importer, node: Node) -> list[View]:
    parts = _sequence(to, node)
    if node.get("new_axis", 0):
        raise Refused("new_axis: expected parts along an axis that is there")
    return [to.build.concat(parts, _axis(node, len(parts[0].shape), 1))]


def _without(view: View, axis: int) -> View:
    """An axis of one place left out."""
    return View(view.name, view.factors, tuple(a for i, a in enumerate(view.axes) if i != axis))


def _gather(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    axis, indices = _axis(node, len(view.shape), 0), to.constant(node, 1, "indices")
    size = view.shape[axis]
    if indices.ndim > 1 or np.any((indices < -size) | (indices >= size)):
        raise Refused(f"indices of shape {indices.shape}: expected one axis, within {size}")
    made = to.build.along(view, axis, (np.reshape(indices, -1) % size).tolist())
    if indices.ndim == 0:
        return [_without(made, axis)]
    return [made]


def _concat(to: Importer, node: Node) -> list[View]:
    if any(name not in to.views for name in node.inputs):
        raise Refused("a constant among its inputs")
    views = [to.views[name] for name in node.inputs]
    return [to.build.concat(views, _axis(node, len(views[0].shape), 1))]


def _pad(to: Importer, node: Node) -> list[View]:
    view, mode = to.view(node), node.get("mode", "constant")
    rank = len(view.shape) + 1
    if node.given(1):
        pads = _whole_numbers(to.constant(node, 1, "pads"))
    else:
        pads = list(node.ints("pads", node.ints("paddings", ())))
    fill = float(node.get("value", 0.0))
    if node.given(2):
        fill = float(to.constant(node, 2, "value").reshape(()))
    axes = list(range(rank))
    if node.given(3):
        axes = [a % rank for a in _whole_numbers(to.constant(node, 3, "axes"))]
    if len(pads) != 2 * len(axes):
        raise Refused(f"{len(pads)} pads for {len(axes)} axes")
    for i, axis in enumerate(axes):
        before, after = pads[i], pads[i + len(axes)]
        if before == after == 0:
            continue
        if axis == 0:
            raise Refused("padding of the batch")
        indices = padded_indices(view.shape[axis - 1], before, after, str(mode))
        view = to.build.along(view, axis - 1, indices, fill)
    return [view]


def _expand(to: Importer, node: Node) -> list[View]:
    view, asked = to.view(node), _whole_numbers(to.constant(node, 1, "shape"))
    own = [1] * (len(view.shape) + 1 - len(asked)) + asked
    if len(own) != len(view.shape) + 1 or own[0] not in (1, to.batch):
        raise Refused(f"{view.shape} expanded to {tuple(asked)}")
    shape = tuple(max(a, b) for a, b in zip(own[1:], view.shape, strict=True))
    return [to.build.expanded(view, shape)]


def _tile(to: Importer, node: Node) -> list[View]:
    view, times = to.view(node), _whole_numbers(to.constant(node, 1, "repeats"))
    if len(times) != len(view.shape) + 1 or times[0] != 1:
        raise Refused(f"{view.shape} repeated {times} times")
    for axis, count in enumerate(times[1:]):
        view = to.build.along(view, axis, [*range(view.shape[axis])] * count)
    return [view]


def _depth_to_space(to: Importer, node: Node) -> list[View]:
    view, block = to.view(node), int(node.get("blocksize", 0))
    if len(view.shape) != 3 or block < 1 or view.shape[0] % block**2:
        raise Refused(f"{view.shape} in blocks of {block}")
    channels, height, width = view.shape[0] // block**2, *view.shape[1:]
    if node.get("mode", "DCR") == "DCR":
        parts, order = (block, block, channels, height, width), (2, 3, 0, 4, 1)
    else:
        parts, order = (channels, block, block, height, width), (0, 3, 1, 4, 2)
    made = to.build.reshaped(view, parts).permuted(order)
    return [to.build.reshaped(made, (channels, height * block, width * block))]


def _space_to_depth(to: Importer, node: Node) -> list[View]:
    view, block = to.view(node), int(node.get("blocksize", 0))
    if len(view.shape) != 3 or block < 1 or view.shape[1] % block or view.shape[2] % block:
        raise Refused(f"{view.shape} in blocks of {block}")
    channels, height, width = view.shape
    parts = (channels, height // block, block, width // block, block)
    made = to.build.reshaped(view, parts).permuted((2, 4, 0, 1, 3))
    return [to.build.reshaped(made, (channels * block**2, height // block, width // block))]


def _resize(to: Importer, node: Node) -> list[View]:
    view = to.view(node)
    if len(view.shape) != 3:
        raise Refused(f"a tensor of {view.shape}: expected images")
    sizes, scales = _resized(to, node, view.shape)
    old = node.op == "Upsample" or (node.op == "Resize" and to.opset < 11)
    coordinates = "asymmetric" if old else node.get("coordinate_transformation_mode", "half_pixel")
    mode = node.get("mode", "nearest")
    if node.get("antialias", 0) or node.get("exclude_outside", 0):
        raise Refused("antialias or exclude_outside")
    own = list(zip(view.shape[1:], sizes, scales, strict=True))
    if mode == "nearest":
        how = "floor" if old else node.get("nearest_mode", "round_prefer_floor")
        rows, columns = (nearest_places(*axis, coordinates, how) for axis in own)
        return [to.build.along(to.build.along(view, 1, rows), 2, columns)]
    if mode not in ("linear", "bilinear"):
        raise Refused(f"mode {mode!r}: expected nearest or linear")
    return [to.build.interpolated(view, *(linear_places(*axis, coordinates) for axis in own))]


def _resized(to: Importer, node: Node, shape: Shape) -> tuple[list[int], list[float]]:
    """Heights and widths of the result, and scales, of (height, width)."""
    scales: list[float] = []
    if node.op == "Upsample" or to.opset < 11:
        scales = [float(v) for v in (to.constant(node, 1, "scales").reshape(-1) if node.given(1)
                                     else node.get("scales", ()))]  # fmt: skip
    elif node.given(2):
        scales = [float(v) for v in to.constant(node, 2, "scales").reshape(-1)]
    axes = [a % 4 for a in node.get("axes", None) or range(4)]
    if scales:
        full = dict(zip(axes, scales, strict=True))
        if any(full.get(a, 1.0) != 1.0 for a in (0, 1)):
            raise Refused("the batch or the channels resized")
        own = [full.get(a, 1.0) for a in (2, 3)]
        return [math.floor(size * s) for size, s in zip(shape[1:], own, strict=True)], own
    if node.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Refused("keep_aspect_ratio_policy: expected stretch")
    sizes = dict(zip(axes, _whole_numbers(to.constant(node, 3, "sizes")), strict=True))
    if sizes.get(0, to.batch) != to.batch or sizes.get(1, shape[0]) != shape[0]:
        raise Refused("the batch or the channels resized")
    found = [sizes.get(a, shape[a - 1]) for a in (2, 3)]
    return found, [new / old for new, old in zip(found, shape[1:], strict=True)]


def _final(to: Importer, node: Node) -> list[View]:
    to.build.notes.append(f"{node.op} {node.label!r} at the end is left out: results are what it reads.")
    return [to.view(node)]


def _unchanged(to: Importer, node: Node) -> list[View]:
    return [to.view(node)]


def _cast(to: Importer, node: Node) -> list[View]:
    if node.get("to", 0) not in (1, 10, 11, 16) and node.inputs[0] not in getattr(to, "final", ()):
        raise Refused("to integers: expected floating point")
    return [to.view(node)]


RULES: Mapping[str, Rule] = {
    "Abs": _function("abs"),
    "Add": _add,
    "AveragePool": _pool("average"),
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Celu": _function("celu", ("alpha", 1.0)),
    "Clip": _clip,
    "Concat": _concat,
    "ConcatFromSequence": _concat_from_sequence,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": _divide,
    "Dropout": _unchanged,
    "Einsum": _einsum,
    "Elu": _function("elu", ("alpha", 1.0)),
    "Erf": _function("erf"),
    "Exp": _function("exp"),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("average"),
    "GlobalMaxPool": _global_pool("max"),
    "HardSigmoid": _function("hard_sigmoid", ("alpha", 0.2), ("beta", 0.5)),
    "HardSwish": _function("hard_swish"),
    "Identity": _unchanged,
    "LRN": _lrn,
    "LeakyRelu": _leaky_relu,
    "Log": _function("log"),
    "MatMul": _matmul,
    "Max": _extreme("maximum"),
    "MaxPool": _pool("max"),
    "Mean": _sum,
    "Min": _extreme("minimum"),
    "Mish": _function("mish"),
    "Mul": _multiply,
    "Neg": lambda to, node: [to.build.affine(to.view(node), scale=np.array(-1.0))],
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _power,
    "Reciprocal": _function("reciprocal"),
    "ReduceMax": _reduce("max"),
    "ReduceMean": _reduce("mean"),
    "ReduceSum": _reduce("sum"),
    "Relu": lambda to, node: [to.build.unary(to.view(node), "relu")],
    "Reshape": _reshape,
    "Resize": _resize,
    "Selu": _function("selu", ("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
    "Sigmoid": _function("sigmoid"),
    "Slice": _slice,
    "Softplus": _function("softplus"),
    "Softsign": _function("softsign"),
    "SpaceToDepth": _space_to_depth,
    "SequenceAt": _sequence_at,
    "SequenceConstruct": _sequence_construct,
    "Split": _split,
    "SplitToSequence": _split_to_sequence,
    "Sqrt": _function("sqrt"),
    "Squeeze": _squeeze,
    "Sub": _subtract,
    "Sum": _sum,
    "Swish": _swish,
    "Tanh": _function("tanh"),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
    **dict.fromkeys(FINAL, _final),
}
