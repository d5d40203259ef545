"""The former place of ``radixpoint.measure.floating``; this name goes with version 1.0."""

from __future__ import annotations

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    from radixpoint.measure import floating

    if name.startswith("__"):
        raise AttributeError(name)
    warnings.warn(
        "radixpoint.engines.floating is now radixpoint.measure.floating", DeprecationWarning, stacklevel=2
    )
    return getattr(floating, name)
