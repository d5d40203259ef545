"""QONNX: real values and Quant nodes, each an exact fixed-point conversion.

QONNX computes in floating point. A tensor is carried in float32 where its proven range fits 24 bits, else in
float64, and a convolution whose sums do not fit float32 is written as matrix products in float64, since ONNX
Conv has no float64 kernel in onnxruntime. What no carrier holds exactly is refused.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lazy_loader
import numpy as np
from numpy.typing import DTypeLike, NDArray

from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.errors import ExportError
from radixpoint.export.onnx_graph import ModelBuilder
from radixpoint.export.target import EVERY
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.plan import Ints, Plan

if TYPE_CHECKING:
    import onnx
else:  # it takes a while, and few commands need it
    onnx = lazy_loader.load("onnx")

FILE = "network.qonnx.onnx"
DOMAIN = "qonnx.custom_op.general"
FLOAT_BITS, DOUBLE_BITS = 24, 53
FARTHEST_BINARY_POINT = 90
"""Within, every stored integer's value is a normal number of float32."""
LARGEST_DIVISOR = 1 << 26
"""Up to here the float64 quotient of stored integers falls on the right side of every tie."""

_NAMES: Mapping[Rounding, tuple[str, int]] = {
    Rounding.TRN: ("FLOOR", 0),
    Rounding.TRN_ZERO: ("DOWN", 0),
    Rounding.RND: ("FLOOR", 1),
    Rounding.RND_MIN_INF: ("CEIL", -1),
    Rounding.RND_INF: ("HALF_UP", 0),
    Rounding.RND_ZERO: ("HALF_DOWN", 0),
    Rounding.RND_CONV: ("HALF_EVEN", 0),
}
"""QONNX's name and the halves of a unit to add first: QONNX has no ties towards +inf or -inf."""


def _datatype(form: TensorFormat) -> str:
    """QONNX's name of a type that holds every value of a format.

    It has no unsigned fixed point, so that gets a sign bit; and no binary point a channel, or right of the
    units, so those are scaled integers, of which it knows the length alone.
    """
    fraction, word_length = form.fraction_lengths[0], form.word_length
    signed_length = word_length + (not form.signed)
    if form.per_channel or fraction < 0:
        return f"SCALEDINT<{signed_length}>"
    if fraction == 0:
        return f"{'' if form.signed else 'U'}INT{word_length}"
    return f"FIXED<{signed_length},{signed_length - fraction}>"


class _RealValues(ModelBuilder):
    """Writes each step on real values; knows the carrier of every tensor."""

    def __init__(self, network: IntGraph) -> None:
        super().__init__(network)
        self._written: set[str] = set()
        self._carrier: dict[str, DTypeLike] = {network.input: self._needed(network.input)}

    def write(self) -> bytes:
        network = self.network
        image = network.tensors[network.input]
        if self._carrier[network.input] != np.float32:
            raise ExportError(
                f"input {network.input!r}: {image.format}: QONNX images are float32: at most 24 bits"
            )
        for step, name in self.steps():
            getattr(self, f"_{step.op}")(step, name)
        if self._carrier[network.output] != np.float32:
            raise ExportError(f"output {network.output!r}: more than 24 bits do not fit QONNX's float32")
        return self.model(self._element, 1, [(DOMAIN, 1)], self._annotations())

    def _element(self, name: str) -> int:
        kind: int = onnx.TensorProto.DOUBLE if self._carrier[name] == np.float64 else onnx.TensorProto.FLOAT
        return kind

    def _annotations(self) -> dict[str, str]:
        """``finn_datatype`` of every tensor and parameter."""
        formats = {self.plan.identifiers[name]: t.format for name, t in self.network.tensors.items()}
        for key, parameter in self.network.parameters.items():
            if self.plan.parameter_names[key] in self._written:
                formats[self.plan.parameter_names[key]] = parameter.format
        return {name: _datatype(form) for name, form in formats.items()}

    def _refuse(self, step: Step, why: str) -> None:
        layer = self.network.tensors[step.name].layer
        raise ExportError(f"layer {layer!r}: {step.op}: QONNX cannot express it: {why}")

    def _needed(self, name: str) -> DTypeLike:
        """The narrowest carrier that holds every stored integer of a tensor, and one half of it, exactly."""
        tensor = self.network.tensors[name]
        bits = max(abs(tensor.low), abs(tensor.high)).bit_length() + 1
        if bits > DOUBLE_BITS:
            raise ExportError(
                f"layer {tensor.layer!r}: {tensor.format}: float64 holds {DOUBLE_BITS} bits exactly"
            )
        return np.float32 if bits <= FLOAT_BITS else np.float64

    def _operands(self, step: Step) -> list[str]:
        """The inputs in the carrier of the result, widened where it is wider."""
        carriers = [self._needed(step.name), *(self._carrier[name] for name in step.inputs)]
        wide = np.float64 if np.float64 in carriers else np.float32
        self._carrier[step.name] = wide
        return [self._in(name, wide) for name in step.inputs]

    def _in(self, name: str, carrier: DTypeLike) -> str:
        own = self.plan.identifiers[name]
        return own if self._carrier[name] == carrier else self._widened(own, carrier)

    def _widened(self, value: str, carrier: DTypeLike) -> str:
        kind = onnx.TensorProto.DOUBLE if carrier == np.float64 else onnx.TensorProto.FLOAT
        return self.node("Cast", [value], to=kind)

    def _units(self, step: Step) -> NDArray[np.float64]:
        """2^-F of a step's result, with a batch axis in front if there is one a channel."""
        tensor = self.network.tensors[step.name]
        form, fractions = tensor.format, tensor.format.fractions(len(tensor.shape))
        if int(np.abs(fractions).max()) > FARTHEST_BINARY_POINT:
            self._refuse(
                step, f"{form}: it computes scales in float32: at most {FARTHEST_BINARY_POINT} fraction bits"
            )
        return np.ldexp(1.0, -(fractions[None] if form.per_channel else fractions.reshape(())))

    def _quantized(
        self,
        x: str,
        units: NDArray[np.float64],
        form: TensorFormat,
        narrow: bool,
        mode: str,
        name: str | None = None,
    ) -> str:
        inputs = [x, self.constant(units, np.float32), self.constant(0, np.float32)]
        inputs.append(self.constant(form.word_length, np.float32))
        return self.node(
            "Quant", inputs, name, DOMAIN, signed=int(form.signed), narrow=int(narrow), rounding_mode=mode
        )

    def _parameter(self, step: Step, role: str) -> str:
        """A Quant node over a constant, float32; quantizing stored values changes nothing."""
        key = step.parameters[role]
        parameter = self.network.parameters[key]
        form, name = parameter.format, self.plan.parameter_names[key]
        if form.word_length > FLOAT_BITS:
            self._refuse(step, f"parameter {key!r} of {form.word_length} bits: Quant computes in float32")
        if name not in self._written:
            units = np.ldexp(1.0, -form.fractions(parameter.data.ndim))
            units = units if form.per_channel else units.reshape(())
            values = self.constant(
                np.ldexp(parameter.data, -form.fractions(parameter.data.ndim)), np.float32, f"{name}_values"
            )
            self._quantized(values, units, form, False, "HALF_EVEN", name)
            self._written.add(name)
        return name

    def _beside(self, step: Step, role: str) -> str:
        value = self._parameter(step, role)
        return value if self._carrier[step.name] == np.float32 else self._widened(value, np.float64)

    def _conv(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        if self._carrier[step.name] == np.float32:
            weight = self._parameter(step, "weight")
            if step.op == "dense":
                self.node("MatMul", [source, self.node("Transpose", [weight])], name)
                return
            window: dict[str, Any] = {
                key: list(step.attributes[key]) for key in ("strides", "pads", "dilations")
            }
            self.node("Conv", [source, weight], name, group=step.attributes["groups"], **window)
            return
        parameter = self.network.parameters[step.parameters["weight"]]
        form = parameter.format
        values = np.ldexp(parameter.data.astype(np.float64), -form.fractions(parameter.data.ndim))
        self.product_sum(step, source, values, np.float64, lambda: self.constant(0, np.float64))

    _dense = _conv

    def _scale(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        self.node("Mul", [source, self._beside(step, "factor")], name)

    def _offset(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        self.node("Add", [source, self._beside(step, "value")], name)

    def _add(self, step: Step, name: str) -> None:
        self.node("Add", self._operands(step), name)

    def _clamp(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        units, kind = self._units(step), self._carrier[step.name]
        ends = [self.constant(units * step.attributes[end], kind) for end in ("low", "high")]
        self.node("Min", [self.node("Max", [source, ends[0]]), ends[1]], name)

    def _max_pool(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        window: dict[str, Any] = {key: list(step.attributes[key]) for key in ("strides", "pads")}
        self.node("MaxPool", [source], name, kernel_shape=list(step.attributes["kernel"]), **window)

    def _sum_pool(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        kind = self._carrier[step.name]
        taps = self.taps(step, source, step.attributes["kernel"], lambda: self.constant(0, kind))
        self.chain("Add", [seen for _, _, seen in taps], name)

    def _flatten(self, step: Step, name: str) -> None:
        self.node("Reshape", [self._operands(step)[0], self.constant([1, -1], np.int64)], name)

    def _concat(self, step: Step, name: str) -> None:
        self.node("Concat", self._operands(step), name, axis=1)

    def _multiply(self, step: Step, name: str) -> None:
        self.node("Mul", self._operands(step), name)

    def _maximum(self, step: Step, name: str) -> None:
        self.node("Max", self._operands(step), name)

    def _minimum(self, step: Step, name: str) -> None:
        self.node("Min", self._operands(step), name)

    def _lookup(self, step: Step, name: str) -> None:
        """The stored integer is the place in a table of real values."""
        source = self.network.tensors[step.inputs[0]].format
        self._carrier[step.name] = self._needed(step.name)
        wide = self._in(step.inputs[0], np.float64)
        scaled = self.node(
            "Mul", [wide, self.constant(np.ldexp(1.0, source.fraction_lengths[0]), np.float64)]
        )
        stored = self.node("Cast", [scaled], to=onnx.TensorProto.INT64)
        place = self.node("Sub", [stored, self.constant(step.attributes["first"], np.int64)])
        table = self.network.arrays(step)["table"] * self._units(step)
        self.node("Gather", [self.constant(table, self._carrier[step.name]), place], name, axis=0)

    def _select(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        fill = step.attributes["fill"] * self._units(step)
        self.selected(step, source, lambda: self.constant(fill, self._carrier[step.name]), name)

    def _rearrange(self, step: Step, name: str) -> None:
        self.rearranged(step, self._operands(step)[0], name)

    def _sum_channels(self, step: Step, name: str) -> None:
        (source,) = self._operands(step)
        self.channel_sum(step, source, lambda: self.constant(0, self._carrier[step.name]), name)

    def _divide(self, step: Step, name: str) -> None:
        divisor = self.network.arrays(step)["divisor"]
        shift = int(self.network.shift(step)[0])
        if int(divisor.max()) << max(shift, 0) > LARGEST_DIVISOR:
            self._refuse(
                step, f"a division by {int(divisor.max())} with a shift by {shift} places in float64"
            )
        wide = self._in(step.inputs[0], np.float64)
        quotient = self.node("Div", [wide, self.constant(divisor[None], np.float64)])
        self._convert(step, name, quotient, rounds=True)

    def _cast(self, step: Step, name: str) -> None:
        shifts = self.plan.cast_shifts(step)
        source, result = self.network.tensors[step.inputs[0]], self.network.tensors[step.name]
        if not shifts.any() and source.low >= result.format.min and source.high <= result.format.max:
            self._carrier[step.name] = self._carrier[step.inputs[0]]
            self.alias(self.plan.identifiers[step.inputs[0]], name)
            return
        self._convert(step, name, self.plan.identifiers[step.inputs[0]], rounds=bool(shifts.max() > 0))

    def _convert(self, step: Step, name: str, x: str, rounds: bool) -> None:
        """The one rounding and overflow handling of a step, as a Quant node."""
        tensor = self.network.tensors[step.name]
        form, rounding = tensor.format, Rounding(step.attributes["rounding"])
        overflow = Overflow(step.attributes["overflow"])
        if rounding is Rounding.STOCHASTIC and rounds:
            self._refuse(step, "it has no stochastic rounding")
        if overflow is Overflow.WRAP:
            self._refuse(step, "Quant saturates, and this overflow is WRAP")
        if form.word_length > FLOAT_BITS:
            self._refuse(
                step, f"{form.word_length} bits: Quant computes in float32, which holds {FLOAT_BITS}"
            )
        mode, halves = _NAMES[rounding] if rounds else ("FLOOR", 0)
        units = self._units(step)
        if halves:
            x = self._moved(step, x, 0.5 * halves * units)
        self._carrier[step.name] = np.float32
        self._quantized(x, units, form, overflow is Overflow.SAT_SYM and form.signed, mode, name)

    def _moved(self, step: Step, x: str, half: NDArray[np.float64]) -> str:
        """``x`` plus one half of the result's unit where anything is cut off, exactly."""
        if step.op == "divide":
            return self.node("Add", [x, self.constant(half, np.float64)])
        source = self.network.tensors[step.inputs[0]]
        shifts = self.plan.cast_shifts(step)
        largest = max(abs(source.low), abs(source.high)) + (1 << int(shifts.max() - 1))
        carrier = self._carrier[step.inputs[0]]
        if largest.bit_length() > FLOAT_BITS and carrier == np.float32:
            x, carrier = self._widened(x, np.float64), np.float64
        if largest.bit_length() > DOUBLE_BITS:
            self._refuse(step, f"adding one half leaves the {DOUBLE_BITS} bits of float64")
        cut = self._by_channel(shifts > 0, step)
        return self.node("Add", [x, self.constant(np.where(cut, half, 0.0), carrier)])

    def _by_channel(self, values: NDArray[Any], step: Step) -> NDArray[Any]:
        rank = len(self.network.tensors[step.name].shape)
        return values.reshape(()) if values.size == 1 else values.reshape(-1, *[1] * (rank - 1))


class QonnxModel:
    """An ``radixpoint.engines.Engine`` that runs the exported model with the qonnx package."""

    def __init__(self, network: IntGraph, path: Path) -> None:
        try:
            from qonnx.core.modelwrapper import ModelWrapper
            from qonnx.transformation.infer_shapes import InferShapes
        except ImportError:
            raise ExportError("verify needs the package qonnx: pip install qonnx") from None
        self.network, self.plan = network, Plan(network)
        try:
            self.model = ModelWrapper(str(path)).transform(InferShapes(), cleanup=False)
        except Exception as error:  # the package raises what it likes
            raise ExportError(f"{path}: qonnx does not read it: {error}") from None

    def run(self, images: Ints, keep: Collection[str] | None = None) -> dict[str, Ints]:
        """See ``radixpoint.engines.Engine``; image by image, as QONNX has no batch."""
        from qonnx.core.onnx_exec import execute_onnx

        wanted = [self.network.output] if keep is None else list(keep)
        source = self.network.tensors[self.network.input]
        parts: dict[str, list[Ints]] = {name: [] for name in wanted}
        for image in images:
            real = np.ldexp(image[None].astype(np.float32), -source.format.fractions(len(source.shape))[None])
            feeds = {self.plan.identifiers[self.network.input]: real.astype(np.float32)}
            try:
                values: dict[str, Any] = execute_onnx(self.model, feeds, return_full_exec_context=True)
                for name in wanted:
                    parts[name].append(self._stored(name, values[self.plan.identifiers[name]]))
            except Exception as error:  # the package raises what it likes
                raise ExportError(f"{FILE}: qonnx cannot run it: {error!r}") from None
        return {name: np.concatenate(found) for name, found in parts.items()}

    def _stored(self, name: str, values: NDArray[Any]) -> Ints:
        """Real values to stored integers; what is none becomes one that no format holds."""
        tensor = self.network.tensors[name]
        scaled = np.ldexp(values.astype(np.float64), tensor.format.fractions(len(tensor.shape))[None])
        whole = np.isfinite(scaled) & (scaled == np.round(scaled)) & (np.abs(scaled) < 2.0**62)
        return np.where(whole, scaled, -(2.0**63)).astype(np.int64)


class QonnxTarget:
    """``--to qonnx``."""

    name = "qonnx"
    summary = "QONNX with Quant nodes, for FINN and hls4ml"
    options: tuple[str, ...] = ()
    steps = EVERY
    several_outputs = False

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``."""
        return {FILE: _RealValues(network).write()}

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, QonnxModel]:
        """See ``radixpoint.export.target.Target``."""
        return {"qonnx": QonnxModel(network, folder / FILE)}
