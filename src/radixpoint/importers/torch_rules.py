"""What each ATen operation of an exported program becomes; ``docs/importing.md`` lists them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.importers.builder import Builder, Refused, View, padded_indices
from radixpoint.importers.sampling import linear_places, nearest_places
from radixpoint.ir.ops import Shape

Value = Any
"""A View, a constant (array), a number, or a list of those."""


@dataclass(frozen=True, slots=True)
class Call:
    """One operation, its arguments by the names of ATen's schema.

    Attributes:
        build: the network under construction.
        batch: images that the program was exported with.
        arguments: views for what depends on the image, arrays for what does not, and plain numbers.
    """

    build: Builder
    batch: int
    arguments: Mapping[str, Value]

    def __getitem__(self, name: str) -> Value:
        return self.arguments[name]

    def get(self, name: str, default: Value = None) -> Value:
        value = self.arguments.get(name)
        return default if value is None else value

    @property
    def view(self) -> View:
        """The operand that depends on the image.

        Raises:
            Refused: it is a constant.
        """
        value = next(iter(self.arguments.values()))
        if not isinstance(value, View):
            raise Refused("a constant where an image is expected")
        return value

    def axis(self, name: str, default: int | None = None) -> int:
        """Number of an axis without the batch."""
        return self.own_axis(self.get(name, default), len(self.view.shape))

    @staticmethod
    def own_axis(axis: Value, rank: int) -> int:
        """The same of a number.

        Raises:
            Refused: it is the batch, or none.
        """
        if not isinstance(axis, int):
            raise Refused("all axes, the batch among them: expected those of an image")
        own = axis + rank + 1 if axis < 0 else axis
        if not 1 <= own <= rank:
            raise Refused(f"axis {axis} of a tensor of {rank + 1} axes: expected one of an image's")
        return own - 1

    def constant(self, name: str) -> NDArray[Any] | None:
        """A constant array, or None if it is not given.

        Raises:
            Refused: it depends on the image.
        """
        value = self.get(name)
        if isinstance(value, View):
            raise Refused(f"its {name} is computed from the image")
        return None if value is None else np.asarray(value)


Rule = Callable[[Call], Value]


def _spatial(view: View) -> int:
    axes = len(view.shape) - 1
    if axes not in (1, 2):
        raise Refused(f"images of {axes} spatial axes: expected one or two")
    return axes


def _two(value: Value, axes: int, fill: int) -> tuple[int, int]:
    numbers = [value] * axes if isinstance(value, int) else [int(v) for v in value]
    if len(numbers) == 1:
        numbers = numbers * axes
    if len(numbers) != axes:
        raise Refused(f"{tuple(numbers)}: expected {axes} numbers")
    return (fill, numbers[0]) if axes == 1 else (numbers[0], numbers[1])


def _four(weight: NDArray[Any], axes: int) -> NDArray[Any]:
    if weight.ndim != axes + 2:
        raise Refused(f"weights of {weight.shape} for images of {axes} spatial axes")
    return weight[:, :, None] if axes == 1 else weight


def _conv(call: Call) -> Value:
    view, weight = call["input"], call.constant("weight")
    if not isinstance(view, View) or weight is None:
        raise Refused("a constant where an image is expected")
    axes = _spatial(view)
    strides, dilations = _two(call["stride"], axes, 1), _two(call["dilation"], axes, 1)
    full, padding = _four(weight, axes), call["padding"]
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, full.shape[2:], strict=True)]
        pads = (totals[0] // 2, totals[1] // 2, totals[0] - totals[0] // 2, totals[1] - totals[1] // 2)
    else:
        y, x = (0, 0) if padding == "valid" else _two(padding, axes, 0)
        pads = (y, x, y, x)
    if call.get("transposed", "output_padding" in call.arguments and "transposed" not in call.arguments):
        more = _two(call.get("output_padding", 0), axes, 0)
        return call.build.transposed_conv(view, full, call.constant("bias"), strides, pads, dilations,
                                          int(call["groups"]), more, axes)  # fmt: skip
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "groups": int(call["groups"])}
    return call.build.conv(view, full, call.constant("bias"), attributes, axes)


def _batch_norm(call: Call) -> Value:
    view, channels = call.view, call.view.shape[0]
    mean, variance = call.constant("running_mean"), call.constant("running_var")
    if mean is None or variance is None:
        raise Refused("it keeps no running statistics")
    if call.get("training", False):
        raise Refused("in training mode")
    gamma, beta = call.constant("weight"), call.constant("bias")
    arrays = {
        "gamma": np.ones(channels) if gamma is None else gamma,
        "beta": np.zeros(channels) if beta is None else beta,
        "mean": mean,
        "variance": variance,
    }
    made = call.build.by_channel(view, "batch_norm", arrays, {"epsilon": float(call["eps"])})
    return [made] if "momentum" in call.arguments and "training" not in call.arguments else made


# ------------------------------------------------------------------------------------- elementwise


def _function(name: str) -> Rule:
    return lambda call: call.build.function(call.view, name)


def _with(name: str, *constants: str) -> Rule:
    return lambda call: call.build.function(call.view, name, *(float(call[c]) for c in constants))


def _elu(call: Call) -> Value:
    alpha, scale, inner = (float(call[name]) for name in ("alpha", "scale", "input_scale"))
    if inner != 1:
        raise Refused(f"an elu of {inner} * x")
    return call.build.function(call.view, "elu", alpha) if scale == 1 else call.build.function(
        call.view, "selu", alpha, scale)  # fmt: skip


def _softplus(call: Call) -> Value:
    if float(call["beta"]) != 1:
        raise Refused(f"beta {call['beta']}: expected 1")
    return call.build.function(call.view, "softplus")


def _gelu(call: Call) -> Value:
    return call.build.function(call.view, "gelu" if call["approximate"] == "none" else "gelu_tanh")


def _clip(call: Call) -> Value:
    ends = []
    for names, infinite in ((("min", "min_val"), -math.inf), (("max", "max_val"), math.inf)):
        given = next((call.get(name) for name in names if call.get(name) is not None), None)
        if isinstance(given, View) or (given is not None and np.size(given) != 1):
            raise Refused("a limit that is computed, or differs from place to place")
        ends.append(infinite if given is None else float(np.reshape(given, ())))
    return call.build.unary(call.view, "clip", {"low": ends[0], "high": ends[1]})


def _leaky(call: Call) -> Value:
    return call.build.by_channel(call.view, "prelu", {"slope": np.array([float(call["negative_slope"])])})


def _prelu(call: Call) -> Value:
    slope = call.constant("weight")
    if slope is None or slope.size not in (1, call.view.shape[0]):
        raise Refused("slopes: expected one, or one a channel")
    return call.build.by_channel(call.view, "prelu", {"slope": slope.reshape(-1)})


def _pair(call: Call) -> tuple[Value, Value]:
    a, b, *_ = call.arguments.values()
    return a, b


def _scaled(call: Call, value: Value) -> Value:
    """A summand times ``alpha``."""
    alpha = call.get("alpha", 1)
    if alpha == 1:
        return value
    return call.build.affine(value, scale=np.array(float(alpha))) if isinstance(value, View) else (
        np.asarray(value) * alpha)  # fmt: skip


def _aligned(call: Call, a: Value, b: Value) -> tuple[Value, Value]:
    """Two views with as many axes, as broadcasting has it; the batch is the first of both."""
    if isinstance(a, View) and isinstance(b, View) and len(a.shape) != len(b.shape):
        raise Refused(f"tensors of {len(a.shape) + 1} and {len(b.shape) + 1} axes")
    return a, b


def _add(call: Call) -> Value:
    a, b = _aligned(call, *_pair(call))
    b = _scaled(call, b)
    if isinstance(a, View) and isinstance(b, View):
        return call.build.binary("add", a, b)
    view, constant = (a, b) if isinstance(a, View) else (b, a)
    return call.build.affine(view, offset=np.asarray(constant, np.float64))


def _difference(call: Call, a: Value, b: Value) -> Value:
    a, b = _aligned(call, a, b)
    if isinstance(a, View) and isinstance(b, View):
        return call.build.binary("subtract", a, b)
    if isinstance(a, View):
        return call.build.affine(a, offset=-np.asarray(b, np.float64))
    return call.build.affine(b, np.array(-1.0), np.asarray(a, np.float64))


def _subtract(call: Call) -> Value:
    a, b = _pair(call)
    return _difference(call, a, _scaled(call, b))


def _subtract_from(call: Call) -> Value:
    a, b = _pair(call)
    return _difference(call, b, _scaled(call, a))


def _multiply(call: Call) -> Value:
    a, b = _aligned(call, *_pair(call))
    if isinstance(a, View) and isinstance(b, View):
        return call.build.multiply(a, b)
    view, constant = (a, b) if isinstance(a, View) else (b, a)
    return call.build.affine(view, scale=np.asarray(constant, np.float64))


def _divide(call: Call) -> Value:
    a, b = _aligned(call, *_pair(call))
    if call.get("rounding_mode") is not None:
        raise Refused(f"rounding {call['rounding_mode']!r}")
    if not isinstance(b, View):
        if not np.all(b):
            raise Refused("a division by 0")
        return call.build.affine(a, scale=1 / np.asarray(b, np.float64))
    inverse = call.build.function(b, "reciprocal")
    if isinstance(a, View):
        return call.build.multiply(a, inverse)
    return call.build.affine(inverse, scale=np.asarray(a, np.float64))


def _extreme(op: str) -> Rule:
    def rule(call: Call) -> Value:
        a, b = _aligned(call, *_pair(call))
        if isinstance(a, View) and isinstance(b, View):
            return call.build.binary(op, a, b)
        view, constant = (a, b) if isinstance(a, View) else (b, a)
        if np.size(constant) != 1:
            raise Refused("a constant that differs from place to place")
        limit = float(np.reshape(constant, ()))
        low, high = (limit, math.inf) if op == "maximum" else (-math.inf, limit)
        return call.build.unary(view, "clip", {"low": low, "high": high})

    return rule


def _power(call: Call) -> Value:
    exponent = call["exponent"]
    if isinstance(exponent, View) or np.size(exponent) != 1:
        raise Refused("exponents that are computed: expected one number")
    value = float(np.reshape(exponent, ()))
    return call.view if value == 1 else call.build.function(call.view, "power", 1.0, 0.0, value)


# ----------------------------------------------------------------------------------------- windows


def _pool(kind: str) -> Rule:
    def rule(call: Call) -> Value:
        view, axes = call.view, _spatial(call.view)
        kernel = _two(call["kernel_size"], axes, 1)
        strides = _two(call.get("stride") or call["kernel_size"], axes, 1)
        y, x = _two(call.get("padding", 0), axes, 0)
        if _two(call.get("dilation", 1), axes, 1) != (1, 1) or call.get("divisor_override") is not None:
            raise Refused("dilation or divisor_override")
        made = call.build.windowed(
            view, kind, kernel, strides, (y, x, y, x), bool(call.get("ceil_mode", False)),
            bool(call.get("count_include_pad", False)), axes,
        )  # fmt: skip
        return made

    return rule


def _first_of(rule: Rule) -> Rule:
    """For operations that return indices too: the second result is never there."""
    return lambda call: [rule(call)]


def _average_along(call: Call) -> Value:
    """avg_pool3d of (1, channels, height, width), as local_response_norm has it."""
    view, kernel = call.view, list(call["kernel_size"])
    strides = list(call.get("stride") or kernel)
    if len(view.shape) != 4 or kernel[1:] != [1, 1] or any(s != 1 for s in strides) or any(call["padding"]):
        raise Refused("three-dimensional pooling: expected one along the channels")
    images, channels, height, width = view.shape
    moved = view.permuted((0, 2, 3, 1))
    rows = call.build.reshaped(moved, (images * height * width, channels, 1))
    made = call.build.windowed(rows, "average", (kernel[0], 1), (1, 1), (0, 0, 0, 0))
    back = call.build.reshaped(made, (images, height, width, channels - kernel[0] + 1))
    return back.permuted((0, 3, 1, 2))


def _adaptive(kind: str) -> Rule:
    def rule(call: Call) -> Value:
        view, axes = call.view, _spatial(call.view)
        sizes = (1, view.shape[1]) if axes == 1 else view.shape[1:]
        asked = call["output_size"]
        asked = [asked] if isinstance(asked, int) else list(asked)
        asked = [size if a is None else a for a, size in zip(asked, view.shape[1:], strict=True)]
        height, width = _two(asked, axes, 1)
        if sizes[0] % height or sizes[1] % width:
            raise Refused(f"adaptive pooling of {sizes} to {(height, width)}: sizes must divide")
        kernel = (sizes[0] // height, sizes[1] // width)
        return call.build.windowed(view, kind, kernel, kernel, (0, 0, 0, 0), axes=axes)

    return rule


def _reduce(kind: str) -> Rule:
    def rule(call: Call) -> Value:
        view = call.view
        dims = call.get("dim")
        dims = [dims] if isinstance(dims, int) else dims
        if not dims:
            raise Refused("over the batch: expected the axes of an image")
        over = [call.own_axis(d, len(view.shape)) for d in dims]
        keep = bool(call.get("keepdim", False))
        result = call.build.reduced(view, "max" if kind == "max" else "average", over, keep)
        if kind == "sum":
            result = call.build.affine(result, scale=np.array(float(math.prod(view.shape[a] for a in over))))
        return result

    return rule


# ---------------------------------------------------------------------------------------- products


def _linear(call: Call) -> Value:
    weight = call.constant("weight")
    if weight is None:
        raise Refused("without weights")
    return call.build.linear(call.view, weight, call.constant("bias"))


def _addmm(call: Call) -> Value:
    matrix, view = call.constant("mat2"), call["mat1"]
    if matrix is None or not isinstance(view, View) or call.get("alpha", 1) != 1 or call.get("beta", 1) != 1:
        raise Refused("a product of two tensors of the image, or factors")
    return call.build.linear(view, matrix.T, call.constant("self"))


def _matmul(call: Call) -> Value:
    a, b = _pair(call)
    if isinstance(b, View) or not isinstance(a, View):
        raise Refused("a product of two tensors of the image")
    matrix = np.asarray(b)
    if matrix.ndim != 2:
        raise Refused(f"a right operand of shape {matrix.shape}: expected a matrix")
    return call.build.linear(a, matrix.T)


# ------------------------------------------------------------------------------------------ moving


def _flatten(call: Call) -> Value:
    view, rank = call.view, len(call.view.shape) + 1
    start, end = (int(call[name]) % rank for name in ("start_dim", "end_dim"))
    if start < 1:
        raise Refused("flattening of the batch")
    shape = view.shape
    joined = (*shape[: start - 1], math.prod(shape[start - 1 : end]), *shape[end:])
    return call.build.reshaped(view, joined)


def _reshape(call: Call) -> Value:
    view = call.view
    asked = [int(v) for v in call.get("size", call.get("shape"))]
    whole = (call.batch, *view.shape)
    if asked.count(-1) == 1:
        known = math.prod(size for size in asked if size != -1)
        if known <= 0 or math.prod(whole) % known:
            raise Refused(f"{whole} reshaped to {tuple(asked)}")
        asked[asked.index(-1)] = math.prod(whole) // known
    if not asked or asked[0] != call.batch or math.prod(asked) != math.prod(whole) or min(asked) < 1:
        raise Refused(f"{whole} reshaped to {tuple(asked)}: expected one row for each image")
    return call.build.reshaped(view, tuple(asked[1:]))


def _unflatten(call: Call) -> Value:
    view, axis = call.view, call.axis("dim")
    sizes = [int(v) for v in call["sizes"]]
    if -1 in sizes:
        sizes[sizes.index(-1)] = view.shape[axis] // -math.prod(sizes)
    return call.build.reshaped(view, (*view.shape[:axis], *sizes, *view.shape[axis + 1 :]))


def _glu(call: Call) -> Value:
    axis = call.axis("dim", -1)
    size = call.view.shape[axis]
    first, second = _parts(call, axis, [size // 2, size - size // 2])
    return call.build.multiply(first, call.build.function(second, "sigmoid"))


def _log_sigmoid(call: Call) -> Value:
    minus = np.array(-1.0)
    turned = call.build.affine(call.view, scale=minus)
    return call.build.affine(call.build.function(turned, "softplus"), scale=minus)


def _permute(call: Call) -> Value:
    return _in_order(call.view, [int(d) for d in call["dims"]])


def _move_axes(call: Call) -> Value:
    rank = len(call.view.shape) + 1
    moved, places = (
        [d % rank for d in np.atleast_1d(call[name]).tolist()] for name in ("source", "destination")
    )
    order = [d for d in range(rank) if d not in moved]
    for place, axis in sorted(zip(places, moved, strict=True)):
        order.insert(place, axis)
    return _in_order(call.view, order)


def _in_order(view: View, order: list[int]) -> View:
    rank = len(view.shape) + 1
    order = [d % rank for d in order]
    if sorted(order) != list(range(rank)) or order[0] != 0:
        raise Refused(f"axes in the order {tuple(order)}: expected the batch first")
    return view.permuted([i - 1 for i in order[1:]])


def _transpose(call: Call) -> Value:
    return _swapped(call, call.axis("dim0"), call.axis("dim1"))


def _swapped(call: Call, a: int, b: int) -> Value:
    order = list(range(len(call.view.shape)))
    order[a], order[b] = b, a
    return call.view.permuted(order)


def _squeeze(call: Call) -> Value:
    view, dims = call.view, call.get("dim")
    rank = len(view.shape)
    dims = [dims] if isinstance(dims, int) else dims
    gone = range(rank) if dims is None else [call.own_axis(d, rank) for d in dims]
    axes = tuple(a for i, a in enumerate(view.axes) if not (i in gone and view.shape[i] == 1))
    return View(view.name, view.factors, axes)


def _unsqueeze(call: Call) -> Value:
    view = call.view
    axis = int(call["dim"]) % (len(view.shape) + 2)
    if axis == 0:
        raise Refused("an axis before the batch")
    axes = list(view.axes)
    axes.insert(axis - 1, ())
    return View(view.name, view.factors, tuple(axes))


def _expand(call: Call) -> Value:
    view, asked = call.view, [int(v) for v in call["size"]]
    whole = (call.batch, *view.shape)
    if len(asked) != len(whole) or asked[0] not in (-1, call.batch):
        raise Refused(f"{whole} expanded to {tuple(asked)}")
    shape = tuple(own if a == -1 else a for a, own in zip(asked[1:], view.shape, strict=True))
    return call.build.expanded(view, shape)


def _repeat(name: str) -> Rule:
    return lambda call: _tiled(call, [int(v) for v in call[name]])


def _repeat_each(call: Call) -> Value:
    if call.get("dim") is None or not isinstance(call["repeats"], int):
        raise Refused("repeats of a flat tensor, or that differ: expected one number and an axis")
    axis = call.axis("dim")
    places = np.repeat(np.arange(call.view.shape[axis]), call["repeats"])
    return call.build.along(call.view, axis, places.tolist())


def _tiled(call: Call, times: list[int]) -> Value:
    view = call.view
    times = [1] * (len(view.shape) + 1 - len(times)) + times
    if len(times) != len(view.shape) + 1 or times[0] != 1:
        raise Refused(f"{view.shape} repeated {tuple(times)} times")
    for axis, count in enumerate(times[1:]):
        view = call.build.along(view, axis, [*range(view.shape[axis])] * count)
    return view


def _views(values: Value) -> list[View]:
    if not all(isinstance(v, View) for v in values):
        raise Refused("a constant among its inputs")
    return list(values)


def _cat(call: Call) -> Value:
    views = _views(call["tensors"])
    return call.build.concat(views, call.own_axis(call.get("dim", 0), len(views[0].shape)))


def _stack(call: Call) -> Value:
    views = _views(call["tensors"])
    axis = int(call.get("dim", 0)) % (len(views[0].shape) + 2)
    if axis == 0:
        raise Refused("an axis before the batch")
    wide = [View(v.name, v.factors, (*v.axes[: axis - 1], (), *v.axes[axis - 1 :])) for v in views]
    return call.build.concat(wide, axis - 1)


def _parts(call: Call, axis: int, sizes: Sequence[int]) -> list[View]:
    ends = np.cumsum(sizes).tolist()
    return [
        call.build.along(call.view, axis, range(end - own, end)) for own, end in zip(sizes, ends, strict=True)
    ]


def _chunk(call: Call) -> Value:
    axis = call.axis("dim", 0)
    size = call.view.shape[axis]
    each = -(-size // int(call["chunks"]))
    return _parts(call, axis, [min(each, size - first) for first in range(0, size, each)])


def _split(call: Call) -> Value:
    axis = call.axis("dim", 0)
    size, asked = call.view.shape[axis], call.get("split_size", call.get("split_sizes"))
    sizes = [min(asked, size - first) for first in range(0, size, asked)] if isinstance(asked, int) else asked
    return _parts(call, axis, [int(s) for s in sizes])


def _unbind(call: Call) -> Value:
    axis = call.axis("dim", 0)
    return [_without(part, axis) for part in _parts(call, axis, [1] * call.view.shape[axis])]


def _without(view: View, axis: int) -> View:
    return View(view.name, view.factors, tuple(a for i, a in enumerate(view.axes) if i != axis))


def _select(call: Call) -> Value:
    axis = call.axis("dim")
    index = int(call["index"]) % call.view.shape[axis]
    return _without(call.build.along(call.view, axis, [index]), axis)


def _slice(call: Call) -> Value:
    view, dim = call.view, int(call.get("dim", 0))
    size = call.batch if dim % (len(view.shape) + 1) == 0 else view.shape[call.axis("dim", 0)]
    indices = range(size)[slice(call.get("start"), call.get("end"), int(call.get("step", 1)))]
    if dim % (len(view.shape) + 1) == 0:
        if indices != range(size):
            raise Refused("part of the batch")
        return view
    if not indices:
        raise Refused("nothing of an axis")
    return call.build.along(view, call.axis("dim", 0), indices)


def _slice_scatter(call: Call) -> Value:
    """A tensor, part of which is another: what becomes of an assignment to a slice."""
    view, part, axis = call.view, call["src"], call.axis("dim", 0)
    size = view.shape[axis]
    indices = range(size)[slice(call.get("start"), call.get("end"), int(call.get("step", 1)))]
    if not isinstance(part, View) or not indices or indices.step != 1:
        raise Refused("an assignment of a constant, or with steps")
    ends = (range(indices[0]), range(indices[-1] + 1, size))
    before, after = (call.build.along(view, axis, end) if end else None for end in ends)
    return call.build.concat([v for v in (before, part, after) if v is not None], axis)


def _narrow(call: Call) -> Value:
    start = int(call["start"])
    return call.build.along(call.view, call.axis("dim"), range(start, start + int(call["length"])))


def _index_select(call: Call) -> Value:
    index = call.constant("index")
    if index is None:
        raise Refused("without indices")
    return call.build.along(call.view, call.axis("dim"), index.reshape(-1).tolist())


def _index(call: Call) -> Value:
    """x[:, [2, 0, 1]]: one axis by constant indices."""
    given = [(i, v) for i, v in enumerate(call["indices"]) if v is not None]
    if len(given) != 1 or isinstance(given[0][1], View) or np.ndim(given[0][1]) != 1:
        raise Refused("indices that are computed, or of several axes")
    axis, size = call.own_axis(given[0][0], len(call.view.shape)), 0
    size = call.view.shape[axis]
    return call.build.along(call.view, axis, (np.asarray(given[0][1]) % size).tolist())


def _flip(call: Call) -> Value:
    view = call.view
    for dim in call["dims"]:
        axis = call.own_axis(dim, len(view.shape))
        view = call.build.along(view, axis, range(view.shape[axis])[::-1])
    return view


def _roll(call: Call) -> Value:
    view = call.view
    for shift, dim in zip(call["shifts"], call["dims"], strict=True):
        axis = call.own_axis(dim, len(view.shape))
        view = call.build.along(view, axis, np.roll(np.arange(view.shape[axis]), shift).tolist())
    return view


def _pad(mode: str | None = None) -> Rule:
    def rule(call: Call) -> Value:
        view = call.view
        pads = [int(v) for v in call.get("pad", call.get("padding"))]
        how = mode or call.get("mode", "constant")
        how = {"replicate": "edge", "circular": "wrap"}.get(how, how)
        fill = float(call.get("value", 0.0))
        for i in range(len(pads) // 2):
            before, after = pads[2 * i], pads[2 * i + 1]
            if before or after:
                axis = len(view.shape) - 1 - i
                if axis < 0:
                    raise Refused("padding of the batch")
                view = call.build.along(
                    view, axis, padded_indices(view.shape[axis], before, after, how), fill
                )
        return view

    return rule


def _sizes(call: Call) -> list[tuple[int, int, float]]:
    """(size, result, scale) of each spatial axis."""
    view = call.view
    sizes, factors = call.get("output_size"), call.get("scale_factors")
    if factors is None:
        names = ("scales",) if len(view.shape) == 2 else ("scales_h", "scales_w")
        given = [call.get(name) for name in names]
        factors = None if None in given else given
    if sizes is None:
        if factors is None:
            raise Refused("neither a size nor a scale")
        sizes = [math.floor(size * f) for size, f in zip(view.shape[1:], factors, strict=True)]
    scales = factors or [new / old for new, old in zip(sizes, view.shape[1:], strict=True)]
    return [(old, int(new), float(s)) for old, new, s in zip(view.shape[1:], sizes, scales, strict=True)]


def _nearest(exact: bool) -> Rule:
    def rule(call: Call) -> Value:
        view = call.view
        for axis, (size, result, scale) in enumerate(_sizes(call), 1):
            places = nearest_places(size, result, scale, "half_pixel" if exact else "asymmetric",
                                    "round_prefer_ceil" if exact else "floor")  # fmt: skip
            view = call.build.along(view, axis, places)
        return view

    return rule


def _bilinear(call: Call) -> Value:
    coordinates = "align_corners" if call["align_corners"] else "half_pixel"
    if call.get("antialias", False) or len(call.view.shape) != 3:
        raise Refused("antialias, or no image")
    rows, columns = (linear_places(*axis, coordinates) for axis in _sizes(call))
    return call.build.interpolated(call.view, rows, columns)


def _linear_resize(call: Call) -> Value:
    coordinates = "align_corners" if call["align_corners"] else "half_pixel"
    (axis,) = _sizes(call)
    return call.build.interpolated(call.view, [(0, 0, 0.0)], linear_places(*axis, coordinates))


def _pixel_shuffle(call: Call) -> Value:
    view, block = call.view, int(call["upscale_factor"])
    channels, height, width = view.shape[0] // block**2, *view.shape[1:]
    parts = call.build.reshaped(view, (channels, block, block, height, width)).permuted((0, 3, 1, 4, 2))
    return call.build.reshaped(parts, (channels, height * block, width * block))


def _pixel_unshuffle(call: Call) -> Value:
    view, block = call.view, int(call["downscale_factor"])
    channels, height, width = view.shape
    shape = (channels, height // block, block, width // block, block)
    parts = call.build.reshaped(view, shape).permuted((0, 2, 4, 1, 3))
    return call.build.reshaped(parts, (channels * block**2, height // block, width // block))


def _channel_shuffle(call: Call) -> Value:
    view, groups = call.view, int(call["groups"])
    channels, *rest = view.shape
    order = (1, 0, *range(2, 2 + len(rest)))
    parts = call.build.reshaped(view, (groups, channels // groups, *rest)).permuted(order)
    return call.build.reshaped(parts, view.shape)


def _final(call: Call) -> Value:
    call.build.notes.append(f"{call.build.label!r} at the end is left out: results are what it reads.")
    return call.view


def _unchanged(call: Call) -> Value:
    return call.view


def _batch_shape(call: Call) -> Shape:
    return (call.batch, *call.view.shape)


FINAL = ("softmax", "_softmax", "log_softmax", "_log_softmax", "argmax")
"""What may end a network and is left out."""
PASSES_FINAL = (*FINAL, "flatten", "view", "reshape", "squeeze", "clone", "alias", "detach", "to", "_to_copy")

RULES: Mapping[str, Rule] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "_prelu_kernel": _prelu,
    "_to_copy": _unchanged,
    "_unsafe_view": _reshape,
    "abs": _function("abs"),
    "adaptive_avg_pool1d": _adaptive("average"),
    "adaptive_avg_pool2d": _adaptive("average"),
    "_adaptive_avg_pool2d": _adaptive("average"),
    "adaptive_max_pool1d": _first_of(_adaptive("max")),
    "adaptive_max_pool2d": _first_of(_adaptive("max")),
    "add": _add,
    "addmm": _addmm,
    "alias": _unchanged,
    "alpha_dropout": _unchanged,
    "amax": _reduce("max"),
    "avg_pool1d": _pool("average"),
    "avg_pool2d": _pool("average"),
    "avg_pool3d": _average_along,
    "batch_norm": _batch_norm,
    "cat": _cat,
    "celu": _with("celu", "alpha"),
    "channel_shuffle": _channel_shuffle,
    "native_channel_shuffle": _channel_shuffle,
    "chunk": _chunk,
    "clamp": _clip,
    "clamp_max": _clip,
    "clamp_min": _clip,
    "clone": _unchanged,
    "concat": _cat,
    "constant_pad_nd": _pad("constant"),
    "contiguous": _unchanged,
    "conv1d": _conv,
    "conv2d": _conv,
    "conv_transpose1d": _conv,
    "conv_transpose2d": _conv,
    "convolution": _conv,
    "detach": _unchanged,
    "div": _divide,
    "dropout": _unchanged,
    "elu": _elu,
    "erf": _function("erf"),
    "exp": _function("exp"),
    "expand": _expand,
    "feature_dropout": _unchanged,
    "flatten": _flatten,
    "flip": _flip,
    "gelu": _gelu,
    "glu": _glu,
    "getitem": _unchanged,
    "hardsigmoid": lambda call: call.build.function(call.view, "hard_sigmoid", 1 / 6, 0.5),
    "hardswish": _function("hard_swish"),
    "hardtanh": _clip,
    "index": _index,
    "index_select": _index_select,
    "leaky_relu": _leaky,
    "lift_fresh_copy": _unchanged,
    "linear": _linear,
    "log": _function("log"),
    "log_sigmoid": _log_sigmoid,
    "matmul": _matmul,
    "max": _extreme("maximum"),
    "max_pool1d": _pool("max"),
    "max_pool2d": _pool("max"),
    "max_pool2d_with_indices": _first_of(_pool("max")),
    "maximum": _extreme("maximum"),
    "mean": _reduce("mean"),
    "min": _extreme("minimum"),
    "minimum": _extreme("minimum"),
    "mT": lambda call: _swapped(call, len(call.view.shape) - 2, len(call.view.shape) - 1),
    "mish": _function("mish"),
    "mm": _matmul,
    "movedim": _move_axes,
    "moveaxis": _move_axes,
    "mul": _multiply,
    "narrow": _narrow,
    "neg": lambda call: call.build.affine(call.view, scale=np.array(-1.0)),
    "pad": _pad(),
    "permute": _permute,
    "pixel_shuffle": _pixel_shuffle,
    "pixel_unshuffle": _pixel_unshuffle,
    "pow": _power,
    "prelu": _prelu,
    "reciprocal": _function("reciprocal"),
    "reflection_pad1d": _pad("reflect"),
    "reflection_pad2d": _pad("reflect"),
    "relu": lambda call: call.build.unary(call.view, "relu"),
    "relu6": lambda call: call.build.unary(call.view, "clip", {"low": 0.0, "high": 6.0}),
    "repeat": _repeat("repeats"),
    "repeat_interleave": _repeat_each,
    "replication_pad1d": _pad("edge"),
    "replication_pad2d": _pad("edge"),
    "reshape": _reshape,
    "roll": _roll,
    "rsqrt": lambda call: call.build.function(call.view, "power", 1.0, 0.0, -0.5),
    "rsub": _subtract_from,
    "select": _select,
    "selu": lambda call: call.build.function(call.view, "selu", 1.6732632423543772, 1.0507009873554805),
    "sigmoid": _function("sigmoid"),
    "silu": _function("silu"),
    "slice": _slice,
    "slice_scatter": _slice_scatter,
    "softplus": _softplus,
    "softsign": _function("softsign"),
    "split": _split,
    "split_with_sizes": _split,
    "sqrt": _function("sqrt"),
    "square": lambda call: call.build.function(call.view, "power", 1.0, 0.0, 2.0),
    "squeeze": _squeeze,
    "stack": _stack,
    "sub": _subtract,
    "sum": _reduce("sum"),
    "swapaxes": lambda call: _swapped(call, call.axis("axis0"), call.axis("axis1")),
    "swapdims": _transpose,
    "tanh": _function("tanh"),
    "tile": _repeat("dims"),
    "to": _unchanged,
    "transpose": _transpose,
    "unbind": _unbind,
    "unflatten": _unflatten,
    "unsqueeze": _unsqueeze,
    "upsample_bilinear2d": _bilinear,
    "_upsample_bilinear2d_aa": _bilinear,
    "upsample_linear1d": _linear_resize,
    "upsample_nearest1d": _nearest(False),
    "upsample_nearest2d": _nearest(False),
    "_upsample_nearest_exact2d": _nearest(True),
    "view": _reshape,
    **dict.fromkeys(FINAL, _final),
}
"""By the name of the operation, without its overload and without the mark of one in place."""
