"""The accuracy baseline: a ``Graph`` in float32 through onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from radixpoint.ir import Graph, Layer

_ONNX: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "conv": ("Conv", ("weight", "bias")),
    "batch_norm": ("BatchNormalization", ("gamma", "beta", "mean", "variance")),
    "fc": ("Gemm", ("weight", "bias")),
    "relu": ("Relu", ()),
    "clip": ("Clip", ()),
    "add": ("Add", ()),
    "max_pool": ("MaxPool", ()),
    "average_pool": ("AveragePool", ()),
    "flatten": ("Flatten", ()),
    "concat": ("Concat", ()),
}

_ATTRIBUTES: Mapping[str, Callable[[Layer], dict[str, Any]]] = {
    "batch_norm": lambda layer: dict(layer.attributes),
    "fc": lambda layer: {"transB": 1},
    "clip": lambda layer: {},
    "concat": lambda layer: {"axis": 1},
    "flatten": lambda layer: {"axis": 1},
}

_RENAMED = {"groups": "group", "kernel": "kernel_shape"}


def _windowed(layer: Layer) -> dict[str, Any]:
    return {
        _RENAMED.get(name, name): int(value) if isinstance(value, bool) else value
        for name, value in layer.attributes.items()
    }


def to_onnx(graph: Graph, outputs: Sequence[str]) -> onnx.ModelProto:
    """The network as a float32 ONNX model with a free batch axis that returns the named tensors."""
    nodes, initializers = [], [numpy_helper.from_array(np.array(v), k) for k, v in graph.parameters.items()]
    for layer in graph.layers:
        op, roles = _ONNX[layer.op]
        inputs = [*layer.inputs, *(layer.parameters[role] for role in roles if role in layer.parameters)]
        if layer.op == "clip":
            for name in ("low", "high"):
                key = f"{layer.name}\0{name}"
                limit = np.array(layer.attributes[name], np.float32)
                initializers.append(numpy_helper.from_array(limit, key))
                inputs.append(key)
        attributes = _ATTRIBUTES.get(layer.op, _windowed)(layer)
        nodes.append(helper.make_node(op, inputs, [layer.name], name=layer.name, **attributes))
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *graph.shapes[name]])
        for name in (graph.input, *outputs)
    ]
    onnx_graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initializers)
    return helper.make_model(onnx_graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class FloatingEngine:
    """Runs a ``Graph`` in float32; ``outputs`` are the tensors it returns (default: the logits)."""

    def __init__(self, graph: Graph, outputs: Sequence[str] | None = None, threads: int = 0) -> None:
        self.input, self.outputs = graph.input, list(outputs or [graph.output])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            to_onnx(graph, self.outputs).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def run(self, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Float32 results by name, batch first."""
        results = self._session.run(self.outputs, {self.input: inputs})
        return dict(zip(self.outputs, results, strict=True))
