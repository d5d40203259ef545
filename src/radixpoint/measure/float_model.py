"""Graph -> a float32 ONNX model, a layer after the other: the float network's meaning of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from radixpoint.ir.graph import Graph, Layer
from radixpoint.ir.ops import SELECTED

_RENAMED = {"groups": "group", "kernel": "kernel_shape"}


class _Writer:
    """Nodes and constants of one model."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.taken = set(graph.shapes)
        self.keys = {key: self.unlike(key) for key in graph.parameters}
        for key, value in graph.parameters.items():
            self.initializers.append(numpy_helper.from_array(np.array(value), self.keys[key]))

    def unlike(self, name: str) -> str:
        """A name that no tensor has."""
        while name in self.taken:
            name += "'"
        self.taken.add(name)
        return name

    def constant(self, layer: Layer, value: Any, dtype: type = np.float32) -> str:
        key = self.unlike(f"{layer.name}.constant")
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), key))
        return key

    def parameter(self, layer: Layer, role: str) -> str:
        return self.keys[layer.parameters[role]]

    def by_channel(self, layer: Layer, role: str) -> str:
        """A parameter of one value a channel, beside the layer's result."""
        rank = len(self.graph.shapes[layer.name])
        return self.constant(layer, self.graph.parameter(layer, role).reshape(-1, *[1] * (rank - 1)))

    def node(
        self, layer: Layer, op: str, inputs: Sequence[str], last: bool = False, **attributes: Any
    ) -> str:
        name = layer.name if last else self.unlike(f"{layer.name}.{op}")
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name


_Emit = Callable[[_Writer, Layer], None]


def _plain(op: str, *roles: str, **fixed: Any) -> _Emit:
    """One node, with the layer's own attributes unless others are given."""

    def emit(to: _Writer, layer: Layer) -> None:
        attributes: Mapping[str, Any] = fixed or {
            _RENAMED.get(name, name): int(value) if isinstance(value, bool) else value
            for name, value in layer.attributes.items()
        }
        own = [to.parameter(layer, role) for role in roles if role in layer.parameters]
        to.node(layer, op, [*layer.inputs, *own], True, **attributes)

    return emit


def _bare(op: str) -> _Emit:
    return lambda to, layer: _ignored(to.node(layer, op, layer.inputs, True))


def _ignored(result: str) -> None:
    return None


def _clip(to: _Writer, layer: Layer) -> None:
    limits = [to.constant(layer, layer.attributes[name]) for name in ("low", "high")]
    to.node(layer, "Clip", [*layer.inputs, *limits], True)


def _affine(to: _Writer, layer: Layer) -> None:
    value = layer.inputs[0]
    for role, op in (("scale", "Mul"), ("offset", "Add")):
        if role in layer.parameters:
            last = role == "offset" or "offset" not in layer.parameters
            value = to.node(layer, op, [value, to.by_channel(layer, role)], last)
    if not layer.parameters:
        to.node(layer, "Identity", [value], True)


def _square_sum(to: _Writer, layer: Layer) -> None:
    """A convolution of one place with a band of ones."""
    channels, size = to.graph.shapes[layer.name][0], layer.attributes["size"]
    before = (size - 1) // 2
    distance = np.arange(channels)[None] - np.arange(channels)[:, None]
    band = ((distance >= -before) & (distance < size - before)).astype(np.float32)[:, :, None, None]
    square = to.node(layer, "Mul", [layer.inputs[0], layer.inputs[0]])
    to.node(layer, "Conv", [square, to.constant(layer, band)], True)


def _select(to: _Writer, layer: Layer) -> None:
    value, rank = layer.inputs[0], len(to.graph.shapes[layer.name])
    shape = to.graph.shapes[value]
    chosen = [(axis, layer.attributes[name]) for axis, name in enumerate(SELECTED) if layer.attributes[name]]
    fill = to.constant(layer, layer.attributes["fill"])
    for number, (axis, indices) in enumerate(chosen):
        if min(indices) < 0:  # one place more, behind all others, holds the fill
            pads = [0] * (2 * (rank + 1))
            pads[rank + 1 + axis + 1] = 1
            value = to.node(layer, "Pad", [value, to.constant(layer, pads, np.int64), fill])
        places = [i if i >= 0 else shape[axis] for i in indices]
        last = number == len(chosen) - 1
        value = to.node(layer, "Gather", [value, to.constant(layer, places, np.int64)], last, axis=axis + 1)
    if not chosen:
        to.node(layer, "Identity", [value], True)


def _rearrange(to: _Writer, layer: Layer) -> None:
    split, order, shape = (layer.attributes[name] for name in ("split", "order", "shape"))
    value = to.node(layer, "Reshape", [layer.inputs[0], to.constant(layer, [0, *split], np.int64)])
    value = to.node(layer, "Transpose", [value], perm=[0, *(i + 1 for i in order)])
    to.node(layer, "Reshape", [value, to.constant(layer, [0, *shape], np.int64)], True)


def _interpolate(to: _Writer, layer: Layer) -> None:
    value = layer.inputs[0]
    for axis, name in ((2, "rows"), (3, "columns")):
        triples = layer.attributes[name]
        shares = np.ldexp(np.array([t[2] for t in triples], np.float64), -layer.attributes["places"])
        shape = [-1 if i == axis else 1 for i in range(4)]
        parts = []
        for i, share in ((0, 1 - shares), (1, shares)):
            places = to.constant(layer, [t[i] for t in triples], np.int64)
            seen = to.node(layer, "Gather", [value, places], axis=axis)
            parts.append(to.node(layer, "Mul", [seen, to.constant(layer, share.reshape(shape))]))
        value = to.node(layer, "Add", parts, last=axis == 3)


def _function(to: _Writer, layer: Layer) -> None:
    (x,), numbers = layer.inputs, layer.attributes["numbers"]

    def number(value: float) -> str:
        return to.constant(layer, value)

    match layer.attributes["function"]:
        case "silu":
            to.node(layer, "Mul", [x, to.node(layer, "Sigmoid", [x])], True)
        case "hard_sigmoid":
            to.node(layer, "HardSigmoid", [x], True, alpha=numbers[0], beta=numbers[1])
        case "gelu":
            inner = to.node(layer, "Erf", [to.node(layer, "Mul", [x, number(np.sqrt(0.5))])])
            gate = to.node(layer, "Add", [inner, number(1.0)])
            to.node(layer, "Mul", [to.node(layer, "Mul", [x, gate]), number(0.5)], True)
        case "gelu_tanh":
            cube = to.node(layer, "Mul", [x, to.node(layer, "Mul", [x, x])])
            inner = to.node(layer, "Add", [x, to.node(layer, "Mul", [cube, number(0.044715)])])
            inner = to.node(layer, "Mul", [inner, number(0.7978845608028654)])
            gate = to.node(layer, "Add", [to.node(layer, "Tanh", [inner]), number(1.0)])
            to.node(layer, "Mul", [to.node(layer, "Mul", [x, gate]), number(0.5)], True)
        case "mish":
            inner = to.node(layer, "Tanh", [to.node(layer, "Softplus", [x])])
            to.node(layer, "Mul", [x, inner], True)
        case "power":
            scale, shift, exponent = numbers
            base = to.node(layer, "Mul", [x, number(scale)]) if scale != 1 else x
            base = to.node(layer, "Add", [base, number(shift)]) if shift else base
            to.node(layer, "Pow", [base, number(exponent)], True)
        case "elu" | "celu" as name:
            to.node(layer, name.capitalize(), [x], True, alpha=numbers[0])
        case "selu":
            to.node(layer, "Selu", [x], True, alpha=numbers[0], gamma=numbers[1])
        case "hard_swish":
            to.node(layer, "HardSwish", [x], True)
        case name:
            to.node(layer, name.capitalize(), [x], True)


_EMIT: Mapping[str, _Emit] = {
    "conv": _plain("Conv", "weight", "bias"),
    "batch_norm": _plain("BatchNormalization", "gamma", "beta", "mean", "variance"),
    "fc": _plain("Gemm", "weight", "bias", transB=1),
    "relu": _bare("Relu"),
    "clip": _clip,
    "add": _bare("Add"),
    "subtract": _bare("Sub"),
    "multiply": _bare("Mul"),
    "maximum": _bare("Max"),
    "minimum": _bare("Min"),
    "affine": _affine,
    "prelu": lambda to, layer: _ignored(
        to.node(layer, "PRelu", [layer.inputs[0], to.by_channel(layer, "slope")], True)
    ),
    "function": _function,
    "square_sum": _square_sum,
    "max_pool": _plain("MaxPool"),
    "average_pool": _plain("AveragePool"),
    "interpolate": _interpolate,
    "flatten": _plain("Flatten", axis=1),
    "concat": _plain("Concat", axis=1),
    "select": _select,
    "rearrange": _rearrange,
}


def to_onnx(graph: Graph, outputs: Sequence[str]) -> onnx.ModelProto:
    """The network as a float32 ONNX model with a free batch axis that returns the named tensors.

    Tensors have their own names; a parameter that is called like a tensor gets another.
    """
    to = _Writer(graph)
    for layer in graph.layers:
        _EMIT[layer.op](to, layer)
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *graph.shapes[name]])
        for name in (graph.input, *outputs)
    ]
    onnx_graph = helper.make_graph(to.nodes, "graph", values[:1], values[1:], to.initializers)
    return helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
