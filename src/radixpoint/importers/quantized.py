"""Networks that were trained quantized elsewhere: QONNX and QDQ models become an ``IntGraph`` as they are.

A Quant node (QONNX), or a QuantizeLinear with its DequantizeLinear, says that its result is an integer times
a scale. Where every scale is a power of two, the whole model is a network in fixed-point formats, and nothing
has to be chosen: convolutions and sums are exact, and each conversion is a cast with the rounding that the
node names. Other scales are refused with the reason.

The result is what the model computes in real numbers. Factors and offsets of batch normalization, and of Mul
and Add with constants, are rounded to binary32, as the model stores them. Executors compute in binary32
throughout: where their own roundings cross a boundary of a Quant node, or sums pass 24 bits, they differ.

The image is rounded to the format of the first Quant node by RND, as the input of every network, while that
node may say otherwise for ties. Where images have a format of their own, such as bytes over 256, they enter
in that, and the node's cast follows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from radixpoint.arithmetic.formats import MAX_STORED, FixedFormat, Overflow, Rounding, TensorFormat
from radixpoint.errors import FormatError, GraphError, ModelError, UnsupportedError
from radixpoint.files import read_regular
from radixpoint.importers.onnx_node import Node
from radixpoint.ir.domains import check_shape
from radixpoint.ir.graph import MALFORMED, freeze
from radixpoint.ir.network import IntGraph, IntParameter, IntTensor, Step, derived_tensor, verify
from radixpoint.ir.ops import Attributes

_MOST = 1 << 31
"""Bytes of a model."""
ROUNDINGS: Mapping[str, Rounding] = {
    "ROUND": Rounding.RND_CONV,
    "HALF_EVEN": Rounding.RND_CONV,
    "FLOOR": Rounding.TRN,
    "DOWN": Rounding.TRN_ZERO,
    "ROUND_TO_ZERO": Rounding.TRN_ZERO,
    "HALF_UP": Rounding.RND_INF,
    "HALF_DOWN": Rounding.RND_ZERO,
}
"""QONNX's names of rounding modes, as its executor reads them. UP and CEIL have no mode here."""
_DATATYPE = re.compile(r"(U)?INT(\d+)|FIXED<(\d+),(-?\d+)>")
"""QONNX's names of types that are fixed-point."""
_LAST = ("Softmax", "LogSoftmax", "ArgMax")
"""Left out at the end, where they change no class."""
_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
"""Of Quant and BipolarQuant."""
_FLOAT = np.dtype(np.float32)
_INTEGERS = tuple(np.dtype(name) for name in ("int8", "uint8", "int16", "uint16", "int32", "uint32"))

Reals = NDArray[np.float64]


@dataclass(frozen=True)
class _Quantizer:
    """What a Quant node does: integers of ``bits``, times 2**-fraction (one, or one a channel)."""

    signed: bool
    bits: int
    fractions: tuple[int, ...]
    rounding: Rounding
    overflow: Overflow

    @property
    def format(self) -> TensorFormat:
        return TensorFormat(self.signed, self.bits, self.fractions)


@dataclass(frozen=True)
class _Constant:
    """A tensor that no image changes; ``quantizer``, with scales along ``axis``, if a Quant node made it.

    ``kind`` is the type in which the model stores it.
    """

    values: Reals
    quantizer: _Quantizer | None = None
    axis: int = 0
    kind: np.dtype[Any] = _FLOAT

    @property
    def integers(self) -> Reals:
        """What the Quant node made of the values, in units of its scales."""
        assert self.quantizer is not None
        own = self.quantizer
        rounded = _ROUND[own.rounding](np.ldexp(self.values, self._places))
        return np.asarray(np.clip(rounded, *own.format.limits(own.overflow)))

    @property
    def real(self) -> Reals:
        """The values, quantized if a Quant node did so."""
        return self.values if self.quantizer is None else np.ldexp(self.integers, -self._places)

    @property
    def _places(self) -> NDArray[np.int64]:
        assert self.quantizer is not None
        fractions = np.array(self.quantizer.fractions, np.int64)
        if len(fractions) == 1:
            return fractions
        return fractions.reshape([-1 if axis == self.axis else 1 for axis in range(self.values.ndim)])


@dataclass(frozen=True)
class _Coded:
    """What a QuantizeLinear made: integers, until a DequantizeLinear gives them their scale again."""

    value: str | _Constant


@dataclass(frozen=True)
class _Mean:
    """Sums of ``counts`` terms that the next Quant node divides, with one rounding."""

    tensor: str
    counts: NDArray[np.int64]


Known = str | _Constant | _Mean | _Coded


class _Refused(Exception):
    """A node that cannot be taken; its text says why."""


class _Importer:
    def __init__(self, model: onnx.ModelProto, source: str, image_format: TensorFormat | None) -> None:
        self.model, self.source, self.image_format = model, source, image_format
        self.nodes = [Node(proto) for proto in model.graph.node]
        self.known: dict[str, Known] = {stored.name: _constant(stored) for stored in model.graph.initializer}
        self.tensors: dict[str, IntTensor] = {}
        self.parameters: dict[str, IntParameter] = {}
        self.steps: list[Step] = []
        self.input, self.layer, self.count = "", "", 0
        self.layers: set[str] = set()

    # ------------------------------------------------------------------------------------- the whole

    def run(self) -> IntGraph:
        images = [value for value in self.model.graph.input if value.name not in self.known]
        if len(images) != 1:
            raise ModelError(f"{self.source}: {len(images)} inputs: expected one, the image")
        shape = tuple(size.dim_value for size in images[0].type.tensor_type.shape.dim)[1:]
        check_shape(shape)
        self.image, self.image_shape = images[0].name, shape
        stated = self.image_format or self._stated(self.image)
        self.stated = stated is not None
        if stated is not None:
            self._take_image(stated)
        problems: list[tuple[str, str, str]] = []
        lost: set[str] = set()
        for node in self.nodes:
            if lost.intersection(node.inputs):  # what it reads was refused already
                lost.update(node.outputs)
                continue
            self._begin(node.label)
            try:
                if len(node.outputs) < 1 or len(node.inputs) < (node.op != "Constant"):
                    raise _Refused("without a result or an input: expected both")
                self.known[node.outputs[0]] = self._result(node)
            except (_Refused, GraphError, FormatError) as error:
                problems.append((node.op, node.label, str(error)))
                lost.update(node.outputs)
            except (*MALFORMED, ZeroDivisionError) as error:
                problems.append((node.op, node.label, f"malformed: {error}"))
                lost.update(node.outputs)
        if problems:
            raise UnsupportedError(self.source, problems)
        if not self.input:
            raise ModelError(
                f"{self.source}: nothing quantizes the image {self.image!r}: expected a Quant node"
            )
        # a Softmax that is left out may have made two results one
        outputs = list(dict.fromkeys(self._output(value.name) for value in self.model.graph.output))
        if not outputs:
            raise ModelError(f"{self.source}: no outputs: expected at least one")
        network = IntGraph(
            *(self.input, self.tensors, tuple(self.steps), outputs[0], self.parameters),
            {"origin": Path(self.source).name},
            tuple(outputs[1:]),
        )
        verify(network)
        return network

    def _stated(self, name: str) -> TensorFormat | None:
        """The format that the model's annotation gives a tensor (``finn_datatype``), if it is fixed-point."""
        for about in self.model.graph.quantization_annotation:
            if about.tensor_name == name:
                for entry in about.quant_parameter_tensor_names:
                    match = _DATATYPE.fullmatch(entry.value) if entry.key == "finn_datatype" else None
                    if match is not None:
                        sign, bits, word, integer = match.groups()
                        if word:
                            return TensorFormat(True, int(word), (int(word) - int(integer),))
                        return TensorFormat(sign is None, int(bits), (0,))
        return None

    def _take_image(self, form: TensorFormat) -> None:
        self.input = self.image
        self.tensors[self.image] = IntTensor(
            self.image_shape, form, form.min, form.max, self.image, self.image
        )
        self.known[self.image] = self.image

    def _output(self, name: str) -> str:
        value = self.known.get(name)
        if not isinstance(value, str):
            raise ModelError(f"{self.source}: output {name!r}: expected a tensor behind quantized layers")
        form = self.tensors[value].format
        if form.per_channel:  # to one binary point, which loses nothing
            self._begin(f"{name}/output")
            tensor = self.tensors[value]
            most = max(form.fraction_lengths)
            reach = max(
                max(-tensor.low - 1, tensor.high).bit_length() + most - f for f in form.fraction_lengths
            )
            to = TensorFormat(True, reach + 1, (most,))
            if to.word_length > MAX_STORED:
                raise ModelError(f"{self.source}: output {name!r}: {to.word_length} bits at one binary point")
            value = self._cast(value, to, Rounding.TRN, Overflow.SAT)
        tensor = self.tensors[value]
        self.tensors[value] = IntTensor(
            tensor.shape, tensor.format, tensor.low, tensor.high, tensor.layer, name
        )
        return value

    def _result(self, node: Node) -> Known:
        domain, _, op = node.op.rpartition(".")
        if op in _LAST and not domain:
            readers = [other for other in self.nodes if node.outputs[0] in other.inputs]
            if not all(other.op in (*_LAST, "Identity") for other in readers):
                raise _Refused("before other nodes: expected it at the end, where it is left out")
            return self.known[node.inputs[0]]
        if op not in _RULES or domain not in (_DOMAINS if op in ("Quant", "BipolarQuant") else ("",)):
            raise _Refused(f"no quantized meaning is known: expected {', '.join(sorted(_RULES))}")
        return _RULES[op](self, node)

    def same(self, node: Node) -> Known:
        """Identity, and Dropout where nothing is trained."""
        if node.given(2) and bool(self.constant(node, 2).values.any()):
            raise _Refused("in training: expected a network that is trained")
        value = self.known.get(node.inputs[0])
        if value is None:
            raise _Refused("of the image: expected a Quant node before it")
        return value

    # ------------------------------------------------------------------------------------- building

    def _begin(self, layer: str) -> None:
        """The next steps are of another layer; names of nodes may repeat."""
        while layer in self.layers:
            layer += "'"
        self.layers.add(layer)
        self.layer, self.count = layer, 0

    def step(
        self,
        op: str,
        inputs: Sequence[str],
        attributes: Attributes | None = None,
        parameters: Mapping[str, IntParameter] | None = None,
        to: TensorFormat | None = None,
    ) -> str:
        """Write a step of the node at hand."""
        self.count += 1
        name = f"{self.layer}/{self.count}.{op}"
        keys = {}
        for role, parameter in (parameters or {}).items():
            keys[role] = f"{name}/{role}"
            self.parameters[keys[role]] = parameter
        sources = [self.tensors[i] for i in inputs]
        self.tensors[name] = derived_tensor(
            op, attributes or {}, sources, parameters or {}, self.layer, None, to
        )
        self.steps.append(Step(name, op, tuple(inputs), attributes or {}, keys))
        return name

    def _cast(self, tensor: str, to: TensorFormat, rounding: Rounding, overflow: Overflow) -> str:
        attributes = {"rounding": rounding.value, "overflow": overflow.value, "stream": 0, "seed": 0}
        return self.step("cast", [tensor], attributes, to=to)

    def tensor(self, name: str) -> str:
        """The tensor of that name, which an image changes and nothing has to divide first."""
        value = self.known.get(name)
        if value is None:
            raise _Refused(f"reads {name!r} before any Quant node: expected one at the image")
        if isinstance(value, _Mean):
            raise _Refused("reads an average that no Quant node has rounded: expected one between them")
        if isinstance(value, _Constant):
            raise _Refused(f"reads the constant {name!r}: expected a tensor that an image changes")
        if isinstance(value, _Coded):
            raise _Refused("reads integers: expected a DequantizeLinear between them")
        return value

    def constant(self, node: Node, index: int) -> _Constant:
        value = self.known.get(node.inputs[index]) if node.given(index) else None
        if not isinstance(value, _Constant):
            raise _Refused(f"input {index}: expected a constant")
        return value

    def shape(self, tensor: str) -> tuple[int, ...]:
        return self.tensors[tensor].shape

    # ------------------------------------------------------------------------------------ quantizers

    def quantizer(self, node: Node, shape: tuple[int, ...]) -> tuple[_Quantizer, int]:
        """Of a Quant node, and the axis of its scales in a tensor of ``shape`` (with that of images)."""
        scale, zero = self.constant(node, 1).real, np.zeros(1)
        if node.given(2) or not node.op.startswith("Q"):
            zero = self.constant(node, 2).real
        if np.any(zero != 0):
            raise _Refused(f"zero point {zero.flat[np.flatnonzero(zero)[0]]:g}: expected 0")
        if node.op == "QuantizeLinear":
            kind = self._integer_type(node)
            word, signed, narrow, mode = 8 * kind.itemsize, kind.kind == "i", False, "ROUND"
            scale = self._along_axis(node, scale, len(shape))
        else:
            bits, signed = self.constant(node, 3).real, bool(node.get("signed", 1))
            narrow, mode = bool(node.get("narrow", 0)), str(node.get("rounding_mode", "ROUND")).upper()
            if bits.size != 1 or not np.isfinite(bits).all() or bits.flat[0] != int(bits.flat[0]):
                raise _Refused(f"bit width {bits.tolist()}: expected one whole number")
            word = int(bits.flat[0])
        if narrow and not signed:
            raise _Refused("narrow without a sign: expected narrow integers to have one")
        if mode not in ROUNDINGS:
            raise _Refused(f"rounding mode {mode}: expected one of {', '.join(ROUNDINGS)}")
        if not (2 if signed else 1) <= word <= MAX_STORED:
            raise _Refused(f"{word} bits: expected {2 if signed else 1}..{MAX_STORED}")
        fractions, axis = _fractions(scale, shape)
        overflow = Overflow.SAT_SYM if narrow else Overflow.SAT
        return _Quantizer(signed, word, fractions, ROUNDINGS[mode], overflow), axis

    def _integer_type(self, node: Node) -> np.dtype[Any]:
        """In which a QuantizeLinear writes."""
        stated = int(node.get("output_dtype", 0))
        kind = np.dtype(np.uint8)
        if node.given(2):
            kind = self.constant(node, 2).kind
        elif stated:
            kind = onnx.helper.tensor_dtype_to_np_dtype(stated)
        if kind not in _INTEGERS:
            raise _Refused(f"integers of type {kind}: expected 8, 16 or 32 bits")
        return kind

    @staticmethod
    def _along_axis(node: Node, scale: Reals, rank: int) -> Reals:
        """Scales of QuantizeLinear and DequantizeLinear, as an array beside a tensor of ``rank`` axes."""
        if int(node.get("block_size", 0)):
            raise _Refused("scales by block: expected one, or one a channel")
        if scale.size == 1:
            return scale.reshape(1)
        axis = int(node.get("axis", 1))
        axis += rank if axis < 0 else 0
        if scale.ndim != 1 or not 0 <= axis < rank:
            raise _Refused(
                f"scales of shape {scale.shape} along axis {axis}: expected one axis of the tensor"
            )
        return scale.reshape([-1 if i == axis else 1 for i in range(rank)])

    def quant(self, node: Node) -> Known:
        """A Quant node, or a QuantizeLinear, whose integers a DequantizeLinear has to read."""
        made = self._quantized(node)
        return _Coded(made) if node.op == "QuantizeLinear" else made

    def _quantized(self, node: Node) -> str | _Constant:
        source = node.inputs[0]
        value = self.known.get(source)
        if isinstance(value, _Coded):
            raise _Refused("of integers: expected a DequantizeLinear between them")
        if isinstance(value, _Constant):
            own, axis = self.quantizer(node, value.values.shape)
            return _Constant(value.real, own, axis)
        if source == self.image and not self.stated:
            own, _ = self.quantizer(node, (1, *self.image_shape))
            if len(own.fractions) > 1:
                raise _Refused("an image with a scale a channel: expected one")
            if value is not None and own.format != self.tensors[source].format:
                other = self.tensors[source].format
                raise _Refused(
                    f"quantizes the image to {own.format}, and another node to {other}: "
                    "expected one format, or one for the images themselves"
                )
            self._take_image(own.format)
            if own.overflow is Overflow.SAT_SYM:
                return self._cast(source, own.format, own.rounding, own.overflow)
            return str(source)
        tensor = value.tensor if isinstance(value, _Mean) else self.tensor(source)
        own, axis = self.quantizer(node, (1, *self.shape(tensor)))
        if len(own.fractions) > 1 and axis != 1:
            raise _Refused(f"scales along axis {axis}: expected one, or one a channel")
        if isinstance(value, _Mean):
            attributes = {"rounding": own.rounding.value, "overflow": own.overflow.value}
            bits, counts = int(value.counts.max()).bit_length() + 1, value.counts
            if np.unique(counts).size == 1:
                counts = counts.reshape(-1)[:1].reshape((1,) * len(self.shape(tensor)))
            divisor = IntParameter(freeze(counts), TensorFormat(True, max(bits, 2), (0,)))
            return self.step("divide", [tensor], attributes, {"divisor": divisor}, own.format)
        return self._cast(tensor, own.format, own.rounding, own.overflow)

    def written(self, node: Node) -> Known:
        """A Constant node."""
        value = node.attributes.get("value")
        if not isinstance(value, onnx.TensorProto):
            raise _Refused("a constant that is no tensor: expected one")
        return _constant(value)

    def bipolar(self, node: Node) -> Known:
        """-1 and 1, times a scale; of 0 the sign is positive."""
        value, scale = self.known.get(node.inputs[0]), self.constant(node, 1).real
        if not isinstance(value, _Constant):
            raise _Refused("of activations: expected of constants only")
        fractions, axis = _fractions(scale, value.values.shape)
        own = _Quantizer(True, 2, fractions, Rounding.TRN, Overflow.SAT)
        signs = _Constant(np.where(value.real >= 0, 1.0, -1.0), own, axis)
        return _Constant(np.ldexp(signs.values, -signs._places), own, axis)

    def dequantize(self, node: Node) -> Known:
        """Of integers that a QuantizeLinear made, or that are stored."""
        value = self.known.get(node.inputs[0])
        if node.given(2) and np.any(self.constant(node, 2).real != 0):
            raise _Refused("a zero point that is not 0: expected 0")
        scale = self.constant(node, 1).real
        if isinstance(value, _Coded):  # whose scale it has to have
            made = value.value
            if isinstance(made, _Constant):
                assert made.quantizer is not None
                shape, fractions, own = made.values.shape, made.quantizer.fractions, made.axis
            else:
                shape, own = (1, *self.shape(made)), 1
                fractions = self.tensors[made].format.fraction_lengths
            found, axis = _fractions(self._along_axis(node, scale, len(shape)), shape)
            if found != fractions or (len(found) > 1 and axis != own):
                raise _Refused(
                    f"scales of {found} fraction bits, of integers with {fractions}: expected the same"
                )
            return made
        if not isinstance(value, _Constant) or value.kind not in _INTEGERS:
            raise _Refused("of numbers that no QuantizeLinear made, and that are no stored integers")
        shape = value.values.shape
        fractions, axis = _fractions(self._along_axis(node, scale, len(shape)), shape)
        kind = value.kind
        stored = _Quantizer(kind.kind == "i", 8 * kind.itemsize, fractions, Rounding.RND_CONV, Overflow.SAT)
        whole = _Constant(value.values, stored, axis)
        return _Constant(np.ldexp(value.values, -whole._places), stored, axis)

    def stored(self, node: Node, index: int, transposed: bool = False) -> IntParameter:
        """A constant that a Quant node made, in its integers."""
        given = self.constant(node, index)
        own = given.quantizer
        if own is None:
            raise _Refused(f"input {index}: weights that no Quant node made: expected one before it")
        outputs = given.values.ndim - 1 if transposed else 0
        if len(own.fractions) > 1 and given.axis != outputs:
            raise _Refused(f"input {index}: scales along axis {given.axis}: expected one an output")
        integers = given.integers.T if transposed else given.integers
        return IntParameter(freeze(np.ascontiguousarray(integers, np.int64)), own.format)

    # -------------------------------------------------------------------------------------- products

    def transpose(self, node: Node) -> Known:
        """Of constants."""
        given = self.constant(node, 0)
        order = node.ints("perm", tuple(reversed(range(given.values.ndim))))
        return _Constant(given.values.transpose(order), given.quantizer, order.index(given.axis))

    def conv(self, node: Node) -> Known:
        source, weight = self.tensor(node.inputs[0]), self.stored(node, 1)
        rank = weight.data.ndim
        if rank != 4:
            raise _Refused(f"weights of {rank} axes: expected 4")
        kernel = weight.data.shape[2:]
        attributes = {
            "strides": node.ints("strides", (1, 1)),
            "pads": self._pads(node, kernel),
            "dilations": node.ints("dilations", (1, 1)),
            "groups": int(node.get("group", 1)),
        }
        result = self.step("conv", [source], attributes, {"weight": weight})
        return self._biased(node, result, 2)

    def _pads(self, node: Node, kernel: tuple[int, ...]) -> tuple[int, ...]:
        if str(node.get("auto_pad", "NOTSET")) not in ("NOTSET", "VALID"):
            raise _Refused(f"auto_pad {node.get('auto_pad', '')}: expected pads as numbers")
        return node.ints("pads", (0,) * 2 * len(kernel))

    def _biased(self, node: Node, tensor: str, index: int) -> str:
        if not node.given(index):
            return tensor
        return self.offset(tensor, self.constant(node, index).real)

    def offset(self, tensor: str, values: Reals) -> str:
        """Add exact numbers, one or one a channel."""
        value = self._exact(values, tensor, [max(self.tensors[tensor].format.fraction_lengths) + 64])
        return self.step("offset", [tensor], {}, {"value": value})

    def _exact(self, values: Reals, tensor: str, most: Sequence[int]) -> IntParameter:
        """Real numbers as integers with a binary point each, along the channels of ``tensor``; those with
        more than ``most`` fraction bits, one or one a channel, are rounded to odd."""
        rank = len(self.shape(tensor))
        flat = np.asarray(values, np.float64).reshape(-1)
        if not np.isfinite(flat).all():
            raise _Refused("a constant that is no finite number: expected numbers")
        if flat.size not in (1, self.shape(tensor)[0]):
            raise _Refused(f"{flat.size} numbers for {self.shape(tensor)[0]} channels")
        numbers, limits = (a.tolist() for a in np.broadcast_arrays(flat, most))
        fractions = [min(_fraction(v), limit) for v, limit in zip(numbers, limits, strict=True)]
        stored = np.array([_odd(math.ldexp(v, f)) for v, f in zip(numbers, fractions, strict=True)])
        bits = max(int(max(-stored.min() - 1, stored.max())).bit_length() + 1, 2)
        if bits > MAX_STORED:
            raise _Refused(f"a constant of {bits} bits: expected at most {MAX_STORED}")
        shaped = stored.astype(np.int64).reshape(-1, *[1] * (rank - 1))
        return IntParameter(freeze(shaped), TensorFormat(True, bits, tuple(fractions)))

    def dense(self, node: Node) -> Known:
        source = self.tensor(node.inputs[0])
        gemm = node.op == "Gemm"
        if gemm and (node.get("alpha", 1.0), node.get("beta", 1.0), node.get("transA", 0)) != (1.0, 1.0, 0):
            raise _Refused("alpha, beta or transA: expected 1, 1 and 0")
        straight = bool(node.get("transB", 0)) if gemm else False
        weight = self.stored(node, 1, transposed=not straight)
        result = self.step("dense", [source], {}, {"weight": weight})
        return self._biased(node, result, 2) if gemm else result

    # ----------------------------------------------------------------------------------- elementwise

    def batch_norm(self, node: Node) -> Known:
        """y = s x + t with s and t in binary32, as executors have them."""
        if int(node.get("training_mode", 0)):
            raise _Refused("in training: expected a network that is trained")
        source = self.tensor(node.inputs[0])
        gamma, beta, mean, variance = (self.constant(node, i).real for i in range(1, 5))
        with np.errstate(invalid="ignore", divide="ignore"):  # not finite: refused below
            scale = gamma / np.sqrt(variance + float(node.get("epsilon", 1e-5)))
        return self._affine(source, scale, beta - mean * scale)

    def _affine(self, source: str, scale: Reals, offset: Reals | None) -> str:
        factor = self._exact(_single(scale), source, [1 << 9])
        result = self.step("scale", [source], {}, {"factor": factor})
        if offset is None:
            return result
        most = [max(f, 0) + 8 for f in self.tensors[result].format.fraction_lengths]
        value = self._exact(_single(offset), result, most)
        return self.step("offset", [result], {}, {"value": value})

    def relu(self, node: Node) -> Known:
        source = self.tensor(node.inputs[0])
        return self.step("clamp", [source], {"low": 0, "high": max(self.tensors[source].high, 0)})

    def extreme(self, node: Node) -> Known:
        """Max or Min of two: tensors, or a tensor and a number."""
        if len(node.inputs) != 2:
            raise _Refused(f"of {len(node.inputs)} tensors: expected two")
        constants = [n for n in node.inputs if isinstance(self.known.get(n), _Constant)]
        if len(constants) == 2:
            raise _Refused("of two constants: expected a tensor")
        if not constants:
            names = {"Max": "maximum", "Min": "minimum"}
            return self.step(names[node.op], [self.tensor(name) for name in node.inputs])
        source = self.tensor(next(name for name in node.inputs if name not in constants))
        limit = self.constant(node, node.inputs.index(constants[0])).real
        if limit.size != 1:
            raise _Refused("of a tensor and several numbers: expected one")
        number = float(limit.reshape(-1)[0])
        return self._limited(source, *((number, math.inf) if node.op == "Max" else (-math.inf, number)))

    def _limited(self, source: str, least: float, most: float) -> str:
        """Limits in real numbers; those beyond what the tensor can be change nothing."""
        tensor, ends = self.tensors[source], []
        for limit, own, inward in ((least, tensor.low, 1), (most, tensor.high, -1)):
            if math.isnan(limit):
                raise _Refused("a limit that is no number")
            if math.isinf(limit) or limit == 0:
                ends.append(own if limit else 0)
                continue
            if tensor.format.per_channel:
                raise _Refused("a limit on a tensor with a binary point a channel")
            moved = math.ldexp(limit, tensor.format.fraction_lengths[0])
            if moved * inward <= own * inward:
                ends.append(own)
                continue
            if moved != int(moved):
                raise _Refused(f"limit {limit:g}: expected a multiple of the operand's unit")
            ends.append(int(moved))
        low, high = max(ends[0], tensor.low), min(ends[1], tensor.high)  # of limits at 0
        if low > high or least == math.inf or most == -math.inf:
            raise _Refused(
                f"limits {least:g} and {most:g}: expected some of what the operand can be between them"
            )
        return self.step("clamp", [source], {"low": low, "high": high})

    def converted(self, node: Node) -> Known:
        """Cast between floats, which loses nothing."""
        value = self.known.get(node.inputs[0])
        kind = int(node.get("to", 0))
        if kind not in (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE):
            raise _Refused("to another type than float or double")
        if value is None or isinstance(value, _Coded):
            return self.tensor(node.inputs[0])
        if isinstance(value, _Constant):
            return _Constant(_single(value.real) if kind == onnx.TensorProto.FLOAT else value.real)
        if isinstance(value, str) and kind == onnx.TensorProto.FLOAT:
            tensor = self.tensors[value]
            if max(-tensor.low, tensor.high) > 1 << 24:
                raise _Refused("to float of numbers beyond 24 bits: expected numbers that it holds")
        return value

    def clip(self, node: Node) -> Known:
        source, ends = self.tensor(node.inputs[0]), []
        for index, name, plain in ((1, "min", -math.inf), (2, "max", math.inf)):
            limit = np.array(float(node.get(name, plain)))
            if node.given(index):
                limit = self.constant(node, index).real
            if limit.size != 1:
                raise _Refused(f"limits of shape {limit.shape}: expected one number")
            ends.append(float(limit.reshape(-1)[0]))
        return self._limited(source, *ends)

    def add(self, node: Node) -> Known:
        values = self._pair(node)
        constants = [value for value in values if isinstance(value, _Constant)]
        if len(constants) == 2:
            signs = (1.0, -1.0) if node.op == "Sub" else (1.0, 1.0)
            return _Constant(_single(signs[0] * constants[0].real + signs[1] * constants[1].real))
        if constants:
            source = self._beside(node, constants[0])
            sign = -1.0 if node.op == "Sub" else 1.0
            if node.op == "Sub" and values[0] is constants[0]:
                raise _Refused("a constant minus a tensor: expected a tensor minus a constant")
            return self.offset(source, sign * _by_channel(constants[0].real, len(self.shape(source))))
        if node.op == "Sub":
            raise _Refused("of two tensors: expected a constant")
        return self.step("add", [self.tensor(name) for name in node.inputs])

    def _pair(self, node: Node) -> list[Known | None]:
        if len(node.inputs) != 2:
            raise _Refused(f"of {len(node.inputs)} tensors: expected two")
        return [self.known.get(name) for name in node.inputs]

    def _beside(self, node: Node, constant: _Constant) -> str:
        """The other input of a node."""
        return self.tensor(next(name for name in node.inputs if self.known.get(name) is not constant))

    def mul(self, node: Node) -> Known:
        values = self._pair(node)
        constants = [value for value in values if isinstance(value, _Constant)]
        if len(constants) == 2:
            a, b = (constant.real for constant in constants)
            return _Constant(_single(a / b if node.op == "Div" else a * b))
        if not constants:
            if node.op == "Div":
                raise _Refused("of two tensors: expected a constant")
            return self.step("multiply", [self.tensor(name) for name in node.inputs])
        if node.op == "Div" and values[0] is constants[0]:
            raise _Refused("a constant over a tensor: expected a tensor over a constant")
        source = self._beside(node, constants[0])
        numbers = _by_channel(constants[0].real, len(self.shape(source)))
        if node.op == "Div":
            if np.any(np.abs(np.frexp(numbers)[0]) != 0.5):
                raise _Refused(
                    "by a number that is no power of two: expected Mul by its reciprocal, or a power of two"
                )
            numbers = 1 / numbers
        return self._affine(source, numbers, None)

    # ---------------------------------------------------------------------------- windows and layout

    def max_pool(self, node: Node) -> Known:
        source, kernel = self.tensor(node.inputs[0]), node.ints("kernel_shape", ())
        if int(node.get("ceil_mode", 0)) or any(d != 1 for d in node.ints("dilations", (1, 1))):
            raise _Refused("ceil_mode or dilations: expected neither")
        return self.step("max_pool", [source], self._windows(node, kernel))

    def _windows(self, node: Node, kernel: tuple[int, ...]) -> dict[str, Any]:
        strides = node.ints("strides", (1,) * len(kernel))
        return {"kernel": kernel, "strides": strides, "pads": self._pads(node, kernel)}

    def average(self, node: Node) -> Known:
        source = self.tensor(node.inputs[0])
        if node.op == "AveragePool":
            kernel = node.ints("kernel_shape", ())
            if int(node.get("ceil_mode", 0)) or any(d != 1 for d in node.ints("dilations", (1, 1))):
                raise _Refused("ceil_mode or dilations: expected neither")
            attributes = self._windows(node, kernel)
        else:
            kernel = self.shape(source)[1:]
            attributes = {"kernel": kernel, "strides": (1, 1), "pads": (0, 0, 0, 0)}
        result = self.step("sum_pool", [source], attributes)
        terms = math.prod(kernel)
        if any(attributes["pads"]) and not int(node.get("count_include_pad", 0)):
            ones = np.ones((1, *self.shape(source)[1:]), np.int64)
            counts = _window_sums(ones, attributes)
        else:
            counts = np.full((1, 1, 1), terms, np.int64)
        return _Mean(result, counts)

    def flatten(self, node: Node) -> Known:
        value = self.known.get(node.inputs[0])
        if isinstance(value, _Mean):  # one number a channel; what divides them stays the same
            if np.unique(value.counts).size > 1:
                raise _Refused("an average that no Quant node has rounded: expected one between them")
            return _Mean(self._flat(node, value.tensor), value.counts.reshape(-1)[:1])
        return self._flat(node, self.tensor(node.inputs[0]))

    def _flat(self, node: Node, source: str) -> str:
        if node.op == "Flatten" and int(node.get("axis", 1)) != 1:
            raise _Refused(f"axis {node.get('axis', 1)}: expected 1")
        if node.op == "Reshape":
            wanted = self.constant(node, 1).values.astype(np.int64).tolist()
            numbers = math.prod(self.shape(source))
            if len(wanted) != 2 or wanted[0] not in (-1, 0, 1) or wanted[1] not in (-1, numbers):
                raise _Refused(f"to {wanted}: expected (images, {numbers})")
        return source if len(self.shape(source)) == 1 else self.step("flatten", [source])

    def concat(self, node: Node) -> Known:
        if int(node.get("axis", 1)) not in (1, -3):
            raise _Refused(f"along axis {node.get('axis', 1)}: expected the channels, 1")
        sources = [self.tensor(name) for name in node.inputs]
        forms = [self.tensors[name].format for name in sources]
        fraction = max(f for form in forms for f in form.fraction_lengths)
        moved = []
        for source in sources:  # to one format that holds them all, which loses nothing
            tensor = self.tensors[source]
            reach = fraction - min(tensor.format.fraction_lengths)
            moved.append((tensor.low << reach, tensor.high << reach))
        low, high = min(a for a, _ in moved), max(b for _, b in moved)
        bits = max(-low - 1, high).bit_length() + (low < 0)
        to = TensorFormat(low < 0, max(bits, 2 if low < 0 else 1), (fraction,))
        if to.word_length > MAX_STORED:
            raise _Refused(f"parts that need {to.word_length} bits in one format")
        same = [
            source
            if self.tensors[source].format == to
            else self._cast(source, to, Rounding.TRN, Overflow.SAT)
            for source in sources
        ]
        return self.step("concat", same)


def _constant(stored: onnx.TensorProto) -> _Constant:
    array = numpy_helper.to_array(stored)
    return _Constant(array.astype(np.float64), kind=array.dtype)


def _fractions(scale: Reals, shape: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
    """Fraction lengths of scales beside a tensor, aligned from the right as numpy does, and their axis.

    Raises:
        _Refused: one that is no power of two, or scales along two axes, or of another size.
    """
    if scale.ndim > len(shape) and scale.size > 1:
        raise _Refused(f"scales of shape {scale.shape} beside a tensor of {shape}")
    axes = (1,) * (len(shape) - scale.ndim) + scale.shape
    along = [axis for axis, size in enumerate(axes) if size > 1]
    if len(along) > 1 or not scale.size or any(axes[axis] != shape[axis] for axis in along):
        raise _Refused(
            f"scales of shape {scale.shape} beside a tensor of {shape}: expected one, or one a channel"
        )
    flat = scale.reshape(-1)
    mantissas, exponents = np.frexp(flat)
    wrong = np.flatnonzero(mantissas != 0.5)
    if wrong.size:
        raise _Refused(f"scale {flat[wrong[0]]:.9g}: expected a power of two, since then a cast is a shift")
    found = (1 - exponents).astype(int).tolist()
    axis = along[0] if along else 0
    return (tuple(found) if len(set(found)) > 1 else (found[0],)), axis


def _fraction(value: float) -> int:
    """Fewest fraction bits with which a number is exact."""
    if value == 0:
        return 0
    numerator, denominator = value.as_integer_ratio()
    if denominator > 1:
        return denominator.bit_length() - 1
    return -((numerator & -numerator).bit_length() - 1)


def _odd(value: float) -> int:
    """The odd one of the two integers around a number that is none.

    So it stays on its side of everything on a coarser grid, and what rounds there rounds as the number would
    (Boldo and Melquiond 2008, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding
    to odd").
    """
    whole = math.floor(value)
    return whole if whole == value else whole | 1


def _single(values: Reals) -> Reals:
    return values.astype(np.float32).astype(np.float64)


def _by_channel(values: Reals, rank: int) -> Reals:
    """A constant beside a tensor, as one number or one a channel.

    Raises:
        _Refused: it differs from place to place.
    """
    if values.ndim > rank + 1:
        raise _Refused(f"a constant of shape {values.shape} beside a tensor of {rank + 1} axes")
    if values.size == 1:
        return values.reshape(1)
    axes = [1] * (rank + 1 - values.ndim) + list(values.shape)
    if any(size > 1 for axis, size in enumerate(axes) if axis != 1):
        raise _Refused(f"a constant of shape {values.shape}: expected one number, or one a channel")
    return values.reshape(-1)


def _window_sums(values: NDArray[np.int64], attributes: Mapping[str, Any]) -> NDArray[np.int64]:
    """How many places of each window lie inside the image."""
    top, left, bottom, right = attributes["pads"]
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, attributes["kernel"], axis=(1, 2))
    rows, columns = attributes["strides"]
    return np.asarray(windows[:, ::rows, ::columns].sum((-2, -1)))


_ROUND: Mapping[Rounding, Callable[[Reals], Reals]] = {
    Rounding.RND_CONV: np.rint,
    Rounding.TRN: np.floor,
    Rounding.TRN_ZERO: np.trunc,
    Rounding.RND_INF: lambda x: np.sign(x) * np.floor(np.abs(x) + 0.5),
    Rounding.RND_ZERO: lambda x: np.sign(x) * np.ceil(np.abs(x) - 0.5),
}
_RULES: Mapping[str, Callable[[_Importer, Node], Known]] = {
    "Constant": _Importer.written,
    "Dropout": _Importer.same,
    "Identity": _Importer.same,
    "Quant": _Importer.quant,
    "BipolarQuant": _Importer.bipolar,
    "QuantizeLinear": _Importer.quant,
    "DequantizeLinear": _Importer.dequantize,
    "Conv": _Importer.conv,
    "Gemm": _Importer.dense,
    "MatMul": _Importer.dense,
    "BatchNormalization": _Importer.batch_norm,
    "Relu": _Importer.relu,
    "Clip": _Importer.clip,
    "Add": _Importer.add,
    "Sub": _Importer.add,
    "Mul": _Importer.mul,
    "Div": _Importer.mul,
    "MaxPool": _Importer.max_pool,
    "AveragePool": _Importer.average,
    "GlobalAveragePool": _Importer.average,
    "Flatten": _Importer.flatten,
    "Reshape": _Importer.flatten,
    "Cast": _Importer.converted,
    "Concat": _Importer.concat,
    "Max": _Importer.extreme,
    "Min": _Importer.extreme,
    "Transpose": _Importer.transpose,
}


def load_quantized(path: str | Path, image: str | None = None) -> IntGraph:
    """Read a network that was trained quantized.

    Args:
        path: of a QONNX model (Quant and BipolarQuant nodes, as Brevitas and QKeras write them) or of an ONNX
            model with QuantizeLinear and DequantizeLinear; every scale a power of two, every zero point 0.
        image: format of the images, such as ``ufix8_En8`` for bytes over 256. Default: what the model states
            (``finn_datatype``), or that of the first Quant node.

    Returns:
        The network in the formats that the model names, verified.

    Raises:
        FormatError: ``image`` is no format.
        ModelError: the file cannot be read, or holds no model of one image.
        UnsupportedError: nodes that have no such meaning, each with the reason; what reads their results
            is not looked at.
    """
    place = Path(path)
    form = None
    if image is not None:
        fixed = FixedFormat.parse(image)
        form = TensorFormat(fixed.signed, fixed.word_length, (fixed.fraction_length,))
    try:
        model = onnx.load_model_from_string(read_regular(place, _MOST))
    except OSError as error:
        raise ModelError(f"{place}: {error.strerror}") from None
    except Exception as error:  # protobuf has no common error
        raise ModelError(f"{place}: not an ONNX model: {str(error)[:200]}") from None
    try:
        return _Importer(model, str(place), form).run()
    except (GraphError, FormatError) as error:
        raise ModelError(f"{place}: {error}") from None
    except (*MALFORMED, onnx.checker.ValidationError) as error:
        raise ModelError(f"{place}: malformed: {str(error)[:200]}") from None
