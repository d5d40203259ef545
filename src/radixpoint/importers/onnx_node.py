"""A node of an ONNX model with its attributes as Python values."""

from __future__ import annotations

from typing import Any

import onnx


class Node:
    """A NodeProto.

    Attributes:
        op: its operator, with its domain unless that is ONNX's own.
        label: its name, or that of its result.
    """

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

    def given(self, index: int) -> bool:
        """Whether an optional input is there."""
        return len(self.inputs) > index and bool(self.inputs[index])
