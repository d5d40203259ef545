"""Engines: what runs a network.

``floating`` runs a ``Graph`` in float32 (the accuracy baseline). The others run an ``IntGraph`` and give the
same integers, always: ``reference`` is the definition, ``blas`` is NumPy's speed, ``native`` is faster than
float inference where the extension is installed, ``torch`` runs on a device that PyTorch has, such as a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from radixpoint.engines.blas import BlasEngine
from radixpoint.engines.boundary import check_threads
from radixpoint.engines.native import NativeEngine, chosen_instruction_set, instruction_sets
from radixpoint.engines.reference import ReferenceEngine
from radixpoint.errors import EngineError, FormatError
from radixpoint.ir.network import IntGraph


class Engine(Protocol):
    """Runs one IntGraph. ``images`` are stored integers (int64, batch first) in the input's format."""

    def run(
        self, images: NDArray[np.int64], keep: Collection[str] | None = None
    ) -> dict[str, NDArray[np.int64]]:
        """Stored integers of the tensors in ``keep`` (default: the output), int64, batch first."""
        ...


def _on_tensors(network: IntGraph, threads: int, device: str) -> Engine:
    from radixpoint.engines.tensors import TorchEngine

    return TorchEngine(network, device or "cpu", threads)


ENGINES: Mapping[str, Callable[[IntGraph, int, str], Engine]] = {
    "native": lambda network, threads, device: NativeEngine(network, threads),
    "blas": lambda network, threads, device: BlasEngine(network, threads),
    "torch": _on_tensors,
    "reference": lambda network, threads, device: ReferenceEngine(network),
}
"""By name; each takes the IntGraph, the number of threads (0: all cores) and, ``torch`` alone, a device."""


def usable_engines() -> list[str]:
    """Names of the engines that are installed here."""
    missing = {"native": not instruction_sets(), "torch": find_spec("torch") is None}
    return [name for name in ENGINES if not missing.get(name, False)]


def check_engine(name: str = "auto", threads: int = 0) -> str:
    """Name of the engine that runs: for ``auto`` the native engine where it is installed, else ``blas``.

    Raises:
        EngineError: an unknown name, an engine that is not installed, a device that is not here, or fewer
            than 0 threads.
    """
    if name == "auto":
        name = "native" if instruction_sets() else "blas"
    kind, _, device = name.partition(":")
    if kind not in ENGINES or (device and kind != "torch"):
        raise EngineError(f"engine {name!r}: expected auto, {', '.join(ENGINES)}, torch:DEVICE")
    check_threads(threads)
    if kind == "native":
        chosen_instruction_set()
    if kind == "torch":
        if find_spec("torch") is None:
            raise EngineError("engine torch: PyTorch is not installed; pip install 'radixpoint[torch]'")
        from radixpoint.engines.tensors import check_device

        check_device(device or "cpu")
    return name


def make_engine(network: IntGraph, name: str = "auto", threads: int = 0) -> Engine:
    """An engine for ``network``.

    Args:
        network: a verified IntGraph.
        name: a key of ``ENGINES``, ``torch:`` with the name of a device, or ``auto``, see ``check_engine``.
        threads: how many; 0 takes all cores. Results do not depend on it.

    Raises:
        EngineError: there is no such engine.
    """
    kind, _, device = check_engine(name, threads).partition(":")
    return ENGINES[kind](network, threads, device)


def quantize_images(network: IntGraph, inputs: NDArray[np.float32]) -> NDArray[np.int64]:
    """Network input (float32, batch first) to stored integers of the input's format (RND, SAT).

    The sum below is exact wherever it decides anything: of a binary32 value below 2**-28, only that it is
    less than one half counts; from there on, value and one half span at most 53 bits.

    Raises:
        FormatError: a value is NaN or infinite.
    """
    form = network.tensors[network.input].format.channel(0)
    values = np.asarray(inputs, np.float32)
    if not np.all(np.isfinite(values)):
        raise FormatError("cannot quantize NaN or an infinite value")
    scaled = np.ldexp(values.astype(np.float64), form.fraction_length)
    scaled += 0.5
    np.floor(scaled, out=scaled)
    return np.clip(scaled, form.min, form.max, out=scaled).astype(np.int64)


__all__ = [
    "ENGINES",
    "BlasEngine",
    "Engine",
    "NativeEngine",
    "ReferenceEngine",
    "check_engine",
    "chosen_instruction_set",
    "instruction_sets",
    "make_engine",
    "quantize_images",
    "usable_engines",
]
