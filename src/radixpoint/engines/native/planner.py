"""The planner: steps become operations, each a producer of integers and the stages behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from radixpoint.engines.native.stage import RANGES, Carrier, Stage, Unsupported, wide, within
from radixpoint.ir.network import IntGraph, Step

PRODUCERS = ("conv", "dense", "max_pool", "sum_pool")
ELEMENTWISE = ("cast", "scale", "offset", "add", "clamp", "lookup", "divide", "multiply")
MOVES = ("flatten", "select", "rearrange")
MOST_PRODUCTS = 1 << 15
"""So many products of 16 bits, in as many blocks, stay within what split sums hold."""


Kind = Literal["conv", "depthwise", "pool", "move", "concat", "fallback"]


@dataclass
class Operation:
    """A producer and its stages, or a step for the exact fallback."""

    kind: Kind
    step: Step | None
    source: str
    stages: list[Stage] = field(default_factory=list)
    offset: int = 0  # first channel of the target, for concat
    target: str = ""
    reason: str = ""

    def reads(self) -> set[str]:
        if self.kind == "fallback" and self.step is not None:
            return set(self.step.inputs)
        return {self.source} | {s.other for s in self.stages if s.other is not None}

    def writes(self) -> set[str]:
        own = {self.target} if self.target else set()
        return own | {s.store for s in self.stages if s.store is not None}


class Planner:
    """Steps -> operations."""

    def __init__(self, network: IntGraph, keep: set[str], byte_dot: bool, saturates: bool) -> None:
        self.network, self.keep, self.byte_dot, self.saturates = network, keep, byte_dot, saturates
        self.done: set[str] = set()  # steps that have a place
        self.stored: set[str] = {network.input}
        self.operations: list[Operation] = []
        self.storage = {name: self._storage(name) for name in network.tensors}

    def plan(self) -> list[Operation]:
        for step in self.network.steps:
            if step.name not in self.done:
                self._place(step)
        return self.operations

    # -- how tensors lie in memory

    def _operand_of(self, name: str) -> list[Step]:
        return [s for s in self.network.readers[name] if s.family == "product" and not self._is_depthwise(s)]

    def _is_depthwise(self, step: Step) -> bool:
        if step.op != "conv":
            return False
        weight = self.network.arrays(step)["weight"]
        return bool(step.attributes["groups"] == len(weight) > 1 and weight.shape[1] == 1)

    def _byte_weights(self, step: Step) -> bool:
        weight = self.network.arrays(step)["weight"]
        # 2**16 products of an 8-bit value shifted by 128 stay within 32 bits.
        fits = weight.min() >= -128 and weight.max() <= 127 and weight[0].size <= 1 << 16
        return bool(fits and (not self.saturates or self.pairs_fit(step)))

    def pairs_fit(self, step: Step) -> bool:
        """Whether any two products of bytes, added, stay within 16 bits."""
        source = self.network.tensors[step.inputs[0]]
        # as it lies in memory, and the zero of what pads it
        largest = source.high if source.low >= 0 else max(source.high, 0) + 128
        weight = self.network.arrays(step)["weight"]
        weight = np.sort(weight.reshape(len(weight), -1), 1)
        low, high = RANGES["I16"]
        least, most = np.minimum(weight[:, :2], 0).sum(1).min(), np.maximum(weight[:, -2:], 0).sum(1).max()
        return bool(least * largest >= low and most * largest <= high)

    def squares_fit(self, step: Step) -> bool:
        """Whether 16 products may stand for the 36 of four results of a convolution; see winograd.hpp.

        Transformed operands and weights have to stay within 16 bits, four times a result within 32.
        """
        if step.op != "conv" or step.attributes["groups"] != 1:
            return False
        weight = self.network.arrays(step)["weight"]
        near = step.attributes["strides"] == step.attributes["dilations"] == (1, 1)
        if weight.shape[2:] != (3, 3) or not near or self.storage[step.inputs[0]][0] != "I16":
            return False
        source, result = self.network.tensors[step.inputs[0]], self.network.tensors[step.name]
        least, most = min(source.low, 0), max(source.high, 0)  # 0 is what pads it
        low, high = RANGES["I16"]
        if 4 * most > high or 4 * least < low or 2 * (most - least) > high:
            return False
        if wide(result, 4):
            return False
        if 9 * int(np.abs(weight).max()) <= high:  # as the middle of the transformed ones, at most
            return True
        doubled = np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]])
        weight = doubled @ weight.astype(np.int64) @ doubled.T
        return bool(weight.min() >= low and weight.max() <= high)

    def _storage(self, name: str) -> tuple[Carrier, int]:
        """How a tensor lies in memory, and its zero."""
        tensor, readers = self.network.tensors[name], self._operand_of(name)
        narrow = self.byte_dot and all(self._byte_weights(s) for s in readers)
        if narrow or not readers:
            if tensor.low >= 0 and tensor.high <= 255:
                return "U8", 0
            if tensor.low >= -128 and tensor.high <= 127:
                return "U8", 128
        carriers: tuple[Carrier, ...] = ("I16", "I32", "I64")
        return next(carrier for carrier in carriers if within(tensor, carrier)), 0

    # -- operations

    def _place(self, step: Step) -> None:
        try:
            operation = self._producer(step)
        except Unsupported as why:
            operation = Operation("fallback", step, step.inputs[0], target=step.name, reason=str(why))
        self.operations.append(operation)
        if operation.kind in ("fallback", "move", "concat"):
            self.done.add(step.name)
            self.stored.add(step.name)

    def _producer(self, step: Step) -> Operation:
        for name in step.inputs:
            assert name in self.stored, f"{name} is read by {step.name}, yet not stored"
        source = step.inputs[0]
        if step.op in MOVES:
            return Operation("move", step, source, target=step.name)
        if step.op == "concat":
            return self._concat(step)
        if step.op in ELEMENTWISE:
            if step.op == "multiply":  # what is multiplied has all the places
                source = max(step.inputs, key=lambda name: math.prod(self.network.tensors[name].shape))
            operation = Operation("pool", None, source)
            operation.stages = self._chain(source, step)
            return operation
        if step.op not in PRODUCERS:
            raise Unsupported(f"{step.op} has no kernel")
        kind: Kind = "pool"
        if step.family == "product":
            kind = "depthwise" if self._is_depthwise(step) else "conv"
            weight = self.network.arrays(step)["weight"]
            if weight.min() < RANGES["I16"][0] or weight.max() > RANGES["I16"][1]:
                raise Unsupported("weights beyond 16 bits")
            if kind == "conv" and self.storage[source][0] not in ("U8", "I16"):
                raise Unsupported("activations beyond 16 bits")
            if kind == "conv" and wide(self.network.tensors[step.name]) and weight[0].size > MOST_PRODUCTS:
                raise Unsupported(f"more than {MOST_PRODUCTS} products in a sum beyond 32 bits")
        operation = Operation(kind, step, source)
        operation.stages = self._chain(step.name, None)
        self.done.add(step.name)
        return operation

    def _concat(self, step: Step) -> Operation:
        """All but the last input as operations of their own."""
        offset = 0
        for position, name in enumerate(step.inputs):
            stage = Stage(self.network, self.network.tensors[name], name)
            stage.store = step.name
            operation = Operation("concat", None, name, [stage], offset, step.name)
            offset += self.network.tensors[name].shape[0]
            if position == len(step.inputs) - 1:
                return operation
            self.operations.append(operation)
        raise AssertionError("a concat without inputs")

    def _read_elsewhere(self, name: str, step: Step | None) -> bool:
        """Whether ``name`` has to be written although ``step`` goes on with it in hand."""
        if name in self.stored:
            return False
        if step is None or name in self.keep:
            return True
        return any(
            reader is not step and reader.name not in self.done for reader in self.network.readers[name]
        )

    def _next(self, name: str) -> Step | None:
        """A step that can go on with ``name`` while it is in hand."""
        for step in self.network.readers[name]:
            if step.name in self.done or step.op not in ELEMENTWISE:
                continue
            others = [other for other in step.inputs if other != name]
            if step.op not in ("add", "multiply") or (others and others[0] in self.stored):
                whole = self.network.tensors[step.name].shape == self.network.tensors[name].shape
                if step.op != "multiply" or whole:
                    return step
        return None

    def _chain(self, start: str, first: Step | None) -> list[Stage]:
        """Stages that take tensor ``start`` as far as it goes; ``first`` has to be among them."""
        stages: list[Stage] = []
        stage = self._fresh(start)
        step = first or self._next(start)
        while True:
            longer, joined = None, False
            if step is not None:
                written = self._read_elsewhere(stage.result, step)
                try:
                    longer, joined = self._extended(self._fresh(stage.result) if written else stage, step)
                except Unsupported:
                    if step is first:
                        raise
                    step = None
                joined = joined and not written
            if self._read_elsewhere(stage.result, step):
                stage.store = stage.result
                self.stored.add(stage.result)
            if step is None or longer is None:
                return [*stages, stage]
            if not joined and (stage.store is not None or not stage.nothing):
                stages.append(stage)
            stage = longer
            self.done.add(step.name)
            step = self._next(stage.result)

    def _fresh(self, name: str) -> Stage:
        return Stage(self.network, self.network.tensors[name], name)

    def _extended(self, stage: Stage, step: Step) -> tuple[Stage, bool]:
        """``stage`` with ``step`` in it; or, where its place there has passed, a fresh one, and False."""
        if len(step.inputs) == 2 and len(set(step.inputs)) == 1:
            raise Unsupported("a tensor with itself")
        longer = stage.with_step(step)
        if longer is not None:
            return longer, True
        longer = self._fresh(stage.result).with_step(step)
        if longer is None:
            raise Unsupported("sums beyond 64 bits")
        return longer, False
