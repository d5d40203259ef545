"""Where images come from: a folder per class, a tar of that, an ``.npz`` or a list file.

The order of classes is the order of their names, sorted as text, as torchvision's ``ImageFolder`` has it: the
first name is the network's output 0. Every class folder counts, also one that holds no image. Nothing is
guessed: names that are all numbers and sort otherwise as numbers leave the order unknown.
"""

from __future__ import annotations

import io
import lzma
import math
import os
import re
import tarfile
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radixpoint.data.imageset import ImageSet
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.errors import DataError
from radixpoint.files import read_regular, shown
from radixpoint.ir.ops import Shape

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".gif", ".webp", ".tif", ".tiff"}
_FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "WEBP", "TIFF")
"""What Pillow may take a file for, whatever its name says: no format that runs a program."""
_DAMAGED_TAR = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, OverflowError, MemoryError),
)
"""What reading a damaged archive may end in."""
_IN_MEMORY = 1 << 30
"""Pixels beyond this many bytes go to a temporary file mapped into memory."""
MAX_FILE = 1 << 28
"""Bytes of one image file at most."""
MAX_LIST = 1 << 28
"""Bytes of a list of images or of classes at most."""
MAX_COMPRESSED = 1 << 29
"""Bytes that a compressed array may have when it is taken out; one stored as it is may have any size."""
MAX_LABEL = 1 << 31
"""Labels are below."""


Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Entry:
    """An image: its name as it may be shown, its label as it is, and how to read it."""

    name: str
    label: str
    read: Callable[[], bytes]


@dataclass(frozen=True)
class _Found:
    """Images in order, and every class that the source names, with or without images."""

    entries: list[_Entry]
    classes: frozenset[str]
    numbered: bool = False
    """Labels are the outputs' indices."""


def load_images(
    path: str | Path,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """Read and decode a set of images.

    Args:
        path: a folder with a folder per class; a ``.tar`` (or compressed tar) of that; an ``.npz`` with
            ``images`` (uint8, N x H x W, N x H x W x C, N x C x H x W) and integer ``labels``; or a ``.txt``
            whose lines are "image-path label", paths relative to it, labels the outputs' indices or names.
        preprocessing: the default is ImageNet's mean and deviation, size as stored.
        classes: names of the classes in the order of the network's outputs; sorted if not given.
        progress: called with images done and images in all.

    Returns:
        The images, ordered by name; what could not be read is listed in ``unreadable``.

    Raises:
        DataError: no images, none readable, sizes that differ, labels that do not fit the classes, or an
            image that cannot be converted without a loss that the preprocessing does not declare.
    """
    path, preprocessing = Path(path), preprocessing or Preprocessing()
    if path.is_dir():
        try:
            return _decode(str(path), _folder(path), preprocessing, classes, progress)
        except OSError as error:
            raise DataError(f"{path}: {shown(str(error.filename or path))}: {error.strerror}") from None
    if not path.is_file():
        raise DataError(
            f"{path}: {'is no regular file or folder' if path.exists() else 'no such file or folder'}"
        )
    if path.suffix == ".npz":
        return _npz(path, preprocessing, classes, progress)
    if path.suffix == ".txt":
        return _decode(str(path), _list(path, classes), preprocessing, classes, progress)
    try:
        with tarfile.open(path) as archive:
            return _decode(str(path), _tar(archive), preprocessing, classes, progress)
    except _DAMAGED_TAR as error:
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise DataError(f"{path}: expected a folder, .tar, .npz or .txt list: {shown(reason)}") from None


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names, one a line.

    Raises:
        DataError: unreadable, empty, or a name given twice.
    """
    try:
        text = read_regular(path, MAX_LIST).decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not in UTF-8"
        raise DataError(f"{path}: {reason}: expected class names, one a line") from None
    lines = (line.strip(" \t\r") for line in text.split("\n"))
    names = tuple(line for line in lines if line)
    if not names or len(set(names)) != len(names):
        raise DataError(f"{path}: expected distinct class names, one a line")
    return names


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in _SUFFIXES and not Path(name).name.startswith(".")


def _outside(name: str) -> DataError:
    return DataError(f"{shown(name)}: an image outside any class folder: expected a folder for each class")


def _folder(path: Path) -> _Found:
    """Every folder directly below ``path`` is a class, and what it holds, at any depth, its images."""

    def stop(error: OSError) -> None:
        raise error

    entries, classes = [], set()
    for item in sorted(path.iterdir()):
        if _is_hidden(item.name):
            continue
        if not item.is_dir():
            if item.is_symlink() and not item.exists():
                raise DataError(f"{shown(item.name)}: a link to nothing: expected a folder for each class")
            if item.is_file() and _is_image(item.name):
                raise _outside(item.name)
            continue
        classes.add(item.name)
        seen = {item.resolve()}
        for folder, inner, files in os.walk(item, onerror=stop, followlinks=True):
            # a link to a folder is followed, but not in circles
            fresh = [name for name in sorted(inner) if not _is_hidden(name)]
            inner[:] = [name for name in fresh if (Path(folder) / name).resolve() not in seen]
            seen.update((Path(folder) / name).resolve() for name in inner)
            for name in files:
                file = Path(folder) / name
                if _is_image(name) and (file.is_file() or file.is_symlink()):
                    shortened = shown(str(file.relative_to(path)))
                    entries.append(_Entry(shortened, item.name, partial(read_regular, file, MAX_FILE)))
    return _Found(sorted(entries, key=lambda entry: Path(entry.name)), frozenset(classes))


def _is_hidden(name: str) -> bool:
    """Whether a folder or file belongs to a system and not to the set."""
    return name.startswith(".") or name == "__MACOSX"


def _tar(archive: tarfile.TarFile) -> _Found:
    found: dict[str, tuple[tarfile.TarInfo, list[str]]] = {}
    folders = []
    for member in archive:  # one after the other: a huge one is refused before it is skipped over
        parts = [p for p in member.name.split("/") if p not in ("", ".")]
        if ".." in parts:
            raise DataError(f"{shown(member.name)}: leads out of the archive: expected paths inside")
        if not parts or any(map(_is_hidden, parts)):
            continue
        if member.isdir():
            folders.append(parts)
        elif (member.isreg() or member.islnk() or member.issym()) and _is_image(member.name):
            if member.issparse() or member.size > MAX_FILE:
                raise DataError(
                    f"{shown(member.name)}: {member.size:,} bytes{' (sparse)' if member.issparse() else ''}: "
                    f"expected at most {MAX_FILE:,}, all of them stored"
                )
            found["/".join(parts)] = member, parts  # of several the last counts, as for who unpacks them
    members = list(found.values())
    # The class is the first folder below whatever single folder holds everything.
    roots = {parts[0] for _, parts in members}
    depth = 1 if len(roots) == 1 and members and all(len(parts) > 2 for _, parts in members) else 0
    beside = {parts[0] for parts in folders} - roots
    if depth and beside:
        raise DataError(
            f"{shown(min(beside))}: a folder without images beside the one that holds them all: is that one "
            "a class, or are those in it? Expected a folder for each class, and nothing beside"
        )
    entries, classes = [], {parts[depth] for parts in folders if len(parts) == depth + 1}
    for member, parts in members:
        if len(parts) < depth + 2:
            raise _outside(member.name)

        def read(member: tarfile.TarInfo = member) -> bytes:
            try:
                handle = archive.extractfile(member)
            except KeyError:
                raise OSError(0, "is a link to nothing in the archive") from None
            return b"" if handle is None else handle.read(MAX_FILE)

        classes.add(parts[depth])
        entries.append(_Entry(shown(member.name), parts[depth], read))
    return _Found(sorted(entries, key=lambda entry: entry.name), frozenset(classes))


def _is_index(label: str) -> bool:
    """Whether a label is an output's index: digits, and nothing else."""
    return label.isascii() and label.isdecimal()


def _number(label: str) -> float | None:
    """The number that a name is in anybody's eyes, or None: such names have two orders."""
    try:
        value = float(label.replace("_", "x"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _list(path: Path, classes: Sequence[str] | None) -> _Found:
    """Lines "image-path label": the outputs' indices where all labels are numbers and no names are given."""
    try:
        lines = read_regular(path, MAX_LIST).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a list of images in UTF-8: {error}") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip(" \t") or line.startswith("#"):
            continue
        fields = re.split(r"[ \t]+(?=[^ \t]+$)", line.strip(" \t"))
        if len(fields) != 2:
            raise DataError(f"{path}, line {number}: {line!r}: expected 'image-path label'")
        file = path.parent / fields[0]
        entries.append(_Entry(shown(fields[0]), fields[1], partial(read_regular, file, MAX_FILE)))
    labels = {entry.label for entry in entries}
    numbered = classes is None and all(map(_is_index, labels))
    numbers = sorted(label for label in labels if _number(label) is not None)
    if classes is None and numbers and not numbered:
        other = next((label for label in sorted(labels) if not _is_index(label)), numbers[0])
        raise DataError(
            f"{path}: labels such as {numbers[0]!r} and {other!r}: expected the outputs' indices, from 0, "
            "or names; --classes names the class of every output"
        )
    far = next((label for label in labels if numbered and (len(label) > 10 or int(label) >= MAX_LABEL)), None)
    if far is not None:
        raise DataError(f"{path}: label {far}: expected an output's index")
    return _Found(entries, frozenset(labels), numbered)


def _store(count: int, shape: Shape) -> NDArray[np.uint8]:
    """Room for the pixels: in memory, or in an unlinked temporary file if they are many.

    Raises:
        DataError: the disk has not as much room.
    """
    size = count * int(np.prod(shape))
    if size <= _IN_MEMORY:
        return np.empty((count, *shape), np.uint8)
    with tempfile.TemporaryFile() as handle:
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process on a later write
                os.posix_fallocate(handle.fileno(), 0, size)
        except OSError as error:
            raise DataError(
                f"{size:,} bytes of pixels in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names "
                f"another folder"
            ) from None
        return np.memmap(handle, np.uint8, "r+", shape=(count, *shape))


def _labelled(
    source: str, labels: Sequence[str], found: _Found, classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...], str | None]:
    """Indices, the classes in order, and why that order is unknown, if it is."""
    if found.numbered:
        return np.array([int(label) for label in labels], np.int64), (), None
    known = tuple(sorted(found.classes) if classes is None else classes)
    index = {name: i for i, name in enumerate(known)}
    if strangers := sorted(found.classes - set(index)):
        raise DataError(
            f"{source}: {len(strangers)} of {len(found.classes)} labels are no known class, such as "
            f"{shown(strangers[0])!r}"
        )
    unordered = None
    numbers = [name for name in known if _number(name) is not None]
    if classes is None and sorted(numbers, key=lambda name: (_number(name), name)) != numbers:
        unordered = (
            f"{len(numbers)} classes that are numbers, which sort as text "
            f"({', '.join(map(shown, numbers[:3]))}, ...) "
            "otherwise than as numbers, so the order of the network's outputs cannot be known"
        )
    return np.array([index[label] for label in labels], np.int64), known, unordered


def _picture(data: bytes, name: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():  # what matters is an error of ours
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=_FORMATS) as image:
                return preprocessing.pixels(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        said = str(error).replace(repr(stream), name)  # an address would differ from run to run
        raise ValueError(f"{type(error).__name__}: {said}") from None


def _decode(
    source: str,
    found: _Found,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    progress: Progress | None,
) -> ImageSet:
    entries = found.entries
    if not entries:
        raise DataError(f"{source}: no images (looked for {', '.join(sorted(_SUFFIXES))} in class folders)")
    pixels: NDArray[np.uint8] | None = None
    labels: list[str] = []
    unreadable: list[tuple[str, str]] = []
    for number, entry in enumerate(entries):
        if progress is not None:
            progress(number, len(entries))
        try:
            array = _picture(entry.read(), entry.name, preprocessing)
        except DataError as error:
            raise DataError(f"{source}: {entry.name}: {error}") from None
        except OSError as error:
            unreadable.append((entry.name, f"{type(error).__name__}: {error.strerror or error}"))
            continue
        except _DAMAGED_TAR as error:
            unreadable.append((entry.name, str(error)))
            continue
        if pixels is None:
            pixels = _store(len(entries), array.shape)
        if array.shape != pixels.shape[1:]:
            raise DataError(
                f"{source}: {entry.name} is {array.shape}, the images before it {pixels.shape[1:]}: "
                "declare resize_size and crop_size in the preprocessing"
            )
        pixels[len(labels)] = array
        labels.append(entry.label)
    if pixels is None:
        name, reason = unreadable[0]
        raise DataError(f"{source}: none of {len(entries)} images can be read; {name}: {reason}")
    numbers, names, unordered = _labelled(source, labels, found, classes)
    return ImageSet(
        source, pixels[: len(labels)], numbers, names, preprocessing, tuple(unreadable), unordered
    )


def _arrays(path: Path) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    """``images`` and ``labels`` of an ``.npz``, whose sizes are known before they are read.

    Raises:
        DataError: there are none, or a compressed one is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if item.compress_type != zipfile.ZIP_STORED and item.file_size > MAX_COMPRESSED:
                    raise DataError(
                        f"{path}: {shown(item.filename)} has {item.file_size:,} bytes, compressed: "
                        f"expected at "
                        f"most {MAX_COMPRESSED:,}; numpy.savez stores arrays of any size as they are"
                    )
                if item.compress_type == zipfile.ZIP_STORED and item.file_size > path.stat().st_size:
                    raise DataError(f"{path}: {shown(item.filename)} claims more bytes than the file has")
        with np.load(path, allow_pickle=False) as archive:
            return archive["images"], archive["labels"]
    except DataError:
        raise
    except Exception as error:  # zip files and array headers go wrong in many ways
        raise DataError(f"{path}: expected arrays 'images' and 'labels': {shown(str(error))}") from None


def _channels_last(images: NDArray[np.uint8], preprocessing: Preprocessing, path: Path) -> NDArray[np.uint8]:
    """Arrays (N, H, W, C), whichever layout they came in; it must be plain which one that is."""
    counts = {preprocessing.channels} if preprocessing.channel_order == "stored" else {1, 3}
    first, last = images.shape[1] in counts, images.shape[3] in counts
    if first and last:
        raise DataError(
            f"{path}: images of {images.shape[1:]}: either end could be the channels: expected N x H x W x C "
            "or N x C x H x W that can be told apart"
        )
    if not first and not last:
        raise DataError(
            f"{path}: images of {images.shape[1:]}: expected {' or '.join(map(str, sorted(counts)))} "
            f"channels on "
            "the first or the last axis; a preprocessing with channel_order stored takes as many as it has "
            "means"
        )
    return images if last else images.transpose(0, 2, 3, 1)


def _npz(
    path: Path, preprocessing: Preprocessing, classes: Sequence[str] | None, progress: Progress | None
) -> ImageSet:
    images, labels = _arrays(path)
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or images.size == 0:
        raise DataError(
            f"{path}: images are {images.dtype} of {images.shape}: expected uint8, N x H x W [x C]"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: labels are {labels.dtype} of {labels.shape}: expected {len(images)} class numbers"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= (MAX_LABEL if classes is None else len(classes)):
        names = "" if classes is None else f", and {len(classes)} classes are named"
        raise DataError(f"{path}: labels {low}..{high}: expected class numbers from 0 on{names}")
    pictures: Iterable[NDArray[np.uint8]] = images.astype(np.uint8, copy=False)
    if images.ndim == 4:
        pictures = _channels_last(images.astype(np.uint8, copy=False), preprocessing, path)
    pixels: NDArray[np.uint8] | None = None
    for number, picture in enumerate(pictures):
        if progress is not None:
            progress(number, len(images))
        try:
            array = preprocessing.array_pixels(picture)
        except (DataError, ValueError) as error:
            raise DataError(f"{path}: image {number}: {error}") from None
        if pixels is None:
            pixels = _store(len(images), array.shape)
        pixels[number] = array
    assert pixels is not None  # there is at least one image
    return ImageSet(str(path), pixels, labels.astype(np.int64), tuple(classes or ()), preprocessing)
