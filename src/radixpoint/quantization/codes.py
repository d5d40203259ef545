"""Representations that are not uniform: short floating point, logarithms, a codebook.

Each is a list of values that a code word stands for, and every value is an integer times one power of two. So
the arithmetic behind them stays that of stored integers, exactly: a weight is stored decoded, an operand
is looked up (step ``lookup``) from the wide result before it, with one rounding. What hardware does
instead is said at each; the integers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.formats import MAX_FRACTION, MAX_STORED
from radixpoint.errors import DesignError
from radixpoint.quantization.design import CODE_KINDS, Code, Design

OCTAVES = 14
"""Logarithms hold values down to 2**-OCTAVES of the largest; below is zero. More only widens accumulators."""
SQRT2 = (128, 181)
"""1 and sqrt(2) in units of 2**-7: 181/128 = 1.4140625."""
ENTRY_BITS = 16
"""Word length of the values in a codebook."""
_ROUNDS = 100


@dataclass(frozen=True, eq=False)
class Grid:
    """The values of a code, in stored integers.

    Attributes:
        values: int64, ascending.
        thresholds: float64, one less: from ``thresholds[i]`` on, ``values[i + 1]`` is nearer.
        reach: a larger magnitude than this saturates, in units of the stored integer.
    """

    values: NDArray[np.int64]
    thresholds: NDArray[np.float64]
    reach: float

    @property
    def signed(self) -> bool:
        return bool(self.values[0] < 0)

    @property
    def word_length(self) -> int:
        """Of the stored integers, decoded."""
        return int(self.values[-1]).bit_length() + self.signed

    def round(self, scaled: NDArray[np.float64]) -> NDArray[np.int64]:
        """Nearest values to reals in units of the stored integer; ties go up, too large ones saturate."""
        return np.asarray(self.values[np.searchsorted(self.thresholds, scaled, side="right")])

    def largest_fractions(self, low: NDArray[np.float64], high: NDArray[np.float64]) -> NDArray[np.int64]:
        """Most fraction bits at which low..high does not saturate; element by element."""
        magnitude = np.maximum(-low, high)
        seen = np.where(magnitude > 0, magnitude, 1.0)
        fraction = np.frexp(self.reach / seen)[1].astype(np.int64) - 1
        return np.clip(fraction, -MAX_FRACTION // 4, MAX_FRACTION // 4)


def mirrored(magnitudes: list[int], thresholds: list[float], reach: float, signed: bool) -> Grid:
    """A grid of magnitudes from 0 up, with or without a sign.

    Args:
        magnitudes: ascending, the first is 0.
        thresholds: one less; from each on, the next magnitude is nearer.
        reach: a larger magnitude than this saturates.
        signed: whether the negative values are there too.
    """
    values, limits = np.array(magnitudes, np.int64), np.array(thresholds, np.float64)
    if signed:
        values = np.concatenate([-values[:0:-1], values])
        limits = np.concatenate([-limits[::-1], limits])
    return Grid(values, limits, reach)


def _floating(code: Code, word_length: int, signed: bool) -> Grid:
    """Sign, ``exponent_bits``, significand; gradual underflow, no infinities, no NaN.

    The minifloat of Gysel et al., "Ristretto", 2018, which has no gradual underflow. Hardware multiplies
    significands and shifts by the exponents.
    """
    bits = word_length - signed
    fraction, exponents = bits - code.exponent_bits, (1 << code.exponent_bits) - 1
    if fraction < 0 or fraction + exponents + signed > MAX_STORED:
        raise DesignError(
            f"floating point of {word_length} bits, {code.exponent_bits} of them exponent: expected at most "
            f"{bits}, and values that fit {MAX_STORED} bits"
        )
    steps = 1 << fraction
    normal = [(steps + f) << e for e in range(exponents) for f in range(steps)]
    magnitudes = [*range(steps), *normal]
    middles = [(a + b) / 2 for a, b in pairwise(magnitudes)]
    return mirrored(magnitudes, middles, math.nextafter(2 * magnitudes[-1] - middles[-1], 0), signed)


def _logarithm(steps: int) -> GridMaker:
    """Sign and logarithm, ``steps`` to the octave, rounded in the logarithm; one code word is zero.

    Miyashita et al., "Convolutional Neural Networks using Logarithmic Data Representation", 2016, equation 3.
    Hardware adds exponents and shifts; for base sqrt 2 it keeps a sum for each number of odd exponents in a
    product, 0, 1 or 2, and multiplies by that power of 181/128 at the end.
    """

    def make(code: Code, word_length: int, signed: bool) -> Grid:
        levels = min((1 << (word_length - signed)) - 1, OCTAVES * steps + 1)
        magnitudes = [SQRT2[i % 2] << i // 2 if steps == 2 else 1 << i for i in range(levels)]
        half = 2 ** (0.5 / steps)
        between = [math.sqrt(a * b) for a, b in pairwise(magnitudes)]
        reach = math.nextafter(magnitudes[-1] * half, 0)
        return mirrored([0, *magnitudes], [magnitudes[0] / half, *between], reach, signed)

    return make


GridMaker = Callable[[Code, int, bool], Grid]
"""From a code, its word length (sign included) and whether it has a sign, to its values."""
CODES: dict[str, GridMaker] = {"float": _floating, "log2": _logarithm(1), "log_sqrt2": _logarithm(2)}
"""By kind. A codebook is none of them: its values depend on the weights."""


def add_code(kind: str, make: GridMaker) -> None:
    """Make a code known: designs may name it.

    Raises:
        DesignError: there is one of that name.
    """
    if kind in CODE_KINDS:
        raise DesignError(f"code {kind!r}: expected a name that no code has yet")
    CODES[kind] = make
    CODE_KINDS.add(kind)


@lru_cache(maxsize=256)
def grid(code: Code, word_length: int, signed: bool) -> Grid:
    """The values of a code of ``word_length`` bits, its sign included.

    Raises:
        DesignError: no such code: too few bits, or values beyond 32 bits.
    """
    if code.kind == "codebook":
        raise ValueError("the values of a codebook depend on the weights")
    return CODES[code.kind](code, word_length, signed)


def weight_grid(design: Design, layer: str, layer_class: str) -> Grid | None:
    """The grid of a layer's weights; None if they are fixed-point (the values of a codebook are)."""
    code = design.codes.weights
    if code is None or code.kind == "codebook":
        return None
    return grid(code, design.width(layer, layer_class, "weights"), True)


def operand_grid(design: Design, layer: str, layer_class: str, signed: bool) -> Grid | None:
    """The grid of the activations that a layer multiplies; None if they are fixed-point."""
    code = design.codes.activations
    return None if code is None else grid(code, design.width(layer, layer_class, "activations"), signed)


def codebook(values: NDArray[np.float64], entries: int) -> NDArray[np.float64]:
    """Values replaced by the means of ``entries`` clusters: k-means, from evenly spaced starts.

    Han et al., "Deep Compression", 2016, section 3 (linear initialization). A value halfway between two means
    goes to the lower; a cluster that runs empty keeps its mean.
    """
    flat = np.sort(values.ravel())
    total = np.concatenate([[0.0], np.cumsum(flat)])
    means = np.linspace(flat[0], flat[-1], entries)
    for _ in range(_ROUNDS):
        ends = np.searchsorted(flat, (means[1:] + means[:-1]) / 2, side="right")
        ends = np.concatenate([[0], ends, [len(flat)]])
        counts = np.diff(ends)
        moved = np.where(counts > 0, np.diff(total[ends]) / np.maximum(counts, 1), means)
        if np.array_equal(moved, means):
            break
        means = moved
    nearest = np.searchsorted((means[1:] + means[:-1]) / 2, values, side="left")
    return np.asarray(means[nearest])
