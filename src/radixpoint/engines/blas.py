"""An exact engine fast enough to search with: im2col and BLAS on float carriers.

A float carries an integer exactly while its magnitude is at most 2**24 (float32) or 2**53 (float64). Every
step takes the narrowest carrier for which the ranges proven in the IntGraph, the largest partial sum among
them, stay within that bound; a convolution that float32 cannot hold is split along the reduction into blocks
that it can, then goes to float64, then splits its activations. Inside, tensors are channels-last.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from radixpoint.arithmetic.cast import cast, divide, random_draws
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.engines.boundary import check_run, check_steps, check_threads
from radixpoint.ir.network import IntGraph, IntTensor, Step, verify
from radixpoint.ir.ops import SELECTED, STEPS

Array = NDArray[Any]
Compiled = Callable[[list[Array]], Array]

FLOAT32_EXACT = 1 << 24
FLOAT64_EXACT = 1 << 53
MOST_BLOCKS = 8
"""Beyond this many float32 blocks a convolution is faster in float64."""
FARTHEST_LEFT = 64
"""Places."""
CACHED = 1 << 20
"""Elements of the largest tensor that a thread has in hand at a time: they then stay near its cache."""


def carrier(bound: int) -> type[np.float32] | type[np.float64] | type[np.int64]:
    """The narrowest type that holds every integer of magnitude up to ``bound`` exactly."""
    if bound <= FLOAT32_EXACT:
        return np.float32
    return np.float64 if bound <= FLOAT64_EXACT else np.int64


@lru_cache(maxsize=1)
def _blas_libraries() -> ThreadpoolController:
    return ThreadpoolController()


def _magnitude(tensor: IntTensor) -> int:
    return max(-tensor.low, tensor.high)


def _powers(exponents: Array, dtype: type) -> Array:
    """2**exponents as a scalar or a channels-last vector of ``dtype``; exact."""
    if dtype is np.int64:
        return np.asarray(np.int64(1) << exponents.reshape(-1))
    return np.ldexp(np.ones(exponents.size, dtype), exponents.reshape(-1)).astype(dtype)


def _channels_last(x: Array) -> Array:
    return np.moveaxis(x, 1, -1) if x.ndim > 2 else x


def _channels_first(x: Array) -> Array:
    return np.moveaxis(x, -1, 1) if x.ndim > 2 else x


_ROUND: dict[Rounding, Callable[[Array], Array]] = {
    Rounding.TRN: np.floor,
    Rounding.TRN_ZERO: np.trunc,
    Rounding.RND: lambda y: np.floor(y + y.dtype.type(0.5)),
    Rounding.RND_MIN_INF: lambda y: np.ceil(y - y.dtype.type(0.5)),
    Rounding.RND_INF: lambda y: np.trunc(y + np.copysign(y.dtype.type(0.5), y)),
    Rounding.RND_ZERO: lambda y: np.copysign(np.ceil(np.abs(y) - y.dtype.type(0.5)), y),
    Rounding.RND_CONV: np.rint,
}
"""Each is exact where y = x / 2**s and |x| + 2**(s-1) is within the carrier's bound."""


class BlasEngine:
    """Runs an IntGraph; equal to ``ReferenceEngine`` on every tensor.

    Args:
        network: a verified IntGraph.
        threads: how many; 0 takes all cores. Results do not depend on it.
    """

    def __init__(self, network: IntGraph, threads: int = 0) -> None:
        verify(network)
        self.network = network
        self.threads = check_threads(threads) or os.cpu_count() or 1
        compiler = _Compiler(network)
        check_steps("blas", network, compiler.steps)
        self._compiled = [compiler.compile(step) for step in network.steps]
        self._last = {name: i for i, step in enumerate(network.steps) for name in step.inputs}

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """See ``radixpoint.engines.Engine``."""
        images, wanted = check_run(self.network, images, keep)
        largest = max(math.prod(tensor.shape) for tensor in self.network.tensors.values())
        share = -(-len(images) // self.threads)  # a thread's, at most
        size = max(1, min(share, max(4, CACHED // largest)))
        chunks = [images[i : i + size] for i in range(0, len(images), size)]
        with _blas_libraries().limit(limits=1, user_api="blas"):
            if len(chunks) == 1 or self.threads == 1:
                parts = [self._run_chunk(chunk, wanted) for chunk in chunks]
            else:
                parts = self._run_chunks(chunks, wanted)
        return {name: np.concatenate([part[name] for part in parts]) for name in wanted}

    def _run_chunks(self, chunks: list[NDArray[np.int64]], wanted: set[str]) -> list[dict[str, Array]]:
        """On threads; on this one what there is no thread for."""
        with ThreadPoolExecutor(self.threads) as pool:
            running: list[Future[dict[str, Array]] | dict[str, Array]] = []
            for chunk in chunks:
                try:
                    running.append(pool.submit(self._run_chunk, chunk, wanted))
                except RuntimeError:  # the system has none left
                    running.append(self._run_chunk(chunk, wanted))
            return [outcome.result() if isinstance(outcome, Future) else outcome for outcome in running]

    def _run_chunk(self, images: NDArray[np.int64], wanted: set[str]) -> dict[str, NDArray[np.int64]]:
        dtype = carrier(_magnitude(self.network.tensors[self.network.input]))
        values = {self.network.input: np.ascontiguousarray(_channels_last(images), dtype)}
        kept = {}
        if self.network.input in wanted:
            kept[self.network.input] = np.asarray(images, np.int64)
        for index, (step, compiled) in enumerate(zip(self.network.steps, self._compiled, strict=True)):
            values[step.name] = compiled([values[name] for name in step.inputs])
            if step.name in wanted:
                kept[step.name] = _channels_first(values[step.name]).astype(np.int64)
            for name in {*step.inputs, step.name}:
                if self._last.get(name, -1) <= index:
                    values.pop(name, None)
        return kept


class _Compiler:
    """Makes of each step of an IntGraph one function of its inputs' carriers."""

    def __init__(self, network: IntGraph) -> None:
        self.network = network

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

    def _cast(self, step: Step) -> Compiled:
        source, result = self._source(step), self._result(step)
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        shift = np.broadcast_arrays(
            np.array(source.format.fraction_lengths) - np.array(result.format.fraction_lengths)
        )[0]
        # a left shift beyond makes anything but zero saturate, and no carrier hold it
        shift = np.maximum(shift, -FARTHEST_LEFT)
        exact = not np.any(shift > 0)
        bound = max(_magnitude(source), _magnitude(result))
        if not exact:
            bound = max(bound, _magnitude(source) + (1 << int(shift.max()) >> 1))
            if shift.min() <= 0:  # a channel without places to cut off: its integers plus one half, exactly
                bound = max(bound, 2 * (_magnitude(source) << int(-shift.min())) + 1)
        working, target = carrier(bound), carrier(_magnitude(result))
        if working is np.int64 or rounding is Rounding.STOCHASTIC or overflow is Overflow.WRAP:
            return self._cast_by_definition(step)
        factor = _powers(-shift, working)
        low, high = working(result.low), working(result.high)
        in_range = (
            bool(np.all(shift == 0))
            and source.low >= result.format.min
            and source.high <= result.format.max
            and (overflow is Overflow.SAT or source.low > result.format.min)
        )
        round_ = _ROUND[rounding]

        def run(inputs: list[Array]) -> Array:
            x = inputs[0].astype(working, copy=False)
            if in_range:
                return x.astype(target, copy=False)
            y = x * factor
            if not exact:
                y = round_(y)
            # The proven range of the result is what its overflow mode leaves of the source's range.
            np.maximum(y, low, out=y)
            np.minimum(y, high, out=y)
            return y.astype(target, copy=False)

        return run

    def _cast_by_definition(self, step: Step) -> Compiled:
        """Stochastic rounding, wrapping, and values that no float carries: arith.cast on int64."""
        source, result = self._source(step), self._result(step)
        rounding = Rounding(step.attributes["rounding"])
        overflow = Overflow(step.attributes["overflow"])
        target = carrier(_magnitude(result))
        draws = None
        if rounding is Rounding.STOCHASTIC:
            shape = random_draws(step.attributes["seed"], step.attributes["stream"], result.shape)
            draws = _channels_last(shape[None])[0]
        source_fractions = np.array(source.format.fraction_lengths)
        result_fractions = np.array(result.format.fraction_lengths)

        def run(inputs: list[Array]) -> Array:
            stored = cast(
                inputs[0].astype(np.int64),
                source_fractions,
                result.format.channel(0),
                rounding,
                overflow,
                draws,
                result_fractions,
            )
            return stored.astype(target)

        return run

    def _divide(self, step: Step) -> Compiled:
        result = self._result(step)
        divisor = _channels_last(self.network.arrays(step)["divisor"][None])[0]
        shift = int(self.network.shift(step)[0])
        target = carrier(_magnitude(result))
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        return lambda inputs: divide(
            inputs[0].astype(np.int64), divisor, shift, result.format.channel(0), rounding, overflow
        ).astype(target)

    def _scale(self, step: Step) -> Compiled:
        factor = self.network.arrays(step)["factor"]
        working = carrier(max(_magnitude(self._result(step)), int(np.abs(factor).max())))
        stored = _channels_last(factor[None])[0].astype(working)
        return lambda inputs: inputs[0].astype(working, copy=False) * stored

    def _sum(self, step: Step, operands: Mapping[int | str, int]) -> tuple[type, list[Array]]:
        """Carrier in which both aligned operands and their sum are exact, and the alignments.

        ``operands``: largest magnitude of each.
        """
        shifts = [self.network.align(step, operand) for operand in operands]
        aligned = [m << int(shift.max()) for m, shift in zip(operands.values(), shifts, strict=True)]
        working = carrier(max(_magnitude(self._result(step)), *aligned))
        return working, [_powers(shift, working) for shift in shifts]

    def _add(self, step: Step) -> Compiled:
        return self._joined(step, np.add)

    def _maximum(self, step: Step) -> Compiled:
        return self._joined(step, np.maximum)

    def _minimum(self, step: Step) -> Compiled:
        return self._joined(step, np.minimum)

    def _joined(self, step: Step, join: Callable[[Array, Array], Array]) -> Compiled:
        """Of two operands at one binary point."""
        a, b = self._source(step), self._source(step, 1)
        working, (up_a, up_b) = self._sum(step, {0: _magnitude(a), 1: _magnitude(b)})

        def run(inputs: list[Array]) -> Array:
            x: Array = inputs[0].astype(working, copy=False)
            y: Array = inputs[1].astype(working, copy=False)
            if up_a.size > 1 or up_a[0] != 1:
                x = x * up_a
            if up_b.size > 1 or up_b[0] != 1:
                y = y * up_b
            return np.asarray(join(x, y))

        return run

    def _multiply(self, step: Step) -> Compiled:
        sources = [self._source(step, i) for i in (0, 1)]
        working = carrier(max(_magnitude(self._result(step)), *map(_magnitude, sources)))

        def run(inputs: list[Array]) -> Array:
            x: Array = inputs[0].astype(working, copy=False)
            return np.asarray(x * inputs[1].astype(working, copy=False))

        return run

    def _sum_channels(self, step: Step) -> Compiled:
        size = step.attributes["size"]
        before, working = (size - 1) // 2, carrier(_magnitude(self._result(step)))

        def run(inputs: list[Array]) -> Array:
            x = inputs[0].astype(working, copy=False)
            channels = x.shape[-1]
            padded = np.zeros((*x.shape[:-1], channels + size - 1), working)
            padded[..., before : before + channels] = x
            result = padded[..., :channels].copy()
            for i in range(1, size):
                result += padded[..., i : i + channels]
            return np.asarray(result)

        return run

    def _select(self, step: Step) -> Compiled:
        axes = (-1, 1, 2) if len(self._result(step).shape) == 3 else (-1,)
        chosen = [
            (axis, np.array(step.attributes[name], np.int64))
            for axis, name in zip(axes, SELECTED, strict=False)
            if step.attributes[name]
        ]
        target, fill = carrier(_magnitude(self._result(step))), step.attributes["fill"]

        def run(inputs: list[Array]) -> Array:
            x = inputs[0].astype(target, copy=False)
            for axis, indices in chosen:
                x = np.take(x, np.maximum(indices, 0), axis)
                if indices.min() < 0:
                    np.moveaxis(x, axis, 0)[indices < 0] = fill
            return x

        return run

    def _rearrange(self, step: Step) -> Compiled:
        split, order, shape = (step.attributes[name] for name in ("split", "order", "shape"))

        def run(inputs: list[Array]) -> Array:
            x = _channels_first(inputs[0]).reshape(len(inputs[0]), *split)
            x = x.transpose(0, *(i + 1 for i in order)).reshape(len(x), *shape)
            return np.ascontiguousarray(_channels_last(x))

        return run

    def _offset(self, step: Step) -> Compiled:
        value = self.network.parameters[step.parameters["value"]]
        source = self._source(step)
        magnitude = max(int(np.abs(value.data).max()), 1)
        working, (up_x, up_t) = self._sum(step, {0: _magnitude(source), "value": magnitude})
        t = _channels_last(value.data[None])[0].astype(working) * up_t

        def run(inputs: list[Array]) -> Array:
            x: Array = inputs[0].astype(working, copy=False)
            if up_x.size > 1 or up_x[0] != 1:
                x = x * up_x
            return np.asarray(x + t)

        return run

    def _clamp(self, step: Step) -> Compiled:
        low, high = step.attributes["low"], step.attributes["high"]
        source, target = self._source(step), carrier(_magnitude(self._result(step)))
        at_low, at_high = source.low < low, source.high > high
        # a limit that nothing reaches from inside may be beyond what the source's carrier holds
        working = carrier(max(_magnitude(source), _magnitude(self._result(step))))

        def run(inputs: list[Array]) -> Array:
            x = inputs[0].astype(working, copy=False)
            if at_low:
                x = np.maximum(x, working(low))
            if at_high:
                x = np.minimum(x, working(high))
            return x.astype(target, copy=False)

        return run

    def _lookup(self, step: Step) -> Compiled:
        table = self.network.arrays(step)["table"].astype(carrier(_magnitude(self._result(step))))
        first = step.attributes["first"]
        return lambda inputs: table[inputs[0].astype(np.int64) - first]

    def _taps(self, step: Step, kernel: tuple[int, int]) -> list[tuple[slice, slice]]:
        """For each position of a window, the slices of the padded image that it sees."""
        _, height, width = self._result(step).shape
        sy, sx = step.attributes["strides"]
        dy, dx = step.attributes.get("dilations", (1, 1))
        return [
            (
                slice(i * dy, i * dy + (height - 1) * sy + 1, sy),
                slice(j * dx, j * dx + (width - 1) * sx + 1, sx),
            )
            for i in range(kernel[0])
            for j in range(kernel[1])
        ]

    def _padded(self, step: Step, x: Array, fill: float) -> Array:
        top, left, bottom, right = step.attributes["pads"]
        if not any((top, left, bottom, right)):
            return x
        n, height, width, channels = x.shape
        padded = np.full((n, height + top + bottom, width + left + right, channels), fill, x.dtype)
        padded[:, top : top + height, left : left + width] = x
        return padded

    def _max_pool(self, step: Step) -> Compiled:
        taps = self._taps(step, step.attributes["kernel"])
        lowest = self._source(step).low

        def run(inputs: list[Array]) -> Array:
            x = self._padded(step, inputs[0], lowest)
            result = x[:, taps[0][0], taps[0][1]].copy()
            for rows, columns in taps[1:]:
                np.maximum(result, x[:, rows, columns], out=result)
            return result

        return run

    def _sum_pool(self, step: Step) -> Compiled:
        taps = self._taps(step, step.attributes["kernel"])
        working = carrier(_magnitude(self._result(step)))

        def run(inputs: list[Array]) -> Array:
            x = self._padded(step, inputs[0].astype(working, copy=False), 0)
            result = x[:, taps[0][0], taps[0][1]].copy()
            for rows, columns in taps[1:]:
                result += x[:, rows, columns]
            return result

        return run

    def _flatten(self, step: Step) -> Compiled:
        return lambda inputs: np.ascontiguousarray(_channels_first(inputs[0])).reshape(len(inputs[0]), -1)

    def _concat(self, step: Step) -> Compiled:
        target = carrier(_magnitude(self._result(step)))
        return lambda inputs: np.concatenate(inputs, -1, dtype=target)

    def _dense(self, step: Step) -> Compiled:
        weight = self.network.arrays(step)["weight"]
        return _product(weight.T, self._source(step))

    def _conv(self, step: Step) -> Compiled:
        weight, groups = self.network.arrays(step)["weight"], step.attributes["groups"]
        kernel = (weight.shape[2], weight.shape[3])
        if groups == weight.shape[0] and weight.shape[1] == 1 and groups > 1:
            return self._depthwise(step, weight, kernel)
        taps = self._taps(step, kernel)
        outputs = len(weight) // groups
        # rows in the order of the columns: window row, window column, channel
        matrices = [
            weight[g * outputs : (g + 1) * outputs].transpose(2, 3, 1, 0).reshape(-1, outputs)
            for g in range(groups)
        ]
        products = [_product(matrix, self._source(step)) for matrix in matrices]
        per_group, shape = weight.shape[1], self._result(step).shape[1:]
        pointwise = kernel == (1, 1)
        plain = pointwise and groups == 1 and step.attributes["strides"] == (1, 1)
        # groups may be in different carriers, and joining int64 with float64 would round the former
        target = carrier(_magnitude(self._result(step)))

        def run(inputs: list[Array]) -> Array:
            x = self._padded(step, inputs[0], 0)
            n = len(x)
            if plain and x.shape[1:3] == shape:
                return products[0]([x.reshape(-1, per_group)]).reshape(n, *shape, outputs)
            results = []
            for g, product in enumerate(products):
                own = x[..., g * per_group : (g + 1) * per_group]
                columns = np.empty((n, *shape, len(taps), per_group), x.dtype)
                for index, (rows, cols) in enumerate(taps):
                    columns[..., index, :] = own[:, rows, cols]
                results.append(product([columns.reshape(-1, len(taps) * per_group)]))
            joined = results[0] if groups == 1 else np.concatenate([y.astype(target) for y in results], -1)
            return joined.reshape(n, *shape, outputs * groups)

        return run

    def _depthwise(self, step: Step, weight: NDArray[np.int64], kernel: tuple[int, int]) -> Compiled:
        bound = max(_magnitude(self._result(step)), int(np.abs(weight).max()))
        working = carrier(bound)
        factors = weight.reshape(len(weight), -1).T.astype(working)
        taps = self._taps(step, kernel)

        def run(inputs: list[Array]) -> Array:
            x = self._padded(step, inputs[0].astype(working, copy=False), 0)
            result = x[:, taps[0][0], taps[0][1]] * factors[0]
            for (rows, columns), factor in zip(taps[1:], factors[1:], strict=True):
                result += x[:, rows, columns] * factor
            return np.asarray(result)

        return run


def exact_step(network: IntGraph, step: Step) -> Callable[[list[NDArray[np.int64]]], NDArray[np.int64]]:
    """One step alone, as a function of its inputs (int64, batch and channels first)."""
    compiled = _Compiler(network).compile(step)
    carriers = [carrier(_magnitude(network.tensors[name])) for name in step.inputs]

    def run(inputs: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        carried = [
            np.ascontiguousarray(_channels_last(x), dtype) for x, dtype in zip(inputs, carriers, strict=True)
        ]
        return _channels_first(compiled(carried)).astype(np.int64)

    return run


def partial_bound(matrix: NDArray[np.int64], low: int, high: int) -> int:
    """Largest magnitude of any partial sum, in any order, of any column of ``x @ matrix``."""
    low, high = min(low, 0), max(high, 0)
    positive = np.maximum(matrix, 0).sum(0).tolist()
    negative = np.minimum(matrix, 0).sum(0).tolist()
    return int(
        max(max(p * high + n * low, -(p * low + n * high)) for p, n in zip(positive, negative, strict=True))
    )


def _product(matrix: NDArray[np.int64], source: IntTensor) -> Compiled:
    """x @ matrix (reduction, outputs), exactly, for x in the proven range of ``source``."""
    largest = max(int(np.abs(matrix).max()), _magnitude(source))
    whole = partial_bound(matrix, source.low, source.high)
    if max(whole, largest) <= FLOAT32_EXACT:
        weights = matrix.astype(np.float32)
        return lambda inputs: inputs[0].astype(np.float32, copy=False) @ weights
    if largest <= FLOAT32_EXACT and whole <= FLOAT64_EXACT:
        ends = _blocks(matrix, source)
        if ends is not None:
            return _blocked_product(matrix.astype(np.float32), ends)
    if max(whole, largest) <= FLOAT64_EXACT:
        wide = matrix.astype(np.float64)
        return lambda inputs: inputs[0].astype(np.float64, copy=False) @ wide
    return _split_product(matrix, source)


def _blocks(matrix: NDArray[np.int64], source: IntTensor) -> list[int] | None:
    """Where to cut the reduction so that float32 holds every partial sum, or None if into too many parts."""
    for count in range(2, MOST_BLOCKS + 1):
        cuts = [len(matrix) * i // count for i in range(count + 1)]
        if all(
            partial_bound(matrix[a:b], source.low, source.high) <= FLOAT32_EXACT
            for a, b in pairwise(cuts)
            if a < b
        ):
            return cuts
    return None


def _blocked_product(weights: NDArray[np.float32], cuts: list[int]) -> Compiled:
    def run(inputs: list[Array]) -> Array:
        x = inputs[0].astype(np.float32, copy=False)
        total = np.zeros((len(x), weights.shape[1]), np.float64)
        for a, b in pairwise(cuts):
            total += x[:, a:b] @ weights[a:b]
        return total

    return run


def _split_product(matrix: NDArray[np.int64], source: IntTensor) -> Compiled:
    """Beyond 2**53: activations split into digits short enough for float64, summed in int64."""
    digit = 1
    while partial_bound(matrix, 0, (1 << (digit + 1)) - 1) <= FLOAT64_EXACT:
        digit += 1
    wide = matrix.astype(np.float64)
    places = range(0, _magnitude(source).bit_length() + 1, digit)

    def run(inputs: list[Array]) -> Array:
        x = inputs[0].astype(np.int64)
        total = np.zeros((len(x), matrix.shape[1]), np.int64)
        for place in places:
            rest = x >> place
            if place != places[-1]:
                rest = rest & ((1 << digit) - 1)
            total += (rest.astype(np.float64) @ wide).astype(np.int64) << place
        return total

    return run
