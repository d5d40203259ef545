"""C99: the whole network with ``stdint.h`` only, a function a layer, static buffers, no float, no malloc."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import numpy as np

from radixpoint.arithmetic.formats import Overflow
from radixpoint.errors import ExportError
from radixpoint.export.source import TracedProgram, Writer, build, literal, rows
from radixpoint.export.target import EVERY
from radixpoint.export.tools import tool
from radixpoint.ir.arena import arena_layout
from radixpoint.ir.network import IntGraph, IntTensor, Step
from radixpoint.ir.ops import SELECTED
from radixpoint.ir.plan import Function, Ints, Nest, Plan, extents

WARNINGS = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror")
ARRAYS_UP_TO = 1 << 21
"""Stored parameters beyond which they become a binary file: compilers take minutes over larger arrays."""

_LAST = {8: (1 << 7) - 1, 16: (1 << 15) - 1, 32: (1 << 31) - 1, 64: (1 << 63) - 1}


def c_type(low: int, high: int) -> str:
    """The narrowest type of ``stdint.h`` that holds low..high."""
    for bits, last in _LAST.items():
        if low >= -last - 1 and high <= last:
            return f"int{bits}_t"
        if low >= 0 and high <= 2 * last + 1:
            return f"uint{bits}_t"
    raise ExportError(f"range {low}..{high}: expected at most 64 bits")


def _bits(c: str) -> int:
    return int(c.strip("uint_"))


def numpy_type(c: str) -> str:
    """The little-endian dtype of a type of ``stdint.h``."""
    return f"<{'u' if c.startswith('u') else 'i'}{_bits(c) // 8}"


_JOINED = {"add": "a + b", "maximum": "a > b ? a : b", "minimum": "a < b ? a : b"}
"""Of two operands at one binary point."""


class Source:
    """The source files of one network.

    Args:
        network: a verified IntGraph.
        blob: parameters as a binary file instead of arrays; None chooses by their number.
    """

    def __init__(self, network: IntGraph, blob: bool | None = None) -> None:
        self.network, self.plan = network, Plan(network)
        count = sum(p.data.size for p in network.parameters.values())
        self.blob = count > ARRAYS_UP_TO if blob is None else blob
        self.tensor_ids = {name: i for i, name in enumerate(self.plan.order)}
        self._parameters: dict[str, Ints] = {}  # member -> values in memory order
        self._functions = [self._function(f) for f in self.plan.functions]

    def type_of(self, name: str) -> str:
        tensor = self.network.tensors[name]
        return c_type(tensor.low, tensor.high)

    def files(self) -> dict[str, bytes]:
        texts = {"network.h": self._header(), "network.c": self._code()}
        for name in ("radixpoint.h", "harness.c"):
            texts[name] = (files("radixpoint.export") / "c" / name).read_text()
        result = {name: text.encode() for name, text in texts.items()}
        if self.blob:
            result["parameters.bin"] = b"".join(
                values.astype(numpy_type(t)).tobytes() for _, t, values in self._members
            )
        elif self._members:
            result["parameters.c"] = self._arrays().encode()
        return result

    # -------------------------------------------------------------------------------- parameters

    @cached_property
    def _members(self) -> list[tuple[str, str, Ints]]:
        """Name, type, values; widest first, so that the structure has no padding."""
        typed = [
            (name, c_type(int(values.min()), int(values.max())), values.ravel())
            for name, values in self._parameters.items()
        ]
        typed.sort(key=lambda member: -_bits(member[1]))
        widest = _bits(typed[0][1]) // 8 if typed else 1
        size = sum(values.size * _bits(t) // 8 for _, t, values in typed)
        if not typed or size % widest:
            fill = (widest - size % widest) % widest or 1
            typed.append(("unused", "int8_t", np.zeros(fill, np.int64)))
        return typed

    def _arrays(self) -> str:
        parts = ['#include "network.h"\n\nconst struct radixpoint_parameters radixpoint_parameters = {']
        for name, _, values in self._members:
            parts.append(f"  /* {name} */ {{\n{rows(values.tolist(), '    ')}\n  }},")
        return "\n".join([*parts, "};\n"])

    def _member(self, name: str, values: Ints) -> str:
        self._parameters[name] = values
        return f"p->{name}"

    # ------------------------------------------------------------------------------------ header

    def _header(self) -> str:
        image, logits = (self.network.tensors[n] for n in (self.network.input, self.network.output))
        height, width, channels = extents(image.shape)
        members = "\n".join(f"  {t} {name}[{values.size}];" for name, t, values in self._members)
        blob = (
            "#define RADIXPOINT_PARAMETERS_BLOB /* parameters.bin is the memory image of the structure */\n"
        )
        total = sum(int(np.prod(t.shape)) for t in self.network.tensors.values())
        extern = "extern const struct radixpoint_parameters radixpoint_parameters;\n\n"
        return (
            "#ifndef RADIXPOINT_NETWORK_H\n#define RADIXPOINT_NETWORK_H\n\n#include <stdint.h>\n\n"
            f"/* image: {image.format}, {height} x {width} x {channels} (height, width, channel) */\n"
            f"#define RADIXPOINT_IMAGE_VALUES {height * width * channels}\n"
            f"typedef {self.type_of(self.network.input)} radixpoint_image_t;\n\n"
            f"/* logits: {logits.format} */\n"
            f"#define RADIXPOINT_LOGITS {int(np.prod(logits.shape))}\n"
            f"typedef {self.type_of(self.network.output)} radixpoint_logit_t;\n\n"
            f"{self._other_outputs()}"
            f"{blob if self.blob else ''}struct radixpoint_parameters {{\n{members}\n}};\n"
            f"{'' if self.blob else extern}"
            "/* Not reentrant: the buffers between the layers are static. */\n"
            "void radixpoint_run(const struct radixpoint_parameters *p, const radixpoint_image_t *image,\n"
            f"                    radixpoint_logit_t *logits{self._other_arguments()});\n\n"
            "#ifdef RADIXPOINT_TRACE\n"
            f"#define RADIXPOINT_TRACE_VALUES {total}\n"
            f"extern const int32_t radixpoint_trace_offset[{len(self.tensor_ids)}];\n"
            "#endif\n\n#endif\n"
        )

    def _other_outputs(self) -> str:
        """Types and sizes of results beyond the first; the harness lists them by the macro."""
        if not self.network.other_outputs:
            return ""
        lines = []
        for number, name in enumerate(self.network.other_outputs, 2):
            tensor = self.network.tensors[name]
            lines.append(
                f"/* output {number}: {tensor.format}, {' x '.join(map(str, extents(tensor.shape)))} */"
            )
            lines.append(f"#define RADIXPOINT_OUTPUT{number} {int(np.prod(tensor.shape))}")
            lines.append(f"typedef {self.type_of(name)} radixpoint_output{number}_t;")
        listed = " ".join(f"X({number})" for number in range(2, len(self.network.outputs) + 1))
        return "\n".join([*lines, f"#define RADIXPOINT_OTHER_OUTPUTS(X) {listed}", "", ""])

    def _other_arguments(self) -> str:
        numbers = range(2, len(self.network.outputs) + 1)
        return "".join(f", radixpoint_output{n}_t *output{n}" for n in numbers)

    # -------------------------------------------------------------------------------------- code

    def _code(self) -> str:
        w = Writer()
        w('#include "network.h"')
        w('#include "radixpoint.h"')
        w()
        w("#ifdef RADIXPOINT_TRACE")
        sizes = [int(np.prod(self.network.tensors[n].shape)) for n in self.plan.order]
        offsets = np.cumsum([0, *sizes[:-1]]).tolist()
        w(f"const int32_t radixpoint_trace_offset[{len(sizes)}] = {{\n{rows(offsets)}\n}};")
        w("#endif")
        for text in self._functions:
            w()
            w(text)
        w()
        self._run(w)
        return "\n".join(w.lines) + "\n"

    def _run(self, w: Writer) -> None:
        network, plan = self.network, self.plan
        places: dict[str, str] = {network.input: "image", network.output: "logits"}
        places |= {name: f"output{n}" for n, name in enumerate(network.other_outputs, 2)}
        inside = [n for n in plan.stored if n not in places]
        arenas = {}
        for t in sorted({self.type_of(n) for n in inside}):
            own = [n for n in inside if self.type_of(n) == t]
            sizes = {n: int(np.prod(network.tensors[n].shape)) for n in own}
            layout = arena_layout(sizes, {n: plan.lives[n] for n in own})
            arenas[t] = max(layout[n] + sizes[n] for n in own)
            places |= {n: f"arena_{t} + {layout[n]}" for n in own}
        for t, size in arenas.items():
            w(f"static {t} arena_{t}[{size}];")
        w()
        w("void radixpoint_run(const struct radixpoint_parameters *p, const radixpoint_image_t *image,")
        w.open(f"                    radixpoint_logit_t *logits{self._other_arguments()})")
        for function in plan.functions:
            arguments = ", ".join(["p", *(places[n] for n in (*function.reads, *function.writes))])
            w(f"{function.name}({arguments});")
        w.close()

    def _function(self, function: Function) -> str:
        w = Writer()
        names = self.plan.identifiers
        for name in (*function.reads, *function.writes):
            tensor = self.network.tensors[name]
            w(f"/* {names[name]}: {tensor.format}, {' x '.join(map(str, extents(tensor.shape)))} */")
        arguments = ["const struct radixpoint_parameters *p"]
        arguments += [f"const {self.type_of(n)} *{names[n]}" for n in function.reads]
        arguments += [f"{self.type_of(n)} *{names[n]}" for n in function.writes]
        joined = (",\n" + " " * (len(function.name) + 13)).join(arguments)
        w.open(f"static void {function.name}({joined})")
        w("(void)p;")
        for nest in function.nests:
            self._nest(w, nest)
        w.close()
        return "\n".join(w.lines)

    def _nest(self, w: Writer, nest: Nest) -> None:
        head = nest.head
        if head.op == "concat":
            self._concat(w, nest)
            return
        height, width, channels = extents(self.network.tensors[head.name].shape)
        w.open(f"for (int32_t y = 0; y < {height}; ++y)")
        w.open(f"for (int32_t x = 0; x < {width}; ++x)")
        w.open(f"for (int32_t c = 0; c < {channels}; ++c)")
        w(f"const int32_t i = (y * {width} + x) * {channels} + c;")
        w("int64_t v;")
        if head.family == "product":
            self._product_sum(w, head)
        elif head.op == "sum_channels":
            self._sum_channels(w, head)
        elif head.family == "window":
            self._pool(w, head)
        elif head.op == "flatten":
            self._flatten(w, head)
        elif head.op == "select":
            self._select(w, head)
        elif head.op == "rearrange":
            w(f"const int32_t from = {self.plan.moved_from(head)};")
            source = head.inputs[0]
            w(f"v = {self.plan.identifiers[source]}[{self.plan.element(source, 'from')}];")
        elif head.op == "multiply":
            a, b = (f"{self.plan.identifiers[n]}[{self.plan.place(n)}]" for n in head.inputs)
            w(f"v = (int64_t){a} * {b};")
        elif head.op in _JOINED:
            a, b = (
                self._aligned(f"{self.plan.identifiers[n]}[i]", head, k) for k, n in enumerate(head.inputs)
            )
            w(f"const int64_t a = {a}, b = {b};")
            w(f"v = {_JOINED[head.op]};")
        else:
            w(f"v = {self.plan.identifiers[head.inputs[0]]}[i];")
            self._element(w, head)
        self._finish(w, head, nest)
        for step in nest.chain:
            self._element(w, step)
            self._finish(w, step, nest)
        w.close(3)

    def _finish(self, w: Writer, step: Step, nest: Nest) -> None:
        if step.name in nest.stores:
            w(f"{self.plan.identifiers[step.name]}[i] = ({self.type_of(step.name)})v;")
        w(f"RX_TRACE({self.tensor_ids[step.name]}, i, v);")

    def _shift(self, step: Step, role: str, shifts: Ints) -> str:
        """Expression of a shift: a constant, or from a table by channel."""
        if len(shifts) == 1:
            return str(int(shifts[0]))
        return f"{self._member(f's{self.tensor_ids[step.name]}_{role}', shifts)}[c]"

    def _aligned(self, value: str, step: Step, operand: int | str) -> str:
        shifts = self.plan.left_shifts(step, operand)
        if not shifts.any():
            return value
        return f"rx_align({value}, {self._shift(step, f'left_{operand}', shifts)})"

    def _beside(self, step: Step, role: str) -> str:
        """Expression of the element of a parameter."""
        operand = self.plan.operand(step, role)
        if operand.values.size == 1:
            return literal(int(operand.values.flat[0]))
        name = self.plan.parameter_names[step.parameters[role]]
        return f"{self._member(name, operand.values)}[{operand.index()}]"

    def _element(self, w: Writer, step: Step) -> None:
        match step.op:
            case "cast":
                self._cast(w, step)
            case "scale":
                w(f"v *= {self._beside(step, 'factor')};")
            case "offset":
                value = self._aligned(self._beside(step, "value"), step, "value")
                w(f"v = {self._aligned('v', step, 0)} + {value};")
            case "lookup":
                table = self.network.arrays(step)["table"]
                member = self._member(self.plan.parameter_names[step.parameters["table"]], table)
                w(f"v = {member}[v - ({literal(step.attributes['first'])})];")
            case "clamp":
                low, high = (literal(step.attributes[end]) for end in ("low", "high"))
                w(f"v = rx_saturate(v, {low}, {high});")
            case _:
                self._divide(w, step)

    def _overflow(self, w: Writer, step: Step) -> None:
        form = self.network.tensors[step.name].format
        overflow = Overflow(step.attributes["overflow"])
        if overflow is Overflow.WRAP:
            w(f"v = rx_wrap(v, {form.word_length}, {int(form.signed)});")
            return
        low, high = form.limits(overflow)
        w(f"v = rx_saturate(v, {literal(low)}, {literal(high)});")

    def _cast(self, w: Writer, step: Step) -> None:
        shifts = self.plan.cast_shifts(step)
        rounding = step.attributes["rounding"]
        left = "WRAP" if Overflow(step.attributes["overflow"]) is Overflow.WRAP else "SAT"
        draws = ""
        if self.plan.is_stochastic(step):
            height, width, _ = extents(self.network.tensors[step.name].shape)
            place = f"(uint64_t)c * {height * width} + (uint64_t)(y * {width} + x)"
            draws = f", UINT64_C({self.plan.draw_key(step)}), {place}"
        text = self._shift(step, "shift", shifts)
        minus = f"-{text}" if len(shifts) > 1 else str(-int(shifts[0]))
        right_code, left_code = f"rx_round_{rounding}(v, {text}{draws})", f"rx_left_{left}(v, {minus})"
        if shifts.min() > 0:
            w(f"v = {right_code};")
        elif shifts.max() > 0:
            w(f"v = {text} > 0 ? {right_code} : {left_code};")
        elif shifts.min() < 0:
            w(f"v = {left_code};")
        self._overflow(w, step)

    def _divide(self, w: Writer, step: Step) -> None:
        shift = int(self.network.shift(step)[0])
        numerator = f"rx_align(v, {-shift})" if shift < 0 else "v"
        divisor = f"(int64_t){self._beside(step, 'divisor')}"
        if shift > 0:
            divisor = f"rx_align({divisor}, {shift})"
        w(f"v = rx_divide_{step.attributes['rounding']}({numerator}, {divisor});")
        self._overflow(w, step)

    def _product_sum(self, w: Writer, step: Step) -> None:
        source = self.network.tensors[step.inputs[0]]
        x = self.plan.identifiers[step.inputs[0]]
        weight = self.plan.weights(step)
        member = self._member(self.plan.parameter_names[step.parameters["weight"]], weight)
        kind = c_type(int(weight.min()), int(weight.max()))
        # proven: no partial sum in any order leaves the range
        low, high = self.network.tensors[step.name].low, self.network.tensors[step.name].high
        accumulator = "int32_t" if low >= -(1 << 31) and high < 1 << 31 else "int64_t"
        w(f"{accumulator} sum = 0;")
        if step.op == "dense":
            terms = weight.shape[1]
            w(f"const {kind} *w = {member} + c * {terms};")
            w(f"for (int32_t k = 0; k < {terms}; ++k) sum += ({accumulator})w[k] * {x}[k];")
            w("v = sum;")
            return
        outputs, kernel_y, kernel_x, terms = weight.shape
        groups = step.attributes["groups"]
        self._window(w, step, source, kernel_y, kernel_x)
        offset = f" + c / {outputs // groups} * {terms}" if groups > 1 else ""
        _, columns, channels = extents(source.shape)
        w(f"const {self.type_of(step.inputs[0])} *a = {x} + (iy * {columns} + ix) * {channels}{offset};")
        w(f"const {kind} *w = {member} + ((c * {kernel_y} + ky) * {kernel_x} + kx) * {terms};")
        w(f"for (int32_t k = 0; k < {terms}; ++k) sum += ({accumulator})w[k] * a[k];")
        w.close(2)
        w("v = sum;")

    def _window(self, w: Writer, step: Step, source: IntTensor, kernel_y: int, kernel_x: int) -> None:
        """Open loops over the places that a window sees; padding is left out."""
        rows_, columns, _ = extents(source.shape)
        top, left, _, _ = step.attributes["pads"]
        stride_y, stride_x = step.attributes["strides"]
        dilation_y, dilation_x = step.attributes.get("dilations", (1, 1))
        w.open(f"for (int32_t ky = 0; ky < {kernel_y}; ++ky)")
        w(f"const int32_t iy = y * {stride_y} + ky * {dilation_y} - {top};")
        w(f"if (iy < 0 || iy >= {rows_}) continue;")
        w.open(f"for (int32_t kx = 0; kx < {kernel_x}; ++kx)")
        w(f"const int32_t ix = x * {stride_x} + kx * {dilation_x} - {left};")
        w(f"if (ix < 0 || ix >= {columns}) continue;")

    def _pool(self, w: Writer, step: Step) -> None:
        source = self.network.tensors[step.inputs[0]]
        _, columns, channels = extents(source.shape)
        element = f"{self.plan.identifiers[step.inputs[0]]}[(iy * {columns} + ix) * {channels} + c]"
        w("v = INT64_MIN;" if step.op == "max_pool" else "v = 0;")
        self._window(w, step, source, *step.attributes["kernel"])
        w(f"if ({element} > v) v = {element};" if step.op == "max_pool" else f"v += {element};")
        w.close(2)

    def _flatten(self, w: Writer, step: Step) -> None:
        source = self.network.tensors[step.inputs[0]]
        height, width, channels = extents(source.shape)
        x = self.plan.identifiers[step.inputs[0]]
        places = height * width  # channels slowest
        index = "c" if places == 1 else f"c % {places} * {channels} + c / {places}"
        w(f"v = {x}[{index}];")

    def _select(self, w: Writer, step: Step) -> None:
        source, places, absent = step.inputs[0], [], []
        for own, variable in zip(SELECTED, "cyx", strict=True):
            indices = step.attributes[own]
            places.append(variable)
            if indices:
                member = self._member(f"i{self.tensor_ids[step.name]}_{own}", np.array(indices, np.int64))
                w(f"const int32_t s{variable} = {member}[{variable}];")
                places[-1] = f"s{variable}"
                absent += [f"s{variable} < 0"] if min(indices) < 0 else []
        c, y, x = places
        value = f"{self.plan.identifiers[source]}[{self.plan.place(source, y, x, c)}]"
        for place in places:
            if place.startswith("s"):
                w(f"(void){place};")  # an axis of the source with one place is not asked
        if absent:
            value = f"{' || '.join(absent)} ? {literal(step.attributes['fill'])} : (int64_t){value}"
        w(f"v = {value};")

    def _sum_channels(self, w: Writer, step: Step) -> None:
        source, size = step.inputs[0], step.attributes["size"]
        channels, before = self.network.tensors[source].shape[0], (size - 1) // 2
        w("v = 0;")
        w.open(f"for (int32_t k = c - {before}; k < c + {size - before}; ++k)")
        element = f"{self.plan.identifiers[source]}[{self.plan.place(source, c='k')}]"
        w(f"if (k >= 0 && k < {channels}) v += {element};")
        w.close()

    def _concat(self, w: Writer, nest: Nest) -> None:
        step = nest.head
        height, width, channels = extents(self.network.tensors[step.name].shape)
        first = 0
        for name in step.inputs:
            own = extents(self.network.tensors[name].shape)[2]
            w.open(f"for (int32_t place = 0; place < {height * width}; ++place)")
            w.open(f"for (int32_t k = 0; k < {own}; ++k)")
            w(f"const int32_t c = {first} + k, y = place / {width}, x = place % {width};")
            w(f"const int32_t i = place * {channels} + c;")
            w(f"int64_t v = {self.plan.identifiers[name]}[place * {own} + k];")
            w("(void)y, (void)x;")
            self._finish(w, step, nest)
            for other in nest.chain:
                self._element(w, other)
                self._finish(w, other, nest)
            w.close(2)
            first += own


class CTarget:
    """``--to c``."""

    name = "c"
    summary = "the network as C99: integers only, no library"
    options: tuple[str, ...] = ("parameters",)
    steps = EVERY
    several_outputs = True

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``; option ``parameters``: ``arrays`` or ``blob``."""
        chosen = options.get("parameters")
        if chosen not in (None, "arrays", "blob"):
            raise ExportError(f"option parameters={chosen!r}: expected arrays or blob")
        return Source(network, None if chosen is None else chosen == "blob").files()

    def open(self, folder: Path, network: IntGraph, scratch: Path) -> dict[str, TracedProgram]:
        """See ``radixpoint.export.target.Target``."""
        cc = tool("CC", "cc", "gcc", "clang")
        sources = [
            str(folder / n) for n in ("network.c", "parameters.c", "harness.c") if (folder / n).exists()
        ]
        blob = [str(folder / "parameters.bin")] if (folder / "parameters.bin").exists() else []

        def make(traces: bool) -> list[str]:
            program = scratch / ("traced" if traces else "plain")
            sanitized = ("-O1", "-fsanitize=undefined", "-fno-sanitize-recover", "-DRADIXPOINT_TRACE")
            flags = sanitized if traces else ("-O3",)
            build(
                [*cc, *WARNINGS, *flags, f"-I{folder}", *sources, "-o", str(program)], f"{folder}/network.c"
            )
            return [str(program), *blob]

        return {"c": TracedProgram(network, make)}
