"""Better integers in the same formats: weights rounded so that each layer's *output* is near the float
network's on calibration images, and offsets that correct the error that most patches have left.

Layer after layer, with the quantized network as it is so far. For one layer with float weights w, patches x
of the float network and q of the quantized one, each image divided by the root of its mean square in this
layer, lest a few images with large values decide for all:

1. the real-valued weights that do best on q in place of x: argmin E|w x - v q|^2 + damping |v - w|^2,
   which is v = (w E[x q'] + d w) (E[q q'] + d)^-1;
2. v on the grid of its format, one column after the other, each error spread over the columns still to come
   by the inverse of the second moments (Hassibi & Stork 1993; Frantar et al., "GPTQ", 2022);
3. one weight after the other set to the better of the two integers around v while that lowers
   E|(v - stored) q|^2 (objective and choice of Nagel et al., "AdaRound", 2020, without its relaxation);
4. the error that is left, added to the next offset: bias correction (Nagel et al. 2019), with the median over
   patches in place of the mean. Where a few large values saturate, the mean is theirs, and would move all
   others: at 8 bits a full-width ResNet-50 agreed less with float than uncorrected.

The moments are not centred, although step 4 takes the middle out: weights that shift a result far would have
it saturate before the offset is added. No labels are used. Formats stay as they are, so
accumulators are proven again and every engine runs the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from radixpoint.data import ImageSet
from radixpoint.engines import make_engine, quantize_images
from radixpoint.ir.derived import part, with_parameters
from radixpoint.ir.graph import Graph, freeze
from radixpoint.ir.network import IntGraph, IntParameter, Step, verify
from radixpoint.quantization.design import Technique
from radixpoint.quantization.patches import patches
from radixpoint.quantization.stand_in import Operands

TECHNIQUES: tuple[Technique, ...] = ("offsets", "columns", "units")
"""In the order in which they are tried; blocks are another matter."""
IMAGES = 512
_PATCHES = 1 << 15
"""Patches of one layer that its moments are taken from, at most; more change little and cost time."""
_DAMPING = 0.02
"""Share of the mean second moment added to each."""
_MOST = 8.0
"""Largest factor of an image: one in which a layer sees next to nothing should not decide either."""
_SWEEPS = 8
"""Times that ``units`` looks at every weight of a layer, at most; hardly any moves after half of them."""
_BATCH = 64
_MEMORY = 1 << 30
"""Bytes of the float network's tensors that are kept at a time."""
Reals = NDArray[np.float64]


def _evening(real: NDArray[np.float32]) -> NDArray[np.float32]:
    """Factors (images, 1, ...) that give each image of a tensor the same mean square; at most ``_MOST``."""
    power = np.mean(np.square(real, dtype=np.float64), tuple(range(1, real.ndim)), keepdims=True)
    mean = power.mean()
    floor = mean / _MOST**2
    even = np.sqrt(mean / np.maximum(power, floor)) if mean > 0 else np.ones_like(power)
    return np.asarray(even, np.float32)


def _second_moments(q: NDArray[np.float32]) -> Reals:
    """E[q q'] of patches (count, inputs)."""
    return (q.T @ q).astype(np.float64) / len(q)


def _triangular_inverse(upper: Reals) -> Reals:
    """Inverse of an upper triangular matrix, by halves: nearly all of it is products of matrices."""
    size = len(upper)
    if size <= 64:
        return np.triu(np.linalg.inv(upper))
    half = size // 2
    result = np.zeros_like(upper)
    result[:half, :half] = _triangular_inverse(upper[:half, :half])
    result[half:, half:] = _triangular_inverse(upper[half:, half:])
    result[:half, half:] = -(result[:half, :half] @ (upper[:half, half:] @ result[half:, half:]))
    return result


def _inverse_factor(second: Reals) -> Reals:
    """Upper triangular u with u' u the inverse of ``second``: its own factor, backwards, inverted."""
    backwards = np.linalg.cholesky(second[::-1, ::-1])
    return _triangular_inverse(np.ascontiguousarray(backwards[::-1, ::-1]))


def _columns(target: Reals, second: Reals, scale: Reals, low: int, high: int) -> Reals:
    """Stored integers (rows, columns) for ``target``, column by column; ``scale``: units a row, (rows, 1)."""
    order = np.argsort(-np.diag(second), kind="stable")
    factor = _inverse_factor(second[np.ix_(order, order)])
    left = target[:, order] * scale
    stored = np.empty_like(left)
    block = 128
    for first in range(0, left.shape[1], block):
        last = min(first + block, left.shape[1])
        errors = np.empty((len(left), last - first))
        for column in range(first, last):
            stored[:, column] = np.clip(np.floor(left[:, column] + 0.5), low, high)
            error = (left[:, column] - stored[:, column]) / factor[column, column]
            left[:, column + 1 : last] -= error[:, None] * factor[column, column + 1 : last]
            errors[:, column - first] = error
        left[:, last:] -= errors @ factor[first:last, last:]
    result = np.empty_like(stored)
    result[:, order] = stored
    return result


def _units(stored: Reals, target: Reals, second: Reals, scale: Reals, low: int, high: int) -> Reals:
    """Set one weight of each row after the other to its best place, the others as they are, until none moves.

    Each stays between the two integers around its target, and where it was: with fewer patches than inputs,
    weights that may go anywhere fit the patches and lose on other images. Cyclic coordinate descent over the
    columns, all rows at once; what a block of columns changes reaches the gradient of the others as one
    product of matrices.
    """
    stored = stored.copy()
    aim = target * scale
    lowest = np.minimum(np.clip(np.floor(aim), low, high), stored)
    highest = np.maximum(np.clip(np.ceil(aim), low, high), stored)
    diagonal = np.diag(second)
    gradient = (stored - aim) @ second  # half of it
    block = 128
    for _ in range(_SWEEPS):
        moved = 0
        for first in range(0, stored.shape[1], block):
            own = slice(first, min(first + block, stored.shape[1]))
            inside, local = second[own, own], gradient[:, own].copy()
            before = stored[:, own].copy()
            for column in range(inside.shape[0]):
                old = stored[:, first + column]
                step = local[:, column] / diagonal[first + column]
                place = np.clip(
                    np.floor(old - step + 0.5), lowest[:, first + column], highest[:, first + column]
                )
                # a move by d changes the error by d (2 gradient + d diagonal): nothing moves for a tie
                change = np.where((old - place) * (2 * step + place - old) > 1e-9, place - old, 0.0)
                if change.any():
                    moved += int(np.count_nonzero(change))
                    stored[:, first + column] += change
                    local[:, column:] += change[:, None] * inside[column, column:]
            gradient += (stored[:, own] - before) @ second[own]
        if not moved:
            break
    return stored


def _searched(
    stored: Reals,
    weight: Reals,
    q: NDArray[np.float32],
    outputs: NDArray[np.float32],
    scale: Reals,
    limits: tuple[int, int],
    techniques: Collection[Technique],
) -> Reals:
    """Better integers for the weights (rows, inputs) of one group.

    ``q``: patches of the quantized network, (count, inputs). ``outputs``: w x of the float one, (rows,
    count).
    """
    second = _second_moments(q)
    damping = _DAMPING * float(np.mean(np.diag(second)))
    if damping == 0:
        return stored  # the operand is zero everywhere
    second += damping * np.eye(len(second))
    aim = (outputs @ q).astype(np.float64) / len(q) + damping * weight
    factor = _inverse_factor(second)
    target: Reals = (aim @ factor.T) @ factor
    if "columns" in techniques:
        stored = _columns(target, second, scale, *limits)
    if "units" in techniques:
        stored = _units(stored, target, second, scale, *limits)
    return stored


def _offset_behind(network: IntGraph, step: Step) -> tuple[Step, Reals] | None:
    """The first offset added to the result of ``step``, channel by channel, and the factor before it."""
    factor: Reals = np.ones(1)
    name = step.name
    while len(network.readers[name]) == 1:
        (reader,) = network.readers[name]
        if reader.op == "offset":
            return reader, factor
        if reader.op == "scale":
            parameter = network.parameters[reader.parameters["factor"]]
            factor = factor * np.ldexp(parameter.data.ravel(), -np.array(parameter.format.fraction_lengths))
        elif reader.op != "cast":
            return None
        name = reader.name
    return None


def _corrected(parameter: IntParameter, change: Reals, symmetric: bool) -> IntParameter:
    """A per-channel parameter with ``change`` (real values) added, on its own grid, saturated."""
    fractions = np.array(parameter.format.fraction_lengths)
    moved = parameter.data.ravel() + np.floor(np.ldexp(change, fractions) + 0.5)
    stored = np.clip(moved, parameter.format.min + symmetric, parameter.format.max).astype(np.int64)
    return IntParameter(freeze(stored.reshape(parameter.data.shape)), parameter.format)


class Refiner:
    """Refines quantized networks of one float network, on the same calibration images.

    Args:
        graph: the float network.
        images: calibration images; labels are not used.
        operands: what each layer of the float network multiplies, of images.
        count: how many of them at most.
    """

    def __init__(self, graph: Graph, images: ImageSet, operands: Operands, count: int = IMAGES) -> None:
        self.graph, self.operands = graph, operands
        chosen = images.first(count)
        self.inputs = chosen.inputs(0, len(chosen))
        self.layers = {layer.name: layer for layer in graph.layers}
        self._known: dict[str, NDArray[np.float32]] = {}

    def _real(self, layer: str) -> NDArray[np.float32]:
        """What a layer of the float network multiplies; the next ones come with it, as _MEMORY holds."""
        if layer not in self._known:
            wanted = [product.name for product in self.graph.layers if product.family == "product"]
            names, size = [layer], 0
            for name in wanted[wanted.index(layer) + 1 :]:
                size += 4 * len(self.inputs) * math.prod(self.graph.shapes[self.layers[name].inputs[0]])
                if size > _MEMORY:
                    break
                names.append(name)
            self._known.clear()
            batches: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
            for i in range(0, len(self.inputs), _BATCH):
                multiplied = self.operands(self.inputs[i : i + _BATCH])
                for name, kept in batches.items():
                    kept.append(multiplied[name])
            self._known = {name: np.concatenate(kept) for name, kept in batches.items()}
        return self._known[layer]

    def _quantized(self, network: IntGraph, tensor: str) -> NDArray[np.float32]:
        """The same of the quantized network, in real values."""
        stored = [
            quantize_images(network, self.inputs[i : i + _BATCH]) for i in range(0, len(self.inputs), _BATCH)
        ]
        if tensor != network.input:
            engine = make_engine(part(network, network.input, [tensor]))
            stored = [engine.run(batch)[tensor] for batch in stored]
        fraction = network.tensors[tensor].format.fraction_lengths[0]
        return np.ldexp(np.concatenate(stored).astype(np.float32), np.int32(-fraction))

    def refine(
        self,
        network: IntGraph,
        weights: Mapping[str, Reals],
        techniques: Collection[Technique] = TECHNIQUES,
        symmetric: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> IntGraph:
        """Better weights and offsets for a quantized network.

        Args:
            network: of this float network; its formats are kept.
            weights: real-valued weights of each layer, as they were quantized (folded or not).
            techniques: ``columns`` and ``units`` search weights, ``offsets`` corrects means.
            symmetric: weights and offsets never take the most negative value (SAT_SYM).
            progress: called with layers done and layers in all.
        """
        self._random = np.random.default_rng(0)
        steps = [step for step in network.steps if step.family == "product"]
        seen: tuple[str, str] = ("", "")
        for number, step in enumerate(steps):
            layer = self.layers[network.tensors[step.name].layer]
            if seen != (step.inputs[0], layer.inputs[0]):  # else the same operand as the layer before
                seen = (step.inputs[0], layer.inputs[0])
                quantized, real = self._quantized(network, step.inputs[0]), self._real(layer.name)
                # What saturates is lost: a few values far beyond the format would outweigh all others.
                form = network.tensors[step.inputs[0]].format.channel(0)
                ends = np.ldexp([float(form.min), float(form.max)], -form.fraction_length)
                real = np.clip(real, *ends.astype(np.float32))
            network = self._layer(network, step, weights[layer.name], quantized, real, techniques, symmetric)
            if progress is not None:
                progress(number + 1, len(steps))
        verify(network)
        return network

    def _layer(
        self,
        network: IntGraph,
        step: Step,
        weight: Reals,
        quantized: NDArray[np.float32],
        real: NDArray[np.float32],
        techniques: Collection[Technique],
        symmetric: bool,
    ) -> IntGraph:
        key = step.parameters["weight"]
        parameter = network.parameters[key]
        behind = _offset_behind(network, step) if "offsets" in techniques else None
        flat = weight.reshape(len(weight), -1)
        scale = np.ldexp(1.0, np.array(parameter.format.fraction_lengths)).reshape(-1, 1)
        scale = np.broadcast_to(scale, (len(flat), 1)).astype(np.float64)
        even = _evening(real)
        q, x, factors = self._chosen_patches(step, weight.shape[2:], quantized * even, real * even, even)
        each = len(flat) // len(q)
        stored = parameter.data.reshape(len(flat), -1).astype(np.float64)
        errors = np.zeros(len(flat))
        for group in range(len(q)):
            rows = slice(group * each, (group + 1) * each)
            outputs = flat[rows].astype(np.float32) @ x[group].T
            if "columns" in techniques or "units" in techniques:
                limits = (parameter.format.min + symmetric, parameter.format.max)
                stored[rows] = _searched(
                    stored[rows], flat[rows], q[group], outputs, scale[rows], limits, techniques
                )
            if behind is not None:
                outputs -= (stored[rows] / scale[rows]).astype(np.float32) @ q[group].T
                errors[rows] = np.median(outputs / factors, 1)
        data = freeze(stored.astype(np.int64).reshape(parameter.data.shape))
        changed = {key: IntParameter(data, parameter.format)}
        if behind is not None:
            offset, factor = behind
            name = offset.parameters["value"]
            changed[name] = _corrected(network.parameters[name], errors * factor, symmetric)
        return with_parameters(network, changed)

    def _chosen_patches(
        self,
        step: Step,
        kernel: tuple[int, ...],
        quantized: NDArray[np.float32],
        real: NDArray[np.float32],
        even: NDArray[np.float32],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """The same random patches of both networks, each (groups, patches, inputs); the factor of each."""
        first = patches(quantized[:1], step.attributes, kernel).shape[1]
        share = min(first, max(1, _PATCHES // len(quantized)))
        chosen: tuple[list[NDArray[np.float32]], ...] = ([], [], [])
        for i in range(0, len(quantized), 8):
            batch = slice(i, i + 8)
            both = [patches(x[batch], step.attributes, kernel) for x in (quantized, real)]
            count = both[0].shape[1] * share // first
            places = np.sort(self._random.permutation(both[0].shape[1])[:count])
            factors = np.repeat(even[batch].ravel(), first)
            for kept, seen in zip(chosen, (*both, factors[None]), strict=True):
                kept.append(seen[:, places])
        q, x, own = (np.concatenate(kept, 1) for kept in chosen)
        return q, x, own[0]
