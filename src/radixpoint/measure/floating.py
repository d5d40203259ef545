"""The accuracy baseline: a ``Graph`` in float32 through onnxruntime."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import ModelError
from radixpoint.ir.graph import Graph
from radixpoint.ir.images import channels_first


class FloatingEngine:
    """Runs a ``Graph`` in float32.

    Args:
        graph: the network.
        outputs: names of the tensors that it returns; its results if not given.
        threads: how many; 0 takes all cores.
        plain: layer by layer, without onnxruntime's optimizations.
    """

    def __init__(
        self, graph: Graph, outputs: Sequence[str] | None = None, threads: int = 0, plain: bool = False
    ) -> None:
        self.graph, self.input, self.outputs = graph, graph.input, list(outputs or graph.outputs)
        self._threads, self._plain = threads, plain
        self._session, self._process = self._open(), os.getpid()

    def _open(self) -> Any:
        import onnxruntime

        from radixpoint.measure.float_model import to_onnx

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 3
        if self._plain:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
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
        """Float32 results by name, batch first; images in any layout of ``radixpoint.ir.images``.

        Raises:
            ModelError: onnxruntime fails, for example for lack of memory.
        """
        if (
            self._process != os.getpid()
        ):  # after a fork its threads are gone, and ending it would wait for them
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._session))
            self._session, self._process = self._open(), os.getpid()
        try:
            results = self._session.run(
                self.outputs, {self.input: channels_first(inputs, self.graph.shapes[self.input])}
            )
        except Exception as error:
            raise ModelError(f"{self.graph.source}: onnxruntime fails: {_first_line(error)}") from None
        return dict(zip(self.outputs, results, strict=True))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
