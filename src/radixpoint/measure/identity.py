"""What tells functions apart, so that no cache takes one for another.

A fingerprint follows code, constants, defaults, what a function closes over, arguments that were bound, the
state of objects, and functions and plain values of the same module that are used. What cannot be followed
gets a mark of this process: it is equal to itself, and to nothing of any other run.
"""

from __future__ import annotations

import functools
import hashlib
import types
import uuid
from collections.abc import Mapping
from typing import Any

import numpy as np

_PROCESS = uuid.uuid4().hex
_SEEN: dict[int, tuple[Any, int]] = {}
"""Things that cannot be followed, kept alive so that their addresses stay theirs."""


def identity(value: Any) -> str:
    """A function's name and fingerprint."""
    return f"{name_of(value)} {hashlib.sha256(_text(value, ()).encode()).hexdigest()[:32]}"


def name_of(value: Any) -> str:
    """Module and name of a function, or of an object's class."""
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}:{kind.__qualname__}"


def _unknown(value: Any) -> str:
    _, number = _SEEN.setdefault(id(value), (value, len(_SEEN)))
    return f"{_PROCESS} {number}"


def _text(value: Any, above: tuple[int, ...]) -> str:
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return f"{type(value).__name__} {value!r}"
    if id(value) in above:
        return f"above {above.index(id(value))}"
    inner = (*above, id(value))
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biufc":
        array = np.asarray(value)
        content = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()
        return f"{array.dtype.str}{array.shape}{content}"
    if isinstance(value, tuple | list):
        return f"{type(value).__name__}[{','.join(_text(member, inner) for member in value)}]"
    if isinstance(value, set | frozenset):
        return f"set[{','.join(sorted(_text(member, inner) for member in value))}]"
    if isinstance(value, Mapping):
        return f"map[{','.join(f'{_text(k, inner)}:{_text(v, inner)}' for k, v in value.items())}]"
    if isinstance(value, functools.partial):
        return f"partial[{_text((value.func, value.args, value.keywords), inner)}]"
    if isinstance(value, types.MethodType):
        return f"method[{_text((value.__func__, value.__self__), inner)}]"
    if isinstance(value, types.FunctionType):
        return _of_function(value, inner)
    if isinstance(value, types.CodeType):
        consts = tuple(value.co_consts)
        return f"code[{value.co_code.hex()} {value.co_names} {value.co_varnames} {_text(consts, inner)}]"
    if isinstance(value, types.BuiltinFunctionType | types.ModuleType | np.ufunc):
        return f"named {getattr(value, '__module__', '')} {value.__name__}"
    if isinstance(value, type):
        return _of_class(value, inner)
    state = getattr(value, "__dict__", None)
    if isinstance(state, dict):
        return f"object[{_text(type(value), inner)}{_text(state, inner)}]"
    return _unknown(value)


def _of_function(value: types.FunctionType, above: tuple[int, ...]) -> str:
    cells = []
    for cell in value.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not filled yet
            cells.append(None)
    used = {name: value.__globals__[name] for name in _names(value.__code__) if name in value.__globals__}
    own = {
        name: held
        for name, held in sorted(used.items())
        if isinstance(held, bool | int | float | complex | str | bytes | tuple | np.ndarray | type(None))
        or getattr(held, "__module__", None) == value.__module__
    }
    parts = (value.__code__, value.__defaults__, value.__kwdefaults__, tuple(cells), own)
    return f"function[{_text(parts, above)}]"


def _names(code: types.CodeType) -> set[str]:
    """Names that code uses, and code inside it."""
    inner = (_names(held) for held in code.co_consts if isinstance(held, types.CodeType))
    return set(code.co_names).union(*inner)


def _of_class(value: type, above: tuple[int, ...]) -> str:
    if value.__module__ == "builtins":
        return f"class {value.__qualname__}"
    members = {
        name: held
        for name, held in sorted(vars(value).items())
        if isinstance(held, types.FunctionType | bool | int | float | str | tuple)
        and name not in ("__module__", "__doc__", "__qualname__", "__firstlineno__")
    }
    bases = tuple(base for base in value.__bases__ if base is not object)
    return f"class {value.__module__}.{value.__qualname__}[{_text((bases, members), above)}]"
