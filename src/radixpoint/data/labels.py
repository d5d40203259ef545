"""Targets that lie apart from the images: ImageNet's ground truth, lists, tables, masks, arrays."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from radixpoint.data.entries import MAX_LIST, Entry, Found, check_numbers, is_index, number_of
from radixpoint.errors import DataError
from radixpoint.files import read_regular, shown

META, TRUTH = "meta.mat", "ILSVRC2012_validation_ground_truth.txt"
"""Files of ImageNet's development kit."""
_VALIDATION = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")
_NAMES = ("imageid", "image", "image_id", "filename", "file", "file_name", "path", "name", "id")
_LABELS = ("label", "labels", "class", "target", "predictionstring", "wnid", "category")


def targets_of(labels: Any, count: int) -> Any:
    """Targets of so many images in order: values, or the array of an ``.npy`` or ``.npz``.

    Raises:
        DataError: unreadable, or another number.
    """
    found = _array(Path(labels)) if isinstance(labels, str | Path) else labels
    if (
        not hasattr(found, "__len__")
        or (isinstance(found, np.ndarray) and not found.ndim)
        or len(found) != count
    ):
        number = len(found) if hasattr(found, "__len__") and np.ndim(found) else "no row of"
        raise DataError(f"{number} targets of {count} images: expected one for each")
    if isinstance(found, np.ndarray):
        return found
    try:
        arrays = [np.asarray(array) for array in found]
    except ValueError:  # rows of different lengths
        return tuple(found)
    alike = len({array.shape for array in arrays}) == 1 and all(a.dtype.kind in "iufb" for a in arrays)
    return np.stack(arrays) if alike else tuple(found)


def _array(path: Path) -> Any:
    """The array of an ``.npy``, or the only one of an ``.npz``.

    Raises:
        DataError: there is none.
    """
    try:
        found = np.load(path, allow_pickle=False)
        if isinstance(found, np.ndarray):
            return found
        with found as archive:
            names = list(archive.files)
            if len(names) == 1:
                return archive[names[0]]
    except Exception as error:  # headers go wrong in many ways
        raise DataError(f"{path}: expected an array: {shown(str(error))}") from None
    raise DataError(f"{path}: arrays {', '.join(names)}: expected one, of targets")


def with_labels(found: Found, labels: Any, source: str) -> Found:
    """The images with labels of their own.

    Args:
        found: images, in order.
        labels: ImageNet's development kit (its archive or folder), or its ground truth beside ``meta.mat``; a
            ``.txt`` of lines "image-name label"; a ``.csv`` with columns for image and label; a folder
            of masks (``.png``) or arrays (``.npy``) named as the images; an ``.npy`` of targets in order;
            or a sequence of targets.
        source: of the images, for messages.

    Raises:
        DataError: unreadable, an image without a label, or an order that cannot be known.
    """
    if not isinstance(labels, str | Path):
        return replace(found, targets=targets_of(labels, len(found.entries)), numbered=False)
    path = Path(labels)
    if path.is_dir() and not _kit_folder(path):
        return replace(found, targets=_beside(found.entries, path), classes=frozenset(), numbered=False)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix in (".npy", ".npz"):
        return replace(found, targets=targets_of(path, len(found.entries)), numbered=False)
    if path.suffix == ".csv":
        return _named(found, _table(path), path, source)
    if path.is_dir() or path.suffix in (".gz", ".tar", ".tgz") or _is_truth(path):
        return _imagenet(found, path, source)
    return _named(found, _lines(path), path, source)


def _text(path: Path) -> str:
    try:
        return read_regular(path, MAX_LIST).decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: not in UTF-8: expected labels") from None


def _named(found: Found, given: Mapping[str, str], path: Path, source: str) -> Found:
    """Labels by the name of the image's file, with or without its suffix; by its path where names repeat."""
    names = _names(found.entries)
    shorts = Counter(Path(name).name for name in given)
    rows = dict(given) | {
        Path(name).name: label for name, label in given.items() if shorts[Path(name).name] == 1
    }
    entries = []
    for entry, own in zip(found.entries, names, strict=True):
        matching = [rows[name] for name in own if name in rows]
        if not matching:
            raise DataError(f"{path}: no label for {entry.name}: expected one for every image of {source}")
        if len(set(matching)) > 1:
            raise DataError(f"{path}: {entry.name}: labels {', '.join(map(repr, matching))}: expected one")
        entries.append(replace(entry, label=matching[0]))
    labels = set(given.values())
    numbered = all(map(is_index, labels))
    if numbered:
        check_numbers(path, sorted(labels))
    elif any(number_of(label) is not None for label in labels):
        raise DataError(f"{path}: labels that are numbers and names: expected the outputs' indices, or names")
    return Found(entries, frozenset() if numbered else frozenset(labels), numbered)


def _names(entries: Sequence[Entry]) -> list[list[str]]:
    """Names that each image may be called by: its path, and its file's name where no other image has it."""
    counts = Counter(Path(entry.name).name for entry in entries)
    stems = Counter(Path(entry.name).stem for entry in entries)
    found = []
    for entry in entries:
        path = Path(entry.name)
        own = [entry.name, str(path.with_suffix(""))]
        own += [path.name] * (counts[path.name] == 1) + [path.stem] * (stems[path.stem] == 1)
        found.append(list(dict.fromkeys(own)))
    return found


def _lines(path: Path) -> dict[str, str]:
    """As Caffe's ``val.txt``: an image's name and the output's index, or the class's name."""
    result: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, space, label = (
            line.strip().rpartition(" ") if "\t" not in line else line.strip().rpartition("\t")
        )
        if not space or not name.strip():
            raise DataError(f"{path}, line {number}: {line[:60]!r}: expected 'image-name label'")
        _add(result, name.strip(), label, f"{path}, line {number}")
    return _some(result, path)


def _add(result: dict[str, str], name: str, label: str, where: str) -> None:
    if result.setdefault(name, label) != label:
        raise DataError(f"{where}: {shown(name)} has label {result[name]!r} already: expected one")


def _some(result: dict[str, str], path: Path) -> dict[str, str]:
    if not result:
        raise DataError(f"{path}: no labels: expected one for each image")
    return result


def _table(path: Path) -> dict[str, str]:
    """A table with a header: a column of images, a column of classes (of Kaggle's the first word)."""
    result: dict[str, str] = {}
    try:
        rows = csv.DictReader(io.StringIO(_text(path).replace("\r\n", "\n").replace("\r", "\n")), strict=True)
        header = [name.strip().lower() for name in rows.fieldnames or ()]
        images = [i for i, name in enumerate(header) if name in _NAMES]
        classes = [i for i, name in enumerate(header) if name in _LABELS]
        if not images or len(classes) != 1 or len(set(header)) != len(header):
            raise DataError(
                f"{path}: columns {', '.join(rows.fieldnames or ())}: expected one of images (such as image "
                "or filename) and one of classes (such as label)"
            )
        best = min(images, key=lambda i: _NAMES.index(header[i]))
        columns = list(rows.fieldnames or ())
        for row in rows:
            where = f"{path}, line {rows.line_num}"
            if None in row or None in row.values():
                raise DataError(
                    f"{where}: another number of cells than the header's: expected {len(columns)}"
                )
            name, label = row[columns[best]].strip(), row[columns[classes[0]]].strip()
            if header[classes[0]] == "predictionstring":
                label = label.partition(" ")[0]
            if not name or not label:
                raise DataError(f"{where}: no {'label' if name else 'name of an image'}: expected one")
            _add(result, name, label, where)
    except csv.Error as error:
        raise DataError(f"{path}: not a table: {error}") from None
    return _some(result, path)


def _beside(entries: Sequence[Entry], folder: Path) -> tuple[Any, ...]:
    """A mask or an array for each image, by its name."""
    found = []
    for entry, own in zip(entries, _names(entries), strict=True):
        named = [
            name for name in own if not Path(name).suffix or name not in (entry.name, Path(entry.name).name)
        ]
        places = [folder / f"{name}{suffix}" for name in named for suffix in (".png", ".npy")]
        there = [place for place in places if place.is_file()]
        if len(there) > 1:
            raise DataError(
                f"{folder}: {there[0].name} and {there[1].name} for {entry.name}: expected one target"
            )
        path = there[0] if there else None
        if path is None:
            raise DataError(
                f"{folder}: neither {places[0].name} nor {places[1].name}: expected a target for each image"
            )
        found.append(_mask(path) if path.suffix == ".png" else np.asarray(_array(path)))
    return tuple(found)


def _mask(path: Path) -> Any:
    """Class numbers of a picture: its palette's indices, or its gray values."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            if image.mode not in ("L", "P", "1"):
                raise DataError(
                    f"{path}: colours of mode {image.mode}: expected class numbers, as gray or a palette"
                )
            return np.asarray(image).astype(np.uint8)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        raise DataError(f"{path}: cannot be read: {shown(str(error))}") from None


# ------------------------------------------------------------------------------------------ ImageNet


def _kit_folder(path: Path) -> Path | None:
    places = [path, path / "data", *(p / "data" for p in sorted(path.glob("*devkit*")))]
    return next((place for place in places if (place / TRUTH).is_file()), None)


def _is_truth(path: Path) -> bool:
    """Whether a list has numbers alone, one a line."""
    lines = _text(path).split()
    return bool(lines) and all(map(is_index, lines)) and len(lines) == len(_text(path).strip().splitlines())


def _imagenet(found: Found, path: Path, source: str) -> Found:
    """The development kit's numbers: the first is of the image whose name ends in 00000001.

    They count synsets in the kit's own order, while networks have them sorted by name (WordNet id).
    """
    truth, meta = _kit(path)
    numbers = truth.split()
    if not numbers or not all(map(is_index, numbers)):
        raise DataError(f"{path}: expected the numbers of synsets, one a line")
    synsets = _synsets(meta, path)
    strange = next((n for n in numbers if int(n) not in synsets), None)
    if strange is not None:
        raise DataError(f"{path}: label {strange}: expected the number of a synset of {META}")
    entries, seen = [], set()
    for entry in found.entries:
        match = _VALIDATION.fullmatch(Path(entry.name).name)
        number = int(match[1]) if match else 0
        if not 1 <= number <= len(numbers) or number in seen:
            raise DataError(
                f"{path}: {len(numbers)} labels, which belong to ILSVRC2012_val_00000001.JPEG and so on: "
                f"{entry.name} "
                f"in {source} is none of these, or there twice"
            )
        seen.add(number)
        entries.append(replace(entry, label=synsets[int(numbers[number - 1])]))
    return Found(entries, frozenset(synsets.values()), order=tuple(sorted(synsets.values())))


def _kit(path: Path) -> tuple[str, bytes]:
    """Ground truth and ``meta.mat``: of the kit's archive or folder, or of files that lie together."""
    if path.is_dir():
        folder = _kit_folder(path)
        assert folder is not None  # whoever calls has looked
        path = folder / TRUTH
    if path.suffix == ".txt":
        beside = path.parent / META
        if not beside.is_file():
            raise DataError(
                f"{path}: the development kit's numbers have an order of their own: expected its {META} "
                "beside it, or the kit's archive"
            )
        return _text(path), read_regular(beside, MAX_LIST)
    parts: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                if name in (META, TRUTH) and member.isreg() and member.size <= MAX_LIST:
                    handle = archive.extractfile(member)
                    parts[name] = b"" if handle is None else handle.read()
    except Exception as error:  # a damaged archive ends in many ways
        raise DataError(f"{path}: not ImageNet's development kit: {shown(str(error))}") from None
    if set(parts) != {META, TRUTH}:
        raise DataError(f"{path}: not ImageNet's development kit: expected {TRUTH} and {META} in it")
    return parts[TRUTH].decode("ascii", "replace"), parts[META]


_READ_META = """
import io, json, sys
from scipy.io import loadmat
try:
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
except ImportError:
    pass  # not on this system: the time alone is limited
meta = io.BytesIO(sys.stdin.buffer.read())
table = loadmat(meta, squeeze_me=True, variable_names=["synsets"])["synsets"]
columns = (table[name].tolist() for name in ("ILSVRC2012_ID", "WNID", "num_children"))
rows = [[int(number), str(name), int(children)] for number, name, children in zip(*columns, strict=True)]
json.dump(rows, sys.stdout)
"""
"""SciPy reads MATLAB's files in a process of its own: a damaged one ends it by a signal."""
_SECONDS = 8
_MATLAB_5 = (b"\x00\x01IM", b"\x01\x00MI")
"""Version and byte order at the end of the 128 bytes with which a file of MATLAB 5 and later begins."""


def _synsets(meta: bytes, path: Path) -> dict[int, str]:
    """WordNet ids of the classes by the kit's numbers: entries of ``meta.mat`` that have no children."""
    if find_spec("scipy") is None:
        raise DataError(f"{path}: {META} is read with SciPy: pip install 'radixpoint[imagenet]'")
    if meta[124:128] not in _MATLAB_5:
        raise DataError(f"{path}: {META} cannot be read: expected a file of MATLAB 5 or later")
    try:
        child = subprocess.run(
            [sys.executable, "-c", _READ_META],
            input=meta,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
        if child.returncode:
            lines = child.stderr.decode("utf-8", "replace").strip().splitlines()
            raise ValueError(lines[-1] if lines and child.returncode > 0 else "damaged")
        rows = json.loads(child.stdout)
    except (ValueError, subprocess.TimeoutExpired, OSError) as error:
        raise DataError(f"{path}: {META} cannot be read: {shown(str(error))}") from None
    result = {number: name for number, name, children in rows if children == 0}
    if not result or len(set(result.values())) != len([row for row in rows if row[2] == 0]):
        raise DataError(f"{path}: {META} names no synset, or one twice: expected the development kit's")
    return result
