"""A plain ONNX model of the integer semantics: int64 from the image's stored integers to the logits'."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import random_draws
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.errors import ExportError
from radixpoint.export.onnx_graph import ModelBuilder
from radixpoint.export.target import EVERY
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.plan import FARTHEST_SHIFT, Ints, Plan

if TYPE_CHECKING:
    import onnx
    import onnxruntime
else:  # they take a while, and few commands need them
    onnx, onnxruntime = lazy_loader.load("onnx"), lazy_loader.load("onnxruntime")

FILE = "network.onnx"
ENOUGH_LEFT = 40
"""Stored tensors have at most 32 bits: any integer but 0 shifted left so far saturates."""


class _Integers(ModelBuilder):
    """Writes each step with int64 operators; the remainder of a division by 2^s is what rounding looks at."""

    def int64(self, values: Any) -> str:
        return self.constant(values, np.int64)

    def write(self) -> bytes:
        for step, name in self.steps():
            getattr(self, f"_{step.op}")(step, name, self._inputs(step))
        return self.model(lambda name: onnx.TensorProto.INT64, "images")

    def _inputs(self, step: Step) -> list[str]:
        return [self.plan.identifiers[name] for name in step.inputs]

    def _column(self, values: Ints, step: Step) -> Ints:
        """One value, or one a channel, broadcastable to the step's result."""
        rank = len(self.network.tensors[step.name].shape)
        return values.reshape(()) if values.size == 1 else values.reshape(-1, *[1] * (rank - 1))

    def _conv(self, step: Step, name: str, inputs: list[str]) -> None:
        weight = self.network.arrays(step)["weight"]
        self.product_sum(step, inputs[0], weight, np.int64, lambda: self.int64(0))

    _dense = _conv

    def _aligned(self, x: str, step: Step, operand: int) -> str:
        shifts = self.plan.left_shifts(step, operand)
        return x if not shifts.any() else self.node("Mul", [x, self.int64(self._column(1 << shifts, step))])

    def _add(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Add", [self._aligned(x, step, i) for i, x in enumerate(inputs)], name)

    def _offset(self, step: Step, name: str, inputs: list[str]) -> None:
        value = self.network.arrays(step)["value"]
        shifts = self._column(self.plan.left_shifts(step, "value"), step)
        self.node("Add", [self._aligned(inputs[0], step, 0), self.int64(value << shifts)], name)

    def _scale(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Mul", [inputs[0], self.int64(self.network.arrays(step)["factor"])], name)

    def _limit(self, x: str, low: int, high: int, name: str | None = None) -> str:
        return self.node("Min", [self.node("Max", [x, self.int64(low)]), self.int64(high)], name)

    def _clamp(self, step: Step, name: str, inputs: list[str]) -> None:
        self._limit(inputs[0], step.attributes["low"], step.attributes["high"], name)

    def _max_pool(self, step: Step, name: str, inputs: list[str]) -> None:
        least = self.network.tensors[step.inputs[0]].low
        taps = self.taps(step, inputs[0], step.attributes["kernel"], lambda: self.int64(least))
        self.chain("Max", [seen for _, _, seen in taps], name)

    def _sum_pool(self, step: Step, name: str, inputs: list[str]) -> None:
        taps = self.taps(step, inputs[0], step.attributes["kernel"], lambda: self.int64(0))
        self.chain("Add", [seen for _, _, seen in taps], name)

    def _flatten(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Reshape", [inputs[0], self.int64([0, -1])], name)

    def _concat(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Concat", inputs, name, axis=1)

    def _multiply(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Mul", inputs, name)

    def _maximum(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Max", [self._aligned(x, step, i) for i, x in enumerate(inputs)], name)

    def _minimum(self, step: Step, name: str, inputs: list[str]) -> None:
        self.node("Min", [self._aligned(x, step, i) for i, x in enumerate(inputs)], name)

    def _lookup(self, step: Step, name: str, inputs: list[str]) -> None:
        place = self.node("Sub", [inputs[0], self.int64(step.attributes["first"])])
        self.node("Gather", [self.int64(self.network.arrays(step)["table"]), place], name, axis=0)

    def _select(self, step: Step, name: str, inputs: list[str]) -> None:
        self.selected(step, inputs[0], lambda: self.int64(step.attributes["fill"]), name)

    def _rearrange(self, step: Step, name: str, inputs: list[str]) -> None:
        self.rearranged(step, inputs[0], name)

    def _sum_channels(self, step: Step, name: str, inputs: list[str]) -> None:
        self.channel_sum(step, inputs[0], lambda: self.int64(0), name)

    def _number(self, condition: str) -> str:
        return self.node("Cast", [condition], to=onnx.TensorProto.INT64)

    def _rounded_up(self, x: str, floor: str, rest: str, half: str, rounding: Rounding) -> str | None:
        """1 where ``floor`` must become one more; ``rest`` and ``half`` in the same unit."""
        zero = self.int64(0)

        def above_or_tie(condition: str) -> str:
            above = self.node("Greater", [rest, half])
            tie = self.node("And", [self.node("Equal", [rest, half]), condition])
            return self._number(self.node("Or", [above, tie]))

        match rounding:
            case Rounding.TRN:
                return None
            case Rounding.TRN_ZERO:
                cut = self.node("Greater", [rest, zero])
                return self._number(self.node("And", [cut, self.node("Less", [x, zero])]))
            case Rounding.RND:
                return self._number(self.node("GreaterOrEqual", [rest, half]))
            case Rounding.RND_MIN_INF:
                return self._number(self.node("Greater", [rest, half]))
            case Rounding.RND_INF:
                return above_or_tie(self.node("Greater", [x, zero]))
            case Rounding.RND_ZERO:
                return above_or_tie(self.node("Less", [x, zero]))
            case _:
                odd = self.node("Mod", [floor, self.int64(2)])
                return above_or_tie(self.node("Equal", [odd, self.int64(1)]))

    def _divided(self, x: str, divisor: str) -> tuple[str, str]:
        """Floor and remainder; the subtraction cannot leave int64."""
        rest = self.node("Mod", [x, divisor])
        return self.node("Div", [self.node("Sub", [x, rest]), divisor]), rest

    def _right(self, x: str, step: Step, shifts: Ints) -> str:
        rounding = Rounding(step.attributes["rounding"])
        places = self._column(np.maximum(shifts, 0), step)
        floor, rest = self._divided(x, self.int64(1 << places))
        if rounding is Rounding.STOCHASTIC:
            shape = self.network.tensors[step.name].shape
            draws = random_draws(step.attributes["seed"], step.attributes["stream"], shape)
            lead = np.where(places > 0, 64 - places, 63).astype(np.uint64)
            least = np.where(places > 0, draws >> lead, np.uint64(0)).astype(np.int64)
            up: str | None = self._number(self.node("Less", [self.int64(least), rest]))
        else:
            half = np.where(places > 0, 1 << np.maximum(places - 1, 0), 1)
            up = self._rounded_up(x, floor, rest, self.int64(half), rounding)
        return floor if up is None else self.node("Add", [floor, up])

    def _left(self, x: str, step: Step, shifts: Ints) -> str:
        form = self.network.tensors[step.name].format
        places = np.maximum(-shifts, 0)
        if Overflow(step.attributes["overflow"]) is Overflow.WRAP:
            if form.word_length == 63:
                self._refuse(step, "wraps to 63 bits")
            if form.word_length == 64:
                return self.node("Mul", [x, self.int64(self._column(_wrapped_power(places), step))])
            kept = self.node("Mod", [x, self.int64(1 << form.word_length)])  # what lies higher is lost anyway
            low = np.where(places < form.word_length, 1 << np.minimum(places, 62), 0)
            if form.word_length + int(places.max()) > FARTHEST_SHIFT and form.word_length > 32:
                self._refuse(step, "wraps an accumulator after a shift to the left")
            return self.node("Mul", [kept, self.int64(self._column(low, step))])
        if form.word_length > 32 and places.any():
            self._refuse(step, "saturates an accumulator after a shift to the left")
        places = np.minimum(places, ENOUGH_LEFT)
        bounds = [self._column(np.array(end >> places), step) for end in (form.min, form.max)]
        kept = self.node("Max", [x, self.int64(bounds[0] - 1)])
        kept = self.node("Min", [kept, self.int64(bounds[1] + 1)])
        return self.node("Mul", [kept, self.int64(self._column(1 << places, step))])

    def _refuse(self, step: Step, why: str) -> None:
        layer = self.network.tensors[step.name].layer
        raise ExportError(f"layer {layer!r}: {step.op} {why}: int64 operators cannot express it")

    def _overflowed(self, x: str, step: Step, name: str) -> None:
        form, overflow = self.network.tensors[step.name].format, Overflow(step.attributes["overflow"])
        if overflow is not Overflow.WRAP:
            low, high = form.limits(overflow)
            self._limit(x, low, high, name)
        elif form.word_length == 64:
            self.alias(x, name)
        elif form.word_length == 63:
            self._refuse(step, "wraps to 63 bits")
        else:
            kept = self.node("Mod", [x, self.int64(1 << form.word_length)])
            over = self._number(self.node("Greater", [kept, self.int64(form.max)]))
            self.node("Sub", [kept, self.node("Mul", [over, self.int64(1 << form.word_length)])], name)

    def _cast(self, step: Step, name: str, inputs: list[str]) -> None:
        shifts = self.plan.cast_shifts(step)
        if shifts.max() > FARTHEST_SHIFT:
            self._refuse(step, f"cuts {int(shifts.max())} places, more than {FARTHEST_SHIFT}")
        x = inputs[0]
        if shifts.max() > 0:
            x = self._right(x, step, shifts)
        if shifts.min() < 0:
            x = self._left(x, step, shifts)
        self._overflowed(x, step, name)

    def _divide(self, step: Step, name: str, inputs: list[str]) -> None:
        shift = int(self.network.shift(step)[0])
        x = inputs[0] if shift >= 0 else self.node("Mul", [inputs[0], self.int64(1 << -shift)])
        divisor = self.int64(self.network.arrays(step)["divisor"] << max(shift, 0))
        floor, rest = self._divided(x, divisor)
        twice = self.node("Add", [rest, rest])
        up = self._rounded_up(x, floor, twice, divisor, Rounding(step.attributes["rounding"]))
        self._overflowed(floor if up is None else self.node("Add", [floor, up]), step, name)


def _wrapped_power(places: Ints) -> Ints:
    """2^places modulo 2^64, as int64."""
    return np.array([((1 << int(p)) & ((1 << 64) - 1)) for p in places], np.uint64).view(np.int64)


def every_tensor(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The model with these tensors as outputs."""
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return model


class OnnxModel:
    """An ``radixpoint.engines.Engine`` that runs the exported model with onnxruntime."""

    def __init__(self, network: IntGraph, path: Path) -> None:
        self.network, self.plan = network, Plan(network)
        try:
            self.model = onnx.load(str(path))
        except Exception as error:  # protobuf raises what it likes
            raise ExportError(f"{path}: not a readable ONNX model: {error}") from None
        self._sessions: dict[frozenset[str], onnxruntime.InferenceSession] = {}

    def _session(self, names: frozenset[str]) -> onnxruntime.InferenceSession:
        if names not in self._sessions:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4
            data = every_tensor(self.model, sorted(names)).SerializeToString()
            try:
                self._sessions[names] = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
            except Exception as error:
                raise ExportError(f"{FILE}: onnxruntime does not load it: {error}") from None
        return self._sessions[names]

    def run(self, images: NDArray[np.int64], keep: Collection[str] | None = None) -> dict[str, Ints]:
        """See ``radixpoint.engines.Engine``."""
        wanted = list(self.network.outputs) if keep is None else list(keep)
        computed = [name for name in wanted if name != self.network.input]
        names = sorted({self.plan.identifiers[name] for name in computed})
        feeds = {self.plan.identifiers[self.network.input]: np.ascontiguousarray(images, np.int64)}
        session = self._session(frozenset(names))
        try:
            values = dict(zip(names, session.run(names, feeds), strict=True))
        except Exception as error:  # onnxruntime raises classes of its own
            raise ExportError(f"{FILE}: onnxruntime cannot run it: {error}") from None
        result = {name: np.asarray(values[self.plan.identifiers[name]], np.int64) for name in computed}
        return result | ({self.network.input: images} if self.network.input in wanted else {})


class OnnxTarget:
    """``--to onnx``."""

    name = "onnx"
    summary = "an ONNX model of the integers, for onnxruntime"
    options: tuple[str, ...] = ()
    steps = EVERY
    several_outputs = True

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``."""
        return {FILE: _Integers(network).write()}

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, OnnxModel]:
        """See ``radixpoint.export.target.Target``."""
        return {"onnxruntime": OnnxModel(network, folder / FILE)}
