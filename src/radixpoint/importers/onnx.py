"""ONNX model -> Graph.

What depends on no image (as ``torch.onnx.export(..., optimize=False)`` writes it) is computed first, by pure
operators alone and within bounds that are known before; everything else must be a row of the table below.
What comes out is compared with onnxruntime on random images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.shape_inference
import onnxruntime
from numpy.typing import NDArray

from radixpoint.errors import GraphError, ModelError, UnsupportedError
from radixpoint.importers.compare import check_imported, in_batches
from radixpoint.importers.onnx_constants import Constants, NoConstant
from radixpoint.ir.domains import MAX_ELEMENTS, check_attributes, check_shape
from radixpoint.ir.graph import Graph, Layer, build_graph
from radixpoint.ir.ops import LAYERS, Shape

MAX_NODES = 1 << 16
"""Of a model that is read."""
_MALFORMED = (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError)
"""What a rule may end in on a node that is not as ONNX says."""


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

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(v) for v in self.get(name, default))


def import_onnx(path: Path, input_shape: tuple[int, ...] | None) -> Graph:
    """Read an ONNX model.

    Args:
        path: the ``.onnx`` file; external data is looked for beside it.
        input_shape: (channels, height, width); needed where the model leaves height or width open.

    Raises:
        ModelError: unreadable, without a resolvable shape, holding values no network should hold, or
        computing
            something else in onnxruntime than what was imported.
        UnsupportedError: operators that are not supported, all of them named.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf, checker and the file system each raise their own
        raise ModelError(f"{path}: not a readable ONNX model: {_first_line(error)}") from None
    importer = _Importer(str(path), model, input_shape)
    graph = importer.run()
    check_imported(graph, importer.original(graph))
    return graph


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Importer:
    def __init__(self, source: str, model: onnx.ModelProto, input_shape: Shape | None) -> None:
        self.source, self.model = source, model
        if model.graph.sparse_initializer:
            raise ModelError(f"{source}: sparse initializers: expected dense ones")
        if len(model.graph.node) > MAX_NODES:
            raise ModelError(f"{source}: {len(model.graph.node)} nodes: expected at most {MAX_NODES}")
        self.nodes = self._needed()
        read = {name for proto in model.graph.node for name in proto.input}
        self.initializers = {x.name: x for x in model.graph.initializer}
        self.constants = Constants(model)
        try:
            for name in read & set(self.initializers):
                self.constants.add(self.initializers[name])
        except NoConstant as error:
            raise ModelError(f"{source}: {error}") from None
        self.batch, shape = self._image_shape(input_shape)
        self.shapes: dict[str, Shape] = {"input": shape}
        self.tensors: dict[str, str] = {self._image().name: "input"}  # ONNX name -> ours
        self.lost: set[str] = set()  # results of operators that are not supported
        self.merged: set[str] = set()  # sums before the constant that their layer adds
        self.layers: list[Layer] = []
        self.parameters: dict[str, NDArray[np.float32]] = {}
        self.refused: list[tuple[str, str, str]] = []

    def _needed(self) -> list[onnx.NodeProto]:
        """The nodes that the outputs depend on, in order; branches that nothing reads take no part."""
        wanted = {value.name for value in self.model.graph.output}
        found = []
        for proto in reversed(self.model.graph.node):
            if wanted.intersection(proto.output):
                found.append(proto)
                wanted.update(proto.input)
        return found[::-1]

    def _image(self) -> onnx.ValueInfoProto:
        inputs = [i for i in self.model.graph.input if i.name not in self.initializers]
        if len(inputs) != 1 or len(self.model.graph.output) != 1:
            raise ModelError(
                f"{self.source}: {len(inputs)} input(s) and {len(self.model.graph.output)} output(s): "
                "expected one image in and one vector of class scores out"
            )
        kind = inputs[0].type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            name = (
                onnx.TensorProto.DataType.Name(kind) if kind in onnx.TensorProto.DataType.values() else kind
            )
            raise ModelError(f"{self.source}: input {inputs[0].name!r} is {name}: expected float32 images")
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
        batch, found = sizes[0] or 1, tuple(int(s) for s in shape if s is not None)
        try:
            check_shape(found)
            if batch * math.prod(found) > MAX_ELEMENTS:
                raise GraphError(
                    f"{batch} images of {found} at once: expected at most {MAX_ELEMENTS:,} values"
                )
        except GraphError as error:
            raise ModelError(f"{self.source}: input {image.name!r}: {error}") from None
        return batch, found

    def run(self) -> Graph:
        for proto in self.nodes:
            self.visit(_Node(proto))
        read = {name for proto in self.nodes for name in proto.output}
        for proto in self.model.graph.node:  # whatever else would run the model would run these too
            if not read.intersection(proto.output) and Constants.knows(proto.op_type):
                self.reckon_unread(_Node(proto))
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
        if not self.layers:
            raise ModelError(f"{self.source}: computes nothing: expected layers")
        return build_graph(
            self.source, "input", self.shapes["input"], self.layers, self.tensors[output], self.parameters
        )

    def original(self, graph: Graph) -> Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.floating]]]:
        """Runs the model in onnxruntime; its tensors by our names."""
        theirs = {
            ours: name for name, ours in self.tensors.items() if ours in graph.shapes and ours != "input"
        }
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        del model.graph.output[:]
        float32 = onnx.TensorProto.FLOAT
        model.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, float32, None) for name in theirs.values()
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        image = self._image().name
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its errors share no class
            raise ModelError(
                f"{self.source}: cannot be compared with what was imported, since onnxruntime does not run "
                f"it: {_first_line(error)}"
            ) from None

        def run(images: NDArray[np.float32]) -> Mapping[str, NDArray[np.floating]]:
            try:
                results = in_batches(
                    lambda x: session.run(list(theirs.values()), {image: x}), images, self.batch
                )
            except Exception as error:
                raise ModelError(
                    f"{self.source}: onnxruntime fails to run it: {_first_line(error)}"
                ) from None
            return dict(zip(theirs, results, strict=True))

        return run

    @cached_property
    def inferred(self) -> dict[str, Shape]:
        """Shapes of an image's tensors, as far as ONNX itself can tell."""
        try:
            infos = onnx.shape_inference.infer_shapes(self.model).graph.value_info
        except Exception:  # a model that cannot be followed tells nothing
            return {}
        dims = {info.name: info.type.tensor_type.shape.dim for info in infos}
        return {
            name: tuple(int(d.dim_value) for d in own[1:])
            for name, own in dims.items()
            if len(own) in (2, 4) and all(d.dim_value > 0 for d in own[1:])
        }

    def visit(self, node: _Node) -> None:
        if any(name in self.lost for name in node.inputs):
            self.lost.update(node.outputs)
            if node.op not in _RULES and not Constants.knows(node.op):
                self.refuse(node, "no layer of that kind")
            return
        try:
            self._visit(node)
        except (_Refused, NoConstant, GraphError) as refused:
            self.refuse(node, str(refused))
        except _MALFORMED as error:
            self.refuse(node, f"not as ONNX has it: {type(error).__name__}: {error}")

    def _visit(self, node: _Node) -> None:
        if node.op == "Shape" and node.inputs[0] in self.tensors:
            shape = (self.batch, *self.shapes[self.tensors[node.inputs[0]]])
            self.constants[node.outputs[0]] = np.array(
                shape[node.get("start", 0) : node.get("end", len(shape))]
            )
        elif node.op == "CastLike" and node.inputs[0] in self.constants:
            # Like a constant, or like a tensor of the network: those are all float32.
            like = self.constants.get(node.inputs[1], np.empty(0, np.float32))
            self.constants[node.outputs[0]] = self.constants[node.inputs[0]].astype(like.dtype)
        elif all(name in self.constants for name in node.inputs if name):
            self.constants.compute(node.proto)
        elif any(name in self.merged for name in node.inputs):
            raise _Refused("the result of a MatMul both with and without the constant added to it")
        elif node.op in _RULES:
            _RULES[node.op](self, node)
        else:
            raise _Refused("no layer of that kind")

    def reckon_unread(self, node: _Node) -> None:
        """Refuse a constant that nothing reads if it would be too large."""
        if all(name in self.constants for name in node.inputs if name):
            try:
                self.constants.reckon(node.proto)
            except NoConstant as error:
                self.refuse(node, str(error))

    def refuse(self, node: _Node, why: str) -> None:
        self.refused.append((node.op, node.label, why))
        for name in node.outputs:
            shape = self.inferred.get(name)
            if shape is None:
                self.lost.add(name)
            else:  # what reads it is looked at as if it were there
                self.tensors[name] = f"refused {name}"
                self.shapes[self.tensors[name]] = shape

    # -- what the rules use

    def constant(self, node: _Node, index: int, what: str) -> NDArray[Any]:
        name = node.inputs[index]
        if name not in self.constants:
            raise _Refused(f"its {what} is computed from the image")
        return self.constants[name]

    def given(self, node: _Node, index: int) -> bool:
        """Whether an optional input is there."""
        return len(node.inputs) > index and bool(node.inputs[index])

    def shape_of(self, node: _Node) -> Shape:
        if node.inputs[0] not in self.tensors:
            raise _Refused("a constant where an image is expected")
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
            name = node.inputs[1].removesuffix(".weight") or name
        base, count = name, 1
        while name in self.shapes:
            count += 1
            name = f"{base}_{count}"
        sources = [self.tensors[i] for i in (inputs or node.inputs[:1])]
        arrays = {role: np.asarray(value, np.float32) for role, value in (arrays or {}).items()}
        check_attributes(attributes or {}, LAYERS[op].attributes, stored=False)
        shape = LAYERS[op].shape(attributes or {}, [self.shapes[i] for i in sources], arrays)
        check_shape(shape)
        if "bias" in arrays and arrays["bias"].shape != shape[:1]:
            raise _Refused(f"a bias of shape {arrays['bias'].shape}: expected {shape[:1]}")
        self.shapes[name] = shape
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
        if auto != "NOTSET":
            raise _Refused(f"auto_pad {auto!r}")
        return node.ints("pads", (0, 0, 0, 0))


def _window(to: _Importer, node: _Node, kernel: tuple[int, ...]) -> dict[str, Any]:
    strides, dilations = node.ints("strides", (1, 1)), node.ints("dilations", (1, 1))
    if len(kernel) != 2 or len(to.shape_of(node)) != 3:
        raise _Refused("only two-dimensional images")
    if len(strides) != 2 or len(dilations) != 2 or min(*kernel, *strides, *dilations) < 1:
        raise _Refused(
            f"a window of {kernel}, strides {strides}, dilations {dilations}: expected two of each, from 1"
        )
    pads = to.pads(node, to.shape_of(node), kernel, strides, dilations)
    if len(pads) != 4 or min(pads) < 0:
        raise _Refused(f"pads {pads}: expected four, from 0 (a negative one would crop)")
    return {"strides": strides, "pads": pads, "dilations": dilations}


def _conv(to: _Importer, node: _Node) -> None:
    arrays = {"weight": to.constant(node, 1, "weight")}
    if arrays["weight"].ndim != 4:
        raise _Refused("only two-dimensional images")
    if node.ints("kernel_shape", arrays["weight"].shape[2:]) != arrays["weight"].shape[2:]:
        raise _Refused(f"kernel_shape {node.ints('kernel_shape', ())} with weights {arrays['weight'].shape}")
    if to.given(node, 2):
        bias = to.constant(node, 2, "bias")
        if bias.shape != arrays["weight"].shape[:1]:
            raise _Refused(f"a bias of shape {bias.shape}: expected {arrays['weight'].shape[:1]}")
        if np.any(bias != 0):  # torch's exporter writes a bias of zeros where there is none
            arrays["bias"] = bias
    attributes = _window(to, node, arrays["weight"].shape[2:])
    to.add(node, "conv", {**attributes, "groups": int(node.get("group", 1))}, arrays)


def _batch_norm(to: _Importer, node: _Node) -> None:
    if (
        node.get("training_mode", 0)
        or not node.get("spatial", 1)
        or len(list(filter(None, node.outputs))) > 1
    ):
        raise _Refused("training mode, or statistics of each place")
    roles = ("gamma", "beta", "mean", "variance")
    arrays = {role: to.constant(node, i + 1, role) for i, role in enumerate(roles)}
    to.add(node, "batch_norm", {"epsilon": float(node.get("epsilon", 1e-5))}, arrays)


def _clip(to: _Importer, node: _Node) -> None:
    limits = [float(node.get("min", -np.inf)), float(node.get("max", np.inf))]
    for index in (1, 2):
        if to.given(node, index):
            limit = to.constant(node, index, "limit")
            if limit.size != 1:
                raise _Refused(f"a limit of shape {limit.shape}: expected one number")
            limits[index - 1] = float(limit.reshape(()))
    to.add(node, "clip", {"low": limits[0], "high": limits[1]})


def _add(to: _Importer, node: _Node) -> None:
    images = [name for name in node.inputs if name in to.tensors]
    if len(images) == 2:
        if to.shapes[to.tensors[images[0]]] != to.shapes[to.tensors[images[1]]]:
            raise _Refused("the sum of tensors of different shapes")
        to.add(node, "add", inputs=images)
        return
    if len(node.inputs) != 2:
        raise _Refused("only the sum of two tensors")
    # MatMul followed by Add of a constant vector is one fully connected layer.
    constant = next(to.constants[name] for name in node.inputs if name in to.constants)
    previous = to.layers[-1] if to.layers else None
    if (
        previous is None
        or previous.name != to.tensors[images[0]]
        or previous.op != "fc"
        or "bias" in previous.parameters
        or constant.shape not in (to.shapes[previous.name], (1, *to.shapes[previous.name]))
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
    kernel = node.ints("kernel_shape", ())
    attributes = _window(to, node, kernel)
    several = len(list(filter(None, node.outputs))) > 1
    if attributes.pop("dilations") != (1, 1) or node.get("storage_order", 0) or several:
        raise _Refused("dilation, column order or indices")
    if node.get("ceil_mode", 0):
        raise _Refused("ceil_mode")
    to.add(node, "max_pool", {"kernel": kernel, **attributes})


def _average_pool(to: _Importer, node: _Node) -> None:
    kernel = node.ints("kernel_shape", ())
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
    if to.given(node, 1):
        axes = to.constant(node, 1, "axes").tolist()
    if not isinstance(axes, list) or len(to.shape_of(node)) != 3 or sorted(a % 4 for a in axes) != [2, 3]:
        raise _Refused("only the mean over height and width")
    if not node.get("keepdims", 1):
        raise _Refused("only the mean over height and width, keeping both axes")
    _global_average_pool(to, node)


def _flatten(to: _Importer, node: _Node) -> None:
    shape = to.shape_of(node)
    if node.op == "Flatten":
        ok = node.get("axis", 1) % (len(shape) + 1) == 1
    else:
        target = to.constant(node, 1, "shape").reshape(-1).tolist()
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
    if weight.ndim != 2 or len(to.shape_of(node)) != 1:
        raise _Refused("only a vector of features by a matrix")
    arrays = {"weight": weight if node.get("transB", 0) else weight.T}
    if to.given(node, 2):
        bias, outputs = to.constant(node, 2, "bias"), arrays["weight"].shape[:1]
        if bias.shape not in ((), (1,), (1, 1), outputs, (1, *outputs)):
            raise _Refused(f"a bias of shape {bias.shape}: expected {outputs}")
        arrays["bias"] = np.broadcast_to(bias.reshape(-1), outputs)
    to.add(node, "fc", {}, arrays)


def _matmul(to: _Importer, node: _Node) -> None:
    if node.inputs[0] not in to.tensors:
        raise _Refused("a constant on the left")
    weight = to.constant(node, 1, "right operand")
    if weight.ndim != 2 or len(to.shape_of(node)) != 1:
        raise _Refused("only a vector of features by a matrix")
    to.add(node, "fc", {}, {"weight": weight.T})


def _concat(to: _Importer, node: _Node) -> None:
    if node.get("axis", 1) % (len(to.shape_of(node)) + 1) != 1:
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
