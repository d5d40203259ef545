"""Where the places of a resized axis come from (ONNX, operator Resize; torch's interpolate is part of it)."""

from __future__ import annotations

import math

from radixpoint.importers.builder import Refused


def _origin(place: int, size: int, result: int, scale: float, coordinates: str) -> float:
    """Place of the original, as a real number, of a place of the result."""
    match coordinates:
        case "half_pixel":
            return (place + 0.5) / scale - 0.5
        case "pytorch_half_pixel":
            return (place + 0.5) / scale - 0.5 if result > 1 else 0.0
        case "half_pixel_symmetric":
            real = result / scale  # the part of the original that the result covers, centred
            return size / 2 * (1 - real / size) + (place + 0.5) / scale - 0.5
        case "align_corners":
            return place * (size - 1) / (result - 1) if result > 1 else 0.0
        case "asymmetric":
            return place / scale
    raise Refused(f"coordinates {coordinates!r}")


def nearest_places(size: int, result: int, scale: float, coordinates: str, how: str) -> list[int]:
    """Index of the original for each place of a result.

    Args:
        size, result: places of both.
        scale: result / size, as the model says.
        coordinates: which place stands where, by ONNX's names.
        how: rounding of what is between, by ONNX's names.

    Raises:
        Refused: unknown names.
    """
    rounding = {
        "round_prefer_floor": lambda x: math.ceil(x - 0.5),
        "round_prefer_ceil": lambda x: math.floor(x + 0.5),
        "floor": math.floor,
        "ceil": math.ceil,
    }
    if how not in rounding:
        raise Refused(f"nearest mode {how!r}")
    places = (rounding[how](_origin(i, size, result, scale, coordinates)) for i in range(result))
    return [min(max(place, 0), size - 1) for place in places]


def linear_places(size: int, result: int, scale: float, coordinates: str) -> list[tuple[int, int, float]]:
    """(one, other, share of the other) for each place of a result; what is outside is the nearest edge."""
    found = []
    for i in range(result):
        place = min(max(_origin(i, size, result, scale, coordinates), 0.0), size - 1.0)
        low = min(math.floor(place), size - 1)
        high = min(low + 1, size - 1)
        found.append((low, high, place - low if high != low else 0.0))
    return found
