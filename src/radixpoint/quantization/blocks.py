"""Block reconstruction: the layers between two narrow places learn to give what float gives there.

A narrow place is a tensor through which everything passes, such as the end of a residual block; the layers
between two of them are a block. Block after block, with what the quantized network feeds it:

1. binary points of the block's casts and of its weights move while the error of the block's result falls:
   how much saturates is weighed against how fine the grid is;
2. weights, scales and offsets are trained by straight-through gradients to lower that error. Weights start
   from their real values, so that training decides how each is rounded. Meanwhile half of the activations,
   at random, are neither rounded nor saturated, so that nothing is fitted to the rounding of these images.

The error is squared, relative to the power of the float block's result, image by image. A block is kept as it
was where the exact engine says that its error did not fall. Where sums of a block may need more than 64 bits,
since it is run by itself and takes any integer, it and those after it are kept as they were.

Why blocks, and why activations at random: Li et al., "BRECQ" (2021); Wei et al., "QDrop" (2022). Their scales
are real numbers and their weights move between two neighbours; here scales are powers of two, and weights go
where the gradient leads. No labels are used. Needs PyTorch, which computes in float32 on one thread: the same
processor gives the same integers again, another one may give others.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from radixpoint.arithmetic.cast import quantize
from radixpoint.arithmetic.formats import Overflow, TensorFormat
from radixpoint.data import ImageSet
from radixpoint.engines import BlasEngine, make_engine, quantize_images
from radixpoint.engines.tensors import own_settings
from radixpoint.errors import FormatError, GraphError
from radixpoint.ir.derived import part, with_parameters
from radixpoint.ir.graph import Graph, freeze
from radixpoint.ir.network import IntGraph, IntParameter, Step, verify
from radixpoint.quantization.differentiable import Compiled, Differentiable
from radixpoint.quantization.trainer import Paced, of_the_graph

EPOCHS = 8
"""Times that a block sees every image; 20 gained nothing."""
BATCH = 32
"""Images in a step of the training."""
RATE = 0.003
"""How far a step moves a number at most, as a share of the root mean square of its tensor."""
PASSED = 0.5
"""Share of activations that pass each cast in training, neither rounded nor saturated."""
_MOST = 8.0
"""Largest factor of an image's values: one in which a layer sees next to nothing should not decide either."""
_JUDGED = 128
"""Images by which binary points are chosen."""
_REACH = {1: 4, -1: 1}
"""Places beyond the best one so far that are tried, by direction: where all else is rounded to zero beside a
few large values, only a grid that is much finer changes anything.
"""
_SHORT = 10
"""Bits of the longest results whose binary points are tried: what longer ones lose is next to nothing."""
_SCALED = {"conv", "dense", "scale", "offset", "add", "multiply", "maximum", "minimum", "max_pool",
           "sum_pool", "sum_channels", "concat", "flatten", "rearrange", "cast", "divide"}  # fmt: skip
"""Steps that compute the same of real values, wherever their binary points are."""
_RUN = 64
"""Images that an engine runs at a time."""
_MEMORY = 1 << 32
"""Bytes of the tensors at both ends of a block that are held at a time."""
_BYTES = 4 * 4
"""Of a number at both ends, of both networks."""
Reals = NDArray[np.float64]
Stored = NDArray[np.signedinteger[Any]]
Real32 = NDArray[np.float32]


def narrow_places(graph: Graph) -> list[str]:
    """Tensors through which everything passes on its way, and which a convolution or product reads."""
    last = {name: number for number, layer in enumerate(graph.layers) for name in layer.inputs}
    last |= dict.fromkeys(graph.outputs, len(graph.layers))
    live, found = {graph.input}, []
    for number, layer in enumerate(graph.layers):
        live = {name for name in {*live, layer.name} if last.get(name, -1) > number}
        if live == {layer.name} and any(reader.family == "product" for reader in graph.consumers(layer.name)):
            found.append(layer.name)
    return found


def _reached(network: IntGraph, name: str) -> Iterator[Step]:
    """Steps that see a tensor's binary point: its readers, and those of exact results of it."""
    for reader in network.readers[name]:
        yield reader
        if not reader.row.rounds and reader.op != "lookup":
            yield from _reached(network, reader.name)


class _Passing(Differentiable):
    """Lets activations pass casts as they are, at random."""

    def __init__(self, network: IntGraph, trained: Collection[str]) -> None:
        self._chance = torch.Generator().manual_seed(0)
        super().__init__(network, trained=trained)

    def _rounded(self, step: Step) -> Compiled:
        cast = super()._rounded(step)
        tabulated = any(reader.op == "lookup" for reader in _reached(self.network, step.name))
        if tabulated or step.attributes["overflow"] == Overflow.WRAP.value:
            return cast  # a table has no entry for what does not fit

        def run(x: list[Tensor]) -> Tensor:
            rounded = cast(x)
            return torch.where(torch.rand(rounded.shape, generator=self._chance) < PASSED, x[0], rounded)

        return run


def _values(network: IntGraph) -> dict[str, str]:
    """Our tensor for each tensor of the float network, where it has one binary point."""
    return {t.value: name for name, t in network.tensors.items() if t.value and not t.format.per_channel}


def _run(engine: Any, network: IntGraph, stored: Stored) -> dict[str, Stored]:
    """A network's results of all images, in 32 bits where they fit."""
    found: dict[str, list[Stored]] = {name: [] for name in network.outputs}
    for i in range(0, len(stored), _RUN):
        results = engine.run(stored[i : i + _RUN].astype(np.int64))
        for name, kept in found.items():
            form = network.tensors[name].format
            kept.append(results[name].astype(np.int32 if form.max < 1 << 31 else np.int64))
    return {name: np.concatenate(kept) for name, kept in found.items()}


def _real(network: IntGraph, name: str, stored: Stored) -> Real32:
    fraction = network.tensors[name].format.fraction_lengths[0]
    return np.ldexp(stored.astype(np.float32), np.int32(-fraction))


def _powers(values: Real32) -> Reals:
    """Sum of the squares of each image."""
    parts = (values[i : i + _RUN] for i in range(0, len(values), _RUN))
    return np.concatenate([np.square(p, dtype=np.float64).reshape(len(p), -1).sum(1) for p in parts])


def _shares(target: Real32) -> Real32:
    """What an image's squared error counts, by image: few with large values should not decide for all."""
    power = _powers(target)
    return np.asarray(1 / np.maximum(power, max(power.mean() / _MOST**2, 1e-12)), np.float32)


def _apart(network: IntGraph, stored: Stored, targets: list[Real32]) -> float:
    """Squared error of a block's results relative to their power, mean over images, by an exact engine."""
    found = _run(make_engine(network), network, stored)
    total = 0.0
    for name, target in zip(network.outputs, targets, strict=True):
        error = np.square(_real(network, name, found[name]) - target).reshape(len(target), -1).sum(1)
        total += float((error * _shares(target)).mean())
    return total


def _moved(form: TensorFormat, places: int) -> TensorFormat:
    fractions = tuple(length + places for length in form.fraction_lengths)
    return dataclasses.replace(form, fraction_lengths=fractions)


def _stored(weight: Reals, form: TensorFormat, symmetric: bool) -> IntParameter:
    """Real weights in a format, to nearest, saturated."""
    overflow = Overflow.SAT_SYM if symmetric else Overflow.SAT
    fractions = form.fractions(weight.ndim)
    return IntParameter(
        freeze(quantize(weight, form.channel(0), overflow=overflow, to_fraction_length=fractions)), form
    )


def _with_cast(name: str, block: IntGraph, places: int) -> IntGraph:
    """The block with the binary point of a cast moved."""
    return with_parameters(block, {}, {name: _moved(block.tensors[name].format, places)})


def _with_weights(key: str, weight: Reals, symmetric: bool, block: IntGraph, places: int) -> IntGraph:
    """The block with the binary point of weights moved, and the weights rounded again."""
    form = _moved(block.parameters[key].format, places)
    return with_parameters(block, {key: _stored(weight, form, symmetric)})


class Reconstructor:
    """Reconstructs quantized networks of one float network, on the same calibration images.

    Args:
        graph: the float network.
        exact: the network that stands for it, in integers long enough (``StandIn.network``).
        teachers: calibration images; as many as the memory holds are used, the first ones first.
        own_points: whether each tensor has binary points of its own, which may move.
        symmetric: weights and offsets never take the most negative value (SAT_SYM).
    """

    def __init__(
        self,
        graph: Graph,
        exact: IntGraph,
        teachers: Sequence[ImageSet],
        own_points: bool = True,
        symmetric: bool = False,
    ) -> None:
        self.graph, self.exact, self.symmetric, self.own_points = graph, exact, symmetric, own_points
        numbers = max(math.prod(graph.shapes[name]) for name in (graph.input, *narrow_places(graph)))
        left, parts = max(_MEMORY // (_BYTES * numbers), 2 * BATCH), []
        for images in teachers:
            parts.append(images.inputs(0, min(len(images), left)))
            left -= len(parts[-1])
        self.inputs = np.concatenate(parts)

    def _tensors(self, network: IntGraph) -> dict[str, str]:
        """A network's tensor for each one of the float network that may end a block."""
        ends = {
            self.graph.input: network.input,
            **dict(zip(self.graph.outputs, network.outputs, strict=True)),
        }
        return _values(network) | ends

    def spans(self, network: IntGraph) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Ends of each block: tensors of the float network."""
        known = _values(network).keys() & _values(self.exact).keys()
        start = self.graph.input
        for name in narrow_places(self.graph):
            if name in known and name not in self.graph.outputs:
                yield start, (name,)
                start = name
        yield start, self.graph.outputs

    def reconstruct(self, network: IntGraph, weights: Mapping[str, Reals]) -> IntGraph:
        """The network with binary points, weights, scales and offsets that were learned.

        Args:
            network: of this float network, without roundings at random.
            weights: real-valued weights of each layer, as they were quantized (folded or not).
        """
        ours: Stored = quantize_images(network, self.inputs)
        theirs: Stored = quantize_images(self.exact, self.inputs)
        for start, ends in list(self.spans(network)):
            own, exact = self._tensors(network), self._tensors(self.exact)
            try:
                block = part(network, own[start], [own[name] for name in ends])
                real = part(self.exact, exact[start], [exact[name] for name in ends])
            except FormatError:  # any integer may come in, and with some a sum would need more than 64 bits
                break
            expected = _run(BlasEngine(real), real, theirs)
            targets = [_real(self.exact, name, expected[name]) for name in real.outputs]
            try:
                placed = self._placed(network, block, ours, targets, weights) if self.own_points else block
                better = self._trained(placed, ours, targets, weights)
                gains = _apart(better, ours, targets) < _apart(block, ours, targets)
                casts = {step.name: better.tensors[step.name].format for step in block.steps}
                changed = with_parameters(network, better.parameters, casts) if gains else network
            except (FormatError, GraphError):  # likewise, with what was learned
                gains, changed = False, network
            network, block = changed, better if gains else block
            ours, theirs = _run(make_engine(block), block, ours)[block.output], expected[real.output]
        verify(network)
        return network

    def _movable(self, network: IntGraph, name: str) -> bool:
        """Whether a cast's result is short, an operand or a layer's result, and nothing that sees its binary
        point has numbers that were chosen for it, as a limit or a table has."""
        tensor = network.tensors[name]
        if tensor.format.word_length > _SHORT or name in network.outputs:
            return False
        if tensor.value is None and any(reader.family != "product" for reader in network.readers[name]):
            return False
        relus = {layer.name for layer in self.graph.layers if layer.op == "relu"}
        reached = list(_reached(network, name))
        return all(
            step.op in _SCALED or network.tensors[step.name].layer in relus for step in reached
        ) and not ({step.name for step in reached if not step.row.rounds} & set(network.outputs))

    def _weights_of(self, block: IntGraph, weights: Mapping[str, Reals]) -> Iterator[tuple[str, Reals]]:
        """Names and real values of the weights of a block."""
        for step in block.steps:
            layer = block.tensors[step.name].layer
            if step.family == "product" and layer in weights:
                key = step.parameters["weight"]
                if block.parameters[key].data.size == weights[layer].size:
                    yield key, weights[layer].reshape(block.parameters[key].data.shape)

    def _placed(
        self,
        network: IntGraph,
        block: IntGraph,
        stored: Stored,
        targets: list[Real32],
        weights: Mapping[str, Reals],
    ) -> IntGraph:
        """The block with better binary points of its casts and weights."""
        stored, targets = stored[:_JUDGED], [target[:_JUDGED] for target in targets]
        least = _apart(block, stored, targets)
        changes: list[Callable[[IntGraph, int], IntGraph]] = [
            partial(_with_cast, step.name)
            for step in block.steps
            if step.op == "cast" and self._movable(network, step.name)
        ]
        for key, real in self._weights_of(block, weights):
            changes.append(partial(_with_weights, key, real, self.symmetric))
        for change in changes:
            for direction, reach in _REACH.items():
                start, farthest = block, 0
                for distance in itertools.count(1):
                    if distance > farthest + reach:
                        break
                    try:
                        tried = change(start, direction * distance)
                    except (FormatError, GraphError):  # sums of more than 64 bits
                        break
                    error = _apart(tried, stored, targets)
                    if error < least:
                        block, least, farthest = tried, error, distance
                if farthest:
                    break
        return block

    def _trained(
        self, block: IntGraph, stored: Stored, targets: list[Real32], weights: Mapping[str, Reals]
    ) -> IntGraph:
        model = _Passing(block, of_the_graph(self.graph, block))
        if not model.values:
            return block
        with torch.no_grad():
            for key, real in self._weights_of(block, weights):
                parameter = block.parameters[key]
                if key in model.values and np.array_equal(
                    _stored(real, parameter.format, self.symmetric).data, parameter.data
                ):
                    unit = np.ldexp(1.0, -parameter.format.fractions(real.ndim))
                    within = np.clip(real, parameter.format.min * unit, parameter.format.max * unit)
                    model.values[key].copy_(torch.from_numpy(within))
        values = list(model.values.values())
        shares = [torch.from_numpy(_shares(target)) for target in targets]
        chance, steps = np.random.default_rng(0), -(-len(stored) // BATCH)
        optimizer = Paced(values, RATE, EPOCHS * steps)
        with own_settings(1):
            for done in range(EPOCHS * steps):
                if done % steps == 0:
                    order = chance.permutation(len(stored))
                chosen = order[done % steps * BATCH :][:BATCH]
                found = model.run({block.input: model.images(stored[chosen])}, block.outputs)
                errors = [
                    (
                        (found[name] - torch.from_numpy(target[chosen])).square().flatten(1).sum(1)
                        * own[chosen]
                    ).mean()
                    for name, target, own in zip(block.outputs, targets, shares, strict=True)
                ]
                optimizer.step(done, torch.stack(errors).mean())
        if not all(bool(value.isfinite().all()) for value in values):
            return block  # it diverged
        return with_parameters(block, model.parameters())
