"""What people get wrong when they build a network's arithmetic, each as a network that computes it wrongly.

A fault is planted in a copy of the network. The copy is run like any other, so whether it explains a dump is
decided by ==, on every value.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as with_fields

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat, smallest_format
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, derived_tensor, verify

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Made:
    """A step of the copy: as ``Step``, with its parameters themselves, and a format where it rounds."""

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, object]
    parameters: Mapping[str, IntParameter]
    to: TensorFormat | None


Edit = Callable[[IntGraph, Step], Sequence[Made] | None]
"""What becomes of a step; None where the fault means nothing there. The last one has the step's name."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: which of the kinds.
        text: what is wrong, in words.
        edit: of the network's steps.
    """

    kind: str
    text: str
    edit: Edit


@dataclass(frozen=True)
class Planted:
    """A fault where it is: in one step, or (``step`` None) wherever it means anything.

    ``wraps``: exact results that it makes larger wrap in the bits that the right ones need, as in hardware
    that was built with so many. Such a copy is None where no result grows.
    """

    fault: Fault
    step: str | None
    layer: str | None
    wraps: bool = False

    @property
    def text(self) -> str:
        place = "everywhere" if self.layer is None else f"in layer {self.layer}"
        after = ", and what grows by that wraps" if self.wraps else ""
        return f"{self.fault.text}, {place}{after}"


def copied(network: IntGraph, planted: Sequence[Planted]) -> IntGraph | None:
    """The network with these faults, one planted after the other.

    None where one of them changes nothing, or what it makes cannot be.
    """
    for fault in planted:
        following = _with(network, fault)
        if following is None:
            return None
        network = following
    return network


def _with(network: IntGraph, planted: Planted) -> IntGraph | None:
    """A copy with one fault."""
    tensors: dict[str, IntTensor] = {network.input: network.tensors[network.input]}
    parameters: dict[str, IntParameter] = {}
    steps: list[Step] = []
    used = wrapped = False
    for step in network.steps:
        made: Sequence[Made] = [_as_it_is(network, step)]
        if planted.step in (None, step.name):
            edited = planted.fault.edit(network, step)
            used, made = used or edited is not None, made if edited is None else edited
        recorded = network.tensors[step.name]
        left = deque(made)
        while left:
            piece = left.popleft()
            sources = [tensors[name] for name in piece.inputs]
            value = recorded.value if piece.name == step.name else None
            try:
                tensor = derived_tensor(
                    *(piece.op, piece.attributes, sources, piece.parameters, recorded.layer, value, piece.to)
                )
            except (GraphError, FormatError, ValueError):
                return None
            form, most = tensor.format, recorded.format.word_length
            same = (piece.name, piece.op) == (step.name, step.op)
            if planted.wraps and same and piece.to is None and form.word_length > most:
                whole = with_fields(piece, name=f"{piece.name}!whole")
                to = TensorFormat(form.signed, most, form.fraction_lengths)
                left.extend((whole, _cast(piece.name, whole.name, to, overflow="WRAP")))
                wrapped = True
                continue
            tensors[piece.name] = tensor
            keys = {role: f"{piece.name}/{role}" for role in piece.parameters}
            parameters |= {keys[role]: parameter for role, parameter in piece.parameters.items()}
            steps.append(Step(piece.name, piece.op, piece.inputs, piece.attributes, keys))
    if not used or wrapped != planted.wraps:
        return None
    more = network.other_outputs
    result = IntGraph(network.input, tensors, tuple(steps), network.output, parameters, {}, more)
    try:
        verify(result)
    except (GraphError, FormatError):
        return None
    return result


def _as_it_is(network: IntGraph, step: Step) -> Made:
    own = {role: network.parameters[key] for role, key in step.parameters.items()}
    to = network.tensors[step.name].format if step.row.rounds else None
    return Made(step.name, step.op, step.inputs, step.attributes, own, to)


# --------------------------------------------------------------------------------------------- edits


def _attribute(op: Sequence[str], name: str, value: object) -> Edit:
    def edit(network: IntGraph, step: Step) -> Sequence[Made] | None:
        if step.op not in op or name not in step.attributes or step.attributes[name] == value:
            return None
        made = _as_it_is(network, step)
        return [with_fields(made, attributes={**step.attributes, name: value})]

    return edit


def _computed(op: Sequence[str], change: Callable[[IntGraph, Step, Made], Sequence[Made] | None]) -> Edit:
    def edit(network: IntGraph, step: Step) -> Sequence[Made] | None:
        return change(network, step, _as_it_is(network, step)) if step.op in op else None

    return edit


def _cast(name: str, source: str, to: TensorFormat, rounding: str = "RND", overflow: str = "SAT") -> Made:
    attributes = {"rounding": rounding, "overflow": overflow, "stream": 0, "seed": 0}
    return Made(name, "cast", (source,), attributes, {}, to)


def _shifted(places: int) -> Edit:
    """The source is first divided by two to this power, exactly: a shift by so many places too far."""

    def change(network: IntGraph, step: Step, made: Made) -> Sequence[Made]:
        shape = (1,) * len(network.tensors[step.name].shape)
        factor = IntParameter(freeze(np.ones(shape, np.int64)), TensorFormat(True, 2, (places,)))
        before = Made(f"{step.name}!shift", "scale", (step.inputs[0],), {}, {"factor": factor}, None)
        return [before, with_fields(made, inputs=(before.name, *step.inputs[1:]))]

    return _computed(("cast",), change)


def _exact(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    """No cast, where nothing but exact arithmetic reads its result."""
    readers = network.readers[step.name]
    if step.name in network.outputs or not readers or any(reader.row.rounds for reader in readers):
        return None
    factor = IntParameter(
        freeze(np.ones((1,) * len(network.tensors[step.name].shape), np.int64)), TensorFormat(True, 2, (0,))
    )
    return [Made(step.name, "scale", step.inputs, {}, {"factor": factor}, None)]


def _weights(change: Callable[[Ints], Ints | None]) -> Edit:
    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        own = made.parameters["weight"]
        changed = change(own.data)
        if changed is None or changed.shape != own.data.shape or np.array_equal(changed, own.data):
            return None
        parameter = IntParameter(freeze(np.ascontiguousarray(changed)), own.format)
        return [with_fields(made, parameters={**made.parameters, "weight": parameter})]

    return _computed(("conv", "dense"), planted)


def _pads(change: Callable[[tuple[int, int, int, int]], tuple[int, int, int, int]]) -> Edit:
    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        pads = change(step.attributes["pads"])
        if pads == step.attributes["pads"]:
            return None
        return [with_fields(made, attributes={**step.attributes, "pads": pads})]

    return _computed(("conv", "max_pool", "sum_pool"), planted)


def _value(change: Callable[[IntGraph, Step, IntParameter], IntParameter | None]) -> Edit:
    """Another value that is added: a bias, or the offset of a batch normalization."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        changed = change(network, step, made.parameters["value"])
        return None if changed is None else [with_fields(made, parameters={"value": changed})]

    return _computed(("offset",), planted)


def _moved(op: str, role: str, places: int) -> Edit:
    """A parameter whose binary point is elsewhere."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made]:
        own = made.parameters[role]
        fractions = tuple(f + places for f in own.format.fraction_lengths)
        form = TensorFormat(own.format.signed, own.format.word_length, fractions)
        return [with_fields(made, parameters={**made.parameters, role: IntParameter(own.data, form)})]

    return _computed((op,), planted)


def _unaligned(network: IntGraph, step: Step, own: IntParameter) -> IntParameter | None:
    """The stored value is added as it is, without the shift to the sum's binary point."""
    to = network.tensors[step.name].format.fraction_lengths
    if set(own.format.fraction_lengths) == set(to):
        return None
    return IntParameter(own.data, TensorFormat(own.format.signed, own.format.word_length, to))


def _no_value(network: IntGraph, step: Step, own: IntParameter) -> IntParameter | None:
    return IntParameter(freeze(np.zeros_like(own.data)), own.format) if own.data.any() else None


def _negated(network: IntGraph, step: Step, own: IntParameter) -> IntParameter | None:
    if not own.data.any():
        return None
    low, high = int(-own.data.max()), int(-own.data.min())
    longer = max(own.format.word_length, smallest_format(low, high, 0).word_length)
    return IntParameter(freeze(-own.data), TensorFormat(True, longer, own.format.fraction_lengths))


def _rounded_first(rounding: str) -> Edit:
    """What is added is first rounded to the result's unit, and then rounded again."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        reader = next((r for r in network.readers[step.name] if r.op == "cast"), None)
        if reader is None:
            return None
        to = network.tensors[reader.name].format.fraction_lengths
        result, inputs = list[Made](), list[str]()
        for index, source in enumerate(step.inputs):
            form = network.tensors[source].format
            if max(form.fraction_lengths) <= min(to):
                inputs.append(source)  # nothing is cut off
                continue
            name = f"{step.name}!{index}"
            result.append(
                _cast(name, source, TensorFormat(True, min(form.word_length + 1, 32), to), rounding)
            )
            inputs.append(name)
        return [*result, with_fields(made, inputs=tuple(inputs))] if result else None

    return _computed(("add", "offset"), planted)


def _reread(signed: bool) -> Edit:
    """What is multiplied is read as if it had, or had not, a sign bit."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        source = network.tensors[step.inputs[0]]
        if source.format.signed == signed or source.format.word_length > 31:
            return None
        form = TensorFormat(signed, source.format.word_length, source.format.fraction_lengths)
        before = _cast(f"{step.name}!sign", step.inputs[0], form, overflow="WRAP")
        return [before, with_fields(made, inputs=(before.name, *step.inputs[1:]))]

    return _computed(("conv", "dense"), planted)


def _unsigned_weights(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    own = made.parameters["weight"]
    if not own.format.signed or own.data.min() >= 0:
        return None
    bits, fractions = own.format.word_length, own.format.fraction_lengths
    changed = IntParameter(freeze(own.data & ((1 << bits) - 1)), TensorFormat(False, bits, fractions))
    return [with_fields(made, parameters={**made.parameters, "weight": changed})]


def _narrow(bits: int, overflow: str) -> Edit:
    """The sum of products is kept in too few bits."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        form = network.tensors[step.name].format
        if form.word_length <= bits:
            return None
        inner = with_fields(made, name=f"{step.name}!sum")
        to = TensorFormat(True, bits, form.fraction_lengths)
        return [inner, _cast(step.name, inner.name, to, overflow=overflow)]

    return _computed(("conv", "dense"), planted)


def _no_limit(side: str) -> Edit:
    """A ReLU, or the upper limit of a ReLU6, is missing."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        source = network.tensors[step.inputs[0]]
        end = source.low if side == "low" else source.high
        binds = (
            source.low < step.attributes["low"] if side == "low" else source.high > step.attributes["high"]
        )
        return [with_fields(made, attributes={**step.attributes, side: end})] if binds else None

    return _computed(("clamp",), planted)


def _operand(op: str, index: int, factor: int, aligned: bool) -> Edit:
    """An operand of a sum times 0 or 1, or its integers taken for those of the sum's binary point."""

    def planted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
        own = network.tensors[step.inputs[index]]
        channels = own.shape[0]
        have, want = own.format.fractions(1), network.tensors[step.name].format.fractions(1)
        places = tuple(int(f) for f in np.broadcast_to(want, channels) - np.broadcast_to(have, channels))
        if aligned:
            places = (0,) * channels
        elif not any(places):
            return None
        form = TensorFormat(True, 2, places)
        filled = freeze(np.full((channels,) + (1,) * (len(own.shape) - 1), factor, np.int64))
        name = f"{step.name}!operand"
        before = Made(name, "scale", (step.inputs[index],), {}, {"factor": IntParameter(filled, form)}, None)
        inputs = (*step.inputs[:index], name, *step.inputs[index + 1 :])
        return [before, with_fields(made, inputs=inputs)]

    return _computed((op,), planted)


def _channels_last(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    """What was flattened has its channels last, and the weights are those of channels first."""
    makers = {other.name: other for other in network.steps}
    maker = makers.get(step.inputs[0])
    while maker is not None and maker.op == "cast":
        maker = makers.get(maker.inputs[0])
    if maker is None or maker.op != "flatten":
        return None
    shape = network.tensors[maker.inputs[0]].shape
    own = made.parameters["weight"]
    if len(shape) != 3 or 1 in (shape[0], shape[1] * shape[2]):
        return None
    moved = own.data.reshape(-1, shape[1], shape[2], shape[0]).transpose(0, 3, 1, 2).reshape(own.data.shape)
    weight = IntParameter(freeze(np.ascontiguousarray(moved)), own.format)
    return [with_fields(made, parameters={**made.parameters, "weight": weight})]


def _parts_reversed(network: IntGraph, step: Step, made: Made) -> Sequence[Made]:
    return [with_fields(made, inputs=step.inputs[::-1])]


def _one_point(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    """A factor or value with a binary point a channel is used with that of its first channel."""
    role = "factor" if step.op == "scale" else "value"
    own = made.parameters[role]
    if len(set(own.format.fraction_lengths)) == 1:
        return None
    form = TensorFormat(own.format.signed, own.format.word_length, own.format.fraction_lengths[:1])
    return [with_fields(made, parameters={role: IntParameter(own.data, form)})]


def _one_shift(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    """Every channel is shifted as the first one has to be: before a cast, or to the binary point of a sum."""
    if step.op == "cast":
        shifts = network.shift(step)
        if len(set(shifts.tolist())) == 1:
            return None
        rank = len(network.tensors[step.name].shape)
        ones = freeze(np.ones((len(shifts),) + (1,) * (rank - 1), np.int64))
        form = TensorFormat(True, 2, tuple(int(shifts[0] - s) for s in shifts))
        before = Made(
            f"{step.name}!shift", "scale", step.inputs, {}, {"factor": IntParameter(ones, form)}, None
        )
        return [before, with_fields(made, inputs=(before.name,))]
    own, to = made.parameters["value"], network.tensors[step.name]
    have, want = (np.broadcast_to(f, to.shape[0]) for f in (own.format.fractions(1), to.format.fractions(1)))
    left = want - have
    if len(set(left.tolist())) == 1:
        return None
    form = TensorFormat(own.format.signed, own.format.word_length, tuple(int(w - left[0]) for w in want))
    return [with_fields(made, parameters={"value": IntParameter(own.data, form)})]


def _all_counted(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    """An average divides by the whole window at the edges, too."""
    divisor = made.parameters["divisor"]
    if len(np.unique(divisor.data)) == 1:
        return None
    whole = IntParameter(freeze(np.full_like(divisor.data, divisor.data.max())), divisor.format)
    return [with_fields(made, parameters={"divisor": whole})]


def _zero_padding(network: IntGraph, step: Step, made: Made) -> Sequence[Made] | None:
    """A maximum over zeros at the edges, not over the smallest value."""
    pads = step.attributes["pads"]
    source = network.tensors[step.inputs[0]]
    if not any(pads) or source.low >= 0 or len(source.shape) != 3:
        return None
    _, height, width = source.shape
    top, left, bottom, right = pads
    attributes = {
        "channels": (),
        "rows": (*[-1] * top, *range(height), *[-1] * bottom),
        "columns": (*[-1] * left, *range(width), *[-1] * right),
        "fill": 0,
    }
    before = Made(f"{step.name}!padded", "select", step.inputs, attributes, {}, None)
    unpadded = {**step.attributes, "pads": (0, 0, 0, 0)}
    return [before, with_fields(made, inputs=(before.name,), attributes=unpadded)]


def faults() -> Iterator[Fault]:
    """Every fault of the arithmetic, kind by kind."""
    for rounding in Rounding:
        if rounding is not Rounding.STOCHASTIC:
            edit = _attribute(("cast", "divide"), "rounding", rounding.value)
            yield Fault("rounding mode", f"rounding is {rounding.value}", edit)
            edit = _attribute(("cast",), "rounding", rounding.value)
            yield Fault("rounding mode", f"rounding is {rounding.value}, but not of divisions", edit)
    for overflow in Overflow:
        edit = _attribute(("cast", "divide"), "overflow", overflow.value)
        yield Fault("overflow", f"overflow is {overflow.value}", edit)
    for places in (1, -1, 2, -2):
        far, way = abs(places), "right" if places > 0 else "left"
        text = f"a shift is {far} {'place' if far == 1 else 'places'} too far {way}"
        yield Fault("shift", text, _shifted(places))
    yield Fault(
        "truncation before the addition",
        "operands are truncated before they are added",
        _rounded_first("TRN"),
    )
    yield Fault(
        "rounded twice",
        "operands are rounded before they are added, and the sum again",
        _rounded_first("RND"),
    )
    yield Fault(
        "rounding left out",
        "a result goes on as it is, neither rounded nor limited",
        _computed(("cast",), _exact),
    )
    yield Fault("sign", "a signed operand is read without its sign", _reread(False))
    yield Fault("sign", "an operand without a sign is read with one", _reread(True))
    yield Fault(
        "sign", "weights are read without their sign", _computed(("conv", "dense"), _unsigned_weights)
    )
    for bits in (8, 16, 18, 20, 24, 32, 48):
        yield Fault("accumulator", f"a sum of products wraps in {bits} bits", _narrow(bits, "WRAP"))
        yield Fault("accumulator", f"a sum of products saturates at {bits} bits", _narrow(bits, "SAT"))
    yield Fault(
        "kernel flipped", "the kernel is flipped: it convolves, where it should correlate", _weights(_flipped)
    )
    yield Fault("kernel transposed", "rows and columns of the kernel are exchanged", _weights(_transposed))
    yield Fault(
        "weights transposed", "input and output channels of the weights are exchanged", _weights(_exchanged)
    )
    yield Fault("padding side", "padding is at the other side", _pads(lambda p: (p[2], p[3], p[0], p[1])))
    yield Fault(
        "padding side",
        "all padding is at the top and left",
        _pads(lambda p: (p[0] + p[2], p[1] + p[3], 0, 0)),
    )
    yield Fault(
        "padding side",
        "all padding is at the bottom and right",
        _pads(lambda p: (0, 0, p[0] + p[2], p[1] + p[3])),
    )
    yield Fault(
        "padding value", "a maximum is taken over zeros at the edges", _computed(("max_pool",), _zero_padding)
    )
    yield Fault("bias", "a bias or offset is added without its shift", _value(_unaligned))
    for places in (1, -1, 2, -2):
        size = f"{2.0**-places:g} times as large"
        yield Fault("bias", f"a bias or offset is {size}", _moved("offset", "value", places))
        yield Fault("factor", f"a factor is {size}", _moved("scale", "factor", places))
    unshifted = "a sum is not shifted to the binary point of its bias or offset"
    yield Fault("bias", unshifted, _operand("offset", 0, 1, False))
    yield Fault("bias", "a bias or offset is missing", _value(_no_value))
    yield Fault("bias", "a bias or offset is subtracted", _value(_negated))
    for index, which in enumerate(("first", "second")):
        text = f"the {which} operand of an addition"
        yield Fault(
            "addition", f"{text} is not shifted to the other's binary point", _operand("add", index, 1, False)
        )
        yield Fault("addition", f"{text} is missing", _operand("add", index, 0, True))
    yield Fault(
        "channels last", "what is flattened has its channels last", _computed(("dense",), _channels_last)
    )
    yield Fault("concatenation", "parts are in reverse order", _computed(("concat",), _parts_reversed))
    yield Fault("ReLU", "a ReLU is missing", _no_limit("low"))
    yield Fault("ReLU", "an upper limit is missing", _no_limit("high"))
    yield Fault(
        "one binary point",
        "channels share the binary point of the first one",
        _computed(("scale", "offset"), _one_point),
    )
    yield Fault(
        "one binary point",
        "channels are shifted as the first one is",
        _computed(("cast", "offset"), _one_shift),
    )
    yield Fault("average", "an average counts the padding", _computed(("divide",), _all_counted))


def _flipped(weight: Ints) -> Ints | None:
    return weight[..., ::-1, ::-1] if weight.ndim == 4 else None


def _transposed(weight: Ints) -> Ints | None:
    return weight.swapaxes(2, 3) if weight.ndim == 4 else None


def _exchanged(weight: Ints) -> Ints | None:
    return weight.swapaxes(0, 1) if weight.shape[0] == weight.shape[1] else None
