"""ONNX model -> Graph.

Constant sub-graphs (as ``torch.onnx.export(..., optimize=False)`` writes them) are evaluated with ONNX's own
reference implementation; everything else must be a row of the table below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
from numpy.typing import NDArray

from radixpoint.errors import GraphError, ModelError, UnsupportedError
from radixpoint.ir import Graph, Layer, build_graph
from radixpoint.ops import LAYERS, Shape

_FOLDABLE = 1 << 24
"""Constant results larger than this many elements are not computed while importing."""


class _Refused(Exception):
    """Why one node cannot become a layer."""


class _Node:
    """A NodeProto with its attributes as Python values."""

    def __init__(self, proto: onnx.NodeProto) -> None:
        self.proto = proto
        self.op = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
        self.inputs, self.outputs = list(proto.input), list(proto.output)
        self.label = proto.name or (proto.output[0] if proto.output else proto.op_type)
        self.attributes = {a.name: onnx.helper.get_attribute_value(a) for a in proto.attribute}

    def get(self, name: str, default: Any) -> Any:
        value = self.attributes.get(name, default)
        return value.decode() if isinstance(value, bytes) else value


def import_onnx(path: Path, input_shape: tuple[int, ...] | None) -> Graph:
    """Read an ONNX model.

    Args:
        path: the ``.onnx`` file; external data is looked for beside it.
        input_shape: (channels, height, width); needed where the model leaves height or width open.

    Raises:
        ModelError: unreadable, without a resolvable shape, or holding values no network should hold.
        UnsupportedError: operators that are not supported, all of them named.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and the file system each raise their own
        raise ModelError(f"{path}: not a readable ONNX model: {str(error).splitlines()[0]}") from None
    return _Importer(str(path), model, input_shape).run()


class _Importer:
    def __init__(self, source: str, model: onnx.ModelProto, input_shape: Shape | None) -> None:
        self.source, self.model = source, model
        self.opsets = {o.domain: o.version for o in model.opset_import}
        self.constants: dict[str, NDArray[Any]] = {
            x.name: onnx.numpy_helper.to_array(x) for x in model.graph.initializer
        }
        self.batch, shape = self._image_shape(input_shape)
        self.shapes: dict[str, Shape] = {"input": shape}
        self.tensors: dict[str, str] = {self._image().name: "input"}  # ONNX name -> ours
        self.lost: set[str] = set()  # results of operators that are not supported
        self.merged: set[str] = set()  # sums before the constant that their layer adds
        self.layers: list[Layer] = []
        self.parameters: dict[str, NDArray[np.float32]] = {}
        self.refused: list[tuple[str, str, str]] = []

    def _image(self) -> onnx.ValueInfoProto:
        inputs = [i for i in self.model.graph.input if i.name not in self.constants]
        if len(inputs) != 1 or len(self.model.graph.output) != 1:
            raise ModelError(
                f"{self.source}: {len(inputs)} input(s) and {len(self.model.graph.output)} output(s): "
                "expected one image in and one vector of class scores out"
            )
        return inputs[0]

    def _image_shape(self, given: Shape | None) -> tuple[int, Shape]:
        image = self._image()
        dims = image.type.tensor_type.shape.dim
        if len(dims) != 4:
            raise ModelError(f"{self.source}: input {image.name!r} has {len(dims)} axes: expected N, C, H, W")
        sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        shape: list[int | None] = []
        for axis, size in zip("CHW", sizes[1:], strict=True):
            asked = None if given is None else given[len(shape)]
            if size is None and asked is None:
                name = dims[len(shape) + 1].dim_param or "?"
                raise ModelError(
                    f"{self.source}: axis {axis} of input {image.name!r} is dynamic ({name}): give the shape "
                    "of an image (channels, height, width)"
                )
            if size is not None and asked is not None and size != asked:
                raise ModelError(
                    f"{self.source}: axis {axis} of input {image.name!r} is {size}, but {asked} was given"
                )
            shape.append(size if size is not None else asked)
        return sizes[0] or 1, tuple(int(s) for s in shape if s is not None)

    def run(self) -> Graph:
        for proto in self.model.graph.node:
            self.visit(_Node(proto))
        if self.refused:
            raise UnsupportedError(self.source, self.refused)
        output = self.model.graph.output[0].name
        if output in self.merged:
            raise ModelError(
                f"{self.source}: output {output!r} is the result of a MatMul both with and without the "
                "constant added to it"
            )
        if output not in self.tensors:
            raise ModelError(f"{self.source}: output {output!r} does not depend on the image")
        return build_graph(
            self.source, "input", self.shapes["input"], self.layers, self.tensors[output], self.parameters
        )

    def visit(self, node: _Node) -> None:
        if any(name in self.lost for name in node.inputs):
            self.lost.update(node.outputs)
            if node.op not in _RULES and node.op not in _SHAPE_OPS:
                self.refuse(node, "no layer of that kind")
            return
        try:
            if node.op == "Shape" and node.inputs[0] in self.tensors:
                shape = (self.batch, *self.shapes[self.tensors[node.inputs[0]]])
                start, end = node.get("start", 0), node.get("end", len(shape))
                self.constants[node.outputs[0]] = np.array(shape[start:end], np.int64)
            elif node.op == "CastLike" and node.inputs[0] in self.constants:
                # Like a constant, or like a tensor of the network: those are all float32.
                like = self.constants.get(node.inputs[1], np.empty(0, np.float32))
                self.constants[node.outputs[0]] = self.constants[node.inputs[0]].astype(like.dtype)
            elif all(name in self.constants for name in node.inputs if name):
                self.fold(node)
            elif any(name in self.merged for name in node.inputs):
                raise _Refused("the result of a MatMul both with and without the constant added to it")
            elif node.op in _RULES:
                _RULES[node.op](self, node)
            else:
                raise _Refused("no layer of that kind")
        except _Refused as refused:
            self.refuse(node, str(refused))
        except GraphError as error:
            raise ModelError(f"{self.source}: node {node.label!r}: {error}") from None

    def refuse(self, node: _Node, why: str) -> None:
        self.refused.append((node.op, node.label, why))
        self.lost.update(node.outputs)

    def fold(self, node: _Node) -> None:
        """Evaluate a node all of whose inputs are constant."""
        feeds = {name: self.constants[name] for name in node.inputs if name}
        evaluator = onnx.reference.ReferenceEvaluator(node.proto, opsets=self.opsets)
        try:
            results = evaluator.run(None, feeds)
        except Exception as error:
            raise _Refused(f"a constant that cannot be evaluated ({error})") from None
        for name, value in zip(node.outputs, results, strict=False):
            if np.size(value) > _FOLDABLE:
                raise _Refused(f"a constant of {np.size(value)} elements")
            self.constants[name] = np.asarray(value)

    # -- what the rules use

    def constant(self, node: _Node, index: int, what: str) -> NDArray[Any]:
        name = node.inputs[index]
        if name not in self.constants:
            raise _Refused(f"its {what} is computed from the image")
        return self.constants[name]

    def shape_of(self, node: _Node) -> Shape:
        return self.shapes[self.tensors[node.inputs[0]]]

    def alias(self, node: _Node) -> None:
        self.tensors[node.outputs[0]] = self.tensors[node.inputs[0]]

    def add(
        self,
        node: _Node,
        op: str,
        attributes: Mapping[str, Any] | None = None,
        arrays: Mapping[str, NDArray[Any]] | None = None,
        inputs: list[str] | None = None,
    ) -> None:
        """Append a layer; its name is the prefix of its weights' name where that tells more."""
        name = node.label
        if arrays and len(node.inputs) > 1 and node.inputs[1].endswith(".weight"):
            name = node.inputs[1].removesuffix(".weight")
        base, count = name, 1
        while name in self.shapes:
            count += 1
            name = f"{base}_{count}"
        sources = [self.tensors[i] for i in (inputs or node.inputs[:1])]
        arrays = {role: np.asarray(value, np.float32) for role, value in (arrays or {}).items()}
        self.shapes[name] = LAYERS[op].shape(attributes or {}, [self.shapes[i] for i in sources], arrays)
        keys = {role: f"{name}.{role}" for role in arrays}
        self.layers.append(Layer(name, op, tuple(sources), dict(attributes or {}), keys))
        self.parameters.update({keys[role]: value for role, value in arrays.items()})
        self.tensors[node.outputs[0]] = name

    def pads(
        self,
        node: _Node,
        shape: Shape,
        kernel: tuple[int, ...],
        strides: tuple[int, ...],
        dilations: tuple[int, ...],
    ) -> tuple[int, ...]:
        """Explicit (top, left, bottom, right), whatever the node says."""
        auto = node.get("auto_pad", "NOTSET")
        if auto == "VALID":
            return (0, 0, 0, 0)
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            befores, afters = [], []
            for size, k, stride, dilation in zip(shape[1:], kernel, strides, dilations, strict=True):
                total = max(0, (-(-size // stride) - 1) * stride + dilation * (k - 1) + 1 - size)
                less = total // 2
                befores.append(less if auto == "SAME_UPPER" else total - less)
                afters.append(total - befores[-1])
            return (*befores, *afters)
        return tuple(node.get("pads", [0, 0, 0, 0]))


def _window(to: _Importer, node: _Node, kernel: tuple[int, ...]) -> dict[str, Any]:
    strides = tuple(node.get("strides", [1, 1]))
    dilations = tuple(node.get("dilations", [1, 1]))
    if len(kernel) != 2 or len(to.shape_of(node)) != 3:
        raise _Refused("only two-dimensional images")
    pads = to.pads(node, to.shape_of(node), kernel, strides, dilations)
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _conv(to: _Importer, node: _Node) -> None:
    arrays = {"weight": to.constant(node, 1, "weight")}
    if len(node.inputs) > 2 and node.inputs[2]:
        bias = to.constant(node, 2, "bias")
        if np.any(bias != 0):  # torch's exporter writes a bias of zeros where there is none
            arrays["bias"] = bias
    attributes = _window(to, node, arrays["weight"].shape[2:])
    to.add(node, "conv", {**attributes, "groups": int(node.get("group", 1))}, arrays)


def _batch_norm(to: _Importer, node: _Node) -> None:
    if node.get("training_mode", 0):
        raise _Refused("training mode")
    roles = ("gamma", "beta", "mean", "variance")
    arrays = {role: to.constant(node, i + 1, role) for i, role in enumerate(roles)}
    to.add(node, "batch_norm", {"epsilon": float(node.get("epsilon", 1e-5))}, arrays)


def _clip(to: _Importer, node: _Node) -> None:
    limits = [float(node.get("min", -np.inf)), float(node.get("max", np.inf))]
    for index in (1, 2):
        if len(node.inputs) > index and node.inputs[index]:
            limits[index - 1] = float(to.constant(node, index, "limit"))
    to.add(node, "clip", {"low": limits[0], "high": limits[1]})


def _add(to: _Importer, node: _Node) -> None:
    images = [name for name in node.inputs if name in to.tensors]
    if len(images) == 2:
        if to.shapes[to.tensors[images[0]]] != to.shapes[to.tensors[images[1]]]:
            raise _Refused("the sum of tensors of different shapes")
        to.add(node, "add", inputs=images)
        return
    # MatMul followed by Add of a constant vector is one fully connected layer.
    constant = next(to.constants[name] for name in node.inputs if name in to.constants)
    previous = to.layers[-1] if to.layers else None
    if (
        previous is None
        or previous.name != to.tensors[images[0]]
        or previous.op != "fc"
        or "bias" in previous.parameters
        or constant.size != to.shapes[previous.name][0]
    ):
        raise _Refused("the sum of a tensor and a constant, but not after a MatMul")
    key = f"{previous.name}.bias"
    to.parameters[key] = np.asarray(constant, np.float32).reshape(-1)
    to.layers[-1] = Layer(
        previous.name, "fc", previous.inputs, previous.attributes, {**previous.parameters, "bias": key}
    )
    to.merged.update(name for name, ours in to.tensors.items() if ours == previous.name)
    to.tensors[node.outputs[0]] = previous.name


def _max_pool(to: _Importer, node: _Node) -> None:
    kernel = tuple(node.get("kernel_shape", []))
    attributes = _window(to, node, kernel)
    if attributes.pop("dilations") != (1, 1) or node.get("storage_order", 0) or len(node.outputs) > 1:
        raise _Refused("dilation, column order or indices")
    if node.get("ceil_mode", 0):
        raise _Refused("ceil_mode")
    to.add(node, "max_pool", {"kernel": kernel, **attributes})


def _average_pool(to: _Importer, node: _Node) -> None:
    kernel = tuple(node.get("kernel_shape", []))
    attributes = _window(to, node, kernel)
    if attributes.pop("dilations") != (1, 1) or node.get("ceil_mode", 0):
        raise _Refused("dilation or ceil_mode")
    included = bool(node.get("count_include_pad", 0))
    to.add(node, "average_pool", {"kernel": kernel, **attributes, "count_include_pad": included})


def _global_average_pool(to: _Importer, node: _Node) -> None:
    kernel = to.shape_of(node)[1:]
    if len(kernel) != 2:
        raise _Refused("only two-dimensional images")
    attributes = {"kernel": kernel, "strides": (1, 1), "pads": (0, 0, 0, 0), "count_include_pad": False}
    to.add(node, "average_pool", attributes)


def _reduce_mean(to: _Importer, node: _Node) -> None:
    axes = node.get("axes", None)
    if len(node.inputs) > 1 and node.inputs[1]:
        axes = to.constant(node, 1, "axes").tolist()
    if sorted(a % 4 for a in axes or ()) != [2, 3] or not node.get("keepdims", 1):
        raise _Refused("only the mean over height and width, keeping both axes")
    _global_average_pool(to, node)


def _flatten(to: _Importer, node: _Node) -> None:
    shape = to.shape_of(node)
    if node.op == "Flatten":
        ok = node.get("axis", 1) in (1, -len(shape))
    else:
        target = to.constant(node, 1, "shape").tolist()
        rest = int(np.prod(shape))
        ok = len(target) == 2 and target[0] in (0, -1, to.batch) and target[1] in (-1, rest)
        ok = ok and target != [-1, -1]
    if not ok:
        raise _Refused("only flattening to (batch, features)")
    to.add(node, "flatten") if len(shape) > 1 else to.alias(node)


def _gemm(to: _Importer, node: _Node) -> None:
    if node.get("alpha", 1.0) != 1.0 or node.get("beta", 1.0) != 1.0 or node.get("transA", 0):
        raise _Refused("alpha or beta other than 1, or transA")
    weight = to.constant(node, 1, "weight")
    arrays = {"weight": weight if node.get("transB", 0) else weight.T}
    if len(node.inputs) > 2 and node.inputs[2]:
        arrays["bias"] = np.broadcast_to(
            to.constant(node, 2, "bias").reshape(-1),
            weight.shape[:1] if node.get("transB", 0) else weight.shape[1:],
        )
    to.add(node, "fc", {}, arrays)


def _matmul(to: _Importer, node: _Node) -> None:
    if node.inputs[0] not in to.tensors:
        raise _Refused("a constant on the left")
    weight = to.constant(node, 1, "right operand")
    if weight.ndim != 2 or len(to.shape_of(node)) != 1:
        raise _Refused("only a vector of features by a matrix")
    to.add(node, "fc", {}, {"weight": weight.T})


def _concat(to: _Importer, node: _Node) -> None:
    if node.get("axis", 1) not in (1, -3):
        raise _Refused(f"axis {node.get('axis', 1)}: only channels (1)")
    if any(name not in to.tensors for name in node.inputs):
        raise _Refused("a constant among its inputs")
    to.add(node, "concat", {"count": len(node.inputs)}, inputs=node.inputs)


_RULES: Mapping[str, Callable[[_Importer, _Node], None]] = {
    "Conv": _conv,
    "BatchNormalization": _batch_norm,
    "Relu": lambda to, node: to.add(node, "relu"),
    "Clip": _clip,
    "Add": _add,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": _global_average_pool,
    "ReduceMean": _reduce_mean,
    "Flatten": _flatten,
    "Reshape": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Concat": _concat,
    "Identity": lambda to, node: to.alias(node),
    "Dropout": lambda to, node: to.alias(node),
}

_SHAPE_OPS = ("Shape", "Constant", "Squeeze", "Unsqueeze", "Gather", "Slice", "Cast", "CastLike", "Expand")
"""Operators that occur in computations of shapes; not reported after an operator that is not supported."""
