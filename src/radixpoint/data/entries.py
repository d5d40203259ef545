"""Images that a source names, before they are decoded: in order, each with its label and a way to read it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import DataError
from radixpoint.files import shown

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".gif", ".webp", ".tif", ".tiff"}
MAX_FILE = 1 << 28
"""Bytes of one image file at most."""
MAX_LIST = 1 << 28
"""Bytes of a list of images or of classes at most."""
MAX_LABEL = 1 << 31
"""Labels are below."""


@dataclass(frozen=True)
class Entry:
    """An image.

    Attributes:
        name: as it may be shown.
        label: as the source has it; None if it has none.
        read: gives the bytes of its file.
        stamp: changes with the file, as its size and time do.
    """

    name: str
    label: str | None
    read: Callable[[], bytes]
    stamp: str = ""


@dataclass(frozen=True)
class Found:
    """Images in order, and every class that the source names, with or without images.

    Attributes:
        entries: the images.
        classes: names of classes.
        numbered: whether labels are the outputs' indices.
        targets: one an entry, where labels are no classes.
        order: classes in the order of the outputs, where the source says it.
    """

    entries: list[Entry]
    classes: frozenset[str] = frozenset()
    numbered: bool = False
    targets: Any = None
    order: tuple[str, ...] = ()

    def chosen(self, places: Sequence[int]) -> Found:
        """The images at those places; the classes stay all."""
        targets = self.targets
        if targets is not None:
            targets = (
                targets[places] if isinstance(targets, np.ndarray) else tuple(targets[i] for i in places)
            )
        return replace(self, entries=[self.entries[i] for i in places], targets=targets)


def is_image(name: str) -> bool:
    """Whether a file is taken for an image, by its name."""
    return Path(name).suffix.lower() in SUFFIXES and not Path(name).name.startswith(".")


def is_hidden(name: str) -> bool:
    """Whether a folder or file belongs to a system and not to the set."""
    return name.startswith(".") or name == "__MACOSX"


def is_index(label: str) -> bool:
    """Whether a label is an output's index: digits, and nothing else."""
    return label.isascii() and label.isdecimal()


def number_of(label: str) -> float | None:
    """The number that a name is in anybody's eyes, or None: such names have two orders."""
    try:
        value = float(label.replace("_", "x"))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def check_numbers(source: Any, labels: Sequence[str]) -> None:
    """See that labels are outputs' indices.

    Raises:
        DataError: one is too large to be any.
    """
    far = next((label for label in labels if len(label) > 10 or int(label) >= MAX_LABEL), None)
    if far is not None:
        raise DataError(f"{source}: label {far}: expected an output's index")


def labelled(
    source: str, labels: Sequence[str], found: Found, classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...], str | None]:
    """Indices, the classes in order, and why that order is unknown, if it is."""
    if found.numbered:
        indices = np.array([int(label) for label in labels], np.int64)
        if classes is not None and len(indices) and int(indices.max()) >= len(classes):
            raise DataError(f"{source}: label {int(indices.max())}, and {len(classes)} classes are named")
        return indices, tuple(classes or ()), None
    known = tuple(sorted(found.classes) if classes is None and not found.order else classes or found.order)
    index = {name: i for i, name in enumerate(known)}
    if strangers := sorted(found.classes - set(index)):
        raise DataError(
            f"{source}: {len(strangers)} of {len(found.classes)} labels are no known class, such as "
            f"{shown(strangers[0])!r}"
        )
    unordered = None
    numbers = [name for name in known if number_of(name) is not None]
    if (
        classes is None
        and not found.order
        and sorted(numbers, key=lambda name: (number_of(name), name)) != numbers
    ):
        unordered = (
            f"{len(numbers)} classes that are numbers, which sort as text "
            f"({', '.join(map(shown, numbers[:3]))}, ...) "
            "otherwise than as numbers, so the order of the network's outputs cannot be known"
        )
    return np.array([index[label] for label in labels], np.int64), known, unordered
