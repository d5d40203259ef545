"""Executors by their names; what an extra brings is imported when it is asked for."""

from __future__ import annotations

from pathlib import Path

from radixpoint.errors import RunError
from radixpoint.searching.executors import Executor, Here
from radixpoint.searching.shared_folder import SharedFolder


def make_executor(name: str, run: Path) -> Executor:
    """The executor of a name: ``here``; ``ray``, or ``ray:ADDRESS`` of a cluster; ``folder``.

    Args:
        name: its name.
        run: the run folder, which workers of ``folder`` share.

    Raises:
        RunError: there is none of that name.
    """
    kind, _, address = name.partition(":")
    if name == "here":
        return Here()
    if kind == "ray":
        from radixpoint.searching.on_ray import OnRay

        return OnRay(name if name.startswith("ray://") else address or None)
    if name == "folder":
        return SharedFolder(run)
    raise RunError(f"executor {name!r}: expected here, ray, ray:ADDRESS, or folder")
