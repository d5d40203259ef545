"""Exports, and the proof that they compute the same integers.

A target writes a folder, and can run what lies in such a folder: what it runs is an engine like any other,
and ``verify_export`` compares it with ours on every tensor.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from radixpoint.engines import Engine, make_engine
from radixpoint.errors import ExportError
from radixpoint.export.axi import AxiTarget
from radixpoint.export.c import CTarget
from radixpoint.export.folder import (
    Manifest,
    added_files,
    as_read,
    changed_files,
    check_images,
    check_replaceable,
    make_manifest,
    read_folder,
    read_manifest,
    write_folder,
)
from radixpoint.export.hls import HlsTarget
from radixpoint.export.hls4ml import Hls4mlTarget
from radixpoint.export.onnx import OnnxTarget
from radixpoint.export.qonnx import QonnxTarget
from radixpoint.export.target import Portable, Target, check_steps
from radixpoint.export.tools import TIME_LIMIT, time_limit
from radixpoint.export.vectors import VectorsTarget
from radixpoint.export.verilog import VerilogTarget
from radixpoint.ir.network import IntGraph, verify
from radixpoint.ir.plan import Ints, Plan
from radixpoint.measure.evaluate import Mismatch

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        VectorsTarget(),
        CTarget(),
        HlsTarget(),
        VerilogTarget(),
        AxiTarget(),
        QonnxTarget(),
        OnnxTarget(),
        Hls4mlTarget(),
    )
}
"""By name; a user may add to them."""


def example_images(network: IntGraph, count: int = 4) -> Ints:
    """Seeded random stored integers over the whole range of the input, the extremes among them."""
    tensor = network.tensors[network.input]
    random = np.random.default_rng(0)
    images = random.integers(tensor.low, tensor.high, (count, *tensor.shape), endpoint=True)
    images[0] = np.where(random.random(tensor.shape) < 0.5, tensor.low, tensor.high)
    return images


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        ExportError: there is none.
    """
    if name not in TARGETS:
        raise ExportError(f"target {name!r}: expected one of {', '.join(TARGETS)}")
    return TARGETS[name]


def export_network(
    network: IntGraph,
    target: str,
    out: str | Path,
    images: Ints | None = None,
    options: Mapping[str, str] | None = None,
) -> None:
    """Write a network for another tool, with all that ``verify_export`` needs.

    Args:
        network: a verified IntGraph.
        target: a key of ``TARGETS``.
        out: the folder; new, or an unchanged earlier export, which is replaced.
        images: stored integers of the input (int64, batch first) to verify on; default: seeded random ones.
        options: of the target.

    Raises:
        ExportError: the target cannot express the network, or the folder cannot be written.
    """
    chosen, folder = target_named(target), Path(out)
    unknown = sorted(set(options or {}) - set(chosen.options))
    if unknown:
        known = f"expected {', '.join(chosen.options)}" if chosen.options else "it has none"
        raise ExportError(f"{target}: unknown option {unknown[0]!r}: {known}")
    verify(network)
    check_replaceable(folder)
    check_steps(chosen, network)
    images = example_images(network) if images is None else np.asarray(images)
    check_images(network, images, "images")
    images = images.astype(np.int64)
    files = chosen.files(network, images, options or {})
    write_folder(folder, network, images, target, options or {}, files)


@dataclass(frozen=True, slots=True)
class LayerResult:
    """Comparison of one layer: ``values`` compared, ``mismatch`` the first that differs."""

    engine: str
    layer: str
    values: int
    mismatch: Mismatch | None


@dataclass(frozen=True, slots=True)
class Verification:
    """What was compared.

    Attributes:
        layers: in execution order, up to and with the first that differs.
        images: how many, of the folder's own, on every tensor.
        more_images: how many others, on the logits alone.
        changed: files that are not any more what was exported.
    """

    layers: tuple[LayerResult, ...]
    images: int
    more_images: int
    changed: tuple[str, ...]

    @property
    def mismatch(self) -> Mismatch | None:
        return next((x.mismatch for x in self.layers if x.mismatch), None)


def _mismatch(name: str, expected: Ints, got: Ints) -> Mismatch | None:
    if expected.shape != got.shape:
        return Mismatch(name, (), expected.size, got.size)
    if np.array_equal(expected, got):
        return None
    index = tuple(int(i) for i in np.argwhere(expected != got)[0])
    return Mismatch(name, index, int(expected[index]), int(got[index]))


def _compare(
    network: IntGraph, what: str, ours: Engine, theirs: Engine, images: Ints
) -> Iterator[LayerResult]:
    """Layer by layer on every tensor, an image at a time; ends with the first that differs."""
    order = Plan(network).order
    values: dict[str, int] = {}
    for number, image in enumerate(images):
        expected, got = ours.run(image[None], order), theirs.run(image[None], order)
        for name in order:
            layer = network.tensors[name].layer
            found = _mismatch(name, expected[name], got[name])
            if found is not None:
                index = (number, *found.index[1:])
                yield LayerResult(
                    what, layer, expected[name].size, Mismatch(name, index, found.expected, found.got)
                )
                return
            values[layer] = values.get(layer, 0) + expected[name].size
    for layer, count in values.items():
        yield LayerResult(what, layer, count, None)


def _stated(network: IntGraph, manifest: Manifest) -> LayerResult | None:
    """The first entry of the manifest that is not what the network says."""
    right = as_read(make_manifest(network, manifest.target, manifest.options, manifest.images, {}))
    layers = {t.identifier: t.layer for t in right.tensors}
    readers = {p: layers[s.result] for s in reversed(right.steps) for p in s.parameters.values()}
    owner = layers | readers
    for field in ("input", "output", "tensors", "parameters", "steps"):
        stated, own = getattr(manifest, field), getattr(right, field)
        if stated == own:
            continue
        if isinstance(own, str) or len(own) != len(stated):
            return LayerResult("manifest", field, 1, Mismatch(field, (), repr(own)[:80], repr(stated)[:80]))
        place = next(i for i, pair in enumerate(zip(stated, own, strict=True)) if pair[0] != pair[1])
        name = next(
            n for n in own[place].__struct_fields__ if getattr(own[place], n) != getattr(stated[place], n)
        )
        identifier = own[place].result if field == "steps" else own[place].identifier
        expected, got = (repr(getattr(entry, name)) for entry in (own[place], stated[place]))
        return LayerResult(
            "manifest", owner[identifier], 1, Mismatch(f"{identifier}.{name}", (place,), expected, got)
        )
    return None


def verify_export(
    folder: str | Path,
    more_images: Callable[[IntGraph], Iterator[Ints]] | None = None,
    progress: Callable[[int], None] | None = None,
    strict: bool = False,
    seconds: float = TIME_LIMIT,
    machine: str | None = None,
) -> Verification:
    """Run what an export folder holds and compare every tensor with our engine's, by ==.

    What lies in the folder is compiled and run: it has to be trusted, or with ``strict`` its manifest has.

    Args:
        folder: an export.
        more_images: from the network, batches of stored integers on which to compare the logits as well.
        progress: called with the number of further images compared so far.
        strict: refuse a folder in which anything was added or changed since the export.
        seconds: that a compiler, a simulator or the exported program may take.
        machine: where the export is run; ``cortex-m7`` is emulated. Default: here.

    Returns:
        What was compared, and the first difference if there is one.

    Raises:
        ExportError: no export, a tool is missing, or its files cannot be run in time.
    """
    path = Path(folder)
    if not 0 < seconds < math.inf:
        raise ExportError(f"a time limit of {seconds} seconds: expected a positive number")
    if strict:
        stated = read_manifest(path)
        differing = [*added_files(path, stated), *changed_files(path, stated)]
        if differing:
            raise ExportError(
                f"{path}: {differing[0]} was added or changed since the export, and --strict refuses that"
            )
    token = time_limit.set(seconds)
    try:
        return _verified(path, more_images, progress, machine)
    finally:
        time_limit.reset(token)


def _opened(
    name: str, machine: str | None, path: Path, network: IntGraph, scratch: Path
) -> Mapping[str, Engine]:
    target = target_named(name)
    if machine is None:
        return target.open(path, network, scratch)
    if not isinstance(target, Portable):
        raise ExportError(f"{name} on {machine}: it runs here only")
    if machine not in target.machines:
        raise ExportError(f"{name} on {machine}: expected one of {', '.join(target.machines)}")
    return target.open_on(machine, path, network, scratch)


def _verified(
    path: Path,
    more_images: Callable[[IntGraph], Iterator[Ints]] | None,
    progress: Callable[[int], None] | None,
    machine: str | None,
) -> Verification:
    manifest, network, images = read_folder(path)
    misstated = _stated(network, manifest)
    if misstated is not None:
        return Verification((misstated,), 0, 0, tuple(changed_files(path, manifest)))
    ours = make_engine(network)
    layers: list[LayerResult] = []
    done = 0
    with tempfile.TemporaryDirectory(prefix="radixpoint-verify-") as scratch:
        engines = _opened(manifest.target, machine, path, network, Path(scratch))
        for what, theirs in engines.items():
            layers += _compare(network, what, ours, theirs, images)
            if layers[-1].mismatch:
                break
        else:
            for batch in more_images(network) if more_images else ():
                for what, theirs in engines.items():
                    expected, got = ours.run(batch), theirs.run(batch)
                    for name in network.outputs:
                        found = _mismatch(name, expected[name], got[name])
                        if found is None:
                            continue
                        index = (done + found.index[0], *found.index[1:]) if found.index else ()
                        differs = Mismatch(name, index, found.expected, found.got)
                        layer = network.tensors[name].layer
                        layers.append(LayerResult(what, layer, batch.size, differs))
                        return Verification(
                            tuple(layers), len(images), done, tuple(changed_files(path, manifest))
                        )
                done += len(batch)
                if progress is not None:
                    progress(done)
    return Verification(tuple(layers), len(images), done, tuple(changed_files(path, manifest)))


__all__ = [
    "TARGETS",
    "TIME_LIMIT",
    "LayerResult",
    "Target",
    "Verification",
    "export_network",
    "verify_export",
]
