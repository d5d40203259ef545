"""Caffe network -> Graph: a description (``.prototxt``) and its weights (``.caffemodel``).

BatchNorm and the Scale behind it are one batch normalization layer, whose ``staged`` form is the two again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.data.caffe_schema import (
    DATA_LAYERS,
    active,
    declared_images,
    kind_of,
    parse_binary,
    parse_text,
)
from radixpoint.errors import GraphError, ModelError
from radixpoint.files import read_regular
from radixpoint.importers.builder import Builder, Refused, View, whole
from radixpoint.ir.graph import Graph
from radixpoint.ir.ops import Shape

MAX_TEXT = 1 << 24
"""Bytes of a description."""
MAX_WEIGHTS = 1 << 31
"""Bytes of a file of weights."""
_MALFORMED = (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError)
_UNUSED = ("Accuracy", "Silence")
_LOSSES = ("SoftmaxWithLoss", "SigmoidCrossEntropyLoss", "EuclideanLoss", "HingeLoss", "InfogainLoss")


def import_caffe(path: Path, weights: Path | None, input_shape: Shape | None) -> Graph:
    """Read a Caffe network.

    Args:
        path: the description; layers of phase TEST count.
        weights: the ``.caffemodel``; layers are found by name.
        input_shape: (channels, height, width); needed where the description does not say.

    Raises:
        ModelError: unreadable, without weights, or weights that do not fit.
        UnsupportedError: layers that are not supported, all of them named.
    """
    if weights is None:
        raise ModelError(f"{path}: describes a network: give its weights (.caffemodel) too")
    try:
        net = parse_text("Net", read_regular(path, MAX_TEXT).decode("utf-8"))
        trained = parse_binary("Net", read_regular(weights, MAX_WEIGHTS))
    except OSError as error:
        raise ModelError(f"{error.filename or path}: {error.strerror}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} with {weights}: not readable as Caffe's files: {error}") from None
    blobs = {layer.name: [_array(b) for b in layer.blobs] for layer in (*trained.layers, *trained.layer)}
    return _Importer(str(path), net, blobs, input_shape).run()


def _array(blob: Any) -> NDArray[np.float32]:
    values = np.array(blob.data if len(blob.data) else blob.double_data, np.float32)
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    if math.prod(shape) != values.size:
        raise ModelError(f"a blob of shape {shape} with {values.size} values")
    return values.reshape(shape)


class _Importer:
    def __init__(
        self, source: str, net: Any, blobs: Mapping[str, list[NDArray[np.float32]]], input_shape: Shape | None
    ) -> None:
        self.source, self.blobs = source, blobs
        self.layers = active(net)
        name, shape = self._image(net, input_shape)
        self.build = Builder(source, shape)
        self.views: dict[str, View] = {name: whole("input", shape)}
        self.lost: set[str] = set()
        self.final: set[str] = set()
        self.read: set[str] = set()
        self.done: set[int] = set()  # numbers of layers that another one took along

    def _image(self, net: Any, given: Shape | None) -> tuple[str, Shape]:
        found = declared_images(net)
        if len(found) != 1:
            names = ", ".join(repr(name) for name, _ in found) or "none"
            raise ModelError(f"{self.source}: inputs {names}: expected one image")
        ((image, sizes),) = found
        if sizes is None and given is None:
            raise ModelError(
                f"{self.source}: does not say how large an image is: give the shape (channels, height, width)"
            )
        own = given or () if sizes is None else tuple(int(d) for d in sizes[1:])
        if given is not None and given != own:
            raise ModelError(f"{self.source}: takes images of {own}, but {given} was given")
        if len(own) != 3 or min(own) < 1:
            raise ModelError(f"{self.source}: input of shape {own}: expected channels, height, width")
        return image, own

    def run(self) -> Graph:
        for number, layer in enumerate(self.layers):
            if number in self.done or kind_of(layer) in ("Input", *DATA_LAYERS, *_UNUSED):
                continue
            self.visit(number, layer)
        ends = self._outputs()
        if self.build.refused:
            return self.build.graph([])
        if not ends:
            raise ModelError(f"{self.source}: has no result")
        return self.build.graph([self.build.output(self.views[name]) for name in ends])

    def _outputs(self) -> list[str]:
        """Tops that nothing reads, in order; of a loss, what it reads."""
        tops = dict.fromkeys(
            top
            for layer in self.layers
            if kind_of(layer) not in ("Input", *DATA_LAYERS, *_UNUSED, *_LOSSES)
            for top in layer.top
        )
        return [top for top in tops if top not in self.read and top in self.views]

    def visit(self, number: int, layer: Any) -> None:
        kind = kind_of(layer)
        self.build.label = layer.name or kind
        if kind in _LOSSES:
            self.build.notes.append(f"{kind} {layer.name!r} is left out: results are what it reads.")
            return
        in_place = set(layer.bottom) & set(layer.top)
        self.read.update(set(layer.bottom) - in_place)
        if self.lost.intersection(layer.bottom):
            self.lost.update(layer.top)
            if kind not in _RULES:
                self.refuse(layer, kind, "no layer of that kind")
            return
        try:
            if kind not in _RULES:
                raise Refused("no layer of that kind")
            if self.final.intersection(layer.bottom):
                raise Refused("it reads what a softmax makes, which is left out and may only end a network")
            inputs = [self.views[name] for name in layer.bottom]
            results = _RULES[kind](self, number, layer, inputs)
        except (Refused, GraphError) as refused:
            self.refuse(layer, kind, str(refused))
            return
        except _MALFORMED as error:
            self.refuse(layer, kind, f"not as Caffe has it: {type(error).__name__}: {error}")
            return
        if kind in ("Softmax", "ArgMax"):
            self.final.update(layer.top)
            self.build.notes.append(
                f"{kind} {layer.name!r} at the end is left out: results are what it reads."
            )
        self.views.update(zip(layer.top, results, strict=False))

    def refuse(self, layer: Any, kind: str, why: str) -> None:
        self.build.refused.append((kind, layer.name, why))
        self.lost.update(layer.top)

    def weights(self, layer: Any, count: int) -> list[NDArray[np.float32]]:
        """The layer's blobs.

        Raises:
            Refused: fewer than it needs.
        """
        found = self.blobs.get(layer.name, [])
        if len(found) < count:
            raise Refused(f"{len(found)} blobs of that name in the weights: expected {count}")
        return found


Rule = Callable[[_Importer, int, Any, list[View]], list[View]]


def _axis(axis: int, rank: int) -> int:
    own = axis + rank + 1 if axis < 0 else axis
    if not 1 <= own <= rank:
        raise Refused(f"axis {axis}: expected one of an image's {rank + 1}, not the batch")
    return own - 1


def _pair(parameter: Any, name: str, short: str, default: int) -> tuple[int, int]:
    """Rows and columns of a field that is given once, twice, or for each."""
    if parameter.HasField(f"{short}_h") or parameter.HasField(f"{short}_w"):
        return int(getattr(parameter, f"{short}_h")), int(getattr(parameter, f"{short}_w"))
    values = [int(v) for v in getattr(parameter, name)]
    if len(values) > 2:
        raise Refused(f"{name} {values}: expected one or two numbers")
    return (values[0], values[-1]) if values else (default, default)


def _conv(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.convolution_param
    if own.axis != 1:
        raise Refused(f"axis {own.axis}: expected 1")
    kernel, (y, x) = _pair(own, "kernel_size", "kernel", 0), _pair(own, "pad", "pad", 0)
    strides, groups = _pair(own, "stride", "stride", 1), int(own.group)
    dilation = [int(d) for d in own.dilation] or [1]
    dilations = (dilation[0], dilation[-1])
    found = to.weights(layer, 1 + own.bias_term)
    channels, outputs = inputs[0].shape[0], int(own.num_output)
    if channels % groups or outputs % groups or not groups:
        raise Refused(f"{groups} groups of {channels} channels in and {outputs} out")
    transposed = kind_of(layer) == "Deconvolution"
    shape = (channels, outputs // groups) if transposed else (outputs, channels // groups)
    if found[0].size != math.prod(shape) * math.prod(kernel):
        raise Refused(f"weights {found[0].shape}: expected {(*shape, *kernel)}")
    weight = found[0].reshape(*shape, *kernel)
    bias = found[1].reshape(-1) if own.bias_term else None
    pads = (y, x, y, x)
    if transposed:
        return [to.build.transposed_conv(inputs[0], weight, bias, strides, pads, dilations, groups, (0, 0))]
    attributes = {"strides": strides, "pads": pads, "dilations": dilations, "groups": groups}
    return [to.build.conv(inputs[0], weight, bias, attributes)]


def _pooling(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own, (view, *_) = layer.pooling_param, inputs
    kind = own.DESCRIPTOR.fields_by_name["pool"].enum_type.values_by_number[own.pool].name
    if kind == "STOCHASTIC":
        raise Refused("stochastic pooling")
    if any(d != 1 for d in own.dilation) or len(layer.top) > 1:
        raise Refused("dilation, or indices")
    op = "max" if kind == "MAX" else "average"
    if own.global_pooling:
        return [to.build.reduced(view, op, (1, 2), True)]
    kernel, strides = _pair(own, "kernel_size", "kernel", 0), _pair(own, "stride", "stride", 1)
    y, x = _pair(own, "pad", "pad", 0)
    # Caffe rounds up; with padding, a window has to begin before the padding behind the image.
    return [to.build.windowed(view, op, kernel, strides, (y, x, y, x), True, True, inside=bool(y or x))]


def _batch_norm(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    mean, variance, factor = to.weights(layer, 3)[:3]
    times = float(factor.reshape(-1)[0])
    times = 0.0 if times == 0 else 1 / times
    channels, (view, *_) = inputs[0].shape[0], inputs
    arrays = {
        "mean": mean.reshape(-1) * np.float32(times),
        "variance": variance.reshape(-1) * np.float32(times),
    }
    if arrays["mean"].shape != (channels,) or arrays["variance"].shape != (channels,):
        raise Refused(f"statistics of {mean.shape}: expected {channels} channels")
    arrays |= {"gamma": np.ones(channels, np.float32), "beta": np.zeros(channels, np.float32)}
    behind = _scale_behind(to, number, layer)
    if behind is not None:
        scale = to.layers[behind]
        found = to.weights(scale, 1 + scale.scale_param.bias_term)
        arrays["gamma"] = found[0].reshape(-1)
        if scale.scale_param.bias_term:
            arrays["beta"] = found[1].reshape(-1)
        to.done.add(behind)
    made = to.build.by_channel(view, "batch_norm", arrays, {"epsilon": float(layer.batch_norm_param.eps)})
    if behind is not None:
        to.read.update(set(to.layers[behind].bottom) - set(to.layers[behind].top))
        to.views[to.layers[behind].top[0]] = made
    return [made]


def _scale_behind(to: _Importer, number: int, layer: Any) -> int | None:
    """Number of the Scale that alone reads this BatchNorm, channel by channel."""
    top = layer.top[0]
    readers = []
    for later in range(number + 1, len(to.layers)):
        other = to.layers[later]
        if top in other.bottom:
            readers.append(later)
        if top in other.top:  # from here on the name means something else
            break
    if len(readers) != 1:
        return None
    other = to.layers[readers[0]]
    own = other.scale_param
    alone = kind_of(other) == "Scale" and len(other.bottom) == 1
    return readers[0] if alone and own.axis == 1 and own.num_axes in (1, 0) else None


def _scale(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.scale_param
    if len(inputs) == 2:
        large, small = inputs
        first = int(own.axis) % (len(large.shape) + 1)
        axes = small.axes if first == 0 else ((),) * (first - 1) + small.axes
        wide = axes + ((),) * (len(large.shape) - len(axes))
        return [to.build.multiply(large, View(small.name, small.factors, wide))]
    if own.axis != 1 or own.num_axes not in (0, 1):
        raise Refused("a scale that differs from place to place: expected one a channel")
    found = to.weights(layer, 1 + own.bias_term)
    rank = len(inputs[0].shape)
    column = [v.reshape(-1, *[1] * (rank - 1)) for v in found[:2]]
    return [to.build.affine(inputs[0], column[0], column[1] if own.bias_term else None)]


def _bias(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    if layer.bias_param.axis != 1 or len(inputs) != 1:
        raise Refused("a bias that differs from place to place: expected one a channel")
    (value,) = to.weights(layer, 1)[:1]
    return [to.build.affine(inputs[0], offset=value.reshape(-1, *[1] * (len(inputs[0].shape) - 1)))]


def _inner_product(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own, view = layer.inner_product_param, inputs[0]
    if own.axis != 1:
        raise Refused(f"axis {own.axis}: expected 1")
    features, outputs = math.prod(view.shape), int(own.num_output)
    found = to.weights(layer, 1 + own.bias_term)
    if found[0].size != features * outputs:
        raise Refused(f"weights {found[0].shape}: expected {outputs} x {features}")
    weight = found[0].reshape(features, outputs).T if own.transpose else found[0].reshape(outputs, features)
    flat = to.build.reshaped(view, (features,))
    return [to.build.linear(flat, weight, found[1].reshape(-1) if own.bias_term else None)]


def _relu(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    slope = float(layer.relu_param.negative_slope)
    if slope:
        return [to.build.by_channel(inputs[0], "prelu", {"slope": np.array([slope])})]
    return [to.build.unary(inputs[0], "relu")]


def _prelu(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    (slope,) = to.weights(layer, 1)[:1]
    if slope.size not in (1, inputs[0].shape[0]):
        raise Refused(f"slopes of {slope.shape}: expected one, or one a channel")
    return [to.build.by_channel(inputs[0], "prelu", {"slope": slope.reshape(-1)})]


def _eltwise(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.eltwise_param
    names = own.DESCRIPTOR.fields_by_name["operation"].enum_type.values_by_number
    match names[own.operation].name:
        case "PROD":
            return [reduce(to.build.multiply, inputs)]
        case "MAX":
            return [reduce(lambda a, b: to.build.binary("maximum", a, b), inputs)]
    coefficients = [float(c) for c in own.coeff] or [1.0] * len(inputs)
    if len(coefficients) != len(inputs):
        raise Refused(f"{len(coefficients)} coefficients of {len(inputs)} tensors")
    if coefficients == [1.0, -1.0]:
        return [to.build.binary("subtract", *inputs)]
    scaled = [
        v if c == 1 else to.build.affine(v, np.array(c)) for v, c in zip(inputs, coefficients, strict=True)
    ]
    return [reduce(lambda a, b: to.build.binary("add", a, b), scaled)]


def _lrn(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.lrn_param
    if own.norm_region != 0:
        raise Refused("within channels: expected across channels")
    return [to.build.lrn(inputs[0], int(own.local_size), float(own.alpha), float(own.beta), float(own.k))]


def _concat(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.concat_param
    axis = own.concat_dim if own.HasField("concat_dim") else own.axis
    return [to.build.concat(inputs, _axis(int(axis), len(inputs[0].shape)))]


def _slice(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own, view = layer.slice_param, inputs[0]
    axis = _axis(int(own.slice_dim if own.HasField("slice_dim") else own.axis), len(view.shape))
    size, count = view.shape[axis], len(layer.top)
    points = [int(p) for p in own.slice_point]
    if not points:
        if size % count:
            raise Refused(f"{size} in {count} equal parts")
        points = list(range(size // count, size, size // count))
    ends = [0, *points, size]
    if len(ends) != count + 1 or sorted(set(ends)) != ends:
        raise Refused(f"{size} cut at {points} into {count} parts")
    return [to.build.along(view, axis, range(a, b)) for a, b in pairwise(ends)]


def _flatten(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own, view = layer.flatten_param, inputs[0]
    rank = len(view.shape)
    first, last = _axis(int(own.axis), rank), _axis(int(own.end_axis), rank)
    shape = view.shape
    joined = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    return [to.build.reshaped(view, joined)]


def _reshape(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own, view = layer.reshape_param, inputs[0]
    asked = [int(d) for d in own.shape.dim]
    if own.num_axes != -1 or own.axis not in (0, 1):
        raise Refused("part of the axes: expected all")
    if own.axis == 0:
        if not asked or asked[0] not in (0, 1, -1):
            raise Refused(f"reshaped to {asked}: expected one row for each image")
        asked = asked[1:]
    asked = [view.shape[i] if d == 0 else d for i, d in enumerate(asked)]
    if -1 in asked:
        asked[asked.index(-1)] = math.prod(view.shape) // -math.prod(asked)
    return [to.build.reshaped(view, tuple(asked))]


def _permute(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    order = [int(o) for o in layer.permute_param.order]
    if sorted(order) != list(range(len(inputs[0].shape) + 1)) or order[0] != 0:
        raise Refused(f"axes in the order {order}: expected the batch first")
    return [inputs[0].permuted([o - 1 for o in order[1:]])]


def _crop(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own, (view, like) = layer.crop_param, inputs
    first = _axis(int(own.axis), len(view.shape))
    axes = range(first, len(view.shape))
    offsets = [int(o) for o in own.offset] or [0]
    offsets = offsets * len(axes) if len(offsets) == 1 else offsets
    for axis, offset in zip(axes, offsets, strict=True):
        view = to.build.along(view, axis, range(offset, offset + like.shape[axis]))
    return [view]


def _tile(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    axis = _axis(int(layer.tile_param.axis), len(inputs[0].shape))
    places = [*range(inputs[0].shape[axis])] * int(layer.tile_param.tiles)
    return [to.build.along(inputs[0], axis, places)]


def _power(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.power_param
    scale, shift, power = float(own.scale), float(own.shift), float(own.power)
    if power == 1:
        return [to.build.affine(inputs[0], np.array(scale), np.array(shift))]
    return [to.build.function(inputs[0], "power", scale, shift, power)]


def _exp(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.exp_param
    inner = 1.0 if own.base == -1 else math.log(own.base)
    line = to.build.affine(inputs[0], np.array(own.scale * inner), np.array(own.shift * inner))
    return [to.build.function(line, "exp")]


def _log(to: _Importer, number: int, layer: Any, inputs: list[View]) -> list[View]:
    own = layer.log_param
    line = to.build.affine(inputs[0], np.array(own.scale), np.array(own.shift))
    result = to.build.function(line, "log")
    return [result if own.base == -1 else to.build.affine(result, np.array(1 / math.log(own.base)))]


def _function(name: str) -> Rule:
    return lambda to, number, layer, inputs: [to.build.function(inputs[0], name)]


def _same(to: _Importer, number: int, layer: Any, inputs: Sequence[View]) -> list[View]:
    return [inputs[0]] * max(len(layer.top), 1)


_RULES: Mapping[str, Rule] = {
    "AbsVal": _function("abs"),
    "ArgMax": _same,
    "BNLL": _function("softplus"),
    "BatchNorm": _batch_norm,
    "Bias": _bias,
    "Concat": _concat,
    "Convolution": _conv,
    "Crop": _crop,
    "Deconvolution": _conv,
    "Dropout": _same,
    "ELU": lambda to, number, layer, inputs: [
        to.build.function(inputs[0], "elu", float(layer.elu_param.alpha))
    ],
    "Eltwise": _eltwise,
    "Exp": _exp,
    "Flatten": _flatten,
    "InnerProduct": _inner_product,
    "LRN": _lrn,
    "Log": _log,
    "PReLU": _prelu,
    "Permute": _permute,
    "Pooling": _pooling,
    "Power": _power,
    "ReLU": _relu,
    "ReLU6": lambda to, number, layer, inputs: [to.build.unary(inputs[0], "clip", {"low": 0.0, "high": 6.0})],
    "Reshape": _reshape,
    "Scale": _scale,
    "Sigmoid": _function("sigmoid"),
    "Slice": _slice,
    "Softmax": _same,
    "Split": _same,
    "Swish": _function("silu"),
    "TanH": _function("tanh"),
    "Tile": _tile,
}
