"""exp and log2 that give the same bits on every machine.

Those of NumPy and of C libraries have kernels for each processor, which differ in the last bit. Here are only
additions, multiplications, divisions and scalings by powers of two, each of which IEEE 754 rounds alike
everywhere. Errors stay below 4 units in the last place.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Reals = NDArray[np.float64]

_LN2_HIGH, _LN2_LOW = 0.693147180369123816490, 1.90821492927058770002e-10
"""ln 2 in two parts, the first with zeros in its last bits (fdlibm, ``e_exp.c``)."""
_INVERSE_LN2 = 1.44269504088896338700
_EXP_TERMS = [1 / math.factorial(n) for n in range(14)]
_LOG_TERMS = [1 / n for n in range(1, 24, 2)]
_SMALLEST = -745.2
"""exp of less is 0."""


def _polynomial(x: Reals, terms: list[float]) -> Reals:
    result = np.full_like(x, terms[-1])
    for term in reversed(terms[:-1]):
        result = result * x + term
    return result


def exp(x: Reals) -> Reals:
    """e**x, elementwise, for x up to 709."""
    x = np.maximum(np.asarray(x, np.float64), _SMALLEST)
    k = np.rint(x * _INVERSE_LN2)
    rest = (x - k * _LN2_HIGH) - k * _LN2_LOW
    return np.asarray(np.ldexp(_polynomial(rest, _EXP_TERMS), k.astype(np.int64)))


def log2(x: Reals) -> Reals:
    """Logarithm to base 2, elementwise, of positive numbers."""
    significand, exponent = np.frexp(np.asarray(x, np.float64))
    low = significand < math.sqrt(0.5)
    significand = np.where(low, 2 * significand, significand)
    s = (significand - 1) / (significand + 1)
    natural = 2 * s * _polynomial(s * s, _LOG_TERMS)
    return np.asarray(natural * _INVERSE_LN2 + (exponent - low))
