"""A quantized network in stored integers and casts: ``IntGraph``.

Shapes never include the batch axis. Axis 0 of a tensor is its channel; axis 0 of weights the output channel.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import MAX_STORED, Overflow, TensorFormat
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.domains import (
    MAX_NUMBERS,
    MAX_SHIFT,
    MAX_STEPS,
    check_attributes,
    check_shape,
)
from radixpoint.ir.graph import MALFORMED, check_inputs, check_outputs
from radixpoint.ir.ops import STEPS, Alignment, Arrays, Attributes, Family, Shape, StepOp
from radixpoint.tables import Chart, Row, Tabular


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


@dataclass(frozen=True, slots=True, weakref_slot=True)
class IntParameter:
    """Stored integers of a parameter (int64, read-only), with their format along axis 0."""

    data: NDArray[np.int64]
    format: TensorFormat


@dataclass(frozen=True, slots=True)
class Step:
    """One integer operation: ``op`` is a row of ``radixpoint.ir.ops.STEPS``; it writes ``name``."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Attributes
    parameters: Mapping[str, str]

    @property
    def row(self) -> StepOp:
        """Its row of the table."""
        return STEPS[self.op]

    @property
    def family(self) -> Family:
        """What it does to elements."""
        return STEPS[self.op].family


@dataclass(frozen=True, repr=False)
class IntGraph(Tabular):
    """A quantized network: stored integers and casts only.

    Attributes:
        input: name of the input tensor; images are quantized to its format with RND, SAT.
        tensors: every tensor, by name.
        steps: in execution order.
        output: name of the result; of a classifier, the class scores.
        parameters: stored integers, by name.
        metadata: where it comes from (design, digests); takes no part in the arithmetic.
        other_outputs: names of further results, as of a detector.
    """

    input: str
    tensors: Mapping[str, IntTensor]
    steps: tuple[Step, ...]
    output: str
    parameters: Mapping[str, IntParameter]
    metadata: Mapping[str, str]
    other_outputs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("tensors", "parameters", "metadata"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    def __reduce__(self) -> tuple[Any, ...]:
        own = (dict(self.tensors), self.steps, self.output, dict(self.parameters), dict(self.metadata))
        return IntGraph, (self.input, *own, self.other_outputs)

    def __repr__(self) -> str:
        return f"<{self.summary()}>"

    def summary(self) -> str:
        """It in a line."""
        numbers = sum(p.data.size for p in self.parameters.values())
        shape = "x".join(map(str, self.tensors[self.input].shape))
        form = self.tensors[self.input].format
        return f"IntGraph: {shape} of {form}, {len(self.steps)} steps, {numbers:,} parameters"

    def rows(self) -> list[Row]:
        """A row for each step."""
        return [
            {
                "layer": self.tensors[step.name].layer,
                "step": step.name,
                "operator": step.op,
                "parameters": ", ".join(
                    f"{role} {self.parameters[key].format}" for role, key in step.parameters.items()
                ),
                "result": "x".join(map(str, self.tensors[step.name].shape)),
                "format": str(self.tensors[step.name].format),
                "low": self.tensors[step.name].low,
                "high": self.tensors[step.name].high,
            }
            for step in self.steps
        ]

    def chart(self) -> Chart:
        """Word lengths of what each layer multiplies, and of its result."""
        multiplying = [step for step in self.steps if step.row.factor is not None]
        layers = list(dict.fromkeys(self.tensors[step.name].layer for step in multiplying))
        widths = {self.tensors[step.name].layer: self.operand_widths(step) for step in multiplying}
        results = {t.layer: t.format.word_length for t in self.tensors.values() if t.value is not None}
        series: dict[str, list[float | None]] = {
            "operand": [float(widths[name][0]) for name in layers],
            "parameter": [float(widths[name][1]) for name in layers],
            "result": [float(results[name]) if name in results else None for name in layers],
        }
        return Chart(layers, series, ("layer", "bits"))

    def operand_widths(self, step: Step) -> tuple[int, int]:
        """Word lengths of what a multiplying step multiplies: activation, and parameter or activation."""
        factor, source = step.row.factor, self.tensors[step.inputs[0]].format.word_length
        if isinstance(factor, int):
            return source, self.tensors[step.inputs[factor]].format.word_length
        return source, self.parameters[step.parameters[factor or ""]].format.word_length

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of all results."""
        return (self.output, *self.other_outputs)

    @cached_property
    def readers(self) -> Mapping[str, tuple[Step, ...]]:
        """Steps that read each tensor, in execution order; one that reads it twice is there once."""
        found: dict[str, list[Step]] = {name: [] for name in self.tensors}
        for step in self.steps:
            for name in dict.fromkeys(step.inputs):
                found[name].append(step)
        return MappingProxyType({name: tuple(steps) for name, steps in found.items()})

    def derive(self, step: Step) -> IntTensor:
        """The result of a step, derived again from what it reads; a rounding keeps its recorded format.

        Raises:
            GraphError: the operands do not fit.
            FormatError: the exact result needs more than 64 bits.
        """
        recorded = self.tensors[step.name]
        return derived_tensor(
            step.op,
            step.attributes,
            [self.tensors[name] for name in step.inputs],
            {role: self.parameters[key] for role, key in step.parameters.items()},
            recorded.layer,
            recorded.value,
            recorded.format if step.row.rounds else None,
        )

    def align(self, step: Step, operand: int | str) -> NDArray[np.int64]:
        """Places by which an operand moves left to the result's binary point; one, or one a channel.

        Args:
            step: an ``add`` or ``offset``.
            operand: number of an input, or role of a parameter.
        """
        if isinstance(operand, int):
            form = self.tensors[step.inputs[operand]].format
        else:
            form = self.parameters[step.parameters[operand]].format
        return _places(self.tensors[step.name].format.fraction_lengths, form)

    def shift(self, step: Step) -> NDArray[np.int64]:
        """Places by which a step that rounds moves right (negative: left); one, or one a channel."""
        source, result = self.tensors[step.inputs[0]].format, self.tensors[step.name].format
        return np.asarray(np.array(source.fraction_lengths) - np.array(result.fraction_lengths))

    def arrays(self, step: Step) -> dict[str, NDArray[np.int64]]:
        """The step's parameters by role."""
        return {role: self.parameters[key].data for role, key in step.parameters.items()}

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Run the network on the fastest engine here; ``radixpoint.make_engine`` chooses another.

        Args:
            images: stored integers in the input's format, batch first.
            keep: names of tensors; None is the outputs.

        Returns:
            Stored integers of the tensors in ``keep``, int64, batch first, by name.

        Raises:
            EngineError: other types, shapes or values than the input takes, or a name of no tensor.
        """
        from radixpoint.engines import make_engine

        return make_engine(self).run(images, keep)

    @property
    def widest_accumulator(self) -> int:
        """Bits of the widest sum of products; 0 if there is none."""
        sums = (self.tensors[s.name].format.word_length for s in self.steps if s.family == "product")
        return max(sums, default=0)

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
            **({"other_outputs": self.other_outputs} if self.other_outputs else {}),
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


def _places(fractions: tuple[int, ...], operand: TensorFormat) -> NDArray[np.int64]:
    """Places by which an operand moves left to a result with these fraction lengths; one, or one a channel.

    Raises:
        GraphError: it has more fraction bits than the result, or moves too far.
    """
    shifts = np.array(fractions, np.int64) - np.array(operand.fraction_lengths, np.int64)
    if shifts.max() > MAX_SHIFT:
        raise GraphError(f"an operand {shifts.max()} places from its sum: expected at most {MAX_SHIFT}")
    if shifts.min() < 0:
        raise GraphError("a result with fewer fraction bits than an operand would need a rounding")
    return np.asarray(shifts)


def derived_tensor(
    op: str,
    attributes: Attributes,
    inputs: Sequence[IntTensor],
    parameters: Mapping[str, IntParameter],
    layer: str,
    value: str | None,
    to: TensorFormat | None = None,
) -> IntTensor:
    """The result of a step: its shape, its format, its proven range.

    Args:
        op, attributes, inputs, parameters: of the step.
        layer, value: as the tensor has them.
        to: format of the result of a step that rounds; None for an exact one, whose format is derived.

    Raises:
        GraphError: the operands do not fit.
        FormatError: the exact result needs more than 64 bits.
    """
    row = STEPS[op]
    arrays: Arrays = {role: p.data for role, p in parameters.items()}
    shape = row.shape(attributes, [t.shape for t in inputs], arrays)
    if row.rounded is not None:
        if to is None:
            raise GraphError(f"{op} rounds: its result's format must be given")
        if to.per_channel and len(to.fraction_lengths) != shape[0]:
            raise GraphError(f"{op}: {len(to.fraction_lengths)} binary points for {shape[0]} channels")
        if Overflow(attributes["overflow"]) is Overflow.WRAP:
            return IntTensor(shape, to, to.min, to.max, layer, value)
        (source,) = inputs
        low, high = row.rounded(attributes, source.format, (source.low, source.high), arrays, to)
        return IntTensor(shape, to, low, high, layer, value)
    if row.bounds is None or to is not None:
        raise GraphError(f"{op} is exact: its result's format is derived")
    formats = [t.format for t in inputs]
    parameter_formats = {role: p.format for role, p in parameters.items()}
    fractions = row.fractions([t.shape for t in inputs], formats, parameter_formats)
    shifts = Alignment((0,) * len(inputs), {})
    if row.aligned:
        shifts = Alignment(
            tuple(int(_places(fractions, form).max()) for form in formats),
            {role: int(_places(fractions, form).max()) for role, form in parameter_formats.items()},
        )
        moved = [(t.low, t.high, places) for t, places in zip(inputs, shifts.inputs, strict=True)]
        moved += [(int(v.min()), int(v.max()), shifts.parameters[role]) for role, v in arrays.items()]
        if any(max(-low - 1, high) << places >= 1 << 63 for low, high, places in moved):
            # of a minimum, say, the result may be short although an operand is not
            raise FormatError(f"{op}: an operand at its result's binary point needs more than 64 bits")
    low, high = row.bounds(attributes, [(t.low, t.high) for t in inputs], arrays, shifts)
    chosen = row.format(attributes, (low, high), fractions, formats, parameter_formats)
    return IntTensor(shape, chosen, low, high, layer, value)


_VERIFIED: WeakValueDictionary[int, IntGraph] = WeakValueDictionary()
"""Networks that are known to be right, by identity: they are immutable, and every engine asks."""


def verify(network: IntGraph) -> None:
    """Check an ``IntGraph`` completely: names, shapes, formats, stored ranges, accumulator widths.

    Every range and every exact format is derived again from the parameters and compared.

    Raises:
        GraphError: the network is broken; the message names the step.
    """
    if _VERIFIED.get(id(network)) is not network:
        _verify(network)
        _VERIFIED[id(network)] = network


def _verify(network: IntGraph) -> None:
    if network.input not in network.tensors:
        raise GraphError(f"input {network.input!r} is no tensor of the network")
    image = network.tensors[network.input]
    _check_stored(f"input {network.input!r}", image)
    try:
        check_shape(image.shape)
    except GraphError as error:
        raise GraphError(f"input {network.input!r}: {error}") from None
    if len(network.steps) > MAX_STEPS:
        raise GraphError(f"{len(network.steps)} steps: expected at most {MAX_STEPS}")
    if (image.low, image.high) != (image.format.min, image.format.max) or image.format.per_channel:
        raise GraphError(f"input {network.input!r}: expected one binary point and the full range")
    for name, parameter in network.parameters.items():
        _check_parameter(name, parameter)
    known = {network.input}
    for step in network.steps:
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
        absent = [key for key in step.parameters.values() if key not in network.parameters]
        if absent or step.name not in network.tensors:
            raise GraphError(f"{where}: {absent or [step.name]} not in the network")
        if step.name in known or not step.name:
            raise GraphError(f"{where}: expected a name that no other tensor has")
        check_inputs(where, row.arity, step.inputs, known)
        recorded = network.tensors[step.name]
        try:
            if row.rounds:
                _check_stored(where, recorded)
            derived = network.derive(step)
            check_shape(derived.shape)
        except (GraphError, FormatError, *MALFORMED) as error:
            raise GraphError(f"{where}: {error}") from None
        if derived != recorded:
            raise GraphError(f"{where}: recorded as {recorded}, but its operands make it {derived}")
        known.add(step.name)
    check_outputs(network.outputs, known)
    for name in network.outputs:
        if network.tensors[name].format.per_channel:
            raise GraphError(f"output {name!r}: a result needs one binary point")
    if set(network.tensors) != known:
        raise GraphError(f"tensors that no step computes: {sorted(set(network.tensors) - known)}")


def _check_stored(where: str, tensor: IntTensor) -> None:
    if tensor.format.word_length > MAX_STORED:
        raise GraphError(f"{where}: {tensor.format.word_length} bits stored, at most {MAX_STORED}")


def _check_parameter(name: str, parameter: IntParameter) -> None:
    where = f"parameter {name!r}"
    if parameter.data.dtype != np.int64 or not 0 < parameter.data.size <= MAX_NUMBERS:
        raise GraphError(
            f"{where}: {parameter.data.dtype} of shape {parameter.data.shape}, expected int64, at most "
            f"{MAX_NUMBERS:,} numbers"
        )
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
