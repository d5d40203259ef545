"""A dump of somebody else's tensors: of a board, an RTL simulator, another tool.

It may be one file or a folder of them, in any of the usual forms, and hold any of the network's tensors.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import DataError
from radixpoint.files import read_regular, shown
from radixpoint.ir.network import IntGraph, IntTensor
from radixpoint.ir.plan import Plan, clean

Ints = NDArray[np.int64]
Form = Literal["auto", "hex", "decimal", "real"]
MOST = 1 << 31
"""Bytes of a file."""
SUFFIXES = frozenset({".npz", ".npy", ".bin", ".raw", ".hex", ".mem", ".txt", ".dat", ".csv"})


@dataclass(frozen=True, eq=False)
class Dumped:
    """Some values of a dump.

    Attributes:
        name: that the dump gives them; empty where it gives none.
        values: int64 or float64 of any shape; words that are two's complement are not negative yet, unless
            they have all 64 bits.
        words: bits of a word where values are unsigned words; None where they are numbers.
        real: whether float64 values are those that stored integers stand for; None if nobody says.
    """

    name: str
    values: NDArray[np.generic]
    words: int | None = None
    real: bool | None = None


def read_dump(path: Path, form: Form = "auto", word_bytes: int | None = None) -> list[Dumped]:
    """Everything that a dump holds.

    Args:
        path: of a file, or a folder with a file for each tensor.
        form: of numbers: hexadecimal words (of text), decimal integers or real values; ``auto`` looks, and
            refuses what may be either.
        word_bytes: of a word in a raw file; little-endian.

    Raises:
        DataError: it cannot be read.
    """
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
        if not files:
            raise DataError(f"{path}: no dump: expected files {', '.join(sorted(SUFFIXES))}")
        return [array for file in files for array in _read(file, form, word_bytes)]
    if path.suffix.lower() not in SUFFIXES:
        raise DataError(f"{path}: expected a folder, or a file {', '.join(sorted(SUFFIXES))}")
    return _read(path, form, word_bytes)


def _read(path: Path, form: Form, word_bytes: int | None) -> list[Dumped]:
    real = {"real": True, "decimal": False}.get(form)
    try:
        data = read_regular(path, MOST)
        match path.suffix.lower():
            case ".npz":
                with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                    arrays = {name: _numbers(archive[name], f"{path}, {name}") for name in archive.files}
                return [Dumped(name, values, real=real) for name, values in arrays.items()]
            case ".npy":
                values = _numbers(np.load(io.BytesIO(data), allow_pickle=False), str(path))
                return [Dumped(path.stem, values, real=real)]
            case ".bin" | ".raw":
                size = word_bytes or 1
                if size not in (1, 2, 4, 8):
                    raise DataError(f"{path}: words of {size} bytes: expected 1, 2, 4 or 8")
                if len(data) % size:
                    raise DataError(f"{path}: {len(data)} bytes: expected a multiple of {size}")
                words = np.frombuffer(data, f"<u{size}").astype(np.uint64).view(np.int64)
                return [Dumped(path.stem, words, 8 * size)]
        return [_text(path, data.decode("utf-8-sig"), form)]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: no text: expected numbers") from None
    except DataError:
        raise
    except Exception as error:  # archives and array headers go wrong in many ways
        raise DataError(f"{path}: cannot be read: {shown(str(error))}") from None


def _numbers(values: NDArray[np.generic], where: str) -> NDArray[np.generic]:
    if values.dtype.kind in "iub" and values.dtype != np.uint64:
        return values.astype(np.int64)
    if values.dtype.kind == "f" and np.isfinite(values).all():
        return values.astype(np.float64)
    raise DataError(f"{where}: values of type {values.dtype}: expected integers or finite real numbers")


_SEPARATORS = re.compile(r"[\s,;]+")


def _text(path: Path, text: str, form: Form) -> Dumped:
    """Numbers in text; ``//`` and ``#`` begin remarks, ``@`` an address, as $readmemh has them.

    Raises:
        DataError: no numbers, or an address that leaves places out.
    """
    tokens: list[str] = []
    for line in text.splitlines():
        for token in _SEPARATORS.split(re.split("//|#", line)[0]):
            if token.startswith("@"):
                if token[1:].lower().lstrip("0") != f"{len(tokens):x}".lstrip("0"):
                    raise DataError(
                        f"{path}: address {token} behind {len(tokens)} words: expected every word"
                    )
            elif token:
                tokens.append(token)
    if not tokens:
        raise DataError(f"{path}: no numbers")
    chosen = form if form != "auto" else _looks_like(tokens, path)
    try:
        if chosen == "hex":
            digits = [token.lower().removeprefix("0x") for token in tokens]
            words = np.array([int(token, 16) for token in digits], np.uint64)
            return Dumped(path.stem, words.view(np.int64), min(4 * max(map(len, digits)), 64))
        if chosen == "decimal":
            return Dumped(path.stem, np.array([int(token) for token in tokens], np.int64))
        real = np.array([float(token) for token in tokens])
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}: not {chosen} numbers: {shown(str(error))}") from None
    return Dumped(path.stem, _numbers(real, str(path)), real=True)


def _looks_like(tokens: list[str], path: Path) -> Form:
    """What the numbers must be.

    Raises:
        DataError: digits alone, all as many, some with zeros before them: they may be either.
    """
    if any("." in t or "e-" in t.lower() or "e+" in t.lower() for t in tokens):
        return "real"
    if path.suffix.lower() in (".hex", ".mem") or any(re.search("[a-fxA-FX]", t) for t in tokens):
        return "hex"
    padded = len({len(t) for t in tokens}) == 1 and any(len(t) > 1 and t.startswith("0") for t in tokens)
    if padded:
        raise DataError(f"{path}: {tokens[0]} and so on may be hexadecimal or decimal: expected --form")
    return "decimal"


# ------------------------------------------------------------------------------------------- matching


@dataclass(frozen=True, eq=False)
class Matched:
    """Values of a dump that stand for a tensor of the network.

    Attributes:
        tensor: its name.
        values: stored integers, int64 (images, *shape).
        layout: how the dump's axes stand: ``NCHW``, ``NHWC`` ...
        by: why they belong to it: ``name``, ``shape`` or ``order``.
    """

    tensor: str
    values: Ints
    layout: str
    by: str


def matched(
    network: IntGraph, dump: Iterable[Dumped], images: int, tensor: str | None = None
) -> list[Matched]:
    """What stands for which tensor, in execution order.

    Names come first: of tensors, of the layers whose results they are, or these as identifiers. What has no
    known name goes by its size, if only one tensor has it; else, if as many are left as tensors that
    layers end with, by order.

    Args:
        network: the network.
        dump: from ``read_dump``.
        images: how many images it is of.
        tensor: name of the tensor that a dump of one is of.

    Raises:
        DataError: something belongs to no tensor, or to several, or does not fit it.
    """
    names = _names(network)
    left, found = list[Dumped](), list[Matched]()
    given = list(dump)
    if tensor is not None:
        if len(given) != 1:
            raise DataError(f"--tensor {tensor}: expected a dump of one tensor; this one has {len(given)}")
        if tensor not in names:
            raise DataError(f"--tensor {tensor}: no tensor or layer of the network")
        found.append(_fitted(network, names[tensor], given[0], images, "name"))
        given = []
    for array in given:
        own = names.get(array.name) or names.get(clean(array.name))
        if own is None:
            left.append(array)
        else:
            found.append(_fitted(network, own, array, images, "name"))
    results = list(dict.fromkeys([network.input, *_results(network)]))
    if left and len(left) == len([name for name in results if name not in {m.tensor for m in found}]):
        rest = [name for name in results if name not in {m.tensor for m in found}]
        found += [
            _fitted(network, name, array, images, "order") for name, array in zip(rest, left, strict=True)
        ]
    else:
        for array in left:
            sizes = [name for name in results if _size(network.tensors[name]) * images == array.values.size]
            if array.values.size and len(sizes) != 1:
                what = f"{len(sizes)} tensors have" if sizes else "no tensor has"
                raise DataError(
                    f"{array.name or 'a dump without a name'}: no tensor of that name, and {what} "
                    f"{array.values.size} values for {images} images: expected names such as "
                    f"{', '.join(list(results)[-3:])}, or --tensor"
                )
            found.append(_fitted(network, sizes[0], array, images, "shape"))
    order = {name: i for i, name in enumerate((network.input, *(step.name for step in network.steps)))}
    twice = {m.tensor for m in found if sum(o.tensor == m.tensor for o in found) > 1}
    if twice:
        raise DataError(f"the dump has {min(twice)} twice: expected each tensor once")
    return sorted(found, key=lambda array: order[array.tensor])


def _size(tensor: IntTensor) -> int:
    return int(np.prod(tensor.shape))


def _results(network: IntGraph) -> list[str]:
    """Tensors that stand for the results of layers."""
    return [step.name for step in network.steps if network.tensors[step.name].value is not None]


def _names(network: IntGraph) -> Mapping[str, str]:
    """Tensors by all names that they may be called by; a layer's name is that of its result."""
    found: dict[str, str] = {}
    exported = Plan(network).identifiers if network.steps else {}
    for name in (network.input, *(step.name for step in network.steps)):
        tensor = network.tensors[name]
        for known in (name, tensor.value, exported.get(name)):
            if known is not None:
                found.setdefault(known, name)
                found.setdefault(clean(known), name)
    return found


def _fitted(network: IntGraph, name: str, dumped: Dumped, images: int, by: str) -> Matched:
    """Values of a tensor in its shape and as signed integers.

    Raises:
        DataError: another number of values, or reals that are no multiples of the tensor's unit.
    """
    tensor, values = network.tensors[name], dumped.values
    if values.size != images * _size(tensor):
        raise DataError(
            f"{dumped.name or name}: {values.size} values for {name}: expected {images} images of "
            f"{tensor.shape}"
        )
    shaped, layout = _laid_out(values, tensor, images)
    if shaped.dtype == np.float64:
        shaped = _stored(shaped.astype(np.float64), dumped.real, tensor, dumped.name or name)
    integers = shaped.astype(np.int64)
    if dumped.words is not None and tensor.format.signed:
        integers = _signed(integers, dumped.words, tensor.format.word_length)
    return Matched(name, integers, layout, by)


def _signed(words: Ints, bits: int, word_length: int) -> Ints:
    """Two's complement words as signed integers, of the word's size, or of the tensor's if cut to it."""
    cut = not (words >> word_length).any()
    if bits == 64 and not cut:
        return words  # int64 holds their sign already
    width = word_length if cut else bits
    sign = np.int64(1) << (width - 1)
    return (words ^ sign) - sign


def _laid_out(values: NDArray[np.generic], tensor: IntTensor, images: int) -> tuple[NDArray[np.generic], str]:
    """Values as (images, *shape); channels come last if only then the shape fits."""
    shape, rank = (images, *tensor.shape), len(tensor.shape)
    own = values.shape if len(values.shape) == rank + 1 else (1, *values.shape)
    if rank == 3 and own != shape and own == (images, *tensor.shape[1:], tensor.shape[0]):
        return np.moveaxis(values.reshape(own), -1, 1), "NHWC"
    return values.reshape(shape), "NCHW" if rank == 3 else "N" + "C" * (rank > 0)


def _stored(
    values: NDArray[np.float64], real: bool | None, tensor: IntTensor, name: str
) -> NDArray[np.float64]:
    """Stored integers that are given as floating-point numbers, or as the real values that they stand for.

    Raises:
        DataError: they are neither, or may be either.
    """
    fractions = tensor.format.fractions(len(tensor.shape))
    scaled = np.ldexp(values, fractions)
    whole = bool((values == np.floor(values)).all())
    if real is None and whole and not np.array_equal(scaled, values):
        raise DataError(
            f"{name}: whole numbers of a floating-point type, which may be stored integers of "
            f"{tensor.format} or the values that they stand for: expected --form decimal or real"
        )
    found = values if real is False else scaled
    if not (found == np.floor(found)).all():
        expected = "stored integers" if real is False else f"multiples of 2**-{fractions.max()}"
        raise DataError(f"{name}: real values: expected {expected}, as {tensor.format} has them")
    return found
