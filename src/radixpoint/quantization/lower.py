"""Graph + formats -> IntGraph: every layer written as exact steps and casts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import quantize, random_draws
from radixpoint.arithmetic.formats import MAX_STORED, Overflow, Rounding, TensorFormat, smallest_format
from radixpoint.arithmetic.functions import tabulated
from radixpoint.errors import DesignError, FormatError, GraphError
from radixpoint.ir.domains import MAX_TABLE
from radixpoint.ir.graph import Graph, Layer, freeze
from radixpoint.ir.network import (
    IntGraph,
    IntParameter,
    IntTensor,
    Step,
    derived_tensor,
    verify,
)
from radixpoint.ir.ops import LAYERS, STEPS, Attributes, pool_counts
from radixpoint.quantization.codes import Grid, operand_grid, weight_grid
from radixpoint.quantization.design import Design
from radixpoint.quantization.sites import Formats, Key, Stored, folded_batch_norm

PARAMETER_STREAMS = 1 << 32
"""Where the numbers of the parameters' stochastic roundings begin, beyond those of any network's casts."""


class ParameterCache:
    """Stored integers of parameters already quantized, for the many designs of a search that share them.

    They are kept in as few bytes as they need, in all at most ``limit`` unless one alone takes more. Networks
    that are alive at the same time share the arrays of their weights.
    """

    def __init__(self, limit: int = 1 << 27) -> None:
        self._limit, self._size = limit, 0
        self._known: dict[tuple[Any, ...], NDArray[Any]] = {}
        self._alive: WeakValueDictionary[tuple[Any, ...], IntParameter] = WeakValueDictionary()

    def quantize(
        self,
        key: tuple[str, str],
        values: NDArray[np.floating],
        to: TensorFormat,
        design: Design,
        stream: int,
        grid: Grid | None = None,
    ) -> IntParameter:
        """``values`` in format ``to``, on ``grid`` if given.

        ``key`` names them among those of one network, BN form and codebook.
        """
        rounding = design.parameter_rounding
        random = (design.seed, stream) if rounding is Rounding.STOCHASTIC else None
        full = (key, design.batch_norm, to, rounding, design.overflow, random, grid)
        found = self._alive.get(full)
        if found is None:
            kept = self._known.get(full)
            if kept is None:
                kept = self._keep(full, _stored(values.astype(np.float64), to, design, random, grid))
            found = IntParameter(freeze(kept.astype(np.int64)), to)
            self._alive[full] = found
        return found

    def _keep(self, full: tuple[Any, ...], stored: NDArray[np.int64]) -> NDArray[Any]:
        ends = np.array([stored.min(initial=0), stored.max(initial=0)])
        types = (t for t in (np.int8, np.int16, np.int32) if np.array_equal(ends.astype(t), ends))
        kept = stored.astype(next(types, np.int64))
        self._size += kept.nbytes
        if self._size > self._limit:
            self._known.clear()
            self._size = kept.nbytes
        self._known[full] = kept
        return kept


def _stored(
    values: NDArray[np.float64],
    to: TensorFormat,
    design: Design,
    random: tuple[int, int] | None,
    grid: Grid | None,
) -> NDArray[np.int64]:
    draws = None if random is None else random_draws(*random, values.shape)
    fractions = to.fractions(values.ndim)
    if grid is not None:
        return grid.round(np.ldexp(values, fractions))
    return quantize(
        values,
        to.channel(0),
        design.parameter_rounding,
        _parameter_overflow(design),
        draws,
        to_fraction_length=fractions,
    )


def _parameter_overflow(design: Design) -> Overflow:
    """A parameter that wraps would be nonsense: only its symmetry follows the design."""
    return Overflow.SAT_SYM if design.overflow is Overflow.SAT_SYM else Overflow.SAT


class _Lowerer:
    """Implements ``radixpoint.ir.ops.Lowering`` for one layer after the other."""

    def __init__(
        self,
        graph: Graph,
        formats: Formats,
        stored: Mapping[Key, Stored],
        design: Design,
        cache: ParameterCache,
    ) -> None:
        self.graph, self.formats, self.stored, self.design, self.cache = graph, formats, stored, design, cache
        self.batch_norm: str = design.batch_norm
        self.tensors: dict[str, IntTensor] = {}
        self.parameters: dict[str, IntParameter] = {}
        self.steps: list[Step] = []
        self.current: dict[str, str] = {}  # real-valued tensor -> ours
        self.casts: dict[tuple[str, TensorFormat, Grid | None], str] = {}
        self.layer = graph.layers[0]
        self.count = 0

    def run(self) -> IntGraph:
        image = self.formats[self.graph.input, "result"]
        self.tensors[self.graph.input] = IntTensor(
            self.graph.shapes[self.graph.input],
            image,
            image.min,
            image.max,
            self.graph.input,
            self.graph.input,
        )
        self.current[self.graph.input] = self.graph.input
        skipped: dict[str, str] = {}  # folded batch normalization -> convolution
        for layer in self.graph.layers:
            self.layer, self.count = layer, 0
            if layer.name in skipped:
                self.current[layer.name] = self.current[skipped[layer.name]]
                continue
            bn = folded_batch_norm(self.graph, layer, self.design)
            value = layer.name if bn is None else bn.name
            view = layer
            if bn is not None:
                skipped[bn.name] = layer.name
                view = Layer(
                    layer.name,
                    layer.op,
                    layer.inputs,
                    layer.attributes,
                    {**layer.parameters, "bias": "folded"},
                )
            try:
                result = LAYERS[layer.op].lower(self, view)
            except (FormatError, GraphError) as error:
                raise DesignError(f"layer {layer.name!r} ({layer.op}): {error}") from None
            self.current[layer.name] = self._valued(result, value)
        return IntGraph(
            self.graph.input,
            self.tensors,
            tuple(self.steps),
            self.current[self.graph.output],
            self.parameters,
            {},
            tuple(self.current[name] for name in self.graph.other_outputs),
        )

    def _valued(self, tensor: str, value: str) -> str:
        """Note that ``tensor`` approximates the real-valued tensor ``value``."""
        t = self.tensors[tensor]
        if t.value is None:
            self.tensors[tensor] = IntTensor(t.shape, t.format, t.low, t.high, t.layer, value)
        return tensor

    def _write(
        self,
        op: str,
        inputs: Sequence[str],
        parameters: Mapping[str, str],
        attributes: Attributes,
        to: TensorFormat | None,
    ) -> str:
        self.count += 1
        name = f"{self.layer.name}/{self.count}.{op}"
        sources = [self.tensors[i] for i in inputs]
        stored = {role: self.parameters[key] for role, key in parameters.items()}
        self.tensors[name] = derived_tensor(op, attributes, sources, stored, self.layer.name, None, to)
        self.steps.append(Step(name, op, tuple(inputs), attributes, dict(parameters)))
        return name

    # -- what lowerings use

    def input(self, index: int = 0) -> str:
        return self.current[self.layer.inputs[index]]

    def operand(self) -> str:
        to = self.formats[self.layer.name, "operand"]
        grid = None
        if self.layer.family == "product":
            grid = operand_grid(self.design, self.layer.name, self.layer.op, to.signed)
        if grid is None:
            return self.cast(self.input(), "operand")
        key = (self.input(), to, grid)
        if key not in self.casts:
            self.casts[key] = self._lookup(self.input(), to, grid)
        return self.casts[key]

    def _lookup(self, tensor: str, to: TensorFormat, grid: Grid) -> str:
        """Every stored integer of the format of ``tensor``, rounded once to the grid's values.

        Of the format, not only of the range that is proven so far: a better offset before it may widen that.
        """
        source = self.tensors[tensor]
        low, high = source.format.min, source.format.max
        if source.format.per_channel or high - low >= MAX_TABLE:
            raise GraphError(
                f"coded activations need one binary point for all channels and at most {MAX_TABLE} values to "
                f"code, and the operand is {source.format}"
            )
        stored = np.arange(low, high + 1)
        scaled = np.ldexp(
            stored.astype(np.float64), to.fraction_lengths[0] - source.format.fraction_lengths[0]
        )
        name = f"{self.layer.name}/code"
        self.parameters[name] = IntParameter(freeze(grid.round(scaled)), to)
        return self.step("lookup", [tensor], {"table": name}, {"first": low})

    def step(
        self,
        op: str,
        inputs: Sequence[str],
        parameters: Mapping[str, str] | None = None,
        attributes: Attributes | None = None,
    ) -> str:
        kept = {name: (attributes or {})[name] for name in STEPS[op].attributes}
        result = self._write(op, inputs, parameters or {}, kept, None)
        narrow = self.design.accumulator
        if STEPS[op].family == "product" and narrow is not None:
            proven = self.tensors[result].format
            if narrow.word_length < proven.word_length:
                to = TensorFormat(True, narrow.word_length, proven.fraction_lengths)
                result = self._write("cast", [result], {}, self._conversion(Overflow.WRAP), to)
        return result

    def _quantized(
        self, key: Key, values: NDArray[np.floating], to: TensorFormat, grid: Grid | None = None
    ) -> IntParameter:
        stream = PARAMETER_STREAMS + len(self.parameters)
        return self.cache.quantize(key, values, to, self.design, stream, grid)

    def parameter(self, role: str) -> str:
        key = (self.layer.name, role)
        name = f"{self.layer.name}/{role}"
        values = self.stored[key].held
        grid = weight_grid(self.design, self.layer.name, self.layer.op) if role == "weight" else None
        stored = self._quantized(key, values, self.formats[key], grid)
        rank = len(self.graph.shapes[self.layer.name])
        if role != "weight" and rank > 1:
            shaped = stored.data.reshape(-1, *[1] * (rank - 1))
            stored = IntParameter(freeze(shaped), stored.format)
        self.parameters[name] = stored
        return name

    def _conversion(self, overflow: Overflow | None = None) -> dict[str, Any]:
        return {
            "rounding": self.design.rounding.value,
            "overflow": (overflow or self.design.overflow).value,
            "stream": len(self.steps),
            "seed": self.design.seed,
        }

    def cast(self, tensor: str, role: str) -> str:
        to = self.formats[self.layer.name, role]
        if self.tensors[tensor].format == to:
            return tensor
        if (tensor, to, None) not in self.casts:
            self.casts[tensor, to, None] = self._write("cast", [tensor], {}, self._conversion(), to)
        return self.casts[tensor, to, None]

    def clamp(self, tensor: str, low: float, high: float) -> str:
        form = self.tensors[tensor].format
        if form.per_channel:
            raise GraphError("a limit on a tensor with a binary point a channel")

        def end(limit: float) -> int:
            if math.isinf(limit):
                return form.max if limit > 0 else form.min
            return self.nearest(tensor, limit)

        return self.step("clamp", [tensor], attributes={"low": end(low), "high": end(high)})

    @property
    def rank(self) -> int:
        return len(self.graph.shapes[self.layer.name])

    def nearest(self, tensor: str, value: float) -> int:
        form = self.tensors[tensor].format
        if form.per_channel:
            raise GraphError("a number beside a tensor with a binary point a channel")
        return int(quantize(np.array(value), form.channel(0)))

    def constant(self, role: str, values: NDArray[np.int64], fraction_length: int) -> str:
        name = f"{self.layer.name}/{role}"
        fixed = smallest_format(min(int(values.min()), -1), int(values.max()), fraction_length)
        form = TensorFormat(True, fixed.word_length, (fraction_length,))
        self.parameters[name] = IntParameter(freeze(values), form)
        return name

    def tabulate(self, tensor: str) -> str:
        source, to = self.tensors[tensor].format, self.formats[self.layer.name, "result"]
        if source.per_channel or to.per_channel:
            raise GraphError("a table for a tensor with a binary point a channel")
        if source.word_length >= MAX_TABLE.bit_length():
            raise GraphError(f"a table for {source}: at most {MAX_TABLE} entries")
        rounding = Rounding.RND if self.design.rounding is Rounding.STOCHASTIC else self.design.rounding
        attributes = self.layer.attributes
        table = tabulated(
            attributes["function"],
            attributes["numbers"],
            source.channel(0),
            to.channel(0),
            rounding,
            _parameter_overflow(self.design),
        )
        name = f"{self.layer.name}/table"
        self.parameters[name] = IntParameter(freeze(table), to)
        return self.step("lookup", [tensor], {"table": name}, {"first": source.min})

    def average(self, tensor: str) -> str:
        shape = self.graph.shapes[self.layer.inputs[0]]
        counts = pool_counts(shape, self.layer.attributes)
        to = self.formats[self.layer.name, "result"]
        if np.all(counts == counts.flat[0]):
            counts = counts[:, :1, :1]
        if self.design.average_pool == "reciprocal":
            width = self.design.width(self.layer.name, "pool", "parameters")
            fraction = width - 2 + int(counts.min()).bit_length()
            form = TensorFormat(True, width, (fraction,))
            while int(quantize(1 / counts.min(), form.channel(0), overflow=Overflow.SAT)) == form.max:
                fraction -= 1  # 1/min must not saturate
                form = TensorFormat(True, width, (fraction,))
            name = f"{self.layer.name}/reciprocal"
            self.parameters[name] = self._quantized((self.layer.name, "reciprocal"), 1 / counts, form)
            return self.cast(self.step("scale", [tensor], {"factor": name}), "result")
        bits = int(counts.max()).bit_length() + 1
        name = f"{self.layer.name}/divisor"
        form = TensorFormat(True, min(bits, MAX_STORED), (0,))
        self.parameters[name] = IntParameter(freeze(counts), form)
        attributes = {"rounding": self.design.rounding.value, "overflow": self.design.overflow.value}
        return self._write("divide", [tensor], {"divisor": name}, attributes, to)


def lower(
    graph: Graph,
    formats: Formats,
    stored: Mapping[Key, Stored],
    design: Design,
    cache: ParameterCache | None = None,
) -> IntGraph:
    """Write a network as stored integers and casts.

    Args:
        graph: the network.
        formats: of every quantized place.
        stored: the parameters under the design's form of batch normalization.
        design: forms, rounding and overflow.
        cache: shared between calls for the same graph.

    Returns:
        The IntGraph, verified.

    Raises:
        DesignError: an exact result would need more than 64 bits, or a layer cannot take its formats.
    """
    result = _Lowerer(graph, formats, stored, design, cache or ParameterCache()).run()
    verify(result)
    return result
