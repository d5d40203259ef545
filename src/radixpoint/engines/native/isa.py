"""The extension module, and which instruction sets of it this machine has."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from radixpoint.errors import EngineError

try:
    from radixpoint import _native
except ImportError:  # installed without a compiler
    _native = None  # type: ignore[assignment]  # a module elsewhere; every use is behind instruction_sets()

native = _native

ISA_VARIABLE: Final = "RADIXPOINT_ISA"
"""Environment variable that forces an instruction set."""


def instruction_sets() -> Mapping[str, bool]:
    """Those compiled in, best first, and whether this machine has each; empty without the extension."""
    if native is None:
        return {}
    return {isa.name: isa.supported for isa in native.instruction_sets()}


def chosen_instruction_set() -> str:
    """The one that runs: the best, or what the environment variable RADIXPOINT_ISA names.

    Raises:
        EngineError: there is no native engine, or it cannot run what the variable names.
    """
    known = instruction_sets()
    if not known:
        raise EngineError(
            "the native engine is not in this installation (installed without a C++ compiler that works): "
            "install one and reinstall radixpoint, or use the blas engine"
        )
    usable = [name for name, supported in known.items() if supported]
    forced = os.environ.get(ISA_VARIABLE)
    if not forced:
        return usable[0]
    if forced not in usable:
        raise EngineError(f"{ISA_VARIABLE}={forced}: expected one of {', '.join(usable)} on this machine")
    return forced
