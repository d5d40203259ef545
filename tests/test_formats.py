"""Formats, and that exact result formats are sufficient and necessary."""

from __future__ import annotations

import itertools

import pytest

from radixpoint.arithmetic.formats import (
    FixedFormat,
    add_format,
    dot_format,
    multiply_format,
    smallest_format,
    weighted_range,
)
from radixpoint.errors import FormatError

SMALL = [FixedFormat(s, w, f) for s in (False, True) for w in range(1 + s, 6) for f in (-2, 0, 3)]


def values(form: FixedFormat) -> range:
    return range(form.min, form.max + 1)


@pytest.mark.parametrize("text", ["sfix10_En7", "ufix8_En8", "sfix16_E3", "ufix1_En0", "sfix64_En63"])
def test_names_round_trip(text: str) -> None:
    assert str(FixedFormat.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["sfix1_En0", "ufix0_En0", "sfix65_En1", "fix8_En1", "sfix8", "sfix8_En9999"]
)
def test_impossible_formats(text: str) -> None:
    with pytest.raises(FormatError):
        FixedFormat.parse(text)


def narrower(form: FixedFormat) -> FixedFormat | None:
    shortest = 2 if form.signed else 1
    if form.word_length == shortest:
        return None
    return FixedFormat(form.signed, form.word_length - 1, form.fraction_length)


def check(result: FixedFormat, reached: set[int]) -> None:
    """Sufficient: holds everything reached. Necessary: one bit less, or no sign, does not."""
    assert all(result.min <= v <= result.max for v in reached)
    assert result.signed == (min(reached) < 0)
    less = narrower(result)
    if less is not None:
        assert any(not less.min <= v <= less.max for v in reached)


@pytest.mark.parametrize(("a", "b"), list(itertools.product(SMALL, SMALL)), ids=str)
def test_add_and_multiply(a: FixedFormat, b: FixedFormat) -> None:
    total = add_format(a, b)
    up_a, up_b = (total.fraction_length - x.fraction_length for x in (a, b))
    assert min(up_a, up_b) == 0
    check(total, {(x << up_a) + (y << up_b) for x in values(a) for y in values(b)})
    product = multiply_format(a, b)
    assert product.fraction_length == a.fraction_length + b.fraction_length
    check(product, {x * y for x in values(a) for y in values(b)})


@pytest.mark.parametrize("terms", [1, 2, 3, 5])
def test_dot(terms: int) -> None:
    for a, b in itertools.product(SMALL, SMALL):
        products = {x * y for x in values(a) for y in values(b)}
        check(dot_format(a, b, terms), {terms * min(products), terms * max(products)})


def test_weighted_range_is_reached() -> None:
    x = FixedFormat(True, 3, 0)
    weights = [3, -2, 0, 1]
    sums = {
        sum(w * v for w, v in zip(weights, chosen, strict=True))
        for chosen in itertools.product(values(x), repeat=4)
    }
    assert weighted_range(weights, x) == (min(sums), max(sums))


def test_too_wide() -> None:
    with pytest.raises(FormatError, match="65"):
        smallest_format(-(1 << 63) - 1, 0, 0)
    with pytest.raises(FormatError):
        smallest_format(1, 0, 0)
    with pytest.raises(FormatError):
        dot_format(SMALL[0], SMALL[0], 0)
