"""ONNX model -> Graph.

What depends on no image (as ``torch.onnx.export(..., optimize=False)`` writes it) is computed first, by pure
operators alone and within bounds that are known before; everything else must be a row of the table in
``onnx_rules``. What comes out is compared with onnxruntime on random images.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
import onnxruntime
from numpy.typing import NDArray

from radixpoint.errors import GraphError, ModelError, UnsupportedError
from radixpoint.importers.builder import Builder, Refused, View, whole
from radixpoint.importers.compare import check_imported, in_batches
from radixpoint.importers.onnx_constants import Constants, NoConstant
from radixpoint.importers.onnx_node import Node
from radixpoint.importers.onnx_rules import FINAL, PASSES_FINAL, RESCALING, RULES
from radixpoint.ir.domains import MAX_ELEMENTS, check_shape
from radixpoint.ir.graph import Graph, Layer
from radixpoint.ir.ops import Shape

MAX_NODES = 1 << 16
"""Of a model that is read."""
_MALFORMED = (TypeError, ValueError, IndexError, KeyError, AttributeError, OverflowError)
"""What a rule may end in on a node that is not as ONNX says."""


TRAINED_QUANTIZED = ("Quant", "BipolarQuant", "QuantizeLinear")
"""Nodes that say in which integers a network computes."""


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
        quantized = [proto for proto in model.graph.node if proto.op_type in TRAINED_QUANTIZED]
        if not quantized:
            onnx.checker.check_model(model)
        model = onnx.inliner.inline_local_functions(model) if model.functions else model
    except Exception as error:  # protobuf, checker and the file system each raise their own
        raise ModelError(f"{path}: not a readable ONNX model: {_first_line(error)}") from None
    if quantized:
        raise ModelError(
            f"{path}: node {quantized[0].name!r} is a {quantized[0].op_type}: the model was trained "
            "quantized: expected a float network here; 'radixpoint convert' reads it in its own formats"
        )
    importer = _Importer(str(path), model, input_shape)
    graph = importer.run()
    check_imported(graph, importer.original(graph))
    return graph


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


class _Importer:
    """Reads one model; what ``onnx_rules`` may use."""

    def __init__(self, source: str, model: onnx.ModelProto, input_shape: Shape | None) -> None:
        self.source, self.model = source, model
        if model.graph.sparse_initializer:
            raise ModelError(f"{source}: sparse initializers: expected dense ones")
        if len(model.graph.node) > MAX_NODES:
            raise ModelError(f"{source}: {len(model.graph.node)} nodes: expected at most {MAX_NODES}")
        self.nodes = self._needed()
        self.readers = Counter(name for p in self.nodes if p.op_type != "Shape" for name in p.input)
        self.readers.update(value.name for value in model.graph.output)
        self.opset = next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 1)
        read = {name for proto in model.graph.node for name in proto.input}
        self.initializers = {x.name: x for x in model.graph.initializer}
        self.constants = Constants(model)
        try:
            for name in read & set(self.initializers):
                self.constants.add(self.initializers[name])
        except NoConstant as error:
            raise ModelError(f"{source}: {error}") from None
        self.layout: tuple[int, ...] = ()  # axes of the model's image, the batch first, in our order
        self.batch, shape = self._image_shape(input_shape)
        self.build = Builder(source, shape)
        seen = whole("input", shape)
        if len(self.layout) == 3:
            seen = View("input", seen.factors, (seen.axes[0], seen.axes[2]))
        back = np.argsort(self.layout[1:]).tolist()
        self.views: dict[str, View] = {self._image().name: seen.permuted(back)}
        self.sequences: dict[str, list[View]] = {}  # tensors that are handed on together
        self.merged: dict[str, View] = {}  # products before the constant that their layer adds
        self.final: set[str] = set()  # results of what is left out at the end, and what is made of them
        self.results: list[tuple[str, View]] = []  # what is compared, and seen how
        self.lost: set[str] = set()  # results of operators that are not supported

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
        if len(inputs) != 1 or not self.model.graph.output:
            names = ", ".join(repr(i.name) for i in inputs)
            raise ModelError(
                f"{self.source}: {len(inputs)} inputs ({names or 'none'}) and {len(self.model.graph.output)} "
                "outputs: expected one image in, and at least one result"
            )
        kind = inputs[0].type.tensor_type.elem_type
        if kind != onnx.TensorProto.FLOAT:
            name = (
                onnx.TensorProto.DataType.Name(kind) if kind in onnx.TensorProto.DataType.values() else kind
            )
            raise ModelError(f"{self.source}: input {inputs[0].name!r} is {name}: expected float32 images")
        return inputs[0]

    def _channels_last(self, name: str, axes: int) -> bool:
        """Whether all that reads the image moves its last axis behind the batch, at most rescaled before."""
        order = [0, axes - 1, *range(1, axes - 1)]
        readers = [proto for proto in self.nodes if name in proto.input]
        return bool(readers) and all(
            list(Node(proto).ints("perm", ())) == order
            if proto.op_type == "Transpose"
            else proto.op_type in RESCALING and self._channels_last(proto.output[0], axes)
            for proto in readers
        )

    def _image_shape(self, given: Shape | None) -> tuple[int, Shape]:
        image = self._image()
        dims = image.type.tensor_type.shape.dim
        if len(dims) not in (3, 4):
            raise ModelError(
                f"{self.source}: input {image.name!r} has {len(dims)} axes: expected N, C, H, W or N, C, L"
            )
        last = self._channels_last(image.name, len(dims))
        self.layout = (0, len(dims) - 1, *range(1, len(dims) - 1)) if last else tuple(range(len(dims)))
        dims = [dims[axis] for axis in self.layout]
        sizes = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in dims]
        if len(dims) == 3:  # one row
            sizes.insert(2, 1)
            dims.insert(2, dims[1])
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
        if self.layout != tuple(range(len(self.layout))):
            self.build.notes.append("The model takes images channels-last; here they are channels-first.")
        for proto in self.nodes:
            self.visit(Node(proto))
        read = {name for proto in self.nodes for name in proto.output}
        for proto in self.model.graph.node:  # whatever else would run the model would run these too
            if not read.intersection(proto.output) and Constants.knows(proto.op_type):
                self.reckon_unread(Node(proto))
        if self.build.refused:
            raise UnsupportedError(self.source, self.build.refused)
        for value in self.model.graph.output:
            if value.name not in self.views:
                raise ModelError(f"{self.source}: output {value.name!r} does not depend on the image")
        for value in self.model.graph.output:
            view = self.views[value.name]
            before = (n for n, own in self.views.items() if own == view and n not in self.final)
            self.results.append((next(before, value.name), self.build.output(view)))
        return self.build.graph([view for _, view in self.results])

    def original(self, graph: Graph) -> Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.floating]]]:
        """Runs the model in onnxruntime; its tensors by our names, in our order."""
        theirs = {
            view.name: (name, view)
            for name, view in reversed(self.views.items())
            if view.name in graph.shapes and view.name != "input" and name not in self.final
        }
        theirs |= {view.name: (name, view) for name, view in self.results}
        names = list(dict.fromkeys(name for name, _ in theirs.values()))
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:]
        model.graph.node.extend(self.nodes)
        del model.graph.output[:]
        float32 = onnx.TensorProto.FLOAT
        model.graph.output.extend(onnx.helper.make_tensor_value_info(name, float32, None) for name in names)
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
            fed = images[:, :, 0] if len(self.layout) == 3 else images
            fed = np.ascontiguousarray(fed.transpose(np.argsort(self.layout)))
            try:
                results = in_batches(lambda x: session.run(names, {image: x}), fed, self.batch)
            except Exception as error:
                raise ModelError(
                    f"{self.source}: onnxruntime fails to run it: {_first_line(error)}"
                ) from None
            values = dict(zip(names, results, strict=True))
            return {
                ours: view.ours(values[name], graph.shapes[ours]) for ours, (name, view) in theirs.items()
            }

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

    def visit(self, node: Node) -> None:
        if any(name in self.lost for name in node.inputs):
            self.lost.update(node.outputs)
            if node.op not in RULES and not Constants.knows(node.op):
                self.refuse(node, "no layer of that kind")
            return
        try:
            self._visit(node)
        except (Refused, NoConstant, GraphError) as refused:
            self.refuse(node, str(refused))
        except _MALFORMED as error:
            self.refuse(node, f"not as ONNX has it: {type(error).__name__}: {error}")

    def _visit(self, node: Node) -> None:
        build = self.build
        asked = self.views.get(node.inputs[0], self.merged.get(node.inputs[0])) if node.inputs else None
        if node.op == "Shape" and asked is not None:
            shape = (self.batch, *asked.shape)
            self.constants[node.outputs[0]] = np.array(
                shape[node.get("start", 0) : node.get("end", len(shape))]
            )
            return
        if node.op == "CastLike" and node.inputs[0] in self.constants:
            # Like a constant, or like a tensor of the network: those are all float32.
            like = self.constants.get(node.inputs[1], np.empty(0, np.float32))
            self.constants[node.outputs[0]] = self.constants[node.inputs[0]].astype(like.dtype)
            return
        if all(name in self.constants for name in node.inputs if name):
            self.constants.compute(node.proto)
            return
        if self.final.intersection(node.inputs) and node.op not in PASSES_FINAL:
            raise Refused(
                "it reads what a softmax or argmax makes, which is left out and may only end a network"
            )
        if node.op not in RULES:
            raise Refused("no layer of that kind")
        build.label = self._label(node)
        results = RULES[node.op](self, node)
        for name, view in zip(node.outputs, results, strict=False):
            if name:
                self.views[name] = view
                if node.op in FINAL or self.final.intersection(node.inputs):
                    self.final.add(name)

    def _label(self, node: Node) -> str:
        """Its name, or the prefix of its weights' name where that tells more."""
        if len(node.inputs) > 1 and node.inputs[1].endswith(".weight") and node.inputs[1] in self.constants:
            return str(node.inputs[1].removesuffix(".weight") or node.label)
        return str(node.label)

    def reckon_unread(self, node: Node) -> None:
        """Refuse a constant that nothing reads if it would be too large."""
        if all(name in self.constants for name in node.inputs if name):
            try:
                self.constants.reckon(node.proto)
            except NoConstant as error:
                self.refuse(node, str(error))

    def refuse(self, node: Node, why: str) -> None:
        self.build.refused.append((node.op, node.label, why))
        for name in node.outputs:
            shape = self.inferred.get(name)
            if shape is None:
                self.lost.add(name)
            else:  # what reads it is looked at as if it were there
                made = f"refused {name}"
                self.build.shapes[made] = shape
                self.views[name] = whole(made, shape)

    # -- what the rules use

    def constant(self, node: Node, index: int, what: str) -> NDArray[Any]:
        """An input that is known.

        Raises:
            Refused: it is computed from the image.
        """
        name = node.inputs[index]
        if name not in self.constants:
            raise Refused(f"its {what} is computed from the image")
        return self.constants[name]

    def view(self, node: Node, index: int = 0) -> View:
        """An input that is computed from the image.

        Raises:
            Refused: it is a constant.
        """
        if node.inputs[index] not in self.views:
            raise Refused("a constant where an image is expected")
        return self.views[node.inputs[index]]

    def with_bias(self, node: Node, view: View, bias: NDArray[Any]) -> bool:
        """Give a product that nothing else reads that bias, if it has none and each output has one value."""
        name = next((n for n in node.inputs if n in self.views), "")
        layers = self.build.layers
        at = next((i for i in reversed(range(len(layers))) if layers[i].name == view.name), None)
        if at is None or layers[at].family != "product" or "bias" in layers[at].parameters:
            return False
        shape = self.build.shapes[view.name]
        made = whole(view.name, shape)
        plain = view.axes[:1] == made.axes[:1] and view.factors == made.factors
        channels = shape[0]
        own = (1,) * (len(view.shape) + 1 - bias.ndim) + bias.shape
        fits = own in ((1, channels, *[1] * (len(view.shape) - 1)), (1,) * len(own))
        if self.readers[name] != 1 or not plain or not fits:
            return False
        layer = layers[at]
        key = f"{layer.name}.bias"
        self.build.parameters[key] = np.broadcast_to(np.asarray(bias, np.float32).reshape(-1), (channels,))
        layers[at] = Layer(
            layer.name, layer.op, layer.inputs, layer.attributes, {**layer.parameters, "bias": key}
        )
        self.merged[name] = self.views.pop(name)  # without its constant it is nowhere now
        return True
