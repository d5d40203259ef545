"""A network whose parameters a gradient can move (extra ``torch``).

The forward pass computes the network's own integers, as real values: every parameter is rounded to its
format, every step that rounds rounds as it says. The backward pass takes a rounding for the identity where
the value is within its format, and for a constant beyond it: the straight-through estimator (Bengio, Leonard
& Courville, "Estimating or Propagating Gradients Through Stochastic Neurons for Conditional Computation",
2013).

What is computed in float32 is exact while no sum has more than 24 bits, in float64 while none has more than
53. Beyond, a cast now and then gives the next integer: what a network is worth is measured with an engine.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from radixpoint.arithmetic.formats import Overflow, Rounding, TensorFormat
from radixpoint.errors import EngineError
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntGraph, IntParameter, Step
from radixpoint.ir.ops import SELECTED

TRAINED = {"conv": "weight", "dense": "weight", "scale": "factor", "offset": "value"}
"""The role of what can be trained, by step."""
Compiled = Callable[[list[Tensor]], Tensor]

_ROUNDINGS: Mapping[Rounding, Callable[[Tensor], Tensor]] = {
    Rounding.TRN: torch.floor,
    Rounding.TRN_ZERO: torch.trunc,
    Rounding.RND: lambda x: torch.floor(x + 0.5),
    Rounding.RND_MIN_INF: lambda x: torch.ceil(x - 0.5),
    Rounding.RND_INF: lambda x: torch.sign(x) * torch.floor(x.abs() + 0.5),
    Rounding.RND_ZERO: lambda x: torch.sign(x) * torch.ceil(x.abs() - 0.5),
    Rounding.RND_CONV: torch.round,
}


class _Cast(torch.autograd.Function):
    """A real number on the grid of a format; the gradient passes where the number is within."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, unit: Tensor, low: int, high: int, rounding: Rounding, wraps: bool
    ) -> Tensor:
        stored = _ROUNDINGS[rounding](x / unit)
        if wraps:
            return (torch.remainder(stored - low, high - low + 1) + low) * unit
        if x.requires_grad:
            context.save_for_backward((stored >= low) & (stored <= high))
        return stored.clamp_(low, high) * unit

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        inside = context.saved_tensors
        return gradients[0] * inside[0] if inside else gradients[0], None, None, None, None, None


class _Lookup(torch.autograd.Function):
    """A table; its slope is that between the entries on both sides."""

    @staticmethod
    def forward(context: Any, x: Tensor, table: Tensor, unit: float, first: int) -> Tensor:
        index = (x / unit).round().long() - first
        last = len(table) - 1
        if x.requires_grad:
            after, before = (index + 1).clamp(max=last), (index - 1).clamp(min=0)
            context.save_for_backward((table[after] - table[before]) / ((after - before) * unit))
        return table[index]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Any:
        return gradients[0] * context.saved_tensors[0], None, None, None


class Differentiable:
    """A network with parameters that can be trained.

    Args:
        network: with any steps but those that round at random.
        device: PyTorch's name of one.
        dtype: what it computes in.
        trained: names of parameters that may be trained, of those that steps multiply or add; default: all.

    Attributes:
        values: real values of what is trained, by the name of the parameter: leaves with a gradient.

    Raises:
        EngineError: it rounds at random.
    """

    def __init__(
        self,
        network: IntGraph,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        trained: Collection[str] | None = None,
    ) -> None:
        self.network, self.device, self.dtype = network, torch.device(device), dtype
        for step in network.steps:
            if step.attributes.get("rounding") == Rounding.STOCHASTIC.value:
                raise EngineError(
                    f"{step.name}: rounds at random: expected a network that rounds the same way"
                )
        roles = {step.parameters[TRAINED[step.op]] for step in network.steps if step.op in TRAINED}
        roles &= roles if trained is None else set(trained)
        overflows = {step.attributes.get("overflow") for step in network.steps}
        self._symmetric = Overflow.SAT_SYM.value in overflows
        self.values = {key: self._real(network.parameters[key]).requires_grad_() for key in sorted(roles)}
        self._fixed = {
            key: self._real(parameter) for key, parameter in network.parameters.items() if key not in roles
        }
        self._units = {key: self._unit(p.format, p.data.ndim, 0) for key, p in network.parameters.items()}
        self._compiled = {step.name: self._compile(step) for step in network.steps}

    # -- stored integers and real values

    def _unit(self, form: TensorFormat, rank: int, before: int = 1) -> Tensor:
        """Real value of the stored integer 1, with ``before`` axes of size one in front."""
        units = np.ldexp(1.0, -np.array(form.fraction_lengths))
        shape = [1] * before + ([-1] + [1] * (rank - 1) if len(units) > 1 else [1] * rank)
        return torch.tensor(units.reshape(shape), dtype=self.dtype, device=self.device)

    def _real(self, parameter: IntParameter) -> Tensor:
        data = torch.tensor(parameter.data.astype(np.float64), dtype=self.dtype, device=self.device)
        return data * self._unit(parameter.format, parameter.data.ndim, 0)

    def _unit_of(self, tensor: str) -> Tensor:
        found = self.network.tensors[tensor]
        return self._unit(found.format, len(found.shape))

    def images(self, stored: np.ndarray) -> Tensor:
        """Stored images (batch first) as real values."""
        x = torch.tensor(stored.astype(np.float64), dtype=self.dtype, device=self.device)
        return x * self._unit_of(self.network.input)

    def parameter(self, key: str) -> Tensor:
        """Real values of a parameter on its grid."""
        if key in self._fixed:
            return self._fixed[key]
        form = self.network.parameters[key].format
        ends = (form.min + self._symmetric, form.max)
        rounded: Tensor = _Cast.apply(self.values[key], self._units[key], *ends, Rounding.RND, False)
        return rounded

    def parameters(self) -> dict[str, IntParameter]:
        """What is trained, as it is stored now."""
        result = {}
        for key in self.values:
            stored = (self.parameter(key).detach() / self._units[key]).to(torch.int64).cpu().numpy()
            result[key] = IntParameter(freeze(stored), self.network.parameters[key].format)
        return result

    # -- running

    def run(self, known: Mapping[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
        """Tensors of the network, in real values.

        Args:
            known: tensors that are given, such as the images under the name of the input, batch first.
            wanted: names of those that are returned; what they need of the steps is run.
        """
        values, needed, todo = dict(known), set(wanted) - set(known), []
        for step in reversed(self.network.steps):
            if step.name in needed:
                needed.update(set(step.inputs) - set(known))
                todo.append(step)
        for step in reversed(todo):
            values[step.name] = self._compiled[step.name]([values[name] for name in step.inputs])
        return {name: values[name] for name in wanted}

    def _compile(self, step: Step) -> Compiled:
        made: Compiled = getattr(self, f"_{step.op}")(step)
        return made

    def _rounded(self, step: Step) -> Compiled:
        form, unit = self.network.tensors[step.name].format, self._unit_of(step.name)
        rounding, overflow = Rounding(step.attributes["rounding"]), Overflow(step.attributes["overflow"])
        low = form.min + (overflow is Overflow.SAT_SYM and form.signed)
        wraps = overflow is Overflow.WRAP
        return lambda x: _Cast.apply(x[0], unit, low, form.max, rounding, wraps)

    def _cast(self, step: Step) -> Compiled:
        return self._rounded(step)

    def _divide(self, step: Step) -> Compiled:
        divisor = torch.tensor(
            self.network.arrays(step)["divisor"].astype(np.float64), dtype=self.dtype, device=self.device
        )
        cast = self._rounded(step)
        return lambda x: cast([x[0] / divisor])

    def _conv(self, step: Step) -> Compiled:
        key, a = step.parameters["weight"], step.attributes
        pad, plain = self._padding(step), {"stride": a["strides"], "dilation": a["dilations"]}
        return lambda x: functional.conv2d(pad(x[0], 0.0), self.parameter(key), groups=a["groups"], **plain)

    def _dense(self, step: Step) -> Compiled:
        key = step.parameters["weight"]
        return lambda x: functional.linear(x[0], self.parameter(key))

    def _scale(self, step: Step) -> Compiled:
        key = step.parameters["factor"]
        return lambda x: x[0] * self.parameter(key)

    def _offset(self, step: Step) -> Compiled:
        key = step.parameters["value"]
        return lambda x: x[0] + self.parameter(key)

    def _add(self, step: Step) -> Compiled:
        return lambda x: x[0] + x[1]

    def _multiply(self, step: Step) -> Compiled:
        return lambda x: x[0] * x[1]

    def _maximum(self, step: Step) -> Compiled:
        return lambda x: torch.maximum(x[0], x[1])

    def _minimum(self, step: Step) -> Compiled:
        return lambda x: torch.minimum(x[0], x[1])

    def _clamp(self, step: Step) -> Compiled:
        unit = self._unit_of(step.inputs[0])
        low, high = step.attributes["low"] * unit, step.attributes["high"] * unit
        return lambda x: torch.minimum(torch.maximum(x[0], low), high)

    def _lookup(self, step: Step) -> Compiled:
        table = self._fixed[step.parameters["table"]]
        unit = float(np.ldexp(1.0, -self.network.tensors[step.inputs[0]].format.fraction_lengths[0]))
        return lambda x: _Lookup.apply(x[0], table, unit, step.attributes["first"])

    def _padding(self, step: Step) -> Callable[[Tensor, float], Tensor]:
        top, left, bottom, right = step.attributes["pads"]
        if not any((top, left, bottom, right)):
            return lambda x, fill: x
        return lambda x, fill: functional.pad(x, (left, right, top, bottom), value=fill)

    def _max_pool(self, step: Step) -> Compiled:
        pad, a = self._padding(step), step.attributes
        return lambda x: functional.max_pool2d(pad(x[0], -torch.inf), a["kernel"], a["strides"])

    def _sum_pool(self, step: Step) -> Compiled:
        pad, a = self._padding(step), step.attributes
        return lambda x: functional.avg_pool2d(pad(x[0], 0.0), a["kernel"], a["strides"], divisor_override=1)

    def _sum_channels(self, step: Step) -> Compiled:
        size = step.attributes["size"]
        before = (size - 1) // 2

        def run(x: list[Tensor]) -> Tensor:
            padded = functional.pad(x[0], (0, 0, 0, 0, before, size - 1 - before))
            return padded.unfold(1, size, 1).sum(-1)

        return run

    def _flatten(self, step: Step) -> Compiled:
        return lambda x: x[0].reshape(len(x[0]), -1)

    def _concat(self, step: Step) -> Compiled:
        return lambda x: torch.cat(x, 1)

    def _select(self, step: Step) -> Compiled:
        fill = step.attributes["fill"] * float(self._unit_of(step.name).flatten()[0])
        chosen = [
            (axis, torch.tensor(step.attributes[name], device=self.device))
            for axis, name in enumerate(SELECTED, 1)
            if step.attributes[name]
        ]

        def run(x: list[Tensor]) -> Tensor:
            result = x[0]
            for axis, index in chosen:
                result = result.index_select(axis, index.clamp(min=0))
                result = result.index_fill(axis, torch.nonzero(index < 0).flatten(), fill)
            return result

        return run

    def _rearrange(self, step: Step) -> Compiled:
        split, order, shape = (step.attributes[name] for name in ("split", "order", "shape"))

        def run(x: list[Tensor]) -> Tensor:
            moved = x[0].reshape(len(x[0]), *split).permute(0, *(i + 1 for i in order))
            return moved.reshape(len(moved), *shape)

        return run
