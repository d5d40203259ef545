"""The living definition of what an IntGraph computes: NumPy int64, plain, slow, obviously right."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import cast, divide, random_draws
from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.engines.boundary import check_run, check_steps
from radixpoint.ir.network import IntGraph, IntTensor, Step, verify
from radixpoint.ir.ops import SELECTED, Attributes

Ints = NDArray[np.int64]


def _windows(x: Ints, kernel: Sequence[int], attributes: Attributes, fill: int) -> Ints:
    """(N, C, OH, OW, KH, KW): what each output position sees."""
    top, left, bottom, right = attributes["pads"]
    x = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=fill)
    dy, dx = attributes.get("dilations", (1, 1))
    span = ((kernel[0] - 1) * dy + 1, (kernel[1] - 1) * dx + 1)
    view = np.lib.stride_tricks.sliding_window_view(x, span, axis=(2, 3))
    sy, sx = attributes["strides"]
    return np.asarray(view[:, :, ::sy, ::sx, ::dy, ::dx])


def _conv(step: Step, inputs: list[Ints], arrays: Mapping[str, Ints]) -> Ints:
    weight, groups = arrays["weight"], step.attributes["groups"]
    seen = _windows(inputs[0], weight.shape[2:], step.attributes, 0)
    n, channels, height, width = seen.shape[:4]
    outputs = len(weight) // groups
    parts = []
    for group in range(groups):
        own = seen[:, group * channels // groups : (group + 1) * channels // groups]
        columns = own.transpose(0, 2, 3, 1, 4, 5).reshape(n * height * width, -1)
        rows = weight[group * outputs : (group + 1) * outputs].reshape(outputs, -1)
        parts.append((columns @ rows.T).reshape(n, height, width, outputs))
    return np.concatenate(parts, 3).transpose(0, 3, 1, 2)


def _max_pool(step: Step, inputs: list[Ints], arrays: Mapping[str, Ints]) -> Ints:
    low = np.iinfo(np.int64).min
    return np.asarray(_windows(inputs[0], step.attributes["kernel"], step.attributes, low).max((4, 5)))


def _sum_pool(step: Step, inputs: list[Ints], arrays: Mapping[str, Ints]) -> Ints:
    return np.asarray(_windows(inputs[0], step.attributes["kernel"], step.attributes, 0).sum((4, 5)))


def _sum_channels(step: Step, inputs: list[Ints], arrays: Mapping[str, Ints]) -> Ints:
    size = step.attributes["size"]
    before = (size - 1) // 2
    x = np.pad(inputs[0], ((0, 0), (before, size - 1 - before), (0, 0), (0, 0)))
    return np.asarray(np.lib.stride_tricks.sliding_window_view(x, size, axis=1).sum(-1))


def _select(step: Step, inputs: list[Ints], arrays: Mapping[str, Ints]) -> Ints:
    x = inputs[0]
    for axis, name in enumerate(SELECTED, 1):
        indices = np.array(step.attributes[name], np.int64)
        if len(indices):
            x = np.take(x, np.maximum(indices, 0), axis)
            shape = [1] * x.ndim
            shape[axis] = -1
            x = np.where((indices < 0).reshape(shape), step.attributes["fill"], x)
    return np.asarray(x)


def _rearrange(step: Step, inputs: list[Ints], arrays: Mapping[str, Ints]) -> Ints:
    split, order, shape = (step.attributes[name] for name in ("split", "order", "shape"))
    x = inputs[0].reshape(len(inputs[0]), *split)
    return x.transpose(0, *(i + 1 for i in order)).reshape(len(x), *shape)


_EXACT: dict[str, Callable[[Step, list[Ints], Mapping[str, Ints]], Ints]] = {
    "conv": _conv,
    "dense": lambda step, inputs, arrays: inputs[0] @ arrays["weight"].T,
    "scale": lambda step, inputs, arrays: inputs[0] * arrays["factor"],
    "clamp": lambda step, inputs, arrays: np.clip(inputs[0], step.attributes["low"], step.attributes["high"]),
    "lookup": lambda step, inputs, arrays: arrays["table"][inputs[0] - step.attributes["first"]],
    "max_pool": _max_pool,
    "sum_pool": _sum_pool,
    "sum_channels": _sum_channels,
    "multiply": lambda step, inputs, arrays: inputs[0] * inputs[1],
    "select": _select,
    "rearrange": _rearrange,
    "flatten": lambda step, inputs, arrays: inputs[0].reshape(len(inputs[0]), -1),
    "concat": lambda step, inputs, arrays: np.concatenate(inputs, 1),
}


_ALIGNED: dict[str, Callable[[Ints, Ints], Ints]] = {
    "add": np.add,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
"""Of two operands at one binary point."""


class ReferenceEngine:
    """Runs an IntGraph step by step in int64."""

    def __init__(self, network: IntGraph) -> None:
        verify(network)
        check_steps("reference", network, {*_EXACT, *_ALIGNED, "cast", "divide", "offset"})
        self.network = network

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """See ``radixpoint.engines.Engine``."""
        images, wanted = check_run(self.network, images, keep)
        values: dict[str, Ints] = {self.network.input: images}
        last = {name: i for i, step in enumerate(self.network.steps) for name in step.inputs}
        for index, step in enumerate(self.network.steps):
            values[step.name] = self._step(step, [values[name] for name in step.inputs])
            for name in step.inputs:
                if last[name] == index and name not in wanted:
                    values.pop(name, None)
        return {name: values[name] for name in wanted}

    def _fractions(self, tensor: IntTensor) -> Ints:
        return tensor.format.fractions(len(tensor.shape))

    def _aligned(self, step: Step, operand: int | str, x: Ints) -> Ints:
        places = self.network.align(step, operand)
        return x << places.reshape(-1, *[1] * (len(self.network.tensors[step.name].shape) - 1))

    def _step(self, step: Step, inputs: list[Ints]) -> Ints:
        network = self.network
        result, source = network.tensors[step.name], network.tensors[step.inputs[0]]
        if step.op == "cast":
            rounding = Rounding(step.attributes["rounding"])
            draws = None
            if rounding is Rounding.STOCHASTIC:
                draws = random_draws(step.attributes["seed"], step.attributes["stream"], result.shape)
            return cast(
                inputs[0],
                self._fractions(source),
                result.format.channel(0),
                rounding,
                Overflow(step.attributes["overflow"]),
                draws,
                self._fractions(result),
            )
        if step.op == "divide":
            return divide(
                inputs[0],
                network.arrays(step)["divisor"],
                int(network.shift(step)[0]),
                result.format.channel(0),
                Rounding(step.attributes["rounding"]),
                Overflow(step.attributes["overflow"]),
            )
        if step.op in _ALIGNED:
            return _ALIGNED[step.op](*(self._aligned(step, i, x) for i, x in enumerate(inputs)))
        if step.op == "offset":
            value = network.arrays(step)["value"]
            return self._aligned(step, 0, inputs[0]) + self._aligned(step, "value", value)
        return _EXACT[step.op](step, inputs, network.arrays(step))
