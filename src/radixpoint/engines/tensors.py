"""An exact engine on PyTorch's tensors, for any device that PyTorch has (extra ``torch``).

Nothing in it rounds but the steps that round. Elementwise steps compute in integers, int32 where the ranges
proven in the IntGraph allow it, else int64. Products of matrices take what the device has and a bound proves:
int8 with sums in int32 (CUDA), operands of more bits as digits to base 256; else float32 or float64, whose
sums are exact up to 2**24 and 2**53, as in ``radixpoint.engines.blas``. Convolutions are products of matrices
that are laid out here, since a library's own may choose an algorithm that rounds. Inside, tensors are
channels-last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from itertools import product
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radixpoint.arithmetic.cast import cast, random_draws
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.engines.blas import FLOAT32_EXACT, FLOAT64_EXACT, partial_bound
from radixpoint.engines.boundary import check_run, check_steps, check_threads
from radixpoint.errors import EngineError
from radixpoint.ir.network import IntGraph, IntTensor, Step, verify
from radixpoint.ir.ops import SELECTED, STEPS

Compiled = Callable[[list[Tensor]], Tensor]

INT8 = ("cuda",)
"""Kinds of device whose product of int8 is exact: on a processor the library's may saturate in 16 bits."""
BASE = 256
"""Of the digits: a balanced one, -128..127, is an int8."""
MOST_PRODUCTS = 4
"""Beyond this many products of digits, floating point is faster."""
LONGEST_INT8 = ((1 << 31) - 1) // (128 * 128)
"""Terms of a sum of products of two int8 that int32 always holds."""
CHUNK = {"cpu": 1 << 24, "cuda": 1 << 28}
"""Elements of the largest matrix of one chunk of images, by kind of device."""


_PRECISIONS: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
"""Where newer versions of PyTorch keep what float32 products are computed in."""
_SETTINGS = Lock()


def _magnitude(tensor: IntTensor) -> int:
    return max(-tensor.low, tensor.high)


def _working(bound: int) -> torch.dtype:
    """The type that elementwise steps compute in where no value's magnitude is beyond ``bound``."""
    return torch.int32 if bound < 1 << 31 else torch.int64


def _carrier(tensor: IntTensor) -> torch.dtype:
    """The narrowest type that holds a tensor between two steps."""
    bound = max(-tensor.low - 1, tensor.high)
    for dtype, bits in ((torch.int8, 7), (torch.int16, 15), (torch.int32, 31)):
        if bound < 1 << bits:
            return dtype
    return torch.int64


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous() if x.ndim > 2 else x


def _channels_first(x: Tensor) -> NDArray[np.int64]:
    return np.asarray((x.movedim(-1, 1) if x.ndim > 2 else x).to(torch.int64).contiguous().cpu().numpy())


@contextmanager
def own_settings(threads: int) -> Iterator[None]:
    """So many threads, and no TF32 and no bfloat16 within float32 products, whatever the process is set to.

    The settings are the process's: one engine runs at a time. PyTorch has an older setting of the precision,
    which sets the newer ones with it, and cannot be read once they differ.
    """
    with _SETTINGS:
        before = torch.get_num_threads()
        torch.set_num_threads(threads or before)
        try:
            with _whole_precision():
                yield
        finally:
            torch.set_num_threads(before)


@contextmanager
def _whole_precision() -> Iterator[None]:
    newer = [(place, getattr(place, "fp32_precision", None)) for place in _PRECISIONS]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(older)
        for place, precision in newer:
            if precision is not None and precision != place.fp32_precision:
                place.fp32_precision = precision


def check_device(device: str) -> torch.device:
    """The device of that name.

    Raises:
        EngineError: PyTorch knows no such device, or this machine has none.
    """
    try:
        chosen = torch.device(device)
        torch.zeros(1, dtype=torch.int64, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EngineError(f"engine torch: device {device!r}: expected one that is here: {reason}") from None
    return chosen


class TorchEngine:
    """Runs an IntGraph; equal to ``ReferenceEngine`` on every tensor.

    Args:
        network: a verified IntGraph.
        device: PyTorch's name of it, as ``cpu`` or ``cuda:0``.
        threads: of the processor, where it computes; 0 leaves PyTorch's setting. Results do not depend on it.

    Raises:
        EngineError: no such device.
    """

    def __init__(self, network: IntGraph, device: str = "cpu", threads: int = 0) -> None:
        verify(network)
        self.network = network
        self.device = check_device(device)
        self.threads = check_threads(threads)
        compiler = _Compiler(network, self.device)
        check_steps("torch", network, compiler.steps)
        self._compiled = [compiler.compile(step) for step in network.steps]
        self._last = {name: i for i, step in enumerate(network.steps) for name in step.inputs}
        self._chunk = max(1, CHUNK.get(self.device.type, CHUNK["cpu"]) // _largest(network))

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """See ``radixpoint.engines.Engine``."""
        images, wanted = check_run(self.network, images, keep)
        with torch.inference_mode(), own_settings(self.threads):
            parts = [
                self._run_chunk(images[i : i + self._chunk], wanted)
                for i in range(0, len(images), self._chunk)
            ]
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def _run_chunk(self, images: NDArray[np.int64], wanted: set[str]) -> dict[str, NDArray[np.int64]]:
        stored = torch.from_numpy(images if images.flags.writeable else images.copy())
        narrow = stored.to(_carrier(self.network.tensors[self.network.input]))
        values = {self.network.input: _channels_last(narrow.to(self.device))}
        kept = {}
        if self.network.input in wanted:
            kept[self.network.input] = np.asarray(images, np.int64)
        for index, (step, compiled) in enumerate(zip(self.network.steps, self._compiled, strict=True)):
            values[step.name] = compiled([values[name] for name in step.inputs])
            if step.name in wanted:
                kept[step.name] = _channels_first(values[step.name])
            for name in {*step.inputs, step.name}:
                if self._last.get(name, -1) <= index:
                    values.pop(name, None)
        return kept


def _largest(network: IntGraph) -> int:
    """Elements of the largest tensor or matrix of windows of one image."""
    largest = max(math.prod(tensor.shape) for tensor in network.tensors.values())
    for step in network.steps:
        if step.op == "conv":
            seen = math.prod(network.arrays(step)["weight"].shape[1:]) * step.attributes["groups"]
            largest = max(largest, seen * math.prod(network.tensors[step.name].shape[1:]))
    return largest


class _Compiler:
    """Makes of each step of an IntGraph one function of its inputs."""

    def __init__(self, network: IntGraph, device: torch.device) -> None:
        self.network, self.device = network, device

    @property
    def steps(self) -> frozenset[str]:
        """Names of the steps that it knows: those that it has a method for."""
        return frozenset(name for name in STEPS if hasattr(self, f"_{name}"))

    def compile(self, step: Step) -> Compiled:
        return getattr(self, f"_{step.op}")(step)  # type: ignore[no-any-return]

    def _source(self, step: Step, index: int = 0) -> IntTensor:
        return self.network.tensors[step.inputs[index]]

    def _result(self, step: Step) -> IntTensor:
        return self.network.tensors[step.name]

    def _constant(self, values: NDArray[np.int64], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(np.array(values, order="C")).to(self.device, dtype)

    def _by_channel(self, values: NDArray[np.int64], dtype: torch.dtype) -> Tensor | int:
        """One number, or one a channel."""
        if np.all(values == values.flat[0]):
            return int(values.flat[0])
        return self._constant(values.reshape(-1), dtype)

    # ---- steps that round

    def _cast(self, step: Step) -> Compiled:
        source, result = self._source(step), self._result(step)
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        shift = np.broadcast_arrays(self.network.shift(step))[0]
        right, left = np.maximum(shift, 0), np.maximum(-shift, 0)
        most = max((_magnitude(source) << int(left.max())) + (1 << int(right.max())), _magnitude(result))
        if rounding is Rounding.STOCHASTIC or most >= 1 << 62:
            return self._cast_by_definition(step)
        working, target = _working(most), _carrier(result)
        places = self._by_channel(right, working)
        up, whole = self._by_channel(left, working), self._by_channel(np.int64(1) << right, working)
        half = self._by_channel((np.int64(1) << right) >> 1, working)
        limited = self._limit(result, overflow)

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0].to(working)
            if left.any():
                x = x << up
            if right.any():
                if rounding is Rounding.RND:
                    x = (x + half) >> places
                else:
                    floor = x >> places
                    x = _rounded(floor, 2 * (x - (floor << places)), whole, x < 0, rounding)
            return limited(x).to(target)

        return run

    def _limit(self, result: IntTensor, overflow: Overflow) -> Callable[[Tensor], Tensor]:
        """Integers brought into the result's format."""
        form = result.format.channel(0)
        if overflow is not Overflow.WRAP:
            # the proven range is what saturating leaves of the source's
            return lambda x: x.clamp(result.low, result.high)
        mask, size = (1 << form.word_length) - 1, 1 << form.word_length

        def wrapped(x: Tensor) -> Tensor:
            low_bits = x.to(torch.int64) & mask
            return torch.where(low_bits > form.max, low_bits - size, low_bits)

        return wrapped

    def _cast_by_definition(self, step: Step) -> Compiled:
        """Stochastic rounding, and shifts that leave int64: on the processor."""
        source, result = self._source(step), self._result(step)
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        draws = None
        if rounding is Rounding.STOCHASTIC:
            counted = random_draws(step.attributes["seed"], step.attributes["stream"], result.shape)
            draws = np.moveaxis(counted, 0, -1)
        given, wanted = (np.array(form.format.fraction_lengths) for form in (source, result))

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0].to(torch.int64).cpu().numpy()
            stored = cast(x, given, result.format.channel(0), rounding, overflow, draws, wanted)
            return self._constant(stored, _carrier(result))

        return run

    def _divide(self, step: Step) -> Compiled:
        result, rounding = self._result(step), Rounding(step.attributes["rounding"])
        shift = int(self.network.shift(step)[0])
        divisor = np.moveaxis(self.network.arrays(step)["divisor"], 0, -1) << max(shift, 0)
        whole = self._constant(divisor, torch.int64)
        limited = self._limit(result, Overflow(step.attributes["overflow"]))

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0].to(torch.int64) << max(-shift, 0)
            floor = torch.div(x, whole, rounding_mode="floor")
            rounded = _rounded(floor, 2 * (x - floor * whole), whole, x < 0, rounding)
            return limited(rounded).to(_carrier(result))

        return run

    # ---- exact steps, one element at a time

    def _scale(self, step: Step) -> Compiled:
        factor, result = self.network.arrays(step)["factor"], self._result(step)
        working = _working(max(_magnitude(result), int(np.abs(factor).max()), _magnitude(self._source(step))))
        stored = self._constant(np.moveaxis(factor, 0, -1), working)
        return lambda inputs: inputs[0].to(working) * stored

    def _aligned(self, step: Step, operands: dict[int | str, int]) -> tuple[torch.dtype, list[Tensor | int]]:
        """What both aligned operands and their sum are computed in, and the places each moves left.

        ``operands``: largest magnitude of each.
        """
        shifts = [self.network.align(step, operand) for operand in operands]
        moved = [m << int(shift.max()) for m, shift in zip(operands.values(), shifts, strict=True)]
        working = _working(max(_magnitude(self._result(step)), *moved))
        return working, [self._by_channel(shift, working) for shift in shifts]

    def _joined(self, step: Step, join: Callable[[Tensor, Tensor], Tensor]) -> Compiled:
        magnitudes: dict[int | str, int] = {i: _magnitude(self._source(step, i)) for i in (0, 1)}
        working, (up_a, up_b) = self._aligned(step, magnitudes)
        return lambda inputs: join(_moved(inputs[0].to(working), up_a), _moved(inputs[1].to(working), up_b))

    def _add(self, step: Step) -> Compiled:
        return self._joined(step, torch.add)

    def _maximum(self, step: Step) -> Compiled:
        return self._joined(step, torch.maximum)

    def _minimum(self, step: Step) -> Compiled:
        return self._joined(step, torch.minimum)

    def _offset(self, step: Step) -> Compiled:
        value = self.network.arrays(step)["value"]
        magnitudes: dict[int | str, int] = {
            0: _magnitude(self._source(step)),
            "value": int(np.abs(value).max()),
        }
        working, (up_x, up_t) = self._aligned(step, magnitudes)
        t = _moved(self._constant(np.moveaxis(value, 0, -1), working), up_t)
        return lambda inputs: _moved(inputs[0].to(working), up_x) + t

    def _multiply(self, step: Step) -> Compiled:
        sources = [_magnitude(self._source(step, i)) for i in (0, 1)]
        working = _working(max(_magnitude(self._result(step)), *sources))
        return lambda inputs: inputs[0].to(working) * inputs[1].to(working)

    def _clamp(self, step: Step) -> Compiled:
        result = self._result(step)
        # the proven range is what the limits leave of the source's
        working, target = _working(max(_magnitude(self._source(step)), _magnitude(result))), _carrier(result)
        return lambda inputs: inputs[0].to(working).clamp(result.low, result.high).to(target)

    def _lookup(self, step: Step) -> Compiled:
        table = self._constant(self.network.arrays(step)["table"], _carrier(self._result(step)))
        first = step.attributes["first"]
        return lambda inputs: table[inputs[0].to(torch.int64) - first]

    # ---- sums and moves

    def _sum_channels(self, step: Step) -> Compiled:
        size, working = step.attributes["size"], _working(_magnitude(self._result(step)))
        before = (size - 1) // 2

        def run(inputs: list[Tensor]) -> Tensor:
            padded = torch.nn.functional.pad(inputs[0].to(working), (before, size - 1 - before))
            channels = inputs[0].shape[-1]
            result = padded[..., :channels].clone()
            for i in range(1, size):
                result += padded[..., i : i + channels]
            return result

        return run

    def _select(self, step: Step) -> Compiled:
        result = self._result(step)
        axes = (-1, 1, 2) if len(result.shape) == 3 else (-1,)
        target, fill = _carrier(result), step.attributes["fill"]
        chosen = [
            (axis, np.array(step.attributes[name], np.int64))
            for axis, name in zip(axes, SELECTED, strict=False)
            if step.attributes[name]
        ]
        moves = [
            (axis, *(self._constant(i, torch.int64) for i in (np.maximum(own, 0), np.flatnonzero(own < 0))))
            for axis, own in chosen
        ]

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0].to(target)
            for axis, taken, empty in moves:
                x = x.index_select(axis, taken)
                if len(empty):
                    x.index_fill_(axis, empty, fill)
            return x

        return run

    def _rearrange(self, step: Step) -> Compiled:
        split, order, shape = (step.attributes[name] for name in ("split", "order", "shape"))

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0].movedim(-1, 1) if inputs[0].ndim > 2 else inputs[0]
            x = x.reshape(len(x), *split).permute(0, *(i + 1 for i in order)).reshape(len(x), *shape)
            return (x.movedim(1, -1) if len(shape) > 1 else x).contiguous()

        return run

    def _flatten(self, step: Step) -> Compiled:
        return lambda inputs: (inputs[0].movedim(-1, 1) if inputs[0].ndim > 2 else inputs[0]).reshape(
            len(inputs[0]), -1
        )

    def _concat(self, step: Step) -> Compiled:
        target = _carrier(self._result(step))
        return lambda inputs: torch.cat([x.to(target) for x in inputs], -1)

    # ---- windows

    def _taps(self, step: Step, kernel: tuple[int, int]) -> list[tuple[slice, slice]]:
        """For each position of a window, the slices of the padded image that it sees."""
        _, height, width = self._result(step).shape
        (sy, sx), (dy, dx) = step.attributes["strides"], step.attributes.get("dilations", (1, 1))
        return [
            (
                slice(i * dy, i * dy + (height - 1) * sy + 1, sy),
                slice(j * dx, j * dx + (width - 1) * sx + 1, sx),
            )
            for i, j in product(range(kernel[0]), range(kernel[1]))
        ]

    def _pooled(self, step: Step, join: Callable[[Tensor, Tensor], Tensor], fill: int) -> Compiled:
        taps = self._taps(step, step.attributes["kernel"])
        working = _working(max(_magnitude(self._result(step)), _magnitude(self._source(step))))

        def run(inputs: list[Tensor]) -> Tensor:
            x = _padded(step, inputs[0].to(working), fill)
            result = x[:, taps[0][0], taps[0][1]]
            for rows, columns in taps[1:]:
                result = join(result, x[:, rows, columns])
            return result.contiguous()

        return run

    def _max_pool(self, step: Step) -> Compiled:
        return self._pooled(step, torch.maximum, self._source(step).low)

    def _sum_pool(self, step: Step) -> Compiled:
        return self._pooled(step, torch.add, 0)

    # ---- products

    def _dense(self, step: Step) -> Compiled:
        return self._product(self.network.arrays(step)["weight"], self._source(step))

    def _conv(self, step: Step) -> Compiled:
        weight, groups = self.network.arrays(step)["weight"], step.attributes["groups"]
        kernel = (weight.shape[2], weight.shape[3])
        if groups == weight.shape[0] and weight.shape[1] == 1 and groups > 1:
            return self._depthwise(step, weight, kernel)
        taps, shape = self._taps(step, kernel), self._result(step).shape[1:]
        outputs, per_group = len(weight) // groups, weight.shape[1]
        # rows in the order of the columns: window row, window column, channel
        rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
        products = [
            self._product(rows[g * outputs : (g + 1) * outputs], self._source(step)) for g in range(groups)
        ]

        def run(inputs: list[Tensor]) -> Tensor:
            x = _padded(step, inputs[0], 0)
            results = []
            for g, multiply in enumerate(products):
                own = x[..., g * per_group : (g + 1) * per_group]
                seen = [own[:, down, across] for down, across in taps]
                columns = seen[0] if len(seen) == 1 else torch.cat(seen, -1)
                results.append(multiply([columns.reshape(-1, len(taps) * per_group)]))
            joined = results[0] if groups == 1 else torch.cat(results, -1)
            return joined.reshape(len(x), *shape, outputs * groups)

        return run

    def _depthwise(self, step: Step, weight: NDArray[np.int64], kernel: tuple[int, int]) -> Compiled:
        working = _working(
            max(_magnitude(self._result(step)), int(np.abs(weight).max()), _magnitude(self._source(step)))
        )
        factors = self._constant(weight.reshape(len(weight), -1).T, working)
        taps = self._taps(step, kernel)

        def run(inputs: list[Tensor]) -> Tensor:
            x = _padded(step, inputs[0].to(working), 0)
            result = x[:, taps[0][0], taps[0][1]] * factors[0]
            for (down, across), factor in zip(taps[1:], factors[1:], strict=True):
                result += x[:, down, across] * factor
            return result

        return run

    def _product(self, rows: NDArray[np.int64], source: IntTensor) -> Compiled:
        """x @ rows.T, exactly, for x (any, reduction) in the proven range of ``source`` or 0."""
        if self.device.type in INT8 and rows.shape[1] <= LONGEST_INT8:
            number = _digits_of(min(source.low, 0), max(source.high, 0))
            weights = _balanced(rows)
            if number * len(weights) <= MOST_PRODUCTS:
                return self._int8_product(rows, weights, source, number)
        whole = partial_bound(rows.T, source.low, source.high)
        largest = max(whole, int(np.abs(rows).max()), _magnitude(source))
        working = _working(whole)
        for exact, dtype in ((FLOAT32_EXACT, torch.float32), (FLOAT64_EXACT, torch.float64)):
            if largest <= exact:
                weight = self._constant(rows.T, dtype)
                return _float_product(weight, dtype, working)
        return self._split_product(rows, source)

    def _int8_product(
        self, rows: NDArray[np.int64], weights: list[NDArray[np.int64]], source: IntTensor, number: int
    ) -> Compiled:
        """By digits: x - centre = sum of x_i * 256**i, weights likewise, each product in int8."""
        lowest = -128 * (BASE**number - 1) // (BASE - 1)
        low, high = min(source.low, 0), max(source.high, 0)
        fits = low >= lowest and high <= lowest + BASE**number - 1
        centre = 0 if fits else low - lowest
        outputs, length = rows.shape
        # sizes that the int8 product of a CUDA device takes: multiples of 8, more than 16 rows
        wide = np.zeros((len(weights), -(-outputs // 8) * 8, -(-length // 8) * 8), np.int64)
        wide[:, :outputs, :length] = weights
        stored = [self._constant(digit, torch.int8).t() for digit in wide]
        sums = [np.abs(digit).sum(1).max() for digit in weights]
        most = sum(128 * int(s) * BASE ** (i + j) for i in range(number) for j, s in enumerate(sums))
        working = _working(2 * most + abs(centre) * int(np.abs(rows).sum(1).max()))
        shifted = self._constant(centre * rows.sum(1), working)
        spare = wide.shape[2] - length

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0]
            lines = len(x)
            if centre or number > 1:
                x = x.to(torch.int32) - centre
            if spare or lines < 32:
                x = torch.nn.functional.pad(x, (0, spare, 0, max(32 - lines, 0)))
            total: Tensor | None = None
            for i in range(number):
                digit, rest = x.to(torch.int8), x
                if i + 1 < number:
                    x = (rest - digit) >> 8
                for j, weight in enumerate(stored):
                    term = torch._int_mm(digit.contiguous(), weight).to(working)
                    term = term << (8 * (i + j)) if i + j else term
                    total = term if total is None else total + term
            assert total is not None
            result = total[:lines, :outputs]
            return result + shifted if centre else result.contiguous()

        return run

    def _split_product(self, rows: NDArray[np.int64], source: IntTensor) -> Compiled:
        """Beyond 2**53: x in digits short enough for float64, summed in int64."""
        digit = 1
        while partial_bound(rows.T, 0, (1 << (digit + 1)) - 1) <= FLOAT64_EXACT:
            digit += 1
        weight = self._constant(rows.T, torch.float64)
        places = range(0, _magnitude(source).bit_length() + 1, digit)

        def run(inputs: list[Tensor]) -> Tensor:
            x = inputs[0].to(torch.int64)
            total = torch.zeros((len(x), len(rows)), dtype=torch.int64, device=x.device)
            for place in places:
                rest = x >> place
                if place != places[-1]:
                    rest = rest & ((1 << digit) - 1)
                total += (rest.to(torch.float64) @ weight).to(torch.int64) << place
            return total

        return run


def _float_product(weight: Tensor, dtype: torch.dtype, working: torch.dtype) -> Compiled:
    return lambda inputs: (inputs[0].to(dtype) @ weight).to(working)


def _moved(x: Tensor, places: Tensor | int) -> Tensor:
    return x if isinstance(places, int) and places == 0 else x << places


def _padded(step: Step, x: Tensor, fill: int) -> Tensor:
    top, left, bottom, right = step.attributes["pads"]
    if not any((top, left, bottom, right)):
        return x
    return torch.nn.functional.pad(x, (0, 0, left, right, top, bottom), value=fill)


def _rounded(floor: Tensor, twice: Tensor, whole: Tensor | int, below: Tensor, rounding: Rounding) -> Tensor:
    """Floor or one more, by the mode.

    Args:
        floor: of the quotient.
        twice: of the remainder, 0 <= twice < 2 * whole.
        whole: what the remainder is a part of.
        below: where the number is negative.
        rounding: any mode but STOCHASTIC.
    """
    match rounding:
        case Rounding.TRN:
            return floor
        case Rounding.TRN_ZERO:
            up = below & (twice > 0)
        case Rounding.RND:
            up = twice >= whole
        case Rounding.RND_MIN_INF:
            up = twice > whole
        case Rounding.RND_INF:
            up = (twice > whole) | ((twice == whole) & ~below)
        case Rounding.RND_ZERO:
            up = (twice > whole) | ((twice == whole) & below)
        case _:  # RND_CONV
            up = (twice > whole) | ((twice == whole) & ((floor & 1) == 1))
    return floor + up


def _digits_of(low: int, high: int) -> int:
    """Balanced digits to base 256 that every integer of the range has, once it is moved to their middle."""
    number = 1
    while BASE**number <= high - low:
        number += 1
    return number


def _balanced(values: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Digits -128..127 to base 256, least first."""
    digits = []
    while True:
        digit = (values + 128) % BASE - 128
        digits.append(digit)
        values = (values - digit) // BASE
        if not values.any():
            return digits
