"""Word lengths layer by layer: what each costs in accuracy, measured once, and the cheapest that may be lost.

The loss of a network is how far its class probabilities on calibration images (no labels) are from those of
float (``radixpoint.quantization.quantize.divergence``). Errors of different layers are nearly
independent, so their squares add: the loss of a design is about the sum of the losses of its layers, each
measured with all others at the longest word length. What that sum predicts is only ever used to propose
designs; each is judged on images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from numpy.typing import NDArray

from radixpoint.accelerator.cost import bit_operations, product_energy
from radixpoint.accelerator.synthesis import multiplier_area
from radixpoint.arithmetic.elementary import exp, log2
from radixpoint.arithmetic.formats import MAX_STORED, FixedFormat, dot_format
from radixpoint.errors import DesignError
from radixpoint.ir.graph import Graph
from radixpoint.quantization.design import Codes, Design, Widths
from radixpoint.quantization.quantize import LONG, Quantizer, at_length, between
from radixpoint.quantization.sites import never_negative, widths

Objective = Literal["multipliers", "bops", "energy", "gates", "luts", "memory"]
Pair = tuple[int, int]
"""Word lengths of a layer's weights and of the activations that it multiplies."""
Allocation = Mapping[str, Pair]
"""By layer."""
Reals = NDArray[np.float64]


@dataclass(frozen=True)
class Products:
    """What word lengths cost in one layer: multiplications an image, terms of a sum, weights stored.

    ``unsigned``: its activations have no sign bit.
    """

    macs: int
    terms: int
    weights: int
    unsigned: bool = False

    def cost(self, pair: Pair, objective: Objective) -> float:
        """Of one image.

        ``multipliers``: partial-product bits. ``bops``: with the additions (see
        ``radixpoint.accelerator.cost.Cost``). ``energy``: pJ of multiplications and additions, in the
        accumulator that operands of any value need. ``gates``, ``luts``: area of a multiplier with its
        accumulator, in gate equivalents or look-up tables without DSPs, for each of the multiplications: a
        layer with multipliers of its own needs as many as its share of the products, to keep pace with the
        others. An unsigned activation takes a bit more of a multiplier of signed numbers. ``memory``: bits
        of weights.

        Raises:
            ExportError: synthesis is needed, and there is no Yosys.
        """
        w, x = pair
        match objective:
            case "multipliers":
                return self.macs * w * x
            case "bops":
                return self.macs * bit_operations(x, w, self.terms)
            case "energy":
                sums = dot_format(FixedFormat(True, w, 0), FixedFormat(True, x, 0), self.terms)
                return self.macs * product_energy(x, w, sums.word_length)
            case "gates" | "luts":
                return self.macs * multiplier_area(x + self.unsigned, w, objective)
            case "memory":
                return self.weights * w


class Constraints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an allocation must keep to.

    Attributes:
        fixed: word length of both operands of single layers, by name; it need not be one of the candidates.
        memory: bits of all parameters together, at most: weights, biases, batch normalization's.
        one_width: all layers that are not fixed share one word length for weights and activations.
        equal: weights and activations of a layer have one word length.
        weights, activations: word lengths that the hardware has; not there if every one.
    """

    fixed: dict[str, int] = {}
    memory: int | None = None
    one_width: bool = False
    equal: bool = False
    weights: list[int] | UnsetType = UNSET
    activations: list[int] | UnsetType = UNSET

    def allows(self, pair: Pair) -> bool:
        """Whether a layer may have these word lengths of weights and activations."""
        hardware = zip(pair, (self.weights, self.activations), strict=True)
        if not all(lengths is UNSET or bits in lengths for bits, lengths in hardware):
            return False
        return pair[0] == pair[1] or not (self.equal or self.one_width)


def product_layers(graph: Graph, unsigned: bool = False) -> dict[str, Products]:
    """Every convolution and fully connected layer, in execution order.

    ``unsigned`` as in ``radixpoint.quantization.design.Design``.
    """
    found = {}
    without_sign = never_negative(graph) if unsigned else frozenset()
    for layer in graph.layers:
        if layer.family == "product":
            weight = graph.parameter(layer, "weight")
            terms = math.prod(weight.shape[1:])
            macs = math.prod(graph.shapes[layer.name]) * terms
            found[layer.name] = Products(macs, terms, weight.size, layer.inputs[0] in without_sign)
    return found


def allocated(design: Design, allocation: Allocation, graph: Graph) -> Design:
    """The design with these word lengths in single layers; an image has that of the widest that reads it."""
    own = {name: Widths(weights=w, activations=x) for name, (w, x) in allocation.items()}
    result = replace(design, layers={**design.layers, **own})
    readers = [layer for layer in graph.consumers(graph.input) if layer.family == "product"]
    if design.codes.activations is None and any(layer.name in allocation for layer in readers):
        widest = max(result.width(layer.name, layer.op, "activations") for layer in readers)
        result = replace(result, layers={**result.layers, graph.input: Widths(activations=widest)})
    return result


def other_parameters(graph: Graph, design: Design) -> int:
    """Bits of all stored parameters but the weights of ``product_layers``."""
    return sum(width.bits * width.numbers for width in widths(graph, design) if width.kind == "parameters")


class Averages(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bits of a weight, of a product's operand, and of a square multiplier of the same cost."""

    weight: float
    operand: float
    multiplier: float


def averages(layers: Mapping[str, Products], allocation: Allocation) -> Averages:
    """Of an allocation of all layers."""
    weights, macs = (sum(getattr(p, name) for p in layers.values()) for name in ("weights", "macs"))
    return Averages(
        weight=sum(layers[n].weights * w for n, (w, _) in allocation.items()) / weights,
        operand=sum(layers[n].macs * (w + x) for n, (w, x) in allocation.items()) / (2 * macs),
        multiplier=math.sqrt(sum(layers[n].macs * w * x for n, (w, x) in allocation.items()) / macs),
    )


class Losses:
    """The loss of allocations of one network, with long words between what is multiplied.

    Args:
        quantizer: of the network.
        design: everything but the word lengths of convolutions.
        lengths: candidates, ascending.

    Raises:
        DesignError: layers that share binary points, or operands that are coded.
    """

    def __init__(self, quantizer: Quantizer, design: Design, lengths: Sequence[int]) -> None:
        check_by_layer(design)
        self.quantizer, self.lengths = quantizer, tuple(lengths)
        self.layers = product_layers(quantizer.graph)
        self.design = between(at_length(design, lengths[-1]), lambda bits: LONG)

    def loss(self, allocation: Allocation) -> float:
        """With the layers that are not named at the longest word length."""
        design = allocated(self.design, allocation, self.quantizer.graph)
        return self.quantizer.loss(design, self.quantizer.formats(design))

    def measure(
        self, progress: Callable[[int, int], None] | None = None, only: Mapping[str, int] | None = None
    ) -> Sensitivity:
        """The loss of each layer at each word length, above that at the longest; each operand apart.

        Args:
            progress: called with losses measured and losses to measure.
            only: single layers, each at one word length of its own.
        """
        longest = self.lengths[-1]
        wanted = dict.fromkeys(self.layers, self.lengths)
        if only is not None:
            wanted = {name: (w,) for name, w in only.items()}
        base = self.loss({})
        todo = [(n, kind, w) for n, own in wanted.items() for kind in (0, 1) for w in own if w != longest]
        found: dict[tuple[str, int, int], float] = {}
        for number, (name, kind, w) in enumerate(todo):
            pair = (w, longest) if kind == 0 else (longest, w)
            found[name, kind, w] = max(self.loss({name: pair}) - base, 0.0)
            if progress is not None:
                progress(number + 1, len(todo))

        def table(kind: int) -> dict[str, dict[int, float]]:
            return {name: {w: found.get((name, kind, w), 0.0) for w in own} for name, own in wanted.items()}

        return Sensitivity(base, table(0), table(1))


class Sensitivity(msgspec.Struct, frozen=True):
    """Losses by layer and word length, above ``base``, the loss with every layer at the longest."""

    base: float
    weights: dict[str, dict[int, float]]
    activations: dict[str, dict[int, float]]

    def joined(self, other: Sensitivity) -> Sensitivity:
        """With the word lengths that ``other`` has measured in addition, of the same network."""

        def both(a: dict[str, dict[int, float]], b: dict[str, dict[int, float]]) -> Any:
            return {name: {**own, **b.get(name, {})} for name, own in a.items()}

        return Sensitivity(
            self.base, both(self.weights, other.weights), both(self.activations, other.activations)
        )

    def loss(self, allocation: Allocation) -> float:
        """Predicted: the sum."""
        return self.base + sum(
            self.weights[name][w] + self.activations[name][x] for name, (w, x) in allocation.items()
        )


def check_constraints(
    layers: Mapping[str, Products], lengths: Sequence[int], constraints: Constraints, others: int = 0
) -> None:
    """See that some allocation meets the constraints. ``others``: bits of ``other_parameters``.

    Raises:
        DesignError: a fixed layer that the network does not have, an impossible word length, a memory that
            the shortest do not fit.
    """
    for name, w in constraints.fixed.items():
        if name not in layers or not 2 <= w <= MAX_STORED:
            raise DesignError(
                f"layer {name!r} fixed at {w} bits: expected a convolution or fully connected layer, and 2 "
                f"to {MAX_STORED} bits"
            )
    allowed = [pair[0] for pair in product(lengths, lengths) if constraints.allows(pair)]
    if not allowed:
        raise DesignError(
            f"word lengths {list(lengths)} of weights and activations: expected some that the target has "
            f"({constraints.weights} x {constraints.activations})"
            + (", both the same" if constraints.equal or constraints.one_width else "")
        )
    least = sum(own.weights * constraints.fixed.get(name, min(allowed)) for name, own in layers.items())
    if constraints.memory is not None and constraints.memory < least + others:
        raise DesignError(
            f"{constraints.memory} bits for all parameters: expected at least {least + others}, which the "
            f"shortest of the word lengths {list(lengths)} take, with {others} of biases and batch "
            "normalization"
        )


def check_by_layer(design: Design) -> None:
    """See that single layers can have word lengths of their own.

    Raises:
        DesignError: layers share binary points, or operands are coded.
    """
    if design.binary_point.scope in ("network", "class") or design.codes != Codes():
        raise DesignError(
            f"word lengths by layer with scope {design.binary_point.scope} and codes {design.codes}: "
            "expected scope tensor or channel, where each layer has its own binary points, and operands that "
            "are fixed-point"
        )


class _Choice:
    """The integer program: one binary variable for each layer and pair of word lengths."""

    def __init__(
        self, sensitivity: Sensitivity, layers: Mapping[str, Products], constraints: Constraints, others: int
    ) -> None:
        lengths = sorted(set.intersection(*(set(own) for own in sensitivity.weights.values())))
        check_constraints(layers, lengths, constraints, others)
        self.layers, self.constraints, self.base = layers, constraints, sensitivity.base
        self.memory = None if constraints.memory is None else constraints.memory - others
        free = [pair for pair in product(lengths, lengths) if constraints.allows(pair)]
        pairs = {n: [(constraints.fixed[n],) * 2] if n in constraints.fixed else free for n in layers}
        self.keys = [(name, pair) for name in layers for pair in pairs[name]]
        self.losses = np.array(
            [sensitivity.weights[n][w] + sensitivity.activations[n][x] for n, (w, x) in self.keys]
        )
        self.stored = np.array([layers[name].weights * pair[0] for name, pair in self.keys], float)

    def costs(self, objective: Objective) -> Reals:
        return np.array([self.layers[name].cost(pair, objective) for name, pair in self.keys])

    def solve(self, costs: Reals, budget: float) -> Allocation | None:
        """Least sum of ``costs`` at a predicted loss of at most ``budget``."""
        memory = self.memory
        while True:
            found = self._solve(costs, budget, memory)
            if found is None or memory is None or self.memory is None:
                return found
            taken = sum(self.layers[name].weights * w for name, (w, _) in found.items())
            if taken <= self.memory:
                return found
            memory -= taken - self.memory  # the solver's tolerance let some bits through

    def _solve(self, costs: Reals, budget: float, memory: int | None) -> Allocation | None:
        room = budget - self.base
        places = {name: [i for i, key in enumerate(self.keys) if key[0] == name] for name in self.layers}
        rows, low, high = [], [], []

        def require(row: dict[int, float], least: float, most: float) -> None:
            rows.append(row)
            low.append(least)
            high.append(most)

        for own in places.values():
            require(dict.fromkeys(own, 1.0), 1, 1)
        # in shares of what there is, which keeps the solver's tolerances meaningful
        require({i: x / max(room, 1e-12) for i, x in enumerate(self.losses) if x <= room}, -math.inf, 1)
        if memory is not None:
            require(dict(enumerate(self.stored / memory)), -math.inf, 1)
        if self.constraints.one_width:
            free = [name for name in self.layers if name not in self.constraints.fixed]
            for name in free[1:]:
                for i, j in zip(places[name], places[free[0]], strict=True):
                    require({i: 1.0, j: -1.0}, 0, 0)
        objective = costs / (costs.max() or 1.0)
        upper = np.where(self.losses <= room, 1.0, 0.0)
        chosen = _binary_program(objective, upper, rows, np.array(low), np.array(high))
        if chosen is None:
            return None
        return {name: pair for (name, pair), taken in zip(self.keys, chosen, strict=True) if taken}


def _binary_program(
    costs: Reals, upper: Reals, rows: Sequence[Mapping[int, float]], low: Reals, high: Reals
) -> list[bool] | None:
    """Least ``costs @ x`` for x of 0 and ``upper`` (0 or 1), with every row of the matrix between its limits.

    Returns:
        Which are 1; None if there is no such x.

    Raises:
        DesignError: the solver could not prove an optimum.
    """
    import highspy

    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(costs), len(rows)
    program.col_cost_, program.col_lower_, program.col_upper_ = costs, np.zeros(len(costs)), upper
    program.row_lower_, program.row_upper_ = low, high
    program.integrality_ = [highspy.HighsVarType.kInteger] * len(costs)
    matrix = program.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kRowwise
    matrix.start_ = np.cumsum([0, *map(len, rows)])
    matrix.index_ = np.array([i for row in rows for i in sorted(row)])
    matrix.value_ = np.array([row[i] for row in rows for i in sorted(row)], np.float64)
    # the class below highspy.Highs, whose constructor prints a banner to standard output
    solver = highspy.Highs.__base__()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("parallel", "off")  # the same answer, however many cores there are
    solver.passModel(program)
    solver.run()
    status = solver.getModelStatus()
    if status == highspy.HighsModelStatus.kInfeasible:
        return None
    if status != highspy.HighsModelStatus.kOptimal:
        raise DesignError(f"allocation: the solver gave up: {solver.modelStatusToString(status)}")
    return [x > 0.5 for x in solver.getSolution().col_value]


def allocate(
    sensitivity: Sensitivity,
    layers: Mapping[str, Products],
    budget: float,
    objective: Objective = "multipliers",
    constraints: Constraints | None = None,
    others: int = 0,
) -> Allocation | None:
    """The cheapest word lengths whose predicted loss is at most ``budget``: an integer program.

    The solution is proven optimal by HiGHS, up to its tolerances. ``others``: bits of
    ``other_parameters``, which count for the memory.

    Returns:
        The word lengths, or None if none stays within the budget.

    Raises:
        DesignError: constraints that nothing meets; the solver could not prove an optimum.
    """
    program = _Choice(sensitivity, layers, constraints or Constraints(), others)
    return program.solve(program.costs(objective), budget)


def frontier(
    sensitivity: Sensitivity,
    layers: Mapping[str, Products],
    points: int,
    objective: Objective = "multipliers",
    constraints: Constraints | None = None,
    others: int = 0,
) -> list[Allocation]:
    """Cheapest allocations for ``points`` losses in geometric steps.

    The first loss is the smallest that the constraints allow, the last that of the cheapest allocation, or
    one bit: nothing is left of a network beyond. ``others`` as in ``allocate``.

    Returns:
        Different allocations; ascending loss, descending cost.

    Raises:
        DesignError: nothing meets the constraints.
    """
    program = _Choice(sensitivity, layers, constraints or Constraints(), others)
    costs = program.costs(objective)
    safest, cheapest = program.solve(program.losses, math.inf), program.solve(costs, math.inf)
    if safest is None or cheapest is None:
        raise DesignError("no allocation of word lengths meets the constraints")
    begin, end = sensitivity.loss(safest), sensitivity.loss(cheapest)
    end = max(begin, min(end, 1.0))
    # steps start where losses tell designs apart, even if the longest word lengths lose next to nothing
    second = max(begin * 1.25, end * 1e-4)
    budgets = [begin]
    if second > 0:
        ends = np.array([second, max(second, end)])
        lowest, highest = log2(ends)
        steps = lowest + (highest - lowest) * np.arange(points - 1) / max(points - 2, 1)
        budgets += exp(steps * math.log(2)).tolist()
    found: list[Allocation] = []
    for budget in budgets:
        allocation = program.solve(costs, budget * (1 + 1e-9))
        if allocation is not None and (not found or dict(allocation) != dict(found[-1])):
            found.append(allocation)
    return found or [safest]


def greedy(losses: Losses, progress: Callable[[int, int], None] | None = None) -> list[Allocation]:
    """One bit off one layer after the other, always where the network loses least.

    Judd et al., "Reduced-Precision Strategies for Bounded Memory in Deep Neural Nets", 2015, section 3.2,
    with the loss in place of the accuracy and both operands of a layer at one word length. A layer is
    measured again only when its last measurement makes it the next: losses hardly fall when others lose
    bits as well.

    Returns:
        Every allocation on the way, the longest first.
    """
    lengths = losses.lengths
    place = dict.fromkeys(losses.layers, len(lengths) - 1)
    path: list[Allocation] = [{name: (lengths[-1],) * 2 for name in losses.layers}]
    total = len(place) * (len(lengths) - 1)

    def shorter(name: str) -> Allocation:
        return {**path[-1], name: (lengths[place[name] - 1],) * 2}

    known = {
        name: (losses.loss(shorter(name)), 0) for name in place
    }  # loss, length of the path when measured
    while known:
        name = min(known, key=lambda n: known[n][0])
        if known[name][1] != len(path) - 1:
            known[name] = (losses.loss(shorter(name)), len(path) - 1)
            continue
        path.append(shorter(name))
        place[name] -= 1
        if place[name]:
            known[name] = (losses.loss(shorter(name)), len(path) - 1)
        else:
            del known[name]
        if progress is not None:
            progress(len(path) - 1, total)
    return path
