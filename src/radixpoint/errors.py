"""Every error that radixpoint raises on purpose.

::

    RadixpointError            anything a user can cause and mend; exit status 2 on the command line
    +-- FormatError            an impossible fixed-point format, or a result that no format holds
    +-- ModelError             a model that cannot be read, or holds values no network should hold
    |   +-- UnsupportedError   operators that radixpoint does not support, all of them named
    +-- DataError              images, labels or preprocessing that cannot be used
    +-- DesignError            a design that is malformed or does not fit the network
    +-- GraphError             an IR that breaks its own rules (raised by ``verify``)
    +-- RunError               a run folder that cannot be written, or belongs to something else
    +-- EngineError            an engine that is not there or cannot run what was asked for
    +-- ExportError            an export that cannot be made, or not be run to verify it

Each message says what was given, what was expected, and where.
"""

from __future__ import annotations


class RadixpointError(Exception):
    """Base of all errors that radixpoint raises on purpose."""


class FormatError(RadixpointError, ValueError):
    """An impossible fixed-point format, or a result that no format holds."""


class ModelError(RadixpointError):
    """A model that cannot be read, or holds values no network should hold."""


class UnsupportedError(ModelError):
    """Operators that radixpoint does not support.

    ``operators`` lists every one of them as ``(operator, node name, reason)``.
    """

    def __init__(self, source: str, operators: list[tuple[str, str, str]]) -> None:
        self.operators = tuple(operators)
        lines = [f"  {op} at node {node!r}: {why}" for op, node, why in operators]
        super().__init__(f"{source}: {len(operators)} operator(s) not supported:\n" + "\n".join(lines))


class DataError(RadixpointError):
    """Images, labels or preprocessing that cannot be used."""


class DesignError(RadixpointError, ValueError):
    """A design that is malformed or does not fit the network."""


class GraphError(RadixpointError):
    """An IR that breaks its own rules."""


class RunError(RadixpointError):
    """A run folder that cannot be written, or belongs to something else."""


class EngineError(RadixpointError):
    """An engine that is not there or cannot run what was asked for."""


class ExportError(RadixpointError):
    """An export that cannot be made, or not be run to verify it."""
