"""C++ for high-level synthesis: ap_fixed (Vitis HLS) or ac_fixed (Catapult), one source for both.

Every tensor has a type whose width, rounding and overflow are written out; a cast is an assignment. Where a
tensor has a binary point a channel, its type holds stored integers and the shifts by channel are explicit.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from radixpoint.arithmetic.formats import Overflow, TensorFormat
from radixpoint.errors import ExportError
from radixpoint.export.source import TracedProgram, Writer, build, literal, rows
from radixpoint.export.target import EVERY
from radixpoint.export.tools import tool
from radixpoint.ir.memory import c_type
from radixpoint.ir.network import IntGraph, Step
from radixpoint.ir.ops import SELECTED
from radixpoint.ir.plan import Function, Ints, Nest, Plan, extents

SIGNATURE = "void network(const image_t image[RADIXPOINT_IMAGE_VALUES], logit_t logits[RADIXPOINT_LOGITS])"
HEADERS = ("radixpoint_fixed.h", "testbench.cpp")
FLAVOURS = {
    "ap_fixed": ([], "vivado/ap_types"),
    "ac_fixed": (["-DRADIXPOINT_CATAPULT"], "catapult/ac_types/include"),
}


def _type(signed: bool, width: int, integer_bits: int, rounding: str = "TRN", overflow: str = "WRAP") -> str:
    return f"RX_{'S' if signed else 'U'}FIXED({width}, {integer_bits}, {rounding}, {overflow})"


def _integer(form: TensorFormat) -> str:
    """The type of a format's stored integers as integers."""
    return _type(form.signed, form.word_length, form.word_length)


def _valued(form: TensorFormat) -> str:
    """The type of a format's values; of its stored integers if its binary point differs by channel."""
    if form.per_channel:
        return _integer(form)
    return _type(form.signed, form.word_length, form.word_length - form.fraction_lengths[0])


class _Source:
    def __init__(self, network: IntGraph) -> None:
        self.network, self.plan = network, Plan(network)
        self.tensor_ids = {name: i for i, name in enumerate(self.plan.order)}
        self.arrays: dict[str, Ints] = {}
        for step in network.steps:
            if self.plan.is_stochastic(step):
                layer = network.tensors[step.name].layer
                raise ExportError(f"layer {layer!r}: cast: ap_fixed and ac_fixed have no STOCHASTIC rounding")
        self.functions = [self._function(f) for f in self.plan.functions]

    def files(self) -> dict[str, bytes]:
        texts = {
            "formats.h": self._formats(),
            "parameters.h": self._parameters(),
            "network.h": self._header(),
            "network.cpp": self._code(),
        }
        texts |= {n: (files("radixpoint.export") / "hls" / n).read_text() for n in HEADERS}
        texts["radixpoint.h"] = (files("radixpoint.export") / "c" / "radixpoint.h").read_text()
        return {name: text.encode() for name, text in texts.items()}

    def form(self, name: str) -> TensorFormat:
        return self.network.tensors[name].format

    def type_of(self, name: str) -> str:
        return f"{self.plan.identifiers[name]}_t"

    def _formats(self) -> str:
        lines = [
            "#ifndef RADIXPOINT_FORMATS_H",
            "#define RADIXPOINT_FORMATS_H",
            "",
            '#include "radixpoint_fixed.h"',
            "",
        ]
        casts = {step.name: step for step in self.network.steps if step.op == "cast"}
        for name in self.plan.order:
            form = self.form(name)
            spelled = _valued(form)
            if name in casts:
                modes = casts[name].attributes
                spelled = spelled.replace("TRN, WRAP", f"{modes['rounding']}, {modes['overflow']}")
            lines.append(f"typedef {spelled} {self.type_of(name)};  // {form}")
        ends = (("image_t", self.network.input), ("logit_t", self.network.output))
        lines += ["", *(f"typedef {self.type_of(n)} {alias};" for alias, n in ends), "", "#endif", ""]
        return "\n".join(lines)

    def _parameters(self) -> str:
        lines = ["// Stored integers; their formats stand where they are used.", "#include <stdint.h>", ""]
        for name, values in self.arrays.items():
            kind = c_type(int(values.min()), int(values.max()))
            lines.append(
                f"static const {kind} {name}[{values.size}] = {{\n{rows(values.ravel().tolist())}\n}};"
            )
        return "\n".join(lines) + "\n"

    def _header(self) -> str:
        image, logits = (self.network.tensors[n] for n in (self.network.input, self.network.output))
        total = sum(int(np.prod(t.shape)) for t in self.network.tensors.values())
        return (
            '#ifndef RADIXPOINT_NETWORK_H\n#define RADIXPOINT_NETWORK_H\n\n#include "formats.h"\n\n'
            f"// {' x '.join(map(str, extents(image.shape)))}: height, width, channel\n"
            f"#define RADIXPOINT_IMAGE_VALUES {int(np.prod(image.shape))}\n"
            f"#define RADIXPOINT_LOGITS {int(np.prod(logits.shape))}\n\n"
            f"{SIGNATURE};\n\n"
            "#ifdef RADIXPOINT_TRACE\n"
            f"#define RADIXPOINT_TRACE_VALUES {total}\n"
            f"extern const int32_t radixpoint_trace_offset[{len(self.tensor_ids)}];\n"
            "#endif\n\n#endif\n"
        )

    def _code(self) -> str:
        w = Writer()
        w('#include "network.h"')
        w('#include "parameters.h"')
        w()
        w("#ifdef RADIXPOINT_TRACE")
        sizes = [int(np.prod(self.network.tensors[n].shape)) for n in self.plan.order]
        offsets = np.cumsum([0, *sizes[:-1]]).tolist()
        w(f"const int32_t radixpoint_trace_offset[{len(sizes)}] = {{\n{rows(offsets)}\n}};")
        w("#endif")
        for text in self.functions:
            w()
            w(text)
        w()
        network, plan = self.network, self.plan
        places = {network.input: "image", network.output: "logits"}
        w.open(SIGNATURE)
        for name in plan.stored:
            if name not in places:
                places[name] = plan.identifiers[name]
                w(f"static {self.type_of(name)} {places[name]}[{int(np.prod(network.tensors[name].shape))}];")
        for function in plan.functions:
            shapes = [
                size for nest in function.nests for size in extents(network.tensors[nest.head.name].shape)
            ]
            arguments = ", ".join(places[n] for n in (*function.reads, *function.writes))
            w(f"{function.name}<{', '.join(map(str, shapes))}>({arguments});")
        w.close()
        return "\n".join(w.lines) + "\n"

    def _function(self, function: Function) -> str:
        w = Writer()
        shape = [
            f"int {axis}_{i}" for i in range(len(function.nests)) for axis in ("ROWS", "COLUMNS", "CHANNELS")
        ]
        w(f"template <{', '.join(shape)}>")
        arguments = [f"const {self.type_of(n)} *{self.plan.identifiers[n]}" for n in function.reads]
        arguments += [f"{self.type_of(n)} *{self.plan.identifiers[n]}" for n in function.writes]
        joined = (",\n" + " " * (len(function.name) + 13)).join(arguments)
        w.open(f"static void {function.name}({joined})")
        for number, nest in enumerate(function.nests):
            self._nest(w, nest, number)
        w.close()
        return "\n".join(w.lines)

    def _nest(self, w: Writer, nest: Nest, number: int) -> None:
        head = nest.head
        if head.op == "concat":
            self._concat(w, nest, number)
            return
        reduces = head.family in ("product", "window")
        for label, axis, variable in (
            ("ROW", "ROWS", "y"),
            ("COLUMN", "COLUMNS", "x"),
            ("CHANNEL", "CHANNELS", "c"),
        ):
            if axis == "CHANNELS" and not reduces:
                w("RX_PIPELINED_LOOP")
            w(f"{label}_{number}:")
            w.open(f"for (int {variable} = 0; {variable} < {axis}_{number}; ++{variable})")
        if not reduces:
            w("RX_PIPELINE")
        w(f"const int i = (y * COLUMNS_{number} + x) * CHANNELS_{number} + c;")
        w("(void)x, (void)y;")
        self._value(w, head, self._head(head))
        self._finish(w, head, nest)
        for step in nest.chain:
            self._element(w, step)
            self._finish(w, step, nest)
        w.close(3)

    def _value(self, w: Writer, step: Step, expression: str) -> None:
        w(f"const {self.type_of(step.name)} {self._variable(step.name)} = {expression};")

    def _variable(self, name: str) -> str:
        return f"v{self.tensor_ids[name]}"

    def _finish(self, w: Writer, step: Step, nest: Nest) -> None:
        if step.name in nest.stores:
            w(f"{self.plan.identifiers[step.name]}[i] = {self._variable(step.name)};")
        w(f"RX_TRACE({self.tensor_ids[step.name]}, i, {self._variable(step.name)});")

    def _array(self, name: str, values: Ints) -> str:
        self.arrays[name] = values
        return name

    # ------------------------------------------------------------------------- heads of loop nests

    def _head(self, step: Step) -> str:
        source = step.inputs[0]
        x = self.plan.identifiers[source]
        shape = self.network.tensors[source].shape
        if step.family == "product":
            form = self.form(step.name)
            parameter = self.network.parameters[step.parameters["weight"]].format
            # a binary point a channel: products of stored integers
            spell = _integer if form.per_channel else _valued
            types = f"{self.type_of(step.name)}, {spell(self.form(source))}, {spell(parameter)}"
            weights = self.plan.weights(step)
            array = self._array(self.plan.parameter_names[step.parameters["weight"]], weights)
            if step.op == "dense":
                return f"rx::dense<{weights.shape[1]}, {types}>({x}, {array}, c)"
            outputs, *kernel, terms = weights.shape
            numbers = [*extents(shape), *kernel, *step.attributes["strides"], *step.attributes["pads"][:2]]
            numbers += [*step.attributes["dilations"], terms, outputs // step.attributes["groups"]]
            return f"rx::convolution<{', '.join(map(str, numbers))}, {types}>({x}, {array}, y, x, c)"
        if step.op == "sum_channels":
            size, (height, width, channels) = step.attributes["size"], extents(shape)
            numbers = [width, channels, size, (size - 1) // 2]
            return f"rx::channel_sum<{', '.join(map(str, numbers))}, {self.type_of(step.name)}>({x}, y, x, c)"
        if step.op == "select":
            return self._select(step)
        if step.op == "rearrange":
            return f"{x}[{self.plan.element(source, f'({self.plan.moved_from(step)})')}]"
        if step.op == "multiply":
            values = (f"{self.plan.identifiers[n]}[{self.plan.place(n)}]" for n in step.inputs)
            if self.form(step.name).per_channel:
                values = (f"rx::reinterpret<{_integer(self.form(n))} >({v})"
                          for n, v in zip(step.inputs, values, strict=True))  # fmt: skip
            return " * ".join(values)
        if step.family == "window":
            numbers = [*extents(shape), *step.attributes["kernel"], *step.attributes["strides"]]
            spelled = ", ".join(map(str, [*numbers, *step.attributes["pads"][:2]]))
            if step.op == "max_pool":
                return f"rx::largest<{spelled}>({x}, y, x, c)"
            return f"rx::window_sum<{spelled}, {self.type_of(step.name)}>({x}, y, x, c)"
        if step.op == "flatten":
            height, width, channels = extents(shape)
            places = height * width  # channels slowest
            index = "c" if places == 1 else f"c % {places} * {channels} + c / {places}"
            return f"{x}[{index}]"
        if step.op in ("add", "maximum", "minimum"):
            a, b = (
                self._addend(f"{self.plan.identifiers[n]}[i]", self.form(n), step, k)
                for k, n in enumerate(step.inputs)
            )
            own = self.type_of(step.name)
            return f"{a} + {b}" if step.op == "add" else f"rx::{step.op}<{own}>({a}, {b})"
        return self._expression(step, f"{x}[i]")

    def _select(self, step: Step) -> str:
        source, places, absent = step.inputs[0], [], []
        for own, variable in zip(SELECTED, "cyx", strict=True):
            indices = step.attributes[own]
            places.append(variable)
            if indices:
                values = np.array(indices, np.int64)
                places[-1] = f"{self._array(f'i{self.tensor_ids[step.name]}_{own}', values)}[{variable}]"
                absent += [f"{places[-1]} < 0"] if min(indices) < 0 else []
        c, y, x = places
        value = f"{self.plan.identifiers[source]}[{self.plan.place(source, y, x, c)}]"
        if not absent:
            return value
        own = self.type_of(step.name)
        fill = f"rx::from_integer<{own}>({literal(step.attributes['fill'])})"
        return f"({' || '.join(absent)}) ? {fill} : {own}({value})"

    def _addend(self, value: str, form: TensorFormat, step: Step, operand: int | str) -> str:
        """A summand; if the result has a binary point a channel, its stored integers moved to it."""
        if not self.form(step.name).per_channel:
            return value
        shifts = self.plan.left_shifts(step, operand)
        own = f"{self.type_of(step.name)}(rx::reinterpret<{_integer(form)} >({value}))"
        if not shifts.any():
            return own
        return f"({own} << {self._shift(step, f'left_{operand}', shifts)})"

    def _shift(self, step: Step, role: str, shifts: Ints) -> str:
        if len(shifts) == 1:
            return str(int(shifts[0]))
        return f"{self._array(f's{self.tensor_ids[step.name]}_{role}', shifts)}[c]"

    # ------------------------------------------------------------------------------- element-wise

    def _element(self, w: Writer, step: Step) -> None:
        self._value(w, step, self._expression(step, self._variable(step.inputs[0])))

    def _beside(self, step: Step, role: str, spell: bool) -> str:
        """The element of a parameter, as a value or (``spell`` false) as a stored integer."""
        operand = self.plan.operand(step, role)
        name = self.plan.parameter_names[step.parameters[role]]
        raw = (
            literal(int(operand.values.flat[0]))
            if operand.values.size == 1
            else f"{self._array(name, operand.values)}[{operand.index()}]"
        )
        form = self.network.parameters[step.parameters[role]].format
        return f"rx::from_integer<{_valued(form) if spell else _integer(form)} >({raw})"

    def _expression(self, step: Step, value: str) -> str:
        form, source = self.form(step.name), self.form(step.inputs[0])
        match step.op:
            case "cast":
                return self._cast(step, value)
            case "scale" if form.per_channel:
                stored = f"rx::reinterpret<{_integer(source)} >({value})"
                return f"{stored} * {self._beside(step, 'factor', False)}"
            case "scale":
                return f"{value} * {self._beside(step, 'factor', True)}"
            case "offset":
                parameter = self.network.parameters[step.parameters["value"]].format
                beside = self._beside(step, "value", not form.per_channel)
                addends = self._addend(value, source, step, 0), self._addend(beside, parameter, step, "value")
                return " + ".join(addends)
            case "lookup":
                table = self._array(
                    self.plan.parameter_names[step.parameters["table"]], self.network.arrays(step)["table"]
                )
                place = f"rx::to_integer({value}) - ({literal(step.attributes['first'])})"
                return f"rx::from_integer<{self.type_of(step.name)}>({table}[{place}])"
            case "clamp":
                own = self.type_of(step.name)
                low, high = (
                    f"rx::from_integer<{own}>({literal(step.attributes[e])})" for e in ("low", "high")
                )
                return f"rx::clamp<{own}>({value}, {low}, {high})"
            case _:
                return self._divide(step, value)

    def _modes(self, step: Step) -> str:
        return f"{step.attributes['rounding']}, {step.attributes['overflow']}"

    def _cast(self, step: Step, value: str) -> str:
        form, source = self.form(step.name), self.form(step.inputs[0])
        shifts = self.plan.cast_shifts(step)
        most, spread = int(shifts.max()), int(shifts.max() - shifts.min())
        # the types look at the bits that are cut off, and must have them
        width = max(source.word_length + spread, most + 1)
        if not form.per_channel and not source.per_channel:
            whole = width - source.fraction_lengths[0]
            return value if width == source.word_length else f"{_type(source.signed, width, whole)}({value})"
        wide = _type(source.signed, width, width)
        moved = f"{wide}(rx::reinterpret<{_integer(source)} >({value}))"
        if spread:
            moved = f"({moved} << {self._shift(step, 'places', most - shifts)})"
        exact = f"rx::reinterpret<{_type(source.signed, width, width - most)} >({wide}({moved}))"
        overflow = step.attributes["overflow"]
        cut = _type(form.signed, form.word_length, form.word_length, step.attributes["rounding"], overflow)
        return f"rx::reinterpret<{self.type_of(step.name)}>({cut}({exact}))"

    def _divide(self, step: Step, value: str) -> str:
        form = self.form(step.name)
        shift = int(self.network.shift(step)[0])
        operand = self.plan.operand(step, "divisor").values
        divisors = self._array(f"{self.plan.parameter_names[step.parameters['divisor']]}", operand)
        index = self.plan.operand(step, "divisor").index()
        n, d = f"rx::to_integer({value})", f"(int64_t){divisors}[{index}]"
        n = f"rx_align({n}, {-shift})" if shift < 0 else n
        d = f"rx_align({d}, {shift})" if shift > 0 else d
        overflow = Overflow(step.attributes["overflow"]).value
        cut = _type(form.signed, form.word_length, form.word_length, "TRN", overflow)
        quotient = f"rx_divide_{step.attributes['rounding']}({n}, {d})"
        return f"rx::reinterpret<{self.type_of(step.name)}>({cut}(RX_SINT(64)({quotient})))"

    def _concat(self, w: Writer, nest: Nest, number: int) -> None:
        step = nest.head
        first = 0
        for part, name in enumerate(step.inputs):
            own = extents(self.network.tensors[name].shape)[2]
            w(f"PLACE_{number}_{part}:")
            w.open(f"for (int place = 0; place < ROWS_{number} * COLUMNS_{number}; ++place)")
            w("RX_PIPELINED_LOOP")
            w(f"CHANNEL_{number}_{part}:")
            w.open(f"for (int k = 0; k < {own}; ++k)")
            w("RX_PIPELINE")
            w(f"const int c = {first} + k, y = place / COLUMNS_{number}, x = place % COLUMNS_{number};")
            w(f"const int i = place * CHANNELS_{number} + c;")
            w("(void)x, (void)y;")
            self._value(w, step, f"{self.plan.identifiers[name]}[place * {own} + k]")
            self._finish(w, step, nest)
            for other in nest.chain:
                self._element(w, other)
                self._finish(w, other, nest)
            w.close(2)
            first += own


def header_folder(flavour: str) -> Path:
    """Where the open headers of a flavour lie: RADIXPOINT_HLS_HEADERS, or those in the hls4ml package.

    Raises:
        ExportError: neither is there.
    """
    place = FLAVOURS[flavour][1]
    spec = find_spec("hls4ml")
    roots = [os.environ.get("RADIXPOINT_HLS_HEADERS")]
    roots += [str(Path(p) / "templates") for p in (spec.submodule_search_locations or [])] if spec else []
    for root in roots:
        if root and (Path(root) / place).is_dir():
            return Path(root) / place
    raise ExportError(
        f"verify needs the open headers of {flavour}: pip install hls4ml, which carries them, or name a "
        f"folder that holds {place} in RADIXPOINT_HLS_HEADERS"
    )


class HlsTarget:
    """``--to hls``."""

    name = "hls"
    summary = "C++ for Vitis HLS (ap_fixed) and Catapult (ac_fixed)"
    options: tuple[str, ...] = ()
    steps = EVERY
    several_outputs = False

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``."""
        return _Source(network).files()

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, TracedProgram]:
        """See ``radixpoint.export.target.Target``."""
        cxx = tool("CXX", "c++", "g++", "clang++")

        def program(flavour: str, defines: list[str]) -> TracedProgram:
            headers = header_folder(flavour)

            def make(traces: bool) -> list[str]:
                out = scratch / f"{flavour}_{'traced' if traces else 'plain'}"
                # no warnings: the headers of the vendors are full of them
                command = [*cxx, "-std=c++14", "-O1", "-w", *defines, f"-I{folder}", f"-I{headers}"]
                command += ["-DRADIXPOINT_TRACE"] if traces else []
                command += [str(folder / "network.cpp"), str(folder / "testbench.cpp"), "-o", str(out)]
                build(command, f"{folder}/network.cpp")
                return [str(out)]

            return TracedProgram(network, make)

        return {flavour: program(flavour, defines) for flavour, (defines, _) in FLAVOURS.items()}
