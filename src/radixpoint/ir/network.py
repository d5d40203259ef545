"""A quantized network in stored integers and casts: :class:`IntGraph`.

Shapes never include the batch axis. Axis 0 of a tensor is its channel; axis 0 of weights the output channel.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import cast, divide, limit
from radixpoint.arithmetic.formats import (
    MAX_DIVIDE_SHIFT,
    MAX_DIVIDEND,
    MAX_STORED,
    FixedFormat,
    Overflow,
    Rounding,
    smallest_format,
)
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.domains import (
    MAX_ELEMENTS,
    MAX_POINTS,
    MAX_SHIFT,
    MAX_STEPS,
    check_attributes,
    check_shape,
)
from radixpoint.ir.graph import MALFORMED, check_inputs
from radixpoint.ir.ops import STEPS, Alignment, Arrays, Attributes, Shape


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """Format of a tensor: one word length, and one fraction length or one a channel.

    ``fraction_lengths`` has length 1 (per tensor) or the number of channels (per channel).
    """

    signed: bool
    word_length: int
    fraction_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.fraction_lengths:
            raise FormatError("a format without a fraction length")
        for fraction in (min(self.fraction_lengths), max(self.fraction_lengths)):
            FixedFormat(self.signed, self.word_length, fraction)

    @property
    def per_channel(self) -> bool:
        return len(self.fraction_lengths) > 1

    @property
    def min(self) -> int:
        return self.channel(0).min

    @property
    def max(self) -> int:
        return self.channel(0).max

    def channel(self, index: int) -> FixedFormat:
        """The format of one channel."""
        fraction = self.fraction_lengths[index if self.per_channel else 0]
        return FixedFormat(self.signed, self.word_length, fraction)

    def fractions(self, rank: int) -> NDArray[np.int64]:
        """Fraction lengths, broadcastable to an array of ``rank`` axes whose first is the channel."""
        values = np.array(self.fraction_lengths, np.int64)
        return values.reshape(-1, *[1] * (rank - 1)) if rank else values.reshape(())

    def __str__(self) -> str:
        if not self.per_channel:
            return str(self.channel(0))
        low, high = min(self.fraction_lengths), max(self.fraction_lengths)
        sign = "s" if self.signed else "u"
        return f"{sign}fix{self.word_length} with {low}..{high} fraction bits a channel"


@dataclass(frozen=True, slots=True)
class IntTensor:
    """A tensor of stored integers.

    Attributes:
        shape: without the batch axis.
        format: its format.
        low, high: proven range of its stored integers, within the format.
        layer: name of the layer of the ``Graph`` it belongs to.
        value: name of the real-valued tensor that it approximates, or None for an intermediate result.
    """

    shape: Shape
    format: TensorFormat
    low: int
    high: int
    layer: str
    value: str | None


@dataclass(frozen=True, slots=True)
class IntParameter:
    """Stored integers of a parameter (int64, read-only), with their format along axis 0."""

    data: NDArray[np.int64]
    format: TensorFormat


@dataclass(frozen=True, slots=True)
class Step:
    """One integer operation: ``op`` is a row of :data:`radixpoint.ir.ops.STEPS`; it writes ``name``."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Attributes
    parameters: Mapping[str, str]


@dataclass(frozen=True, slots=True, weakref_slot=True)
class IntGraph:
    """A quantized network: stored integers and casts only.

    Attributes:
        input: name of the input tensor; images are quantized to its format with RND, SAT.
        tensors: every tensor, by name.
        steps: in execution order.
        output: name of the logits.
        parameters: stored integers, by name.
        metadata: where it comes from (design, digests); takes no part in the arithmetic.
    """

    input: str
    tensors: Mapping[str, IntTensor]
    steps: tuple[Step, ...]
    output: str
    parameters: Mapping[str, IntParameter]
    metadata: Mapping[str, str]

    def __post_init__(self) -> None:
        for name in ("tensors", "parameters", "metadata"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        own = (dict(self.tensors), self.steps, self.output, dict(self.parameters), dict(self.metadata))
        return IntGraph, (self.input, *own)

    def arrays(self, step: Step) -> dict[str, NDArray[np.int64]]:
        """The step's parameters by role."""
        return {role: self.parameters[key].data for role, key in step.parameters.items()}

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Run the network on the fastest engine here; :func:`radixpoint.make_engine` chooses another.

        Args:
            images: stored integers in the input's format, batch first.
            keep: names of tensors; None is the output.

        Returns:
            Stored integers of the tensors in ``keep``, int64, batch first, by name.

        Raises:
            EngineError: other types, shapes or values than the input takes, or a name of no tensor.
        """
        from radixpoint.engines import make_engine

        return make_engine(self).run(images, keep)

    def logit_fraction_length(self) -> int:
        """Fraction length of the logits, which must share one for their order to mean anything."""
        return self.tensors[self.output].format.fraction_lengths[0]

    @property
    def digest(self) -> str:
        """SHA-256 of the arithmetic: everything but the metadata."""
        content = hashlib.sha256()
        structure = {
            "input": self.input,
            "output": self.output,
            "tensors": {
                name: [t.shape, t.format.signed, t.format.word_length, t.format.fraction_lengths]
                for name, t in self.tensors.items()
            },
            "steps": [[s.name, s.op, s.inputs, dict(s.attributes), dict(s.parameters)] for s in self.steps],
        }
        content.update(json.dumps(structure, sort_keys=True).encode())
        for name in sorted(self.parameters):
            parameter = self.parameters[name]
            content.update(f"{name} {parameter.data.shape} {parameter.format!r}".encode())
            content.update(np.ascontiguousarray(parameter.data, "<i8").tobytes())
        return content.hexdigest()


def alignment(
    inputs: Sequence[TensorFormat], parameters: Mapping[str, TensorFormat], fractions: tuple[int, ...]
) -> Alignment:
    """Largest left shift of each operand to a result with these fraction lengths.

    Raises:
        GraphError: an operand has more fraction bits than the result.
    """

    def most(operand: TensorFormat) -> int:
        shifts = np.array(fractions) - np.array(operand.fraction_lengths)
        if shifts.max() > MAX_SHIFT:
            raise GraphError(f"an operand {shifts.max()} places from its sum: expected at most {MAX_SHIFT}")
        if shifts.min() < 0:
            raise GraphError("a result with fewer fraction bits than an operand would need a rounding")
        return int(shifts.max())

    return Alignment(
        tuple(most(operand) for operand in inputs),
        {role: most(operand) for role, operand in parameters.items()},
    )


def exact_fractions(
    op: str,
    inputs: Sequence[tuple[Shape, TensorFormat]],
    parameters: Mapping[str, TensorFormat],
) -> tuple[int, ...]:
    """Fraction lengths of the exact result of a step.

    Products: the sum of the operands'. Sums: the largest. Anything else: the input's.

    Raises:
        GraphError: the operands' binary points do not allow the operation.
    """
    shape, first = inputs[0]
    if op in ("conv", "dense"):
        if first.per_channel:
            raise GraphError(f"{op}: its input must have one binary point for all channels")
        return tuple(first.fraction_lengths[0] + f for f in parameters["weight"].fraction_lengths)
    if op == "scale":
        return _broadcast(first.fraction_lengths, parameters["factor"].fraction_lengths, sum)
    if op == "lookup":
        return parameters["table"].fraction_lengths
    if op == "offset":
        return _broadcast(first.fraction_lengths, parameters["value"].fraction_lengths, max)
    if op == "add":
        return _broadcast(first.fraction_lengths, inputs[1][1].fraction_lengths, max)
    if op == "concat":
        if any(f.fraction_lengths != first.fraction_lengths or f.per_channel for _, f in inputs):
            raise GraphError("concat: its inputs must share one binary point")
        return first.fraction_lengths
    if op == "flatten" and first.per_channel:
        inner = math.prod(shape[1:])
        if inner * len(first.fraction_lengths) > MAX_POINTS:
            raise GraphError(f"flatten: {shape} with a binary point a channel: at most {MAX_POINTS:,} values")
        return tuple(f for f in first.fraction_lengths for _ in range(inner))
    return first.fraction_lengths


def _broadcast(a: tuple[int, ...], b: tuple[int, ...], join: Any) -> tuple[int, ...]:
    count = max(len(a), len(b))
    if any(len(x) not in (1, count) for x in (a, b)):
        raise GraphError(f"binary points for {len(a)} and for {len(b)} channels do not fit")
    return tuple(
        int(join((x, y)))
        for x, y in zip(a if len(a) == count else a * count, b if len(b) == count else b * count, strict=True)
    )


def exact_tensor(
    op: str,
    attributes: Attributes,
    inputs: Sequence[IntTensor],
    parameters: Mapping[str, IntParameter],
    layer: str,
    value: str | None,
) -> IntTensor:
    """The result of an exact step: its shape, its fraction lengths, its proven range, its narrowest format.

    Accumulators are signed, whatever their range. ``clamp``, ``max_pool``, ``flatten`` and ``concat`` keep
    their input's format; ``lookup`` has its table's.

    Raises:
        GraphError: the operands do not fit.
        FormatError: the exact result needs more than 64 bits.
    """
    row = STEPS[op]
    if row.bounds is None:
        raise GraphError(f"{op} rounds: its result's format must be given")
    arrays: Arrays = {role: p.data for role, p in parameters.items()}
    shape = row.shape(attributes, [t.shape for t in inputs], arrays)
    parameter_formats = {role: p.format for role, p in parameters.items()}
    fractions = exact_fractions(op, [(t.shape, t.format) for t in inputs], parameter_formats)
    if op in ("offset", "add"):
        shifts = alignment([t.format for t in inputs], parameter_formats, fractions)
    else:
        shifts = Alignment((0,) * len(inputs), {})
    low, high = row.bounds(attributes, [(t.low, t.high) for t in inputs], arrays, shifts)
    if op in ("clamp", "max_pool", "flatten", "concat"):
        word = max(t.format.word_length for t in inputs)
        signed = any(t.format.signed for t in inputs)
        if any((t.format.word_length, t.format.signed) != (word, signed) for t in inputs):
            raise GraphError(f"{op}: its inputs must share one format")
        chosen = TensorFormat(signed, word, fractions)
        if op == "clamp" and not chosen.min <= attributes["low"] <= attributes["high"] <= chosen.max:
            raise GraphError(f"clamp to {attributes['low']}..{attributes['high']} in {chosen}")
    elif op == "lookup":
        chosen = parameters["table"].format
    else:
        fixed = smallest_format(min(low, -1), high, 0)
        chosen = TensorFormat(True, fixed.word_length, fractions)
    return IntTensor(shape, chosen, low, high, layer, value)


def rounded_tensor(
    op: str,
    attributes: Attributes,
    source: IntTensor,
    parameters: Mapping[str, IntParameter],
    to: TensorFormat,
    layer: str,
    value: str | None,
) -> IntTensor:
    """The result of a step that rounds, with its range: every mode but WRAP is monotone, so the ends decide.

    Raises:
        GraphError: the operands do not fit.
    """
    arrays: Arrays = {role: p.data for role, p in parameters.items()}
    shape = STEPS[op].shape(attributes, [source.shape], arrays)
    if to.per_channel and len(to.fraction_lengths) != shape[0]:
        raise GraphError(f"{op}: {len(to.fraction_lengths)} binary points for {shape[0]} channels")
    rounding, overflow = Rounding(attributes["rounding"]), Overflow(attributes["overflow"])
    if overflow is Overflow.WRAP:
        return IntTensor(shape, to, to.min, to.max, layer, value)
    ends = np.array([source.low, source.high], np.int64)[:, None]
    if op == "divide":
        if source.format.per_channel or to.per_channel:
            raise GraphError("divide: one binary point for all channels, please")
        if rounding is Rounding.STOCHASTIC:
            raise GraphError("divide: has no STOCHASTIC rounding")
        divisor = parameters["divisor"].data
        if divisor.min() < 1 or divisor.max() >= 1 << 31:
            raise GraphError(f"divide: divisors {divisor.min()}..{divisor.max()}, expected 1..2**31-1")
        shift = source.format.fraction_lengths[0] - to.fraction_lengths[0]
        largest = max(-source.low, source.high) << max(-shift, 0)
        if abs(shift) > MAX_DIVIDE_SHIFT or largest >= 1 << MAX_DIVIDEND:
            raise GraphError(f"divide: {source.format} to {to} leaves 62 bits")
        both = np.array([int(divisor.min()), int(divisor.max())])
        results = divide(ends, both, shift, to.channel(0), rounding, overflow)
    else:
        fractions = np.broadcast_arrays(
            np.array(source.format.fraction_lengths), np.array(to.fraction_lengths)
        )
        stochastic = rounding is Rounding.STOCHASTIC
        results = cast(
            ends,
            fractions[0][None],
            to.channel(0),
            Rounding.TRN if stochastic else rounding,
            overflow,
            to_fraction_length=fractions[1][None],
        )
        if stochastic:  # the floor, or one more
            results = np.concatenate([results, limit(results + 1, to.channel(0), overflow)])
    return IntTensor(shape, to, int(results.min()), int(results.max()), layer, value)


_VERIFIED: WeakValueDictionary[int, IntGraph] = WeakValueDictionary()
"""Networks that are known to be right, by identity: they are immutable, and every engine asks."""


def verify(graph: IntGraph) -> None:
    """Check an ``IntGraph`` completely: names, shapes, formats, stored ranges, accumulator widths.

    Every range and every exact format is derived again from the parameters and compared.

    Raises:
        GraphError: the graph is broken; the message names the step.
    """
    if _VERIFIED.get(id(graph)) is not graph:
        _verify(graph)
        _VERIFIED[id(graph)] = graph


def _verify(graph: IntGraph) -> None:
    if graph.input not in graph.tensors:
        raise GraphError(f"input {graph.input!r} is no tensor of the graph")
    image = graph.tensors[graph.input]
    _check_stored(f"input {graph.input!r}", image)
    try:
        check_shape(image.shape)
    except GraphError as error:
        raise GraphError(f"input {graph.input!r}: {error}") from None
    if len(graph.steps) > MAX_STEPS:
        raise GraphError(f"{len(graph.steps)} steps: expected at most {MAX_STEPS}")
    if (image.low, image.high) != (image.format.min, image.format.max) or image.format.per_channel:
        raise GraphError(f"input {graph.input!r}: expected one binary point and the full range")
    for name, parameter in graph.parameters.items():
        _check_parameter(name, parameter)
    known = {graph.input}
    for step in graph.steps:
        where = f"step {step.name!r}"
        if step.op not in STEPS:
            raise GraphError(f"{where}: unknown operator {step.op!r}")
        row = STEPS[step.op]
        try:
            check_attributes(step.attributes, row.attributes, stored=True)
        except GraphError as error:
            raise GraphError(f"{where}: {error}") from None
        if set(step.parameters) != set(row.parameters):
            raise GraphError(f"{where}: parameters {sorted(step.parameters)}, expected {row.parameters}")
        absent = [key for key in step.parameters.values() if key not in graph.parameters]
        if absent or step.name not in graph.tensors:
            raise GraphError(f"{where}: {absent or [step.name]} not in the graph")
        if step.name in known or not step.name:
            raise GraphError(f"{where}: expected a name that no other tensor has")
        check_inputs(where, row.arity, step.inputs, known)
        recorded = graph.tensors[step.name]
        inputs = [graph.tensors[i] for i in step.inputs]
        parameters = {role: graph.parameters[key] for role, key in step.parameters.items()}
        try:
            if row.bounds is None:
                _check_stored(where, recorded)
                derived = rounded_tensor(
                    step.op,
                    step.attributes,
                    inputs[0],
                    parameters,
                    recorded.format,
                    recorded.layer,
                    recorded.value,
                )
            else:
                derived = exact_tensor(
                    step.op, step.attributes, inputs, parameters, recorded.layer, recorded.value
                )
            check_shape(derived.shape)
        except (GraphError, FormatError, *MALFORMED) as error:
            raise GraphError(f"{where}: {error}") from None
        if derived != recorded:
            raise GraphError(f"{where}: recorded as {recorded}, but its operands make it {derived}")
        known.add(step.name)
    if graph.output not in known:
        raise GraphError(f"output {graph.output!r} is not computed")
    if graph.tensors[graph.output].format.per_channel:
        raise GraphError(f"output {graph.output!r}: class scores need one binary point")
    if set(graph.tensors) != known:
        raise GraphError(f"tensors that no step computes: {sorted(set(graph.tensors) - known)}")


def _check_stored(where: str, tensor: IntTensor) -> None:
    if tensor.format.word_length > MAX_STORED:
        raise GraphError(f"{where}: {tensor.format.word_length} bits stored, at most {MAX_STORED}")


def _check_parameter(name: str, parameter: IntParameter) -> None:
    where = f"parameter {name!r}"
    if parameter.data.dtype != np.int64 or not 0 < parameter.data.size <= MAX_ELEMENTS:
        raise GraphError(f"{where}: {parameter.data.dtype} of shape {parameter.data.shape}, expected int64")
    form = parameter.format
    if form.word_length > MAX_STORED:
        raise GraphError(f"{where}: {form.word_length} bits stored, at most {MAX_STORED}")
    if form.per_channel and len(form.fraction_lengths) != parameter.data.shape[0]:
        raise GraphError(
            f"{where}: {len(form.fraction_lengths)} binary points for {parameter.data.shape[0]} channels"
        )
    low, high = int(parameter.data.min()), int(parameter.data.max())
    if low < form.min or high > form.max:
        raise GraphError(f"{where}: stored integers {low}..{high} outside {form.min}..{form.max}")
