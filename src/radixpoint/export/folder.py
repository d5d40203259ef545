"""The folder of an export: written whole or not at all, and described by its ``manifest.json``."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import msgspec
import numpy as np

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.errors import ExportError
from radixpoint.files import read_regular, shown
from radixpoint.ir.network import IntGraph
from radixpoint.ir.plan import Ints, Plan
from radixpoint.ir.storage import load_network, save_network

MANIFEST = "manifest.json"
NETWORK = "network.safetensors"
IMAGES = "images.npy"
_MOST_BYTES = 1 << 30
"""Of a manifest, and of images."""


class Format(msgspec.Struct, frozen=True):
    """A format as hardware engineers need it; ``fraction_lengths`` has one entry, or one a channel."""

    name: str
    signed: bool
    word_length: int
    fraction_lengths: tuple[int, ...]


class Tensor(msgspec.Struct, frozen=True):
    """``shape`` is (channels, height, width) or (features,); ``low`` and ``high`` are proven."""

    identifier: str
    name: str
    layer: str
    shape: tuple[int, ...]
    format: Format
    low: int
    high: int


class Parameter(msgspec.Struct, frozen=True):
    """Stored integers beside the steps: weights are (outputs, inputs of a group, height, width)."""

    identifier: str
    name: str
    shape: tuple[int, ...]
    format: Format


class StepEntry(msgspec.Struct, frozen=True):
    """One step (docs/ops.md): ``result``, ``inputs`` and ``parameters`` are identifiers."""

    result: str
    op: str
    inputs: tuple[str, ...]
    parameters: dict[str, str]
    attributes: dict[str, Any]


class Manifest(msgspec.Struct, frozen=True, omit_defaults=True):
    """``manifest.json``: everything about an export but the integers themselves."""

    radixpoint_export: Literal[1]
    target: str
    options: dict[str, str]
    version: str
    network_digest: str
    input: str
    output: str
    images: int
    layout: str
    tensors: list[Tensor]
    parameters: list[Parameter]
    steps: list[StepEntry]
    files: dict[str, str]
    other_outputs: tuple[str, ...] = ()


def _format(form: TensorFormat) -> Format:
    return Format(str(form), form.signed, form.word_length, form.fraction_lengths)


def make_manifest(
    network: IntGraph, target: str, options: Mapping[str, str], images: int, contents: Mapping[str, bytes]
) -> Manifest:
    """Describe an export whose files are ``contents``."""
    plan = Plan(network)
    tensors, parameters = plan.identifiers, plan.parameter_names
    return Manifest(
        1,
        target,
        dict(options),
        version("radixpoint"),
        network.digest,
        tensors[network.input],
        tensors[network.output],
        images,
        "tensors: image, channel, height, width; the last varies fastest",
        [
            Tensor(tensors[n], n, t.layer, t.shape, _format(t.format), t.low, t.high)
            for n, t in ((n, network.tensors[n]) for n in plan.order)
        ],
        [
            Parameter(parameters[n], n, p.data.shape, _format(p.format))
            for n, p in sorted(network.parameters.items())
        ],
        [
            StepEntry(
                tensors[s.name],
                s.op,
                tuple(tensors[i] for i in s.inputs),
                {role: parameters[key] for role, key in sorted(s.parameters.items())},
                dict(sorted(s.attributes.items())),
            )
            for s in network.steps
        ],
        {name: hashlib.sha256(data).hexdigest() for name, data in sorted(contents.items())},
        tuple(tensors[name] for name in network.other_outputs),
    )


def write_folder(
    out: Path,
    network: IntGraph,
    images: Ints,
    target: str,
    options: Mapping[str, str],
    own: Mapping[str, bytes],
) -> None:
    """Write an export: ``own`` files of its target, the network, the images, the manifest.

    An earlier export of the same place is replaced if nothing in it was added or changed since.

    Raises:
        ExportError: ``out`` holds anything else, or cannot be written.
    """
    check_replaceable(out)
    saved = io.BytesIO()
    np.save(saved, images.astype("<i4" if images.max() < 1 << 31 else "<i8"))
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror}") from None
    try:
        save_network(network, partial / NETWORK)
        contents = {**own, IMAGES: saved.getvalue(), NETWORK: (partial / NETWORK).read_bytes()}
        manifest = make_manifest(network, target, options, len(images), contents)
        for name, data in contents.items():
            path = partial / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        (partial / MANIFEST).write_bytes(encoded + b"\n")
        partial.chmod(0o777 & ~_umask())
        _replace(out, partial)
    except OSError as error:
        raise ExportError(f"{out}: cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _replace(out: Path, partial: Path) -> None:
    """Put ``partial`` in the place of ``out``, which is absent, empty or an export."""
    if not out.exists():
        partial.rename(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old-", dir=out.parent))
    try:
        out.rename(old / "export")
        try:
            partial.rename(out)
        except OSError:
            (old / "export").rename(out)
            raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """Refuse a place that holds anything but an unchanged export.

    Raises:
        ExportError: what it holds.
    """
    if out.resolve() == Path.cwd():
        raise ExportError(f"{out}: is the current folder: expected a new folder")
    if not out.exists() and not out.is_symlink():
        return
    if out.is_symlink() or not out.is_dir():
        raise ExportError(f"{out}: exists and is no folder: expected a new folder, or an earlier export")
    held = sorted(str(p.relative_to(out)) for p in out.rglob("*") if not p.is_dir() or p.is_symlink())
    if not held and not any(out.iterdir()):
        return
    if MANIFEST not in held:
        raise ExportError(
            f"{out}: holds {(held or ['folders'])[0]!r} and is no export: expected a new folder"
        )
    manifest = read_manifest(out)
    strange = [name for name in held if name != MANIFEST and name not in manifest.files]
    if strange:
        raise ExportError(f"{out}: holds {strange[0]!r}, which no export wrote: expected a new folder")
    changed = changed_files(out, manifest)
    if changed:
        raise ExportError(f"{out}: {changed[0]} was changed since its export: expected a new folder")


def changed_files(folder: Path, manifest: Manifest) -> list[str]:
    """Files that are not (any more) what was exported."""
    return [name for name, digest in manifest.files.items() if _digest(folder / name) != digest]


def _digest(path: Path) -> str | None:
    """SHA-256 of a regular file, or None if it is none."""
    if not path.is_file():
        return None
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def added_files(folder: Path, manifest: Manifest) -> list[str]:
    """What lies in the folder and is no file of the export; a link is none."""
    held = sorted(folder.rglob("*"))
    return [
        shown(str(path.relative_to(folder)))
        for path in held
        if path.is_symlink()
        or not (path.is_dir() or str(path.relative_to(folder)) in {MANIFEST, *manifest.files})
    ]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export.

    Raises:
        ExportError: there is none, or it is not readable.
    """
    try:
        found = msgspec.json.decode(read_regular(folder / MANIFEST, _MOST_BYTES), type=Manifest)
    except OSError as error:
        raise ExportError(f"{folder}: no export: {MANIFEST}: {error.strerror}") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ExportError(f"{folder / MANIFEST}: {error}") from None
    for name in found.files:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or "\0" in name or PurePosixPath(name).is_absolute() or "\\" in name:
            raise ExportError(f"{folder / MANIFEST}: file {shown(name)!r}: expected a path inside the folder")
        if (folder / name).exists() and not (folder / name).is_file():
            raise ExportError(f"{folder / name}: is no regular file")
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise ExportError(
                f"{folder / MANIFEST}: file {shown(name)!r} is a link that leads out of the folder"
            )
    return found


def as_read(manifest: Manifest) -> Manifest:
    """The manifest as it is after a way through the file: tuples of attributes become lists."""
    return msgspec.json.decode(msgspec.json.encode(manifest), type=Manifest)


def read_folder(folder: Path) -> tuple[Manifest, IntGraph, Ints]:
    """Manifest, network and images (stored integers, int64, batch first) of an export.

    Raises:
        ExportError: no export, or its network or images are not the ones that were exported.
    """
    manifest = read_manifest(folder)
    network = load_network(folder / NETWORK)
    if network.digest != manifest.network_digest:
        raise ExportError(f"{folder / NETWORK}: is not the network that the manifest names")
    try:
        images = np.load(io.BytesIO(read_regular(folder / IMAGES, _MOST_BYTES)), allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError, OverflowError) as error:
        raise ExportError(f"{folder / IMAGES}: not readable: {error}") from None
    if not isinstance(images, np.ndarray):
        raise ExportError(f"{folder / IMAGES}: expected one array")
    check_images(network, images, str(folder / IMAGES))
    return manifest, network, images.astype(np.int64)


def check_images(network: IntGraph, images: Ints, where: str) -> None:
    """Refuse images that are no stored integers of the network's input.

    Raises:
        ExportError: their type, shape or range.
    """
    tensor = network.tensors[network.input]
    if not np.issubdtype(images.dtype, np.integer):
        raise ExportError(f"{where}: {images.dtype}: expected stored integers")
    if images.ndim != len(tensor.shape) + 1 or images.shape[1:] != tensor.shape or not len(images):
        raise ExportError(f"{where}: shape {images.shape}: expected at least one image of {tensor.shape}")
    low, high = int(images.min()), int(images.max())
    if low < tensor.low or high > tensor.high:
        raise ExportError(f"{where}: stored integers {low}..{high}: expected {tensor.low}..{tensor.high}")
