"""quantize and cast against the oracle in exact rationals, and against APyTypes."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import oracle
from radixpoint.arithmetic.cast import cast, dequantize, divide, quantize, random_draws, shift_right
from radixpoint.arithmetic.formats import FixedFormat, Overflow, Rounding
from radixpoint.errors import FormatError

FRACTIONS = range(-4, 13)
FORMATS = [(s, w) for s in (False, True) for w in range(1 + s, 9)]
GIVEN = settings(max_examples=1500, deadline=None)


def source_table() -> tuple[np.ndarray, np.ndarray]:
    """Every stored integer of every format up to 8 bits wide at every fraction length."""
    stored, fractions = [], []
    for signed, word in FORMATS:
        low, high = oracle.limits(signed, word)
        for fraction in FRACTIONS:
            stored.append(np.arange(low, high + 1))
            fractions.append(np.full(high - low + 1, fraction))
    return np.concatenate(stored), np.concatenate(fractions)


@pytest.mark.slow("every integer")
@pytest.mark.parametrize("rounding", list(Rounding))
def test_cast_exhaustively(rounding: Rounding) -> None:
    """Every value of every format to 8 bits, fraction lengths -4..12, to every such format, all overflows."""
    stored, fractions = source_table()
    draws = np.random.default_rng(1).integers(0, 2**64, len(stored), np.uint64, endpoint=False)
    draws[::7], draws[1::7] = 0, 2**64 - 1
    use = draws if rounding is Rounding.STOCHASTIC else None
    compared = 0
    for target_fraction in FRACTIONS:
        exact = (
            [
                oracle.round_exact(Fraction(x) * Fraction(2) ** (target_fraction - f), rounding.value, d)
                for x, f, d in zip(stored.tolist(), fractions.tolist(), draws.tolist(), strict=True)
            ]
            if rounding is Rounding.STOCHASTIC
            else None
        )
        if exact is None:  # without draws the result depends on value and shift alone
            known: dict[tuple[int, int], int] = {}
            exact = []
            for x, f in zip(stored.tolist(), fractions.tolist(), strict=True):
                key = (x, target_fraction - f)
                if key not in known:
                    known[key] = oracle.round_exact(Fraction(x) * Fraction(2) ** key[1], rounding.value)
                exact.append(known[key])
        distinct = sorted(set(exact))
        place = {v: i for i, v in enumerate(distinct)}
        index = np.array([place[v] for v in exact])
        for (signed, word), mode in itertools.product(FORMATS, Overflow):
            table = np.array([oracle.overflow(v, signed, word, mode.value) for v in distinct])
            got = cast(stored, fractions, FixedFormat(signed, word, target_fraction), rounding, mode, use)
            assert np.array_equal(got, table[index]), (signed, word, target_fraction, mode)
            compared += len(got)
    assert compared == len(stored) * len(FRACTIONS) * len(FORMATS) * len(Overflow)


def edges(word: int) -> list[int]:
    """Values at which wide formats break: ends, powers of two and their neighbours, alternating bits."""
    top = 1 << (word - 1)
    found = {0, 1, -1, top - 1, -top, 0x55555555 % top, -(0x55555555 % top)}
    for power in range(word - 1):
        found |= {s * (1 << power) + d for s in (1, -1) for d in (-1, 0, 1)}
    return sorted(v for v in found if -top <= v < top)


@pytest.mark.slow("every width")
@pytest.mark.parametrize("word", [16, 24, 32, 64])
def test_cast_edges(word: int) -> None:
    stored = edges(word)
    array = np.array(stored)
    for shift, rounding, mode in itertools.product(
        [-33, -8, -1, 0, 1, 2, 7, 15, 16, 31, 32, 33, 61, 62, 63, 64, 65, 66, 70, 130], Rounding, Overflow
    ):
        for signed, target in ((True, 8), (False, 16), (True, 32), (True, 64)):
            draws = np.random.default_rng(2).integers(0, 2**64, len(stored), np.uint64, endpoint=False)
            draws[:2] = (0, 2**64 - 1)
            got = cast(array, shift, FixedFormat(signed, target, 0), rounding, mode, draws)
            expected = [
                oracle.convert(
                    Fraction(x) / Fraction(2) ** shift, signed, target, 0, rounding.value, mode.value, d
                )
                for x, d in zip(stored, draws.tolist(), strict=True)
            ]
            assert got.tolist() == expected, (shift, rounding, mode, signed, target)


formats = st.builds(
    lambda signed, word, fraction: (signed, max(word, 1 + signed), fraction),
    st.booleans(),
    st.integers(1, 32),
    st.integers(-40, 60),
)
modes = st.tuples(st.sampled_from(Rounding), st.sampled_from(Overflow))


@GIVEN
@given(st.data(), formats, formats, modes, st.integers(0, 2**64 - 1))
def test_cast_properties(data, source, target, mode, draw) -> None:  # type: ignore[no-untyped-def]
    x = data.draw(st.integers(*oracle.limits(source[0], source[1])))
    got = cast(np.array(x), source[2], FixedFormat(*target), mode[0], mode[1], np.array(draw, np.uint64))
    value = Fraction(x) / Fraction(2) ** source[2]
    assert int(got) == oracle.convert(
        value, target[0], target[1], target[2], mode[0].value, mode[1].value, draw
    )


@GIVEN
@given(st.floats(allow_nan=False, allow_infinity=False), formats, modes, st.integers(0, 2**64 - 1))
def test_quantize_properties(x, target, mode, draw) -> None:  # type: ignore[no-untyped-def]
    got = quantize(np.array(x), FixedFormat(*target), mode[0], mode[1], np.array(draw, np.uint64))
    assert int(got) == oracle.convert(
        *(Fraction(x), target[0], target[1], target[2], mode[0].value, mode[1].value), draw
    )


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("overflow", list(Overflow))
def test_quantize_edges(rounding: Rounding, overflow: Overflow) -> None:
    """Where floor(x * 2**F + 0.5) in floating point is wrong, ties, subnormals, and the far ends."""
    below = 0.49999999999999994
    xs = [
        0.0,
        -0.0,
        below,
        -below,
        0.5,
        -0.5,
        1.5,
        -1.5,
        2.5,
        -2.5,
        5e-324,
        -5e-324,
        1.7e308,
        -1.7e308,
        4503599627370497.5,
        -4503599627370497.5,
        127.49999999999999,
        127.5,
        -128.5,
        -128.50000000000003,
        2.0**31,
        -(2.0**31),
        2.0**63,
        2.0**64 + 4096,
        1e-30,
        -1e-30,
        0.1,
        -0.1,
    ]
    draws = np.random.default_rng(3).integers(0, 2**64, len(xs), np.uint64, endpoint=False)
    for signed, word, fraction in [
        (True, 8, 0),
        (False, 8, 3),
        (True, 32, 20),
        (True, 16, -3),
        (True, 32, 60),
    ]:
        got = quantize(np.array(xs), FixedFormat(signed, word, fraction), rounding, overflow, draws)
        expected = [
            oracle.convert(Fraction(x), signed, word, fraction, rounding.value, overflow.value, d)
            for x, d in zip(xs, draws.tolist(), strict=True)
        ]
        assert got.tolist() == expected


def test_the_oracle_catches_a_planted_error() -> None:
    """floor(x + 0.5), the classic mistake, differs from the oracle at the classic place."""
    x = 0.49999999999999994
    assert int(np.floor(x + 0.5)) != oracle.convert(Fraction(x), True, 8, 0, "RND", "SAT")
    assert int(quantize(np.array(x), FixedFormat(True, 8, 0))) == 0


def test_not_finite() -> None:
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(FormatError, match="NaN"):
            quantize(np.array([0.0, bad]), FixedFormat(True, 8, 0))


@GIVEN
@given(
    st.integers(-(2**40), 2**40),
    st.integers(1, 10000),
    st.integers(-16, 20),
    st.sampled_from([m for m in Rounding if m is not Rounding.STOCHASTIC]),
    st.sampled_from(Overflow),
)
def test_divide(x, divisor, shift, rounding, overflow) -> None:  # type: ignore[no-untyped-def]
    got = divide(np.array(x), divisor, shift, FixedFormat(True, 16, 0), rounding, overflow)
    value = Fraction(x, divisor) / Fraction(2) ** shift
    assert int(got) == oracle.convert(value, True, 16, 0, rounding.value, overflow.value)


def test_per_channel_fraction_lengths() -> None:
    x = np.array([[5, -5], [5, -5]])
    got = cast(x, np.array([2, 3]), FixedFormat(True, 8, 0), to_fraction_length=np.array([0, 1]))
    assert got.tolist() == [[1, -1], [1, -1]]


def test_draws_are_a_function_of_seed_stream_and_index() -> None:
    whole = random_draws(7, 3, (4, 5))
    assert np.array_equal(whole, random_draws(7, 3, (20,)).reshape(4, 5))
    assert not np.array_equal(whole, random_draws(8, 3, (4, 5)))
    assert not np.array_equal(whole, random_draws(7, 4, (4, 5)))
    # SplitMix64 with seed 0: published first outputs.
    from radixpoint.arithmetic.cast import _GOLDEN, _mix

    with np.errstate(over="ignore"):
        first = _mix(np.arange(1, 4, dtype=np.uint64) * _GOLDEN)
    assert [hex(v) for v in first.tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_stochastic_is_unbiased() -> None:
    draws = random_draws(1, 0, (200_000,))
    up = shift_right(np.full(200_000, 3), 3, Rounding.STOCHASTIC, draws)  # 3/8
    assert abs(up.mean() - 3 / 8) < 5 * np.sqrt(3 / 8 * 5 / 8 / 200_000)


def test_dequantize() -> None:
    assert dequantize(np.array([3, -4]), 2).tolist() == [0.75, -1.0]


@pytest.mark.parametrize("rounding", [m for m in Rounding if m is not Rounding.STOCHASTIC])
@pytest.mark.parametrize("overflow", [Overflow.SAT, Overflow.WRAP])
def test_against_apytypes(rounding: Rounding, overflow: Overflow) -> None:
    import apytypes

    generator = np.random.default_rng(4)
    for word, fraction, target in itertools.product(
        (4, 9, 17, 32), (-3, 0, 5, 20), ((5, 2), (8, -1), (12, 12), (31, 7))
    ):
        low, high = oracle.limits(True, word)
        x = np.concatenate([generator.integers(low, high + 1, 300), [low, high, 0, 1]])
        to = FixedFormat(True, target[0], target[1])
        bits = [v % (1 << word) for v in x.tolist()]
        theirs = apytypes.APyFixedArray(bits, int_bits=word - fraction, frac_bits=fraction).cast(
            int_bits=to.integer_bits,
            frac_bits=to.fraction_length,
            quantization=getattr(apytypes.QuantizationMode, rounding.value),
            overflow=getattr(apytypes.OverflowMode, overflow.value),
        )
        expected = [v - (1 << to.word_length) if v > to.max else v for v in theirs.to_bits()]
        assert cast(x, fraction, to, rounding, overflow).tolist() == expected
