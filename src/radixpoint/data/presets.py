"""Preprocessings as other tools print them: radixpoint's own JSON, torchvision's presets, timm's data_config.

The text is read, never run: torchvision's is a call with named arguments, timm's a dictionary.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from radixpoint.errors import DataError

_CALLS = ("ImageClassification", "SemanticSegmentation")
"""torchvision's presets that are read."""
_IGNORED = ("antialias", "input_size", "crop_pct", "crop_mode", "crop_border_pixels", "test_input_size")


def parsed(text: str) -> dict[str, Any]:
    """Fields of ``radixpoint.data.Preprocessing`` by name, of its text.

    Raises:
        DataError: it is none.
    """
    try:
        raw = msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError) as error:
        raw = _printed(text, str(error))
    if not isinstance(raw, Mapping):
        raise DataError(f"{str(raw)[:40]!r}: expected names and values, such as resize_size and mean")
    if "crop_pct" in raw or "input_size" in raw:
        raw = _of_timm(raw)
    named = dict(raw)
    for key in ("resize_size", "crop_size"):
        value = named.get(key)
        if isinstance(value, list | tuple) and len(value) == 1:
            named[key] = value[0]
    return named


def _printed(text: str, otherwise: str) -> Any:
    """The dictionary, or the arguments of the call, that a text prints."""
    quoted = re.sub(r"<InterpolationMode\.(\w+): '\w+'>", r"'\1'", text.strip())
    try:
        tree = ast.parse(quoted, mode="eval").body
        if isinstance(tree, ast.Dict):
            return ast.literal_eval(tree)
        if isinstance(tree, ast.Call) and not tree.args and getattr(tree.func, "id", "") in _CALLS:
            return _of_torchvision({key.arg or "": key.value for key in tree.keywords})
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return _lines(quoted, otherwise)


def _lines(text: str, otherwise: str) -> Any:
    """torchvision's ``repr``: a name a line in brackets, as ``crop_size=[224]``."""
    first, *inner = text.splitlines() or [""]
    if first.strip().rstrip("(") not in _CALLS or not inner:
        raise DataError(f"{otherwise} (nor {' or '.join(_CALLS)} of torchvision, or timm's data_config)")
    found = {}
    try:
        for line in inner[:-1]:
            name, _, value = line.strip().rstrip(",").partition("=")
            found[name] = ast.parse(value, mode="eval").body
        return _of_torchvision(found)
    except (SyntaxError, ValueError):
        raise DataError(otherwise) from None


def _of_torchvision(given: Mapping[str, ast.expr]) -> dict[str, Any]:
    result: dict[str, Any] = {"exif_orientation": "ignore"}
    for name, value in given.items():
        if name == "interpolation":
            last = value.attr if isinstance(value, ast.Attribute) else str(ast.literal_eval(value))
            result[name] = last.lower()
        elif name not in _IGNORED:
            result[name] = ast.literal_eval(value)
    if not {"mean", "std"} <= set(result):
        raise DataError("a preset without mean and std: expected both")
    return result


def _of_timm(given: Mapping[str, Any]) -> dict[str, Any]:
    """timm's: the crop is the input, and the image is resized to the crop over ``crop_pct`` before.

    Raises:
        DataError: a mode that is not known, or an input that says no size.
    """
    size = given.get("input_size")
    if not isinstance(size, list | tuple) or len(size) != 3:
        raise DataError(f"input_size {size}: expected channels, height and width")
    height, width = int(size[1]), int(size[2])
    missing = sorted({"crop_pct", "mean", "std", "interpolation"} - set(given))
    if missing:
        raise DataError(f"timm's data_config without {', '.join(missing)}: expected all of it")
    share, mode = given["crop_pct"], given.get("crop_mode") or "center"
    if not isinstance(share, int | float) or not 0 < share <= 1:
        raise DataError(f"crop_pct {share!r}: expected more than 0, at most 1")
    scaled = (math.floor(height / share), math.floor(width / share))
    result = {k: given[k] for k in ("mean", "std", "interpolation") if k in given}
    result |= {"crop_size": (height, width), "exif_orientation": "ignore"}
    match mode:
        case "center" if height == width:
            result["resize_size"] = scaled[0]
        case "squash":
            result["resize_size"] = scaled
        case _:
            raise DataError(
                f"crop_mode {mode!r} of {height} x {width}: expected center of a square, or squash"
            )
    return result
