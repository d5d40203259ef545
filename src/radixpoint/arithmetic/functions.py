"""Functions of one number as tables: each entry is the exactly rounded value, on every machine.

An entry is computed in binary64 first, by whatever exp and tanh the machine has, as a short number (0, 1, x)
and a rest: sigmoid(20) is 1 - 2e-9. The rest's error is far smaller than ``_ERROR`` times the rest; where
rounding with the rest less that error and with the rest plus it gives one and the same integer, that is the
entry. The few others are computed again to 120 and then 1,000 bits (mpmath). What is less than 2**-650 away
from where rounding changes is taken to lie there, so that sigmoid(1000) is 1. So tables do not depend on the
machine, and nothing is asked of its libraries beyond ``_ERROR``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import lazy_loader
import numpy as np
from numpy.typing import NDArray

from radixpoint.arithmetic.cast import quantize
from radixpoint.arithmetic.formats import FixedFormat, Overflow, Rounding
from radixpoint.errors import FormatError

mpmath: Any = lazy_loader.load("mpmath")  # few networks need it, and it takes a while
Reals = NDArray[np.float64]
Parts = tuple[Reals, Reals] | tuple[Reals, Reals, Reals]

_ERROR = 2.0**-38
"""Relative error that none of these reaches in binary64: some ten thousand units in the last place. Most of
it is for the tail of gelu, where the rounding of erfc's argument counts 1,500 times."""
_PRECISIONS = (120, 1000)
_NOTHING = -650
"""Power of two below which a difference is none."""


@dataclass(frozen=True, slots=True)
class Function:
    """One function of one number.

    Attributes:
        name: what layers call it.
        numbers: names of its constants, which are binary64 numbers.
        fast: of an array and the constants, in binary64: a short number and the rest, and, where the rest
            is a difference, the magnitude that its error is relative to.
        exact: of one number and the constants, in mpmath's working precision.
        never_negative: whether its values are never negative.
    """

    name: str
    numbers: tuple[str, ...]
    fast: Callable[..., Parts]
    exact: Callable[..., Any]
    never_negative: bool = False


def _erf(x: Reals) -> Reals:
    return np.array([math.erf(v) for v in x.ravel().tolist()]).reshape(x.shape)


def _erfc(x: Reals) -> Reals:
    return np.array([math.erfc(v) for v in x.ravel().tolist()]).reshape(x.shape)


def _only(rest: Reals) -> Parts:
    return np.zeros_like(rest), rest


def _closed(x: Reals) -> Reals:
    """1 - sigmoid of the magnitude."""
    return np.asarray(1 / (1 + np.exp(np.abs(x))))


def _gated(x: Reals, off: Reals) -> Parts:
    """x times a gate that is open for large x; ``off``: how far from open at the magnitude of x."""
    return np.maximum(x, 0), -np.abs(x) * off


def _from_sign(x: Reals, near: Reals, off: Reals) -> Parts:
    """A function from -1 to 1: ``near`` 0 itself, else the sign less ``off``."""
    small = np.abs(x) < 0.5
    return np.where(small, 0, np.sign(x)), np.where(small, near, -np.sign(x) * off)


def _bent(x: Reals, low: float, slope: float) -> Parts:
    """x, and below 0 low * (e**(slope * x) - 1)."""
    below = np.minimum(x, 0) * slope
    far = below < -1
    short = np.where(x > 0, x, np.where(far, -low, 0))
    return short, np.where(x > 0, 0, low * np.where(far, np.exp(below), np.expm1(below)))


def _selu(x: Reals, alpha: float, gamma: float) -> Parts:
    return _only(gamma * np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0))))


def _mish(x: Reals) -> Parts:
    small = np.exp(-np.abs(x))  # with t = e**x: tanh(log(1 + t)) = (t*t + 2*t) / (t*t + 2*t + 2)
    below = x * (small * small + 2 * small) / (small * small + 2 * small + 2)
    above = -2 * x * small * small / (1 + 2 * small + 2 * small * small)
    return np.maximum(x, 0), np.where(x < 0, below, above)


def _hard_swish(x: Reals) -> Parts:
    return np.where(x >= 3, x, 0), np.where(np.abs(x) < 3, x * (x + 3) / 6, 0)


def _line(x: Reals, slope: float, offset: float) -> Parts:
    value, terms = slope * x + offset, np.abs(slope * x) + abs(offset)
    sure = np.abs(value - np.clip(value, 0, 1)) > terms * _ERROR
    inside = (value > 0) & (value <= 1)
    return np.where(value > 1, 1.0, 0.0), np.where(inside, value, 0), np.where(sure, 0, terms)


def _powers(x: Reals, scale: float, shift: float, exponent: float) -> Parts:
    base, terms = scale * x + shift, np.abs(scale * x) + abs(shift)
    lost = (terms > 4 * np.abs(base)) & (shift != 0)  # the base is a difference of much larger numbers
    result = np.power(np.where(base == 0, 1, np.abs(base)), exponent)
    result = np.where(base == 0, np.inf if exponent < 0 else float(exponent == 0), result)
    if not float(exponent).is_integer():
        lost &= base >= -terms * _ERROR
        result = np.where(base < 0, 0, result)
    elif int(exponent) % 2:
        result = np.copysign(result, np.where(base == 0, 1, base))
    return np.zeros_like(result), result, np.where(lost, np.inf, np.abs(result) * (4 + abs(exponent)))


def _exact_power(x: Any, scale: float, shift: float, exponent: float) -> Any:
    base = mpmath.mpf(scale) * x + mpmath.mpf(shift)
    if base == 0:
        return mpmath.inf if exponent < 0 else mpmath.mpf(exponent == 0)
    if float(exponent).is_integer():
        return mpmath.power(base, int(exponent))
    return mpmath.power(base, mpmath.mpf(exponent)) if base > 0 else mpmath.mpf(0)


def _exact_softplus(x: Any) -> Any:
    return mpmath.log1p(mpmath.exp(x)) if x < 0 else x + mpmath.log1p(mpmath.exp(-x))


def _exact_sigmoid(x: Any) -> Any:
    return 1 / (1 + mpmath.exp(-x)) if x >= 0 else mpmath.exp(x) / (1 + mpmath.exp(x))


def _limited(x: Any, low: float, high: float) -> Any:
    return min(max(x, low), high)


def _tanh_gelu_argument(x: Any) -> Any:
    """With the constant as frameworks have it: sqrt(2 / pi) rounded to binary64."""
    return 0.7978845608028654 * (x + 0.044715 * x * x * x)


FUNCTIONS: dict[str, Function] = {
    row.name: row
    for row in (
        Function("abs", (), lambda x: (np.abs(x), np.zeros_like(x)), abs, True),
        Function("celu", ("alpha",), lambda x, a: _bent(x, a, 1 / a),
                 lambda x, a: x if x > 0 else mpmath.mpf(a) * mpmath.expm1(x / mpmath.mpf(a))),
        Function("elu", ("alpha",), lambda x, a: _bent(x, a, 1.0),
                 lambda x, a: x if x > 0 else mpmath.mpf(a) * mpmath.expm1(x)),
        Function("erf", (), lambda x: _from_sign(x, _erf(x), _erfc(np.abs(x))), lambda x: mpmath.erf(x)),
        Function("exp", (), lambda x: _only(np.exp(x)), lambda x: mpmath.exp(x), True),
        Function("gelu", (), lambda x: _gated(x, _erfc(np.abs(x) * math.sqrt(0.5)) / 2),
                 lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2),
        Function("gelu_tanh", (), lambda x: _gated(x, _closed(2 * _tanh_gelu_argument(x))),
                 lambda x: x * _exact_sigmoid(2 * _tanh_gelu_argument(x))),
        Function("hard_sigmoid", ("alpha", "beta"), _line,
                 lambda x, a, b: _limited(mpmath.mpf(a) * x + mpmath.mpf(b), 0, 1), True),
        Function("hard_swish", (), _hard_swish, lambda x: x * _limited(x + 3, 0, 6) / 6),
        Function("log", (), lambda x: _only(np.where(x > 0, np.log(np.where(x > 0, x, 1)), -np.inf)),
                 lambda x: mpmath.log(x) if x > 0 else -mpmath.inf),
        Function("mish", (), _mish, lambda x: x * mpmath.tanh(_exact_softplus(x))),
        Function("power", ("scale", "shift", "exponent"), _powers, _exact_power),
        Function("reciprocal", (), lambda x: _powers(x, 1.0, 0.0, -1.0),
                 lambda x: _exact_power(x, 1.0, 0.0, -1.0)),
        Function("selu", ("alpha", "gamma"), _selu,
                 lambda x, a, g: mpmath.mpf(g) * (x if x > 0 else mpmath.mpf(a) * mpmath.expm1(x))),
        Function("sigmoid", (), lambda x: (np.where(x > 0, 1.0, 0.0), np.where(x > 0, -1, 1) * _closed(x)),
                 _exact_sigmoid, True),
        Function("silu", (), lambda x: _gated(x, _closed(x)), lambda x: x * _exact_sigmoid(x)),
        Function("softplus", (), lambda x: (np.maximum(x, 0), np.log1p(np.exp(-np.abs(x)))),
                 _exact_softplus, True),
        Function("softsign", (), lambda x: _only(x / (1 + np.abs(x))), lambda x: x / (1 + abs(x))),
        Function("sqrt", (), lambda x: _only(np.sqrt(np.maximum(x, 0))), lambda x: mpmath.sqrt(max(x, 0)),
                 True),
        Function("tanh", (), lambda x: _from_sign(x, np.tanh(x), 2 * _closed(2 * x)),
                 lambda x: mpmath.tanh(x)),
    )
}  # fmt: skip
"""By name. Where a value is not a number (the root of a negative one), it is 0; where it is infinite, the
format's end."""


@lru_cache(maxsize=256)
def tabulated(
    name: str,
    numbers: tuple[float, ...],
    source: FixedFormat,
    result: FixedFormat,
    rounding: Rounding,
    overflow: Overflow,
) -> NDArray[np.int64]:
    """A table of a function: one entry for every stored integer of a format, in ascending order.

    Args:
        name: a row of ``FUNCTIONS``.
        numbers: its constants.
        source: format of what is looked up.
        result: format of the entries.
        rounding: of an entry, once; any mode but STOCHASTIC.
        overflow: SAT or SAT_SYM.

    Returns:
        Stored integers, int64 (2**word length,), read-only.

    Raises:
        FormatError: a rounding that draws, or an overflow that wraps.
    """
    if rounding is Rounding.STOCHASTIC or overflow is Overflow.WRAP:
        raise FormatError(f"a table of {name}: {rounding}, {overflow}: expected no draws and no wrapping")
    row, stored = FUNCTIONS[name], np.arange(source.min, source.max + 1)
    x = np.ldexp(stored.astype(np.float64), -source.fraction_length)
    with np.errstate(all="ignore"):
        short, rest, *terms = row.fast(x, *numbers)
    largest = np.ldexp(4.0, result.word_length - result.fraction_length)
    # Where rounding changes, and every short number, is a multiple of four times this.
    grain = np.ldexp(0.25, -max(source.fraction_length, result.fraction_length + 1, 0))
    error = _ERROR * np.nan_to_num(terms[0] if terms else np.abs(rest), posinf=4 * largest / _ERROR)
    rest = np.clip(np.nan_to_num(rest, nan=0.0, posinf=largest, neginf=-largest), -largest, largest)
    size = np.abs(rest)
    doubtful = (size > 2.0 ** (_NOTHING - 2)) & (size < 2.0 ** (_NOTHING + 2))
    rest, error = (np.where(size < 2.0**_NOTHING, 0.0, part) for part in (rest, error))
    ends = []
    for end in (rest - error, rest + error):
        moved = np.where(end == 0, 0, np.copysign(np.maximum(np.abs(end), grain), end))
        ends.append(quantize(np.clip(short + moved, -largest, largest), result, rounding, overflow))
    table = ends[0].copy()
    for index in np.flatnonzero((ends[0] != ends[1]) | doubtful):
        table[index] = _exactly(row, numbers, int(stored[index]), source, result, rounding, overflow)
    table.flags.writeable = False
    return table


def _exactly(
    row: Function,
    numbers: tuple[float, ...],
    stored: int,
    source: FixedFormat,
    result: FixedFormat,
    rounding: Rounding,
    overflow: Overflow,
) -> int:
    place = Fraction(0)
    for precision in _PRECISIONS:
        with mpmath.workprec(precision):
            value = row.exact(mpmath.ldexp(mpmath.mpf(stored), -source.fraction_length), *numbers)
            if mpmath.isinf(value):
                return int(result.limits(overflow)[value > 0])
            # In half units, where every mode changes; beyond the format's ends a unit is as good as more.
            halves = mpmath.ldexp(value, result.fraction_length + 1)
            halves = min(max(halves, mpmath.mpf(4 * result.min - 4)), mpmath.mpf(4 * result.max + 4))
            near = mpmath.nint(halves)
            off = halves - near
            place = Fraction(int(near))
            nothing = mpmath.ldexp(1, _NOTHING + result.fraction_length + 1)
            if abs(off) > max((1 + abs(halves)) * mpmath.ldexp(1, 40 - precision), nothing):
                place += Fraction(1, 4) if off > 0 else Fraction(-1, 4)  # all on that side round alike
                break
    whole = FixedFormat(result.signed, result.word_length, 0)
    return int(quantize(np.array(float(place / 2)), whole, rounding, overflow))
