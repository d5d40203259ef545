"""Golden vectors: every stored integer of tensors and parameters, for RTL written by hand."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from radixpoint.arithmetic.formats import TensorFormat
from radixpoint.engines import ReferenceEngine, make_engine
from radixpoint.errors import ExportError
from radixpoint.export.folder import read_manifest
from radixpoint.export.target import EVERY
from radixpoint.ir.graph import freeze
from radixpoint.ir.network import IntGraph, IntParameter
from radixpoint.ir.plan import Ints, Plan


def _words(values: Ints, form: TensorFormat) -> list[str]:
    """Two's complement words in hexadecimal, as many digits as the word length needs."""
    digits = -(-form.word_length // 4)
    mask = np.uint64((1 << form.word_length) - 1)
    return [f"{word:0{digits}x}" for word in (values.ravel().view(np.uint64) & mask).tolist()]


def _integers(words: list[str], form: TensorFormat, where: str) -> Ints:
    """The inverse of ``_words``."""
    try:
        values = [int(word, 16) for word in words]
    except ValueError as error:
        raise ExportError(f"{where}: {error}") from None
    if any(v >> form.word_length for v in values):
        raise ExportError(f"{where}: a word of more than {form.word_length} bits")
    sign = 1 << (form.word_length - 1) if form.signed else 0
    return np.array([(v ^ sign) - sign for v in values], np.int64)


def _write_hex(values: Ints, form: TensorFormat) -> bytes:
    """$readmemh: one word a line."""
    return ("\n".join(_words(values, form)) + "\n").encode()


def _read_hex(data: bytes, form: TensorFormat, where: str) -> Ints:
    return _integers(data.decode("ascii", "replace").split(), form, where)


def _write_coe(values: Ints, form: TensorFormat) -> bytes:
    """Initial contents of a Xilinx block memory."""
    words = ",\n".join(_words(values, form))
    return f"memory_initialization_radix=16;\nmemory_initialization_vector=\n{words};\n".encode()


def _read_coe(data: bytes, form: TensorFormat, where: str) -> Ints:
    match = re.fullmatch(
        r"memory_initialization_radix=16;\s*memory_initialization_vector=\s*([0-9a-f,\s]*);\s*",
        data.decode("ascii", "replace"),
    )
    if match is None:
        raise ExportError(f"{where}: not a COE file of hexadecimal words")
    return _integers([word.strip() for word in match[1].split(",")], form, where)


def _write_mif(values: Ints, form: TensorFormat) -> bytes:
    """Initial contents of an Intel memory."""
    lines = [f"{i:x} : {word};" for i, word in enumerate(_words(values, form))]
    head = f"DEPTH = {values.size};\nWIDTH = {form.word_length};\nADDRESS_RADIX = HEX;\nDATA_RADIX = HEX;\n"
    return (head + "CONTENT\nBEGIN\n" + "\n".join(lines) + "\nEND;\n").encode()


def _read_mif(data: bytes, form: TensorFormat, where: str) -> Ints:
    entries = re.findall(r"^([0-9a-f]+) : ([0-9a-f]+);$", data.decode("ascii", "replace"), re.M)
    if [int(address, 16) for address, _ in entries] != list(range(len(entries))):
        raise ExportError(f"{where}: its addresses do not count from 0")
    return _integers([word for _, word in entries], form, where)


def _raw_type(form: TensorFormat) -> str:
    size = next(b for b in (1, 2, 4, 8) if form.word_length <= 8 * b)
    return f"<{'i' if form.signed else 'u'}{size}"


def _write_raw(values: Ints, form: TensorFormat) -> bytes:
    """Little-endian integers of the narrowest of 1, 2, 4, 8 bytes."""
    return values.astype(_raw_type(form)).tobytes()


def _read_raw(data: bytes, form: TensorFormat, where: str) -> Ints:
    if len(data) % np.dtype(_raw_type(form)).itemsize:
        raise ExportError(f"{where}: {len(data)} bytes are no whole number of words")
    return np.frombuffer(data, _raw_type(form)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Memory:
    """A form of memory image: the suffix of its files, how to write and to read them."""

    suffix: str
    write: Callable[[Ints, TensorFormat], bytes]
    read: Callable[[bytes, TensorFormat, str], Ints]


MEMORIES: Mapping[str, Memory] = {
    "hex": Memory(".hex", _write_hex, _read_hex),
    "coe": Memory(".coe", _write_coe, _read_coe),
    "mif": Memory(".mif", _write_mif, _read_mif),
    "raw": Memory(".bin", _write_raw, _read_raw),
}


class StoredTensors:
    """An engine that knows the answers to the images of its folder only, from the files there."""

    def __init__(self, network: IntGraph, images: Ints, tensors: Callable[[str], Ints]) -> None:
        self.network, self.images, self.tensors = network, images, tensors

    def run(self, images: Ints, keep: Collection[str] | None = None) -> dict[str, Ints]:
        """See ``radixpoint.engines.Engine``."""
        places = [self._place(image) for image in images]
        wanted = set(self.network.outputs) if keep is None else keep
        return {name: self.tensors(name)[places] for name in wanted}

    def _place(self, image: Ints) -> int:
        for place, own in enumerate(self.images):
            if np.array_equal(own, image):
                return place
        raise ExportError("golden vectors hold the results of their own images only: leave out --images")


class VectorsTarget:
    """``--to vectors``."""

    name = "vectors"
    summary = "golden vectors and memory images for hardware written by hand"
    options: tuple[str, ...] = ("memory",)
    steps = EVERY
    several_outputs = True

    def files(self, network: IntGraph, images: Ints, options: Mapping[str, str]) -> dict[str, bytes]:
        """See ``radixpoint.export.target.Target``.

        Option ``memory``: hex, coe, mif, raw, joined by ``+``.
        """
        asked = options.get("memory", "hex").split("+")
        for form in asked:
            if form not in MEMORIES:
                raise ExportError(f"option memory={form!r}: expected {', '.join(MEMORIES)}, joined by +")
        plan = Plan(network)
        results = make_engine(network).run(images, plan.order)
        tensors = {plan.identifiers[n]: (results[n], network.tensors[n].format) for n in plan.order}
        parameters = {
            plan.parameter_names[n]: (p.data, p.format) for n, p in sorted(network.parameters.items())
        }
        made: dict[str, bytes] = {}
        for folder, arrays in (("tensors", tensors), ("parameters", parameters)):
            archive = io.BytesIO()
            np.savez(archive, **{n: v.astype(_raw_type(f)) for n, (v, f) in arrays.items()})  # type: ignore[arg-type]
            made[f"{folder}.npz"] = archive.getvalue()
            for form in asked:
                memory = MEMORIES[form]
                for name, (values, format_) in arrays.items():
                    made[f"{folder}/{name}{memory.suffix}"] = memory.write(
                        np.ascontiguousarray(values), format_
                    )
        return made

    def open(
        self, folder: Path, network: IntGraph, scratch: Path
    ) -> dict[str, ReferenceEngine | StoredTensors]:
        """The reference engine on the parameters in the files, and the tensors in the files; of each form."""
        plan = Plan(network)
        images = read_manifest(folder).images
        engines: dict[str, ReferenceEngine | StoredTensors] = {}
        forms = {n: m for n, m in MEMORIES.items() if any((folder / "parameters").glob(f"*{m.suffix}"))}
        if not forms:
            forms = {n: m for n, m in MEMORIES.items() if any((folder / "tensors").glob(f"*{m.suffix}"))}
        readers: dict[str, Callable[[str, str, TensorFormat], Ints]] = {"npz": _ArchiveReader(folder)}
        readers |= {n: _FileReader(folder, m) for n, m in forms.items()}
        if len(readers) < 2:
            raise ExportError(f"{folder}: no memory images")
        for form, read in readers.items():
            parameters = {
                name: IntParameter(
                    freeze(
                        _shaped(read("parameters", plan.parameter_names[name], p.format), p.data.shape, name)
                    ),
                    p.format,
                )
                for name, p in network.parameters.items()
            }
            for step in network.steps:
                if step.op == "divide" and parameters[step.parameters["divisor"]].data.min() < 1:
                    layer = network.tensors[step.name].layer
                    raise ExportError(f"layer {layer!r}: its divisor in {folder} ({form}) is not positive")
            engines[f"parameters, {form}"] = ReferenceEngine(replace(network, parameters=parameters))

            def tensors(name: str, read: Callable[[str, str, TensorFormat], Ints] = read) -> Ints:
                tensor = network.tensors[name]
                shape = (images, *tensor.shape)
                return _shaped(read("tensors", plan.identifiers[name], tensor.format), shape, name)

            engines[f"tensors, {form}"] = StoredTensors(network, tensors(network.input), tensors)
        return engines


def _shaped(values: Ints, shape: tuple[int, ...], name: str) -> Ints:
    if values.size != int(np.prod(shape)):
        raise ExportError(f"{name!r}: {values.size} words: expected {' x '.join(map(str, shape))}")
    return values.reshape(shape)


@dataclass(frozen=True, slots=True)
class _FileReader:
    folder: Path
    memory: Memory

    def __call__(self, what: str, name: str, form: TensorFormat) -> Ints:
        path = self.folder / what / f"{name}{self.memory.suffix}"
        try:
            return self.memory.read(path.read_bytes(), form, str(path))
        except OSError as error:
            raise ExportError(f"{path}: {error.strerror}") from None


class _ArchiveReader:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, what: str, name: str, form: TensorFormat) -> Ints:
        path = self.folder / f"{what}.npz"
        try:
            with np.load(path, allow_pickle=False) as archive:
                return np.asarray(archive[name], np.int64)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise ExportError(f"{path}: {name}: {error}") from None
