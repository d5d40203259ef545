"""Fixed-point formats, rounding and overflow modes, and exact result formats.

A format says which real values are representable and nothing else; rounding and overflow belong to
the conversion (``radixpoint.arithmetic.cast``). Normative text: ``docs/arithmetic.md``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import FormatError

MAX_STORED = 32
"""Widest stored tensor, in bits."""
MAX_ACCUMULATOR = 64
"""Widest exact intermediate result, in bits."""
MAX_DIVIDE_SHIFT = 31
"""Most places, either way, by which a division moves the binary point."""
MAX_DIVIDEND = 60
"""Bits of the largest magnitude that is divided, moved to its quotient's binary point."""
MAX_FRACTION = 512
"""Largest magnitude of a fraction length; beyond any binary32 value, and of any sum of two."""


class Rounding(StrEnum):
    """Rounding modes by their Vitis HLS names (AMD UG1399, "Quantization modes")."""

    TRN = "TRN"
    """Toward minus infinity (floor)."""
    TRN_ZERO = "TRN_ZERO"
    """Toward zero."""
    RND = "RND"
    """To nearest, ties toward plus infinity."""
    RND_MIN_INF = "RND_MIN_INF"
    """To nearest, ties toward minus infinity."""
    RND_INF = "RND_INF"
    """To nearest, ties away from zero."""
    RND_ZERO = "RND_ZERO"
    """To nearest, ties toward zero."""
    RND_CONV = "RND_CONV"
    """To nearest, ties to even (convergent)."""
    STOCHASTIC = "STOCHASTIC"
    """Up with a probability equal to the discarded fraction, from counter-based random bits."""


class Overflow(StrEnum):
    """Overflow modes by their Vitis HLS names (AMD UG1399, "Overflow modes")."""

    SAT = "SAT"
    """Clamp to the smallest and largest representable value."""
    SAT_SYM = "SAT_SYM"
    """As SAT, but a signed format's smallest value becomes minus its largest."""
    WRAP = "WRAP"
    """Keep the low bits (modulo 2**W)."""


_NAME = re.compile(r"([us])fix(\d+)_E(n?)(\d+)")


@dataclass(frozen=True, slots=True)
class FixedFormat:
    """A fixed-point format: real value = stored integer x 2**-fraction_length.

    Args:
        signed: two's complement if true.
        word_length: bits, 1..64 (signed from 2).
        fraction_length: bits right of the binary point; may be negative or exceed the word length.

    Raises:
        FormatError: the word length or fraction length is out of range.
    """

    signed: bool
    word_length: int
    fraction_length: int

    def __post_init__(self) -> None:
        shortest = 2 if self.signed else 1
        if not shortest <= self.word_length <= MAX_ACCUMULATOR:
            raise FormatError(
                f"word length {self.word_length} of {'a signed' if self.signed else 'an unsigned'} "
                f"format: expected {shortest}..{MAX_ACCUMULATOR}"
            )
        if abs(self.fraction_length) > MAX_FRACTION:
            raise FormatError(
                f"fraction length {self.fraction_length}: expected -{MAX_FRACTION}..{MAX_FRACTION}"
            )

    @property
    def min(self) -> int:
        """Smallest stored integer."""
        return -(1 << (self.word_length - 1)) if self.signed else 0

    @property
    def max(self) -> int:
        """Largest stored integer."""
        return (1 << (self.word_length - self.signed)) - 1

    def limits(self, overflow: Overflow) -> tuple[int, int]:
        """Smallest and largest stored integer that a conversion with this overflow mode gives."""
        return (-self.max if overflow is Overflow.SAT_SYM and self.signed else self.min), self.max

    @property
    def integer_bits(self) -> int:
        """Bits left of the binary point, sign included: W - F."""
        return self.word_length - self.fraction_length

    def __str__(self) -> str:
        f = self.fraction_length
        return f"{'s' if self.signed else 'u'}fix{self.word_length}_E{'n' if f >= 0 else ''}{abs(f)}"

    @classmethod
    def parse(cls, text: str) -> FixedFormat:
        """The format printed as ``text``, such as ``sfix10_En7`` or ``ufix8_E2``.

        Raises:
            FormatError: ``text`` is not the name of a format.
        """
        match = _NAME.fullmatch(text)
        if match is None:
            raise FormatError(f"{text!r} is not a format: expected a name such as 'sfix10_En7'")
        sign, word, negative, fraction = match.groups()
        return cls(sign == "s", int(word), int(fraction) if negative else -int(fraction))


@dataclass(frozen=True, slots=True)
class TensorFormat:
    """Format of a tensor: one word length, and one fraction length or one a channel.

    ``fraction_lengths`` has length 1 (per tensor) or the number of channels (per channel).
    """

    signed: bool
    word_length: int
    fraction_lengths: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.fraction_lengths:
            raise FormatError("a format without a fraction length")
        for fraction in (min(self.fraction_lengths), max(self.fraction_lengths)):
            FixedFormat(self.signed, self.word_length, fraction)

    @property
    def per_channel(self) -> bool:
        return len(self.fraction_lengths) > 1

    @property
    def min(self) -> int:
        return self.channel(0).min

    @property
    def max(self) -> int:
        return self.channel(0).max

    def limits(self, overflow: Overflow) -> tuple[int, int]:
        """Smallest and largest stored integer that a conversion with this overflow mode gives."""
        return self.channel(0).limits(overflow)

    def channel(self, index: int) -> FixedFormat:
        """The format of one channel."""
        fraction = self.fraction_lengths[index if self.per_channel else 0]
        return FixedFormat(self.signed, self.word_length, fraction)

    def fractions(self, rank: int) -> NDArray[np.int64]:
        """Fraction lengths, broadcastable to an array of ``rank`` axes whose first is the channel."""
        values = np.array(self.fraction_lengths, np.int64)
        return values.reshape(-1, *[1] * (rank - 1)) if rank else values.reshape(())

    def __str__(self) -> str:
        if not self.per_channel:
            return str(self.channel(0))
        low, high = min(self.fraction_lengths), max(self.fraction_lengths)
        sign = "s" if self.signed else "u"
        return f"{sign}fix{self.word_length} with {low}..{high} fraction bits a channel"


def smallest_format(low: int, high: int, fraction_length: int) -> FixedFormat:
    """The narrowest format at ``fraction_length`` that holds every stored integer low..high.

    Unsigned if ``low`` is not negative.

    Raises:
        FormatError: more than 64 bits would be needed, or the range is empty.
    """
    if low > high:
        raise FormatError(f"range {low}..{high} is empty")
    if low >= 0:
        return FixedFormat(False, max(1, high.bit_length()), fraction_length)
    bits = 1 + max((-low - 1).bit_length(), high.bit_length() if high > 0 else 0)
    return FixedFormat(True, max(2, bits), fraction_length)


def _product_range(a: FixedFormat, b: FixedFormat) -> tuple[int, int]:
    corners = [x * y for x in (a.min, a.max) for y in (b.min, b.max)]
    return min(corners), max(corners)


def add_format(a: FixedFormat, b: FixedFormat) -> FixedFormat:
    """The narrowest format that holds every sum of a value of ``a`` and a value of ``b``."""
    fraction = max(a.fraction_length, b.fraction_length)
    up_a, up_b = fraction - a.fraction_length, fraction - b.fraction_length
    return smallest_format((a.min << up_a) + (b.min << up_b), (a.max << up_a) + (b.max << up_b), fraction)


def multiply_format(a: FixedFormat, b: FixedFormat) -> FixedFormat:
    """The narrowest format that holds every product of a value of ``a`` and a value of ``b``."""
    return smallest_format(*_product_range(a, b), a.fraction_length + b.fraction_length)


def dot_format(a: FixedFormat, b: FixedFormat, terms: int) -> FixedFormat:
    """The narrowest format that holds every sum of ``terms`` products of values of ``a`` and ``b``."""
    if terms < 1:
        raise FormatError(f"a dot product of {terms} terms: expected at least 1")
    low, high = _product_range(a, b)
    return smallest_format(terms * low, terms * high, a.fraction_length + b.fraction_length)


def weighted_range(weights: Iterable[int], x: FixedFormat) -> tuple[int, int]:
    """Exact smallest and largest value of sum(w * x_i) over all stored x_i of format ``x``."""
    low = high = 0
    for w in weights:
        low += min(w * x.min, w * x.max)
        high += max(w * x.min, w * x.max)
    return low, high
