"""The domain of everything that a network may say: the one place that states what is sane.

A file or a caller may hand over anything. What ``check_attributes``, ``check_shape`` and
``check_parameter_shape`` let through, every engine computes alike; the rest is refused with what was
given and what was expected. ``docs/ops.md`` lists the same limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from radixpoint.arithmetic.formats import Overflow, Rounding
from radixpoint.arithmetic.functions import FUNCTIONS
from radixpoint.errors import GraphError

MAX_EXTENT = 1 << 24
"""Of one axis of a tensor, and of a stride, a pad, a dilation."""
MAX_ELEMENTS = 1 << 26
"""Values of one tensor of one image, and of a padded one."""
MAX_NUMBERS = 1 << 28
"""Numbers of one parameter."""
MAX_SHIFT = 62
"""Places by which an operand of a sum is moved at most."""
MAX_TABLE = 1 << 16
"""Entries of a lookup table at most."""
MAX_AXES = 16
"""Parts that a rearrangement cuts a tensor into at most."""
MAX_POINTS = 1 << 20
"""Binary points of one tensor at most."""
MAX_STEPS = 1 << 16
"""Layers or steps of a network at most."""

_INT64 = (-(1 << 63), (1 << 63) - 1)


def _is_int(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


def _ints(count: int, low: int, high: int = MAX_EXTENT) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return type(value) is tuple and len(value) == count and all(_is_int(v, low, high) for v in value)

    return fits, f"{count} whole numbers {low}..{high}"


def _int(low: int, high: int) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: _is_int(value, low, high)), f"a whole number {low}..{high}"


def _one_of(names: Sequence[str]) -> tuple[Callable[[Any], bool], str]:
    return (lambda value: isinstance(value, str) and value in names), f"one of {', '.join(names)}"


def _indices(value: Any) -> bool:
    return (
        type(value) is tuple and len(value) <= MAX_EXTENT and all(_is_int(v, -1, MAX_EXTENT) for v in value)
    )


def _sizes(most: int, low: int = 1) -> tuple[Callable[[Any], bool], str]:
    def fits(value: Any) -> bool:
        return (
            type(value) is tuple
            and 1 <= len(value) <= most
            and all(_is_int(v, low, MAX_ELEMENTS) for v in value)
        )

    return fits, f"1 to {most} whole numbers from {low}"


def _numbers(value: Any) -> bool:
    return type(value) is tuple and all(type(v) is float and math.isfinite(v) for v in value)


def _between(value: Any) -> bool:
    """Triples of two indices and a share."""
    return (
        type(value) is tuple
        and 1 <= len(value) <= MAX_EXTENT
        and all(type(v) is tuple and len(v) == 3 and all(_is_int(x, 0, MAX_EXTENT) for x in v) for v in value)
    )


def _number(value: Any) -> bool:
    return type(value) in (int, float) and not math.isnan(value)


_DOMAINS: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "kernel": _ints(2, 1),
    "strides": _ints(2, 1),
    "dilations": _ints(2, 1),
    "pads": _ints(4, 0),
    "groups": _int(1, MAX_EXTENT),
    "count": _int(1, MAX_STEPS),
    "count_include_pad": (lambda value: type(value) is bool, "true or false"),
    "epsilon": (lambda value: _number(value) and 0 <= value < math.inf, "a number from 0 on"),
    "rounding": _one_of([mode.value for mode in Rounding]),
    "overflow": _one_of([mode.value for mode in Overflow]),
    "stream": _int(0, _INT64[1]),
    "seed": _int(0, (1 << 64) - 1),
    "first": _int(*_INT64),
    "size": _int(1, MAX_EXTENT),
    "split": _sizes(MAX_AXES),
    "order": _sizes(MAX_AXES, 0),
    "shape": _sizes(3),
    "channels": (_indices, "whole numbers from -1"),
    "places": _int(0, 10),
    "numbers": (_numbers, "finite numbers"),
    "function": _one_of(list(FUNCTIONS)),
}
"""By attribute, for layers and steps alike, but for those that are real for layers and stored for steps
(``low``, ``high``, ``fill``), and ``rows`` and ``columns``, of which an interpolation has triples."""
_STORED = ("low", "high", "fill")


def check_attributes(attributes: Mapping[str, Any], expected: Sequence[str], stored: bool) -> None:
    """Check the names and values of a layer's or step's attributes.

    Args:
        attributes: what is given.
        expected: names that it must have, and no others.
        stored: whether limits are stored integers (of a step) or real numbers (of a layer).

    Raises:
        GraphError: one is missing, unknown or outside its domain.
    """
    if set(expected) != set(attributes):
        raise GraphError(f"attributes {sorted(map(str, attributes))}, expected {sorted(expected)}")
    for name, value in attributes.items():
        if name in _STORED:
            fits, what = _int(*_INT64) if stored else (_number, "a number")
        elif name in ("rows", "columns"):
            triples = "places" in expected
            fits, what = (_between, "triples of two indices and a share") if triples else _DOMAINS["channels"]
        else:
            fits, what = _DOMAINS[name]
        if not fits(value):
            raise GraphError(f"{name} {str(value)[:80]}: expected {what}")
    if "low" in attributes and not (attributes["low"] <= attributes["high"] and _some(attributes)):
        raise GraphError(f"limits {attributes['low']}..{attributes['high']}: expected an interval")


def _some(attributes: Mapping[str, Any]) -> bool:
    """Whether a finite number lies between the limits."""
    return bool(attributes["low"] < math.inf and attributes["high"] > -math.inf)


def check_shape(shape: Sequence[Any]) -> None:
    """Check a tensor's shape: a vector, or channels x height x width.

    Raises:
        GraphError: another rank, an axis that is empty or too long, or too many values.
    """
    if len(shape) not in (1, 3) or not all(_is_int(size, 1, MAX_EXTENT) for size in shape):
        raise GraphError(
            f"a tensor of shape {tuple(shape)}: expected one axis, or channels, height and width, each of "
            f"1..{MAX_EXTENT}"
        )
    if math.prod(shape) > MAX_ELEMENTS:
        raise GraphError(
            f"a tensor of shape {tuple(shape)}: {math.prod(shape):,} values: expected at most "
            f"{MAX_ELEMENTS:,}"
        )


def check_padded(shape: Sequence[int], pads: Sequence[int]) -> None:
    """Check that a padded image stays within the limits of a tensor.

    Raises:
        GraphError: it does not.
    """
    top, left, bottom, right = pads
    check_shape((shape[0], shape[1] + top + bottom, shape[2] + left + right))


def check_parameter_shape(role: str, shape: Sequence[int], tensor: Sequence[int]) -> None:
    """Check that a parameter has, axis by axis, one value for each element of a tensor, or one for all.

    A shape of another rank would mean different things to different readers.

    Raises:
        GraphError: it has not.
    """
    if len(shape) != len(tensor) or any(
        own not in (1, size) for own, size in zip(shape, tensor, strict=False)
    ):
        raise GraphError(
            f"{role} of shape {tuple(shape)}: expected the {len(tensor)} axes of {tuple(tensor)}, each "
            f"whole or 1"
        )
