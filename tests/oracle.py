"""``docs/arithmetic.md`` in exact rationals, written from that page alone. Imports nothing of radixpoint."""

from __future__ import annotations

import math
from fractions import Fraction

HALF = Fraction(1, 2)


def round_exact(value: Fraction, mode: str, draw: int | None = None) -> int:
    """Round an exact rational to an integer; ``draw`` is the 64-bit draw of STOCHASTIC."""
    floor = math.floor(value)
    rest = value - floor
    if mode == "TRN":
        return floor
    if mode == "TRN_ZERO":
        return floor if value >= 0 else math.ceil(value)
    if mode == "STOCHASTIC":
        assert draw is not None
        return floor + (Fraction(draw, 2**64) < rest)
    if rest != HALF:
        return floor + (rest > HALF)
    if mode == "RND":
        return floor + 1
    if mode == "RND_MIN_INF":
        return floor
    if mode == "RND_INF":
        return floor + 1 if value > 0 else floor
    if mode == "RND_ZERO":
        return floor if value > 0 else floor + 1
    assert mode == "RND_CONV"
    return floor if floor % 2 == 0 else floor + 1


def limits(signed: bool, word: int) -> tuple[int, int]:
    return (-(2 ** (word - 1)), 2 ** (word - 1) - 1) if signed else (0, 2**word - 1)


def overflow(stored: int, signed: bool, word: int, mode: str) -> int:
    low, high = limits(signed, word)
    if mode == "WRAP":
        return (stored - low) % 2**word + low
    if mode == "SAT_SYM" and signed:
        low = -high
    assert mode in ("SAT", "SAT_SYM")
    return min(max(stored, low), high)


def convert(
    value: Fraction,
    signed: bool,
    word: int,
    fraction: int,
    rounding: str,
    overflow_mode: str,
    draw: int | None = None,
) -> int:
    """Exact value -> one rounding -> overflow handling."""
    scaled = value * Fraction(2) ** fraction
    return overflow(round_exact(scaled, rounding, draw), signed, word, overflow_mode)
