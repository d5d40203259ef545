"""``docs/arithmetic.md``, executable: quantize (real to fixed) and cast (fixed to fixed).

Everything here is exact integer arithmetic on int64 arrays; floating point appears only as input,
where it is taken apart into its integer significand and exponent first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from radixpoint.arithmetic.formats import FixedFormat, Overflow, Rounding
from radixpoint.errors import FormatError

Int64Array = NDArray[np.int64]
UInt64Array = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(z: UInt64Array) -> UInt64Array:
    """The output function of SplitMix64 (Steele, Lea, Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def random_draws(seed: int, stream: int, shape: tuple[int, ...]) -> UInt64Array:
    """The 64-bit draws of stochastic rounding for one tensor (arithmetic.md, section 4).

    Args:
        seed: the design's seed, 0..2**64-1.
        stream: number of the conversion within the network.
        shape: the tensor's shape without the batch axis; element i in C order has counter i.
    """
    index = np.arange(np.prod(shape, dtype=np.int64), dtype=np.uint64)
    with np.errstate(over="ignore"):
        key = _mix(np.array([seed], np.uint64) + np.uint64(stream + 1) * _GOLDEN)
        return _mix(key + (index + np.uint64(1)) * _GOLDEN).reshape(shape)


def shift_right(
    x: Int64Array, shift: ArrayLike, rounding: Rounding, draws: UInt64Array | None = None
) -> Int64Array:
    """Round x * 2**-shift to an integer; exact for every int64 and every shift >= 0.

    Args:
        x: int64, any shape.
        shift: non-negative integers, broadcastable to ``x``.
        rounding: the mode.
        draws: uint64, broadcastable to ``x``; needed by STOCHASTIC only.
    """
    values, places = np.broadcast_arrays(np.asarray(x, np.int64), np.asarray(shift, np.int64))
    if np.any(places < 0):
        raise ValueError(f"shift {int(places.min())}: expected none below 0")
    if rounding is Rounding.STOCHASTIC:
        if draws is None:
            raise ValueError("STOCHASTIC rounding needs draws")
        return _shift_right_stochastic(values, places, np.broadcast_to(draws, values.shape))
    return _shift_right(values, places, rounding)


def _shift_right(x: Int64Array, shift: Int64Array, rounding: Rounding) -> Int64Array:
    # Beyond 62 places every value lies strictly within (-1/2, 1/2] units, save -2**63 / 2**64. Shifting
    # a place at a time while OR-ing what falls out into the last bit ("sticky") keeps every comparison
    # with 0 and with one half that a rounding mode makes.
    excess = np.maximum(shift - 62, 0)
    for _ in range(2):
        x = np.where(excess > 0, (x >> 1) | (x & 1), x)
        excess = np.maximum(excess - 1, 0)
    x = np.where(excess > 0, np.sign(x), x)
    shift = np.minimum(shift, 62)

    floor = x >> shift
    rest = x - (floor << shift)  # 0 <= rest < 2**shift
    half = np.where(shift > 0, np.int64(1) << np.maximum(shift - 1, 0), np.int64(1))
    tie, above = rest == half, rest > half
    match rounding:
        case Rounding.TRN:
            return floor
        case Rounding.TRN_ZERO:
            up = (x < 0) & (rest > 0)
        case Rounding.RND:
            up = above | tie
        case Rounding.RND_MIN_INF:
            up = above
        case Rounding.RND_INF:
            up = above | (tie & (x > 0))
        case Rounding.RND_ZERO:
            up = above | (tie & (x < 0))
        case _:  # RND_CONV
            up = above | (tie & ((floor & 1) == 1))
    return np.asarray(floor + up, np.int64)


def _shift_right_stochastic(x: Int64Array, shift: Int64Array, draws: UInt64Array) -> Int64Array:
    """Up if and only if draw / 2**64 < the discarded fraction, compared exactly."""
    near = np.minimum(shift, 63)
    floor = x >> near
    rest = (x - (floor << near)).view(np.uint64)
    lead = np.clip(64 - shift, 0, 63).astype(np.uint64)  # shift <= 63: compare the draw's top bits
    up = np.where(shift > 0, (draws >> lead) < rest, False)
    # shift >= 64: the floor is 0 or -1, the fraction (x mod 2**shift) / 2**shift; its first 64 bits, up.
    far = shift >= 64
    if np.any(far):
        places = np.clip(shift - 64, 0, 63)
        with np.errstate(over="ignore"):
            lost = x & ((np.int64(1) << places) - 1)
        top = (x >> places) + (lost != 0)
        beyond = shift > 64 + 63  # only the sign is left
        top = np.where(beyond, (x > 0).astype(np.int64), top)
        wraps = (x < 0) & (top == 0)  # the fraction rounds up to one whole: always up
        up = np.where(far, (draws < top.view(np.uint64)) | wraps, up)
    return floor + up


def limit(x: Int64Array, to: FixedFormat, overflow: Overflow) -> Int64Array:
    """Bring integers (int64) into the range of ``to`` by its overflow mode."""
    if overflow is Overflow.WRAP:
        if to.word_length == 64:
            return x
        bits = np.int64((1 << to.word_length) - 1)
        x = x & bits
        return np.where(x > to.max, x - (np.int64(1) << to.word_length), x) if to.signed else x
    low, high = to.limits(overflow)
    return np.clip(x, low, min(high, (1 << 63) - 1))


def cast(
    x: ArrayLike,
    fraction_length: ArrayLike,
    to: FixedFormat,
    rounding: Rounding = Rounding.RND,
    overflow: Overflow = Overflow.SAT,
    draws: UInt64Array | None = None,
    to_fraction_length: ArrayLike | None = None,
) -> Int64Array:
    """Requantize: stored integers at one fraction length to another format, with one rounding.

    Args:
        x: stored integers, int64, any shape.
        fraction_length: theirs; an integer or an array broadcastable to ``x``.
        to: the result's format.
        rounding, overflow: how values that ``to`` does not hold become ones that it holds.
        draws: for STOCHASTIC, see ``random_draws``.
        to_fraction_length: replaces ``to.fraction_length`` where it differs from channel to channel.

    Returns:
        int64 array of the broadcast shape, within ``to.min .. to.max``.
    """
    _check_target(to)
    target = to.fraction_length if to_fraction_length is None else to_fraction_length
    x, shift = np.broadcast_arrays(
        np.asarray(x, np.int64), np.asarray(fraction_length, np.int64) - np.asarray(target, np.int64)
    )
    narrowed = shift_right(x, np.maximum(shift, 0), rounding, draws)
    return limit(_shift_left(narrowed, np.maximum(-shift, 0), overflow), to, overflow)


def quantize(
    x: ArrayLike,
    to: FixedFormat,
    rounding: Rounding = Rounding.RND,
    overflow: Overflow = Overflow.SAT,
    draws: UInt64Array | None = None,
    to_fraction_length: ArrayLike | None = None,
) -> Int64Array:
    """Real values to stored integers of ``to``, with one rounding of the exact value of each float.

    Args:
        x: floats of any width up to binary64, any shape.
        to, rounding, overflow, draws, to_fraction_length: as for ``cast``.

    Returns:
        int64 array of the shape of ``x``, within ``to.min .. to.max``.

    Raises:
        FormatError: a value is NaN or infinite.
    """
    _check_target(to)
    values = np.asarray(x, np.float64)
    if not np.all(np.isfinite(values)):
        raise FormatError("cannot quantize NaN or an infinite value")
    significand, exponent = np.frexp(values)
    integer = np.ldexp(significand, 53).astype(np.int64)  # exact: value = integer * 2**(exponent - 53)
    target = to.fraction_length if to_fraction_length is None else to_fraction_length
    shift = 53 - exponent.astype(np.int64) - np.asarray(target, np.int64)
    integer, shift = np.broadcast_arrays(integer, shift)
    narrowed = shift_right(integer, np.maximum(shift, 0), rounding, draws)
    return limit(_shift_left(narrowed, np.maximum(-shift, 0), overflow), to, overflow)


def dequantize(x: ArrayLike, fraction_length: ArrayLike) -> NDArray[np.float64]:
    """Stored integers (magnitude at most 2**53) to the real values they stand for, exactly."""
    return np.asarray(np.ldexp(np.asarray(x, np.float64), -np.asarray(fraction_length)), np.float64)


def divide(
    x: ArrayLike,
    divisor: ArrayLike,
    shift: int,
    to: FixedFormat,
    rounding: Rounding = Rounding.RND,
    overflow: Overflow = Overflow.SAT,
) -> Int64Array:
    """Round x / (divisor * 2**shift) once, exactly; the division of an average pooling.

    Args:
        x: int64, any shape, magnitude below 2**62 after a left shift by ``-shift``.
        divisor: positive integers below 2**31, broadcastable to ``x``.
        shift: places, in -31..31; negative shifts left.
        rounding: any mode but STOCHASTIC, whose fractions are binary.
    """
    _check_target(to)
    if rounding is Rounding.STOCHASTIC:
        raise ValueError("an exactly rounded division has no STOCHASTIC mode")
    numerator = np.asarray(x, np.int64) << max(-shift, 0)
    denominator = np.asarray(divisor, np.int64) << max(shift, 0)
    floor, rest = np.divmod(numerator, denominator)
    # Doubling compares the remainder with one half exactly, for odd denominators too; scaled to quarters
    # it is a right shift by two places with the same sign, order and ties.
    double = 2 * rest
    quarters = np.where(
        rest == 0, 0, np.where(double < denominator, 1, np.where(double == denominator, 2, 3))
    )
    return limit(shift_right(4 * floor + quarters, 2, rounding), to, overflow)


def _check_target(to: FixedFormat) -> None:
    if not to.signed and to.word_length > 63:
        raise FormatError(f"{to}: an unsigned format of 64 bits does not fit the int64 carrier")


def _shift_left(x: Int64Array, places: Int64Array, overflow: Overflow) -> Int64Array:
    """x * 2**places; where that leaves int64 it saturates, or for WRAP keeps the low 64 bits."""
    if overflow is Overflow.WRAP:
        shifted = x << np.minimum(places, 63)
        return np.where(places > 63, 0, shifted)
    few = np.minimum(places, 62)
    top = np.int64((1 << 63) - 1) >> few
    fits = (x <= top) & (x >= -top) & ((places <= 62) | (x == 0))
    ends = np.where(x > 0, np.int64((1 << 63) - 1), np.int64(-(1 << 63)))
    return np.where(fits, x << few, ends)
