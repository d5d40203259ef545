"""The accuracy baseline: a ``Graph`` in float32 through onnxruntime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from radixpoint.errors import ModelError
from radixpoint.ir.graph import Graph, Layer

_ONNX: dict[str, tuple[str, tuple[str, ...]]] = {
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
    """The network as a float32 ONNX model with a free batch axis that returns the named tensors.

    Tensors have their own names; a parameter that is called like a tensor gets another.
    """
    taken = set(graph.shapes)

    def unlike(name: str) -> str:
        while name in taken:
            name += "'"
        taken.add(name)
        return name

    keys = {key: unlike(key) for key in graph.parameters}
    nodes, initializers = (
        [],
        [numpy_helper.from_array(np.array(v), keys[k]) for k, v in graph.parameters.items()],
    )
    for layer in graph.layers:
        op, roles = _ONNX[layer.op]
        inputs = [
            *layer.inputs,
            *(keys[layer.parameters[role]] for role in roles if role in layer.parameters),
        ]
        if layer.op == "clip":
            for name in ("low", "high"):
                key = unlike(f"{layer.name}.{name}")
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
        self.graph, self.input, self.outputs = graph, graph.input, list(outputs or [graph.output])
        self._threads = threads
        self._session, self._process = self._open(), os.getpid()

    def _open(self) -> Any:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                to_onnx(self.graph, self.outputs).SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:  # its errors share no class
            raise ModelError(
                f"{self.graph.source}: onnxruntime cannot run it: {_first_line(error)}"
            ) from None

    def run(self, inputs: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """Float32 results by name, batch first.

        Raises:
            ModelError: onnxruntime fails, for example for lack of memory.
        """
        if (
            self._process != os.getpid()
        ):  # after a fork its threads are gone, and ending it would wait for them
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session, self._process = self._open(), os.getpid()
        try:
            results = self._session.run(self.outputs, {self.input: inputs})
        except Exception as error:
            raise ModelError(f"{self.graph.source}: onnxruntime fails: {_first_line(error)}") from None
        return dict(zip(self.outputs, results, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
