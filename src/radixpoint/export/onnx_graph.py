"""What the two ONNX targets share: building a model, and sums over windows without an integer convolution."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
from numpy.typing import DTypeLike, NDArray

from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.ops import SELECTED
from radixpoint.ir.plan import Plan

if TYPE_CHECKING:
    import onnx
    import onnx.helper
    import onnx.numpy_helper
else:  # it takes a while, and few commands need it
    onnx = lazy_loader.load("onnx")

OPSET = 17
LARGE = 1024
"""Integer constants of more values are stored in the narrowest type and widened in the model."""


class ModelBuilder:
    """Nodes and constants in the order in which they are made.

    Tensors are named by identifiers of the plan. A node is named after its layer, as steps are, so that a
    viewer such as Netron shows which layer it belongs to; the step's last node says its format.
    """

    def __init__(self, network: IntGraph) -> None:
        self.network, self.plan = network, Plan(network)
        self._step: Step | None = None
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._known: dict[tuple[Any, ...], str] = {}
        self._count = 0

    def steps(self) -> Iterator[tuple[Step, str]]:
        """Each step with its identifier; nodes that are added meanwhile are its own."""
        for step in self.network.steps:
            self._step = step
            yield step, self.plan.identifiers[step.name]
        self._step = None

    def fresh(self, hint: str) -> str:
        self._count += 1
        return f"{hint}_{self._count}"

    def node(
        self, op: str, inputs: Sequence[str], name: str | None = None, domain: str = "", **attributes: Any
    ) -> str:
        """Add a node with one result, which is named ``name`` or freshly."""
        result = name or self.fresh(op.lower())
        named, about = result, None
        if self._step is not None:
            last = result == self.plan.identifiers[self._step.name]
            named = self._step.name if last else f"{self._step.name}/{result}"
            about = self._about(self._step.name) if last else None
        self.nodes.append(
            onnx.helper.make_node(op, list(inputs), [result], named, about, domain, **attributes)
        )
        return result

    def _about(self, tensor: str) -> str:
        """A tensor's layer, format and range, for those who look at the model."""
        own = self.network.tensors[tensor]
        return f"layer {own.layer}: {own.format}, stored integers {own.low} .. {own.high}"

    def constant(self, values: Any, dtype: DTypeLike, name: str | None = None) -> str:
        """A constant; equal ones without a name are shared."""
        array = np.asarray(values, dtype)
        key = (
            (array.dtype.str, array.shape, array.tobytes()) if name is None and array.size <= LARGE else None
        )
        if key is not None and key in self._known:
            return self._known[key]
        result = name or self.fresh("constant")
        if array.dtype == np.int64 and array.size > LARGE:
            narrow = next(
                t for t in (np.int8, np.int16, np.int32, np.int64) if np.array_equal(array.astype(t), array)
            )
            self.initializers.append(onnx.numpy_helper.from_array(array.astype(narrow), f"{result}_stored"))
            self.node("Cast", [f"{result}_stored"], result, to=onnx.TensorProto.INT64)
        else:
            self.initializers.append(onnx.numpy_helper.from_array(array, result))
        if key is not None:
            self._known[key] = result
        return result

    def alias(self, source: str, name: str) -> str:
        return self.node("Identity", [source], name)

    def taps(
        self, step: Step, source: str, kernel: Sequence[int], pad: Callable[[], str]
    ) -> list[tuple[int, int, str]]:
        """For each place of a window, what it sees at every position: (row, column, tensor).

        ``pad`` makes the constant that fills the padding.
        """
        shape = self.network.tensors[step.inputs[0]].shape
        top, left, bottom, right = step.attributes["pads"]
        if any(step.attributes["pads"]):
            pads = self.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
            source = self.node("Pad", [source, pads, pad()])
        height, width = shape[1] + top + bottom, shape[2] + left + right
        strides = step.attributes["strides"]
        dilations = step.attributes.get("dilations", (1, 1))
        rows, columns = self.network.tensors[step.name].shape[1:]
        result = []
        for ky, kx in itertools.product(range(kernel[0]), range(kernel[1])):
            first = (ky * dilations[0], kx * dilations[1])
            last = (first[0] + (rows - 1) * strides[0] + 1, first[1] + (columns - 1) * strides[1] + 1)
            seen = source
            if first != (0, 0) or last != (height, width) or tuple(strides) != (1, 1):
                ends = [self.constant(v, np.int64) for v in (first, last, (2, 3), strides)]
                seen = self.node("Slice", [source, *ends])
            result.append((ky, kx, seen))
        return result

    def selected(self, step: Step, source: str, fill: Callable[[], str], name: str) -> str:
        """A ``select``; ``fill`` makes the constant that stands where the index is -1."""
        shape = self.network.tensors[step.inputs[0]].shape
        chosen = [(axis, step.attributes[own]) for axis, own in enumerate(SELECTED) if step.attributes[own]]
        for axis, indices in chosen:
            if min(indices) < 0:  # one place more, behind all others, holds the fill
                pads = [0] * (2 * (len(shape) + 1))
                pads[len(shape) + 1 + axis + 1] = 1
                source = self.node("Pad", [source, self.constant(pads, np.int64), fill()])
            places = self.constant([i if i >= 0 else shape[axis] for i in indices], np.int64)
            source = self.node("Gather", [source, places], axis=axis + 1)
        return self.alias(source, name)

    def rearranged(self, step: Step, source: str, name: str) -> str:
        """A ``rearrange``."""
        split, order, shape = (step.attributes[own] for own in ("split", "order", "shape"))
        source = self.node("Reshape", [source, self.constant([0, *split], np.int64)])
        source = self.node("Transpose", [source], perm=[0, *(i + 1 for i in order)])
        return self.node("Reshape", [source, self.constant([0, *shape], np.int64)], name)

    def channel_sum(self, step: Step, source: str, zero: Callable[[], str], name: str) -> str:
        """A ``sum_channels``."""
        size, channels = step.attributes["size"], self.network.tensors[step.name].shape[0]
        before = (size - 1) // 2
        pads = self.constant([0, before, 0, 0, 0, size - 1 - before, 0, 0], np.int64)
        padded = self.node("Pad", [source, pads, zero()])
        terms = []
        for first in range(size):
            ends = [self.constant([v], np.int64) for v in (first, first + channels, 1)]
            terms.append(self.node("Slice", [padded, *ends]))
        return self.chain("Add", terms, name)

    def chain(self, op: str, terms: Sequence[str], name: str) -> str:
        """Fold ``terms`` by a binary operator; the last result is ``name``."""
        if len(terms) == 1:
            return self.alias(terms[0], name)
        total = terms[0]
        for term in terms[1:-1]:
            total = self.node(op, [total, term])
        return self.node(op, [total, terms[-1]], name)

    def product_sum(
        self, step: Step, source: str, weight: NDArray[Any], dtype: DTypeLike, zero: Callable[[], str]
    ) -> str:
        """A convolution or dense step by MatMul, one for each place of the kernel."""
        name = self.plan.identifiers[step.name]
        if step.op == "dense":
            return self.node("MatMul", [source, self.constant(weight.T, dtype)], name)
        outputs, inputs = weight.shape[:2]
        groups = step.attributes["groups"]
        rows, columns = self.network.tensors[step.name].shape[1:]
        split = self.constant([0, groups, inputs, rows * columns], np.int64)
        terms = []
        for ky, kx, seen in self.taps(step, source, weight.shape[2:], zero):
            matrix = self.constant(weight[:, :, ky, kx].reshape(groups, outputs // groups, inputs), dtype)
            terms.append(self.node("MatMul", [matrix, self.node("Reshape", [seen, split])]))
        total = self.chain("Add", terms, self.fresh("sum"))
        whole = self.constant([0, outputs, rows, columns], np.int64)
        return self.node("Reshape", [total, whole], name)

    def model(
        self,
        element: Callable[[str], int],
        batch: str | int,
        domains: Sequence[tuple[str, int]] = (),
        annotations: Mapping[str, str] | None = None,
    ) -> bytes:
        """The serialized model, from the network's input to its results.

        Args:
            element: ONNX's type of a tensor of the network.
            batch: size of the batch axis.
            domains: beside ONNX's own, each with its version.
            annotations: QONNX's type of each tensor, by identifier.
        """
        infos = {}
        names = [self.network.input, *(step.name for step in self.network.steps)]
        for name in names:
            shape, known = [batch, *self.network.tensors[name].shape], self.plan.identifiers[name]
            infos[name] = onnx.helper.make_tensor_value_info(known, element(name), shape, self._about(name))
        outputs = self.network.outputs
        inner = [info for name, info in infos.items() if name not in (self.network.input, *outputs)]
        ends = [infos[self.network.input]], [infos[name] for name in outputs]
        graph = onnx.helper.make_graph(self.nodes, "network", *ends, self.initializers, value_info=inner)
        for name, kind in sorted((annotations or {}).items()):
            entry = onnx.StringStringEntryProto(key="finn_datatype", value=kind)
            graph.quantization_annotation.add(tensor_name=name, quant_parameter_tensor_names=[entry])
        imports = [onnx.helper.make_opsetid("", OPSET), *(onnx.helper.make_opsetid(d, v) for d, v in domains)]
        model = onnx.helper.make_model(graph, opset_imports=imports, ir_version=8, producer_name="radixpoint")
        formats = {name: str(self.network.tensors[name].format) for name in names}
        about = {"radixpoint": version("radixpoint"), "formats": json.dumps(formats)}
        if "design" in self.network.metadata:
            about["design"] = self.network.metadata["design"]
        onnx.helper.set_model_props(model, about)
        data: bytes = model.SerializeToString(deterministic=True)
        return data
