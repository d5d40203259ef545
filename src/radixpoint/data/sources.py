"""Where images come from: folders, archives, lists, tables, arrays, and anything in Python that gives images.

The order of classes is the order of their names, sorted as text, as torchvision's ``ImageFolder`` has it: the
first name is the network's output 0. Every class folder counts, also one that holds no image. Nothing is
guessed: names that are all numbers and sort otherwise as numbers leave the order unknown.
"""

from __future__ import annotations

import glob
import os
import re
import tarfile
import threading
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from radixpoint.data.arrays import load_arrays
from radixpoint.data.decode import DAMAGED, Decoder, Progress
from radixpoint.data.entries import (
    MAX_FILE,
    MAX_LIST,
    SUFFIXES,
    Entry,
    Found,
    check_numbers,
    is_hidden,
    is_image,
    is_index,
    labelled,
    number_of,
)
from radixpoint.data.imageset import ImageSet, chosen_places
from radixpoint.data.iterables import collected
from radixpoint.data.labels import with_labels
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.data.tables import found_in_tables
from radixpoint.errors import DataError
from radixpoint.files import read_regular, shown

_SHARDS = re.compile(r"\{(\d+)\.\.(\d+)\}")


def load_images(
    source: str | Path | Iterable[Any],
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress | None = None,
    labels: str | Path | Sequence[Any] | None = None,
    store: str | Path | bool | None = None,
    most: int | None = None,
) -> ImageSet:
    """Read and decode a set of images.

    Args:
        source: a folder with a folder per class, or of images alone; a ``.tar`` (or compressed tar) of that,
            or of WebDataset's samples (``.jpg`` beside ``.cls``), several as ``shards-{000..009}.tar``; a
            ``.npz`` with ``images`` and ``labels``, or a ``.npy`` of images: N x H x W, N x H x W x C, or
            N x C x H x W, where floats are inputs of the network; a ``.txt`` whose lines are "image-path
            label", paths relative to it, labels the outputs' indices or names; a ``.parquet`` with image
            bytes, or a folder of such; or any iterable of images, (image, target) pairs, batches of those, or
            dictionaries with ``image`` and ``label``: a list, a generator, a torch ``Dataset`` or
            ``DataLoader``, a ``datasets.Dataset``.
        preprocessing: the default is ImageNet's mean and deviation, size as stored.
        classes: names of the classes in the order of the network's outputs; sorted if not given.
        progress: called with images done and images in all.
        labels: of images that have none beside them: a file, a folder of masks, or targets in order
            (``radixpoint.data.labels``).
        store: folder in which decoded pixels are kept for later runs. By default that of the user
            (``RADIXPOINT_STORE``), for sets of 256 MiB or more; False keeps nothing.
        most: a fixed random choice of so many images; the others are not decoded.

    Returns:
        The images, ordered by name; what could not be read is listed in ``unreadable``.

    Raises:
        DataError: no images, none readable, sizes that differ, labels that do not fit the classes, or an
            image that cannot be converted without a loss that the preprocessing does not declare.
    """
    if store == "":
        raise DataError("store '': expected the name of a folder")
    if not isinstance(source, str | Path):
        return _at_most(collected(source, preprocessing, classes, progress, labels), most)
    path = Path(source)
    if path.suffix in (".npz", ".npy") and path.is_file():
        return _at_most(load_arrays(path, preprocessing, classes, progress, labels), most)
    prepared = preprocessing or Preprocessing()
    with ExitStack() as opened:
        found = _found(str(source), path, classes, opened, labels is not None)
        if labels is not None:
            found = with_labels(found, labels, str(source))
        if most is not None and most < len(found.entries):
            found = found.chosen(chosen_places(len(found.entries), most))
        return _decoded(str(source), found, prepared, classes, progress, store)


def _at_most(images: ImageSet, most: int | None) -> ImageSet:
    return images if most is None or most >= len(images) else images.first(most)


def _found(source: str, path: Path, classes: Sequence[str] | None, opened: ExitStack, apart: bool) -> Found:
    """What a path names. ``apart``: labels come from elsewhere. Archives stay open as long as ``opened``."""
    if path.is_dir():
        tables = sorted(item for item in path.iterdir() if item.suffix == ".parquet")
        if tables:
            splits = {item.stem.partition("-")[0] if "-" in item.stem else "" for item in tables}
            others = [item.name for item in path.iterdir() if item.is_dir() and not is_hidden(item.name)]
            if len(splits) > 1 or others:
                beside = ", ".join(sorted([*splits, *others])[:4])
                raise DataError(
                    f"{path}: {shown(beside)}: expected the tables of one set, such as {path}/train-*.parquet"
                )
            return found_in_tables(tables)
        try:
            return _folder(path, apart)
        except OSError as error:
            raise DataError(f"{path}: {shown(str(error.filename or path))}: {error.strerror}") from None
    shards = _shards(source)
    for shard in shards:
        if not shard.is_file():
            kind = "is no regular file or folder" if shard.exists() else "no such file or folder"
            raise DataError(f"{shard}: {kind}")
    if path.suffix == ".parquet":
        return found_in_tables(shards)
    if path.suffix == ".txt":
        return _list(path, classes)
    members: list[_Member] = []
    for shard in shards:
        try:
            archive = opened.enter_context(tarfile.open(shard))  # noqa: SIM115  # the stack of the caller closes it
            members += _members(archive, _stamp(shard))
        except DAMAGED as error:
            reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
            raise DataError(
                f"{shard}: expected a folder, .tar, .npz, .npy, .parquet or .txt list: {shown(reason)}"
            ) from None
    return _arranged(members, apart)


def _shards(source: str) -> list[Path]:
    """Files that ``{000..009}`` or ``*`` stand for."""
    if Path(source).exists():
        return [Path(source)]
    ends = _SHARDS.search(source)
    if ends is not None:
        first, last = int(ends[1]), int(ends[2])
        if not 0 <= last - first < 1 << 20:
            raise DataError(f"{source}: shards {ends[1]} to {ends[2]}: expected the first before the last")
        return [Path(source[: ends.start()] + f"{i:0{len(ends[1])}}" + source[ends.end() :])
                for i in range(first, last + 1)]  # fmt: skip
    matching = [Path(name) for name in sorted(glob.glob(source))] if "*" in source else []
    return matching or [Path(source)]


def _stamp(path: Path) -> str:
    status = path.stat()
    return f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"


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


def _outside(name: str) -> DataError:
    return DataError(f"{shown(name)}: an image outside any class folder: expected a folder for each class")


def _folder(path: Path, apart: bool) -> Found:
    """Every folder directly below ``path`` is a class, and what it holds, at any depth, its images.

    Images directly in ``path`` have no labels; they may not stand beside folders.
    """

    def stop(error: OSError) -> None:
        raise error

    entries: list[Entry] = []
    loose: list[Entry] = []
    classes = set()
    for item in sorted(path.iterdir()):
        if is_hidden(item.name):
            continue
        if not item.is_dir():
            if item.is_symlink() and not item.exists():
                raise DataError(f"{shown(item.name)}: a link to nothing: expected a folder for each class")
            if item.is_file() and is_image(item.name):
                loose.append(_file(item, item.name, None))
            continue
        classes.add(item.name)
        seen = {item.resolve()}
        for folder, inner, files in os.walk(item, onerror=stop, followlinks=True):
            # a link to a folder is followed, but not in circles
            fresh = [name for name in sorted(inner) if not is_hidden(name)]
            inner[:] = [name for name in fresh if (Path(folder) / name).resolve() not in seen]
            seen.update((Path(folder) / name).resolve() for name in inner)
            for name in files:
                file = Path(folder) / name
                if is_image(name) and (file.is_file() or file.is_symlink()):
                    entries.append(_file(file, str(file.relative_to(path)), item.name))
    if loose and (entries or (classes and not apart)):
        raise _outside(loose[0].name)
    entries.sort(key=lambda entry: Path(entry.name))
    loose.sort(key=lambda entry: Path(entry.name))
    return Found(loose) if loose else Found(entries, frozenset(classes))


def _file(path: Path, name: str, label: str | None) -> Entry:
    try:
        stamp = _stamp(path)
    except (OSError, ValueError):  # what cannot be opened is told when it is read
        stamp = ""
    return Entry(shown(name), label, partial(read_regular, path, MAX_FILE), stamp)


@dataclass(frozen=True)
class _Member:
    """Of an archive: its name, the parts of its path, how to read it (a folder: not), and its stamp."""

    name: str
    parts: tuple[str, ...]
    read: Callable[[], bytes] | None
    stamp: str

    def entry(self, label: str | None) -> Entry:
        assert self.read is not None
        return Entry(shown(self.name), label, self.read, self.stamp)


def _members(archive: tarfile.TarFile, stamp: str) -> list[_Member]:
    """Images, WebDataset's labels and folders of an archive; of several with one path the last counts."""
    found: dict[tuple[str, ...], _Member] = {}
    lock = threading.Lock()

    def read(member: tarfile.TarInfo) -> bytes:
        with lock:
            try:
                handle = archive.extractfile(member)
            except KeyError:
                raise OSError(0, "is a link to nothing in the archive") from None
            return b"" if handle is None else handle.read(MAX_FILE)

    for member in archive:  # one after the other: a huge one is refused before it is skipped over
        parts = tuple(p for p in member.name.split("/") if p not in ("", "."))
        if ".." in parts:
            raise DataError(f"{shown(member.name)}: leads out of the archive: expected paths inside")
        if not parts or any(map(is_hidden, parts)):
            continue
        if member.isdir():
            found.setdefault(parts, _Member(member.name, parts, None, ""))
        elif (member.isreg() or member.islnk() or member.issym()) and (
            is_image(member.name) or parts[-1].endswith(".cls")
        ):
            if member.issparse() or member.size > MAX_FILE:
                raise DataError(
                    f"{shown(member.name)}: {member.size:,} bytes{' (sparse)' if member.issparse() else ''}: "
                    f"expected at most {MAX_FILE:,}, all of them stored"
                )
            found[parts] = _Member(member.name, parts, partial(read, member), f"{stamp} {member.offset}")
    return list(found.values())


def _arranged(members: Sequence[_Member], apart: bool) -> Found:
    """Which classes the members of all archives together are of. ``apart``: labels come from elsewhere."""
    folders = [member.parts for member in members if member.read is None]
    marks = [member for member in members if member.parts[-1].endswith(".cls") and member.read is not None]
    images = [
        member for member in members if member.read is not None and not member.parts[-1].endswith(".cls")
    ]
    if marks:
        return _samples(images, marks)
    loose = [member for member in images if len(member.parts) < 2]
    flat = len({member.parts[:-1] for member in images}) == 1 and (loose or apart)
    if images and flat and not (folders and loose and not apart):
        return Found(sorted((member.entry(None) for member in images), key=lambda entry: entry.name))
    # The class is the first folder below whatever single folder holds everything.
    roots = {member.parts[0] for member in images}
    depth = 1 if len(roots) == 1 and images and all(len(member.parts) > 2 for member in images) else 0
    others = {parts[0] for parts in folders} - roots
    if depth and others:
        raise DataError(
            f"{shown(min(others))}: a folder without images beside the one that holds them all: is that one "
            "a class, or are those in it? Expected a folder for each class, and nothing beside"
        )
    entries, classes = [], {parts[depth] for parts in folders if len(parts) == depth + 1}
    for member in images:
        if len(member.parts) < depth + 2:
            raise _outside(member.name)
        classes.add(member.parts[depth])
        entries.append(member.entry(member.parts[depth]))
    return Found(sorted(entries, key=lambda entry: entry.name), frozenset(classes))


def _sample(parts: Sequence[str]) -> str:
    """Name of a WebDataset sample: the path up to the first dot of the file's name."""
    return "/".join([*parts[:-1], parts[-1].partition(".")[0]])


def _samples(images: Sequence[_Member], marks: Sequence[_Member]) -> Found:
    """Images with the label beside each: an output's index, or a class."""
    labels: dict[str, str] = {}
    for member in marks:
        sample = _sample(member.parts)
        if "/".join(member.parts) != f"{sample}.cls":
            continue  # of another kind, such as fine.cls
        assert member.read is not None
        if sample in labels:
            raise DataError(
                f"{shown(member.name)}: a second label of the sample {shown(sample)}: expected one"
            )
        try:
            labels[sample] = member.read().decode("utf-8").strip()
        except UnicodeDecodeError:
            labels[sample] = ""
        if not labels[sample]:
            raise DataError(f"{shown(member.name)}: expected the number or name of a class")
    entries, seen = [], set()
    for member in images:
        sample = _sample(member.parts)
        if sample not in labels:
            raise DataError(
                f"{shown(member.name)}: no {shown(sample)}.cls: expected a label beside each image"
            )
        if sample in seen:
            raise DataError(
                f"{shown(member.name)}: a second image of the sample {shown(sample)}: expected one"
            )
        seen.add(sample)
        entries.append(member.entry(labels[sample]))
    if without := sorted(set(labels) - seen):
        raise DataError(
            f"{shown(without[0])}.cls: no image beside it: expected one of {', '.join(sorted(SUFFIXES))}"
        )
    known = sorted(set(labels.values()))
    numbered = all(map(is_index, known))
    if not numbered and any(number_of(label) is not None for label in known):
        raise DataError("labels that are numbers and names: expected the outputs' indices, from 0, or names")
    if numbered:
        check_numbers("labels", known)
    return Found(entries, frozenset() if numbered else frozenset(known), numbered)


def _list(path: Path, classes: Sequence[str] | None) -> Found:
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
        entries.append(_file(file, fields[0], fields[1]))
    labels = {entry.label or "" for entry in entries}
    numbered = classes is None and all(map(is_index, labels))
    numbers = sorted(label for label in labels if number_of(label) is not None)
    if classes is None and numbers and not numbered:
        other = next((label for label in sorted(labels) if not is_index(label)), numbers[0])
        raise DataError(
            f"{path}: labels such as {numbers[0]!r} and {other!r}: expected the outputs' indices, from 0, "
            "or names; --classes names the class of every output"
        )
    if numbered:
        check_numbers(path, sorted(labels))
    return Found(entries, frozenset(labels), numbered)


def _decoded(
    source: str,
    found: Found,
    preprocessing: Preprocessing,
    classes: Sequence[str] | None,
    progress: Progress | None,
    store: str | Path | bool | None,
) -> ImageSet:
    if not found.entries:
        raise DataError(f"{source}: no images (looked for {', '.join(sorted(SUFFIXES))})")
    decoder = Decoder(source, found, preprocessing, progress)
    pixels, kept = decoder.run(store)
    about = (preprocessing, tuple(decoder.unreadable))
    if found.targets is not None:
        return ImageSet(source, pixels, found.chosen(kept).targets, tuple(classes or ()), *about)
    labels = [found.entries[i].label for i in kept]
    if None in labels:
        return ImageSet(source, pixels, None, tuple(classes or ()), *about)
    numbers, names, unordered = labelled(source, [x or "" for x in labels], found, classes)
    return ImageSet(source, pixels, numbers, names, *about, unordered)
