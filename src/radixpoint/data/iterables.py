"""Images from anything in Python that can be iterated: lists, generators, data sets, loaders."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radixpoint.data.arrays import checked_targets, of_arrays
from radixpoint.data.decode import Progress
from radixpoint.data.imageset import ImageSet
from radixpoint.data.labels import targets_of
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.errors import DataError

IMAGE = ("image", "img", "pixel_values", "images")
TARGET = ("label", "labels", "target", "targets", "mask", "fine_label")


def collected(
    source: Iterable[Any],
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
    progress: Progress | None = None,
    labels: Any = None,
) -> ImageSet:
    """A set of what an iterable gives: images, (image, target) pairs, dictionaries, or batches of these.

    An image is a picture of Pillow, an array or a tensor: whole numbers are pixels (height, width[,
    channels])
    or (channels, height, width); floats are inputs of the network (channels, height, width).

    Raises:
        DataError: something else, or images that differ in shape or kind.
    """
    name = type(source).__name__
    images: list[NDArray[Any]] = []
    targets: list[Any] = []
    total = len(source) if isinstance(source, Sized) else 0
    for number, item in enumerate(_items(source)):
        if progress is not None:
            progress(number, max(total, number + 1))
        image, target = _parted(item, f"{name}: item {number}")
        for image_array, own in _singles(image, target, f"{name}: item {number}"):
            images.append(_array(image_array, preprocessing, f"{name}: item {number}"))
            targets.append(own)
    if not images:
        raise DataError(f"{name}: no images: expected at least one")
    ready = sum(isinstance(item, _Ready) for item in images)
    if 0 < ready < len(images):
        raise DataError(f"{name}: pictures of Pillow and arrays: expected all alike")
    kinds = {(image.shape, image.dtype.str) for image in images}
    if len(kinds) > 1:
        (first, a), (other, b) = sorted(kinds, key=str)[:2]
        raise DataError(f"{name}: images of {first} {a} and {other} {b}: expected all alike")
    if labels is not None:
        targets = list(targets_of(labels, len(images)))
    stacked = np.stack(images)
    joined = _joined(targets, name)
    if ready:
        prepared = preprocessing or Preprocessing()
        own = None if joined is None else checked_targets(name, joined, len(images), classes)
        return ImageSet(name, np.asarray(stacked), own, tuple(classes or ()), prepared)
    return of_arrays(name, stacked, joined, preprocessing, classes)


class _Ready(np.ndarray[Any, Any]):
    """Pixels that the preprocessing has been applied to."""


def _items(source: Any) -> Iterator[Any]:
    if hasattr(source, "__iter__"):
        yield from source
        return
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise DataError(f"{type(source).__name__}: expected something that can be iterated, or a path")
    for number in range(len(source)):  # as a torch Dataset is
        yield source[number]


def _parted(item: Any, where: str) -> tuple[Any, Any]:
    """Image and target of an item; the target is None if there is none."""
    if isinstance(item, Mapping):
        image = next((item[key] for key in IMAGE if key in item), None)
        if image is None:
            raise DataError(f"{where}: has {', '.join(map(str, item))}: expected 'image' and 'label'")
        return image, next((item[key] for key in TARGET if key in item), None)
    if isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise DataError(f"{where}: has {len(item)} parts: expected an image and a target")
        return item[0], item[1] if len(item) == 2 else None
    return item, None


def _singles(image: Any, target: Any, where: str) -> Iterator[tuple[Any, Any]]:
    """One by one, of a batch too."""
    if getattr(image, "ndim", 0) != 4:
        yield image, target
        return
    if isinstance(target, Mapping):
        raise DataError(f"{where}: a batch with a dictionary of targets: expected one target for each image")
    if target is not None and len(target) != len(image):
        raise DataError(f"{where}: {len(image)} images with {len(target)} targets: expected one for each")
    for number in range(len(image)):
        yield image[number], None if target is None else target[number]


def _array(image: Any, preprocessing: Preprocessing | None, where: str) -> NDArray[Any]:
    if isinstance(image, Image.Image):
        try:
            return (preprocessing or Preprocessing()).pixels(image).view(_Ready)
        except (DataError, ValueError) as error:
            raise DataError(f"{where}: {error}") from None
    if hasattr(image, "detach"):
        image = image.detach().cpu()
    try:
        found = np.asarray(image)
    except Exception as error:  # whatever it is
        raise DataError(f"{where}: {type(image).__name__}: expected an image: {error}") from None
    if found.ndim not in (2, 3) or found.dtype.kind not in "iuf":
        raise DataError(
            f"{where}: {type(image).__name__} of {found.shape}, {found.dtype}: expected an image: numbers of "
            "two or three axes, or a picture of Pillow"
        )
    return found


def _joined(targets: Sequence[Any], name: str) -> Any:
    """Targets as one array where they are numbers or arrays of one shape, else as a tuple."""
    if all(target is None for target in targets):
        return None
    if any(target is None for target in targets):
        raise DataError(f"{name}: images with and without targets: expected all alike")
    plain = [t.detach().cpu().numpy() if hasattr(t, "detach") else t for t in targets]
    try:
        arrays = [np.asarray(t) for t in plain if not isinstance(t, Mapping | str)]
    except ValueError:  # rows of different lengths
        return tuple(plain)
    alike = len(arrays) == len(plain) and len({(a.shape, a.dtype.kind in "iub") for a in arrays}) == 1
    if alike and all(a.dtype.kind in "iufb" for a in arrays):
        return np.stack(arrays)
    return tuple(plain)
