"""What of an ONNX model depends on no image: computed by ONNX's own reference, one node at a time.

Only pure operators are computed, and only if their results are no larger than a bound that is known before: a
model of some hundred bytes may describe any number of terabytes, a loop without end, or random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]

MAX_NEW = 1 << 30
"""Bytes that all nodes together may make beyond those that they are given."""
MAX_COMPUTED = 1 << 13
"""Nodes that are computed at most."""


class NoConstant(Exception):
    """Why something cannot be computed before there is an image."""


def _largest(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    return max((a.size for a in arrays), default=1)


def _total(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    return sum(a.size for a in arrays)


def _broadcast(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    return math.prod(np.broadcast_shapes(*(a.shape for a in arrays)))


def _whole(array: NDArray[Any]) -> list[int]:
    return [int(v) for v in array.reshape(-1)]


def _of_shape(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    return math.prod(max(v, 0) for v in _whole(arrays[0]))


def _expanded(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    return math.prod(np.broadcast_shapes(arrays[0].shape, tuple(max(v, 1) for v in _whole(arrays[1]))))


def _tiled(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    return arrays[0].size * math.prod(max(v, 0) for v in _whole(arrays[1]))


def _range(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    start, limit, delta = (float(a.reshape(())) for a in arrays)
    return max(0, math.ceil((limit - start) / delta))


def _gathered(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    data, indices = arrays
    axis = int(attributes.get("axis", 0))
    return int(indices.size * data.size // max(data.shape[axis], 1))


def _padded(arrays: Arrays, attributes: Mapping[str, Any]) -> int:
    pads = [int(v) for v in attributes["pads"]] if "pads" in attributes else _whole(arrays[1])
    half = len(pads) // 2
    both = zip(arrays[0].shape, pads[:half], pads[half:], strict=True)
    return math.prod(max(size + before + after, 0) for size, before, after in both)


_SIZES: Mapping[str, Callable[[Arrays, Mapping[str, Any]], int]] = {
    **dict.fromkeys(
        (
            *(
                "Constant",
                "Identity",
                "Cast",
                "Neg",
                "Abs",
                "Sqrt",
                "Exp",
                "Floor",
                "Ceil",
                "Round",
                "Reciprocal",
            ),
            *(
                "Not",
                "Sign",
                "Reshape",
                "Squeeze",
                "Unsqueeze",
                "Transpose",
                "Flatten",
                "Slice",
                "Shape",
                "Size",
            ),
            *("ReduceProd", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceMean", "Split"),
        ),
        _largest,
    ),
    **dict.fromkeys(
        (
            *("Add", "Sub", "Mul", "Div", "Pow", "Mod", "Min", "Max", "Sum", "Equal", "Less", "Greater"),
            *("LessOrEqual", "GreaterOrEqual", "And", "Or", "Where"),
        ),
        _broadcast,
    ),
    "DequantizeLinear": _largest,
    "Concat": _total,
    "ConstantOfShape": _of_shape,
    "Expand": _expanded,
    "Tile": _tiled,
    "Range": _range,
    "Gather": _gathered,
    "Pad": _padded,
}
"""Pure operators that are computed, with the number of values of their result from what they are given."""


class Constants(dict[str, NDArray[Any]]):
    """Arrays by name.

    Args:
        model: says which version of each operator is meant.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        super().__init__()
        self._opsets, self._ir = list(model.opset_import), model.ir_version
        self._new = self._computed = 0

    @staticmethod
    def knows(op: str) -> bool:
        """Whether an operator may be computed."""
        return op in _SIZES or op == "CastLike"

    def add(self, tensor: onnx.TensorProto) -> None:
        """Take an initializer.

        Raises:
            NoConstant: data that do not fill its shape, or of an unknown type.
        """
        try:
            self[tensor.name] = onnx.numpy_helper.to_array(tensor)
        except Exception as error:  # of many kinds
            raise NoConstant(f"initializer {tensor.name!r} of shape {list(tensor.dims)}: {error}") from None

    def compute(self, node: onnx.NodeProto) -> None:
        """Compute a node all of whose inputs are known.

        Raises:
            NoConstant: no pure operator, a result that would be too large, or an error in it.
        """
        if node.op_type not in _SIZES or node.domain not in ("", "ai.onnx"):
            raise NoConstant("depends on no image, and is none of the operators that are computed beforehand")
        self.reckon(node)
        try:
            results = self._run(node, {name: self[name] for name in node.input if name})
        except Exception as error:
            raise NoConstant(f"a constant that cannot be computed: {_said(error)}") from None
        for name, value in zip(node.output, results, strict=False):
            if name:
                self[name] = np.asarray(value)

    def reckon(self, node: onnx.NodeProto) -> None:
        """See that the result of a node whose inputs are known stays within the bounds.

        Raises:
            NoConstant: it does not.
        """
        given = [self[name] for name in node.input if name]
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        try:
            size = _SIZES[node.op_type](given, attributes)
            made = node.op_type == "ConstantOfShape" or not given
            each = _item_size(attributes) if made else max(a.itemsize for a in given)
        except Exception as error:  # shapes and values of any kind
            raise NoConstant(f"a constant that cannot be computed: {_said(error)}") from None
        self._new += max(0, size * each - sum(a.nbytes for a in given))
        self._computed += 1
        if self._new > MAX_NEW or self._computed > MAX_COMPUTED:
            raise NoConstant(
                f"a constant of {size:,} values: expected models that make at most {MAX_NEW:,} bytes in "
                f"{MAX_COMPUTED:,} nodes before they see an image"
            )

    def _run(self, node: onnx.NodeProto, feeds: Mapping[str, NDArray[Any]]) -> Sequence[Any]:
        """As of the model's version of the operators."""
        graph = onnx.helper.make_graph(
            [node],
            "constant",
            [onnx.ValueInfoProto(name=name) for name in feeds],
            [onnx.ValueInfoProto(name=name) for name in node.output if name],
        )
        model = onnx.helper.make_model(graph, opset_imports=self._opsets, ir_version=self._ir)
        try:
            found: Sequence[Any] = onnx.reference.ReferenceEvaluator(model).run(None, dict(feeds))
        except (NotImplementedError, RuntimeError):  # it has not every version of every operator
            for info in model.graph.input:
                value = feeds[info.name]
                kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
                info.CopyFrom(onnx.helper.make_tensor_value_info(info.name, kind, value.shape))
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), providers=["CPUExecutionProvider"]
            )
            found = session.run(None, dict(feeds))
        return found


def _item_size(attributes: Mapping[str, Any]) -> int:
    """Bytes of one value of a result: of an attribute's, such as ConstantOfShape's, or of a float32."""
    value = attributes.get("value")
    return onnx.numpy_helper.to_array(value).itemsize if isinstance(value, onnx.TensorProto) else 4


def _said(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
