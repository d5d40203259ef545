"""Loop nests in C99: sums of products by shared kernels, and element-wise steps in the shortest safe type."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from radixpoint.arithmetic.formats import Overflow
from radixpoint.export.source import Writer, literal
from radixpoint.ir.memory import bits_of, c_type, fits_32, tensor_type
from radixpoint.ir.network import Step
from radixpoint.ir.ops import SELECTED
from radixpoint.ir.plan import Ints, Nest, Plan, clean, extents

UNROLLED = 25
"""Products of a window that are written out one by one."""
BLOCK = 4
"""Outputs whose sums are made together, so that an operand is loaded once for them."""

_JOINED = {"add": "a + b", "maximum": "a > b ? a : b", "minimum": "a < b ? a : b"}
"""Of two operands at one binary point."""


def _shifted(value: int, places: int) -> tuple[int, int]:
    """Smallest and largest of what any rounding makes of ``value`` moved right (negative: left)."""
    if places <= 0:
        return value << -places, value << -places
    return value >> places, -(-value >> places)


class Short:
    """Whether a nest's values, each with all that comes between, are proven to fit 32 bits."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.network = plan, plan.network

    def _ends(self, name: str) -> tuple[int, int]:
        tensor = self.network.tensors[name]
        return tensor.low, tensor.high

    def _moved(self, ends: tuple[int, int], shifts: Ints) -> bool:
        most = int(shifts.max())
        return most <= 31 and fits_32(*(end << most for end in ends))

    def _step(self, step: Step) -> bool:
        network, plan = self.network, self.plan
        ends = self._ends(step.inputs[0])
        if not fits_32(*self._ends(step.name), *(e for name in step.inputs for e in self._ends(name))):
            return False
        match step.op:
            case "cast":
                shifts = plan.cast_shifts(step)
                if plan.is_stochastic(step) or int(shifts.max()) > 30:
                    return False
                if int(shifts.max()) > 0 and not fits_32(ends[1] + (1 << int(shifts.max()))):
                    return False  # half a place is added
                return int(shifts.min()) >= 0 or self._moved(ends, -shifts)
            case "offset":
                value = network.arrays(step)["value"]
                own = (int(value.min()), int(value.max()))
                return self._moved(ends, plan.left_shifts(step, 0)) and self._moved(
                    own, plan.left_shifts(step, "value")
                )
            case "add" | "maximum" | "minimum":
                return all(
                    self._moved(self._ends(name), plan.left_shifts(step, number))
                    for number, name in enumerate(step.inputs)
                )
            case "divide":
                shift = int(network.shift(step)[0])
                divisor = int(network.arrays(step)["divisor"].max())
                up = max(abs(end) for end in ends) << max(-shift, 0)
                return abs(shift) < 32 and fits_32(2 * up, 2 * divisor << max(shift, 0))
            case "scale":
                factor = network.arrays(step)["factor"]
                return fits_32(int(factor.min()), int(factor.max()))
        return True

    def __call__(self, nest: Nest) -> bool:
        return all(map(self._step, nest.steps))


class Loops:
    """Writes loop nests.

    Args:
        plan: of the network.
        member: from a name and values to the expression of an array that holds them, beside the code.
    """

    def __init__(self, plan: Plan, member: Callable[[str, Ints], str]) -> None:
        self.plan, self.network, self._member = plan, plan.network, member
        self.tensor_ids = {name: i for i, name in enumerate(plan.order)}
        self.kernels: dict[str, str] = {}
        """Definitions of the kernels that the nests call, by name."""
        self._short = Short(plan)
        self._wide = True  # whether the nest at hand needs 64 bits

    def type_of(self, name: str) -> str:
        """Of the elements of a tensor."""
        return tensor_type(self.network, name)

    def nest(self, w: Writer, nest: Nest) -> None:
        """Write one loop nest."""
        head = nest.head
        self._wide = not self._short(nest)
        if head.op == "concat":
            self._concat(w, nest)
        elif head.family == "product":
            self._products(w, nest)
        else:
            self._elements(w, nest)

    @property
    def _type(self) -> str:
        return "int64_t" if self._wide else "int32_t"

    @property
    def _suffix(self) -> str:
        """Of the functions of the header."""
        return "" if self._wide else "32"

    def _literal(self, value: int) -> str:
        return literal(value) if self._wide else f"({value})" if value < 0 else str(value)

    # ------------------------------------------------------------------------------------ elements

    def _elements(self, w: Writer, nest: Nest) -> None:
        """A step that is not a sum of products, for each element of its result."""
        head = nest.head
        height, width, channels = extents(self.network.tensors[head.name].shape)
        w.open(f"for (int32_t y = 0; y < {height}; ++y)")
        w.open(f"for (int32_t x = 0; x < {width}; ++x)")
        if "kernel" in head.attributes:
            self._window(w, head, *head.attributes["kernel"])
        w.open(f"for (int32_t c = 0; c < {channels}; ++c)")
        w(f"const int32_t i = (y * {width} + x) * {channels} + c;")
        w(f"{self._type} v;")
        if head.op == "sum_channels":
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
            w(f"v = ({self._type}){a} * {b};")
        elif head.op in _JOINED:
            a, b = (
                self._aligned(f"{self.plan.identifiers[n]}[i]", head, k) for k, n in enumerate(head.inputs)
            )
            w(f"const {self._type} a = {a}, b = {b};")
            w(f"v = {_JOINED[head.op]};")
        else:
            w(f"v = {self.plan.identifiers[head.inputs[0]]}[i];")
            self._element(w, head)
        self._finish(w, head, nest)
        self._chain(w, nest)
        w.close(3)

    def _chain(self, w: Writer, nest: Nest) -> None:
        layer = self.network.tensors[nest.head.name].layer
        for step in nest.chain:
            if self.network.tensors[step.name].layer != layer:
                layer = self.network.tensors[step.name].layer
                w(f"/* {clean(layer)} */")
            self._element(w, step)
            self._finish(w, step, nest)

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
        return f"rx_align{self._suffix}({value}, {self._shift(step, f'left_{operand}', shifts)})"

    def _beside(self, step: Step, role: str) -> str:
        """Expression of the element of a parameter."""
        operand = self.plan.operand(step, role)
        if operand.values.size == 1:
            return self._literal(int(operand.values.flat[0]))
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
                w(f"v = {member}[v - ({self._literal(step.attributes['first'])})];")
            case "clamp":
                source = self.network.tensors[step.inputs[0]]
                ends = step.attributes["low"], step.attributes["high"]
                self._saturate(w, ends, (source.low, source.high))
            case _:
                self._divide(w, step)

    def _saturate(self, w: Writer, ends: tuple[int, int], proven: tuple[int, int] | None = None) -> None:
        """Limit to ``ends``, as far as what is ``proven`` does not lie within them."""
        low, high = ends
        if proven is not None and low <= proven[0] and proven[1] <= high:
            return
        bits = high.bit_length()
        if self._wide or high != (1 << bits) - 1 or not 0 < bits < 31 or low not in (0, -high - 1):
            w(f"v = rx_saturate{self._suffix}(v, {self._literal(low)}, {self._literal(high)});")
        elif low == 0:
            w(f"v = rx_usat(v, {bits});")
        else:
            w(f"v = rx_ssat(v, {bits + 1});")

    def _overflow(self, w: Writer, step: Step, proven: tuple[int, int] | None = None) -> None:
        form = self.network.tensors[step.name].format
        overflow = Overflow(step.attributes["overflow"])
        if overflow is Overflow.WRAP:
            w(f"v = rx_wrap{self._suffix}(v, {form.word_length}, {int(form.signed)});")
            return
        self._saturate(w, form.limits(overflow), proven)

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
        right_code = f"rx_round{self._suffix}_{rounding}(v, {text}{draws})"
        source = self.network.tensors[step.inputs[0]]
        left_code = f"rx_left_{left}(v, {minus})" if self._wide else f"rx_align32(v, {minus})"
        if shifts.min() > 0:
            w(f"v = {right_code};")
        elif shifts.max() > 0:
            w(f"v = {text} > 0 ? {right_code} : {left_code};")
        elif shifts.min() < 0:
            w(f"v = {left_code};")
        moved = [
            _shifted(end, int(s)) for end in (source.low, source.high) for s in (shifts.min(), shifts.max())
        ]
        self._overflow(w, step, (min(moved)[0], max(end for _, end in moved)))

    def _divide(self, w: Writer, step: Step) -> None:
        shift = int(self.network.shift(step)[0])
        numerator = f"rx_align{self._suffix}(v, {-shift})" if shift < 0 else "v"
        divisor = f"({self._type}){self._beside(step, 'divisor')}"
        if shift > 0:
            divisor = f"rx_align{self._suffix}({divisor}, {shift})"
        w(f"v = rx_divide{self._suffix}_{step.attributes['rounding']}({numerator}, {divisor});")
        self._overflow(w, step)

    # ------------------------------------------------------------------------------------ products

    def _products(self, w: Writer, nest: Nest) -> None:
        """Sums of products, and what follows on each."""
        step = nest.head
        height, width, channels = extents(self.network.tensors[step.name].shape)
        weight = self.plan.weights(step)
        member = self._member(self.plan.parameter_names[step.parameters["weight"]], weight)
        # proven: no partial sum in any order leaves the range
        low, high = self.network.tensors[step.name].low, self.network.tensors[step.name].high
        total = "int32_t" if fits_32(low, high) else "int64_t"
        kind = c_type(int(weight.min()), int(weight.max()))
        w.open(f"for (int32_t y = 0; y < {height}; ++y)")
        w.open(f"for (int32_t x = 0; x < {width}; ++x)")
        if step.op == "conv":
            self._window(w, step, *weight.shape[1:3])
        if step.op == "conv" and step.attributes["groups"] > 1:
            w.open(f"for (int32_t c = 0; c < {channels}; ++c)")
            self._grouped(w, step, member, weight.shape, kind, total)
        else:
            w.open(f"for (int32_t first = 0; first < {channels}; first += {BLOCK})")
            self._block(w, step, member, weight.shape, kind, total)
            end = f"c < {channels} && " if channels % BLOCK else ""
            w.open(f"for (int32_t c = first; {end}c < first + {BLOCK}; ++c)")
            w(f"{self._type} v = sums[c - first];")
        w(f"const int32_t i = (y * {width} + x) * {channels} + c;")
        self._finish(w, step, nest)
        self._chain(w, nest)
        w.close(3 if step.op == "conv" and step.attributes["groups"] > 1 else 4)

    def _kernel(self, source: str, kind: str, total: str) -> str:
        """Name of the kernel for operands of these types, which is defined once."""
        name = f"rx_dot_{self._letters(kind)}_{self._letters(source)}_{self._letters(total)}"
        self.kernels[name] = f"RX_DOT({name}, {kind}, {source}, {total})"
        if (bits_of(kind), bits_of(source), total) == (8, 8, "int32_t"):
            signs = ", ".join("u" if c.startswith("u") else "s" for c in (kind, source))
            self.kernels[name] = f"RX_DOT_BYTES({name}, {kind}, {source}, {signs})"
        return name

    @staticmethod
    def _letters(c: str) -> str:
        return ("u" if c.startswith("u") else "s") + str(bits_of(c))

    def _block(
        self, w: Writer, step: Step, member: str, shape: tuple[int, ...], kind: str, total: str
    ) -> None:
        """Sums of some outputs together, row by row of the window."""
        outputs, terms = shape[0], math.prod(shape[1:])
        source = step.inputs[0]
        dot, values = self._kernel(self.type_of(source), kind, total), self.plan.identifiers[source]
        w(f"{total} sums[{BLOCK}] = {{0}};")

        def sums(a: str, b: str, length: str) -> None:
            block = f"{dot}_4({a}, {b}, {terms}, {length}, sums);"
            if outputs % BLOCK == 0:
                w(block)
                return
            w(f"if (first + {BLOCK} <= {outputs}) {block}")
            single = f"sums[j] += {dot}_1({a}, {b} + j * {terms}, {length})"
            w(f"else for (int32_t j = 0; first + j < {outputs}; ++j) {single};")

        if step.op == "dense":
            sums(values, f"{member} + first * {terms}", str(terms))
            return
        _, kernel_y, kernel_x, inputs = shape
        _, columns, channels = extents(self.network.tensors[source].shape)
        dilation_y, dilation_x = step.attributes["dilations"]
        stride_y, stride_x = step.attributes["strides"]
        top, left, _, _ = step.attributes["pads"]
        if kernel_y == kernel_x == 1 and not any(step.attributes["pads"]):
            place = f"(y * {stride_y * columns} + x * {stride_x}) * {channels}"
            sums(f"{values} + {place}", f"{member} + first * {terms}", str(terms))
            return
        w.open("for (int32_t ky = ky_first; ky < ky_last; ++ky)")
        w(f"const int32_t iy = y * {stride_y} + ky * {dilation_y} - {top};")
        run = "kx_last - kx_first"
        if dilation_x > 1:
            w.open("for (int32_t kx = kx_first; kx < kx_last; ++kx)")
            place, own, length = f"x * {stride_x} + kx * {dilation_x} - {left}", "kx", str(inputs)
        else:  # places side by side are side by side in memory, and so are their weights
            w(f"const int32_t length = ({run}) * {inputs};")
            place, own, length = f"x * {stride_x} + kx_first - {left}", "kx_first", "length"
        w(f"const {self.type_of(source)} *a = {values} + (iy * {columns} + {place}) * {channels};")
        w(f"const {kind} *b = {member} + first * {terms} + (ky * {kernel_x} + {own}) * {inputs};")
        sums("a", "b", length)
        w.close(2 if dilation_x > 1 else 1)

    def _grouped(
        self, w: Writer, step: Step, member: str, shape: tuple[int, ...], kind: str, total: str
    ) -> None:
        """The sum of one output of a convolution with groups; small windows are written out."""
        outputs, kernel_y, kernel_x, inputs = shape
        source = step.inputs[0]
        values = self.plan.identifiers[source]
        _, columns, channels = extents(self.network.tensors[source].shape)
        dilation_y, dilation_x = step.attributes["dilations"]
        stride_y, stride_x = step.attributes["strides"]
        top, left, _, _ = step.attributes["pads"]
        each = outputs // step.attributes["groups"]
        start = f"c / {each} * {inputs}" if each > 1 else f"c * {inputs}" if inputs > 1 else "c"
        w(f"const {kind} *w = {member} + c * {kernel_y * kernel_x * inputs};")
        w(f"{total} sum = 0;")
        short = inputs * kernel_y * kernel_x <= UNROLLED
        if short:
            w.open("if (whole)")
            place = f"(y * {stride_y} - {top}) * {columns} + x * {stride_x} - {left}"
            w(f"const {self.type_of(source)} *a = {values} + ({place}) * {channels} + {start};")
            taps = [(ky, kx, k) for ky in range(kernel_y) for kx in range(kernel_x) for k in range(inputs)]
            for number, (ky, kx, k) in enumerate(taps):
                offset = (ky * dilation_y * columns + kx * dilation_x) * channels + k
                w(f"sum += ({total})w[{number}] * a[{offset}];")
            w.close()
            w.open("else")
        w.open("for (int32_t ky = ky_first; ky < ky_last; ++ky)")
        w.open("for (int32_t kx = kx_first; kx < kx_last; ++kx)")
        w(f"const int32_t iy = y * {stride_y} + ky * {dilation_y} - {top};")
        w(f"const int32_t ix = x * {stride_x} + kx * {dilation_x} - {left};")
        w(f"const {self.type_of(source)} *a = {values} + (iy * {columns} + ix) * {channels} + {start};")
        w(f"const {kind} *b = w + (ky * {kernel_x} + kx) * {inputs};")
        w(f"for (int32_t k = 0; k < {inputs}; ++k) sum += ({total})b[k] * a[k];")
        w.close(3 if short else 2)
        w(f"{self._type} v = sum;")

    def _window(self, w: Writer, step: Step, kernel_y: int, kernel_x: int) -> None:
        """Which rows and columns of the window lie inside the image, once for all channels."""
        source = self.network.tensors[step.inputs[0]]
        rows, columns, _ = extents(source.shape)
        top, left, _, _ = step.attributes["pads"]
        stride_y, stride_x = step.attributes["strides"]
        dilation_y, dilation_x = step.attributes.get("dilations", (1, 1))
        if kernel_y == kernel_x == 1 and not any(step.attributes["pads"]) and step.family == "product":
            if step.attributes["groups"] > 1:
                w("const int32_t ky_first = 0, ky_last = 1, kx_first = 0, kx_last = 1, whole = 1;")
                w("(void)ky_first, (void)ky_last, (void)kx_first, (void)kx_last, (void)whole;")
            return
        for axis, size, kernel, stride, dilation, before in (
            ("y", rows, kernel_y, stride_y, dilation_y, top),
            ("x", columns, kernel_x, stride_x, dilation_x, left),
        ):
            w(
                f"const int32_t k{axis}_first = rx_first({axis} * {stride} - {before}, {dilation}), "
                f"k{axis}_last = rx_last({axis} * {stride} - {before}, {size}, {kernel}, {dilation});"
            )
        if step.family == "product" and step.attributes["groups"] > 1:
            w(
                f"const int32_t whole = ky_first == 0 && ky_last == {kernel_y} && kx_first == 0 && "
                f"kx_last == {kernel_x};"
            )
            w("(void)whole;")

    def _pool(self, w: Writer, step: Step) -> None:
        source = self.network.tensors[step.inputs[0]]
        _, columns, channels = extents(source.shape)
        top, left, _, _ = step.attributes["pads"]
        stride_y, stride_x = step.attributes["strides"]
        least = "INT64_MIN" if self._wide else "INT32_MIN"
        w(f"v = {least};" if step.op == "max_pool" else "v = 0;")
        w.open("for (int32_t ky = ky_first; ky < ky_last; ++ky)")
        w.open("for (int32_t kx = kx_first; kx < kx_last; ++kx)")
        w(f"const int32_t iy = y * {stride_y} + ky - {top}, ix = x * {stride_x} + kx - {left};")
        element = f"{self.plan.identifiers[step.inputs[0]]}[(iy * {columns} + ix) * {channels} + c]"
        w(f"if ({element} > v) v = {element};" if step.op == "max_pool" else f"v += {element};")
        w.close(2)

    # ---------------------------------------------------------------------------------- movements

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
            fill = self._literal(step.attributes["fill"])
            value = f"{' || '.join(absent)} ? {fill} : ({self._type}){value}"
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
            w(f"{self._type} v = {self.plan.identifiers[name]}[place * {own} + k];")
            w("(void)y, (void)x;")
            self._finish(w, step, nest)
            self._chain(w, nest)
            w.close(2)
            first += own
