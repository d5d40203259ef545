"""Images in NumPy's files: ``.npz`` with images and targets, ``.npy`` of images."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.data.decode import Progress, room
from radixpoint.data.entries import MAX_LABEL
from radixpoint.data.imageset import ImageSet
from radixpoint.data.labels import targets_of
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.errors import DataError
from radixpoint.files import shown

MAX_COMPRESSED = 1 << 29
"""Bytes that a compressed array may have when it is taken out; one stored as it is may have any size."""
IMAGES = ("images", "x", "data", "inputs")
TARGETS = ("labels", "y", "targets", "masks")
Array = NDArray[Any]


def load_arrays(
    path: Path,
    preprocessing: Preprocessing | None,
    classes: Sequence[str] | None,
    progress: Progress | None,
    labels: Any = None,
) -> ImageSet:
    """The images of an ``.npz`` or ``.npy``; see ``radixpoint.data.load_images``."""
    if path.suffix == ".npy":
        images, targets = _npy(path), None
    else:
        images, targets = _npz(path, labels is None)
    if labels is not None:
        targets = targets_of(labels, len(images))
    return of_arrays(str(path), images, targets, preprocessing, classes, progress)


def of_arrays(
    source: str,
    images: Array,
    targets: Any,
    preprocessing: Preprocessing | None,
    classes: Sequence[str] | None,
    progress: Progress | None = None,
) -> ImageSet:
    """A set of one array of images; floats are inputs of a network, whole numbers are pixels.

    Raises:
        DataError: another shape or kind, or targets that do not fit.
    """
    if images.dtype.kind not in "iuf" or images.ndim not in (3, 4) or images.size == 0:
        raise DataError(
            f"{source}: images are {images.dtype} of {images.shape}: expected uint8 (or other whole "
            "numbers), N x H x W [x C], or floats, N x C x H x W"
        )
    if targets is not None:
        targets = checked_targets(source, targets, len(images), classes)
    names = tuple(classes or ())
    if images.dtype.kind == "f":
        return ImageSet(source, _inputs(source, images, preprocessing), targets, names, None)
    prepared = preprocessing or Preprocessing()
    if images.dtype != np.uint8:
        return ImageSet(source, _wide(source, images, prepared), targets, names, prepared)
    pictures = _channels_last(images, prepared, source) if images.ndim == 4 else images
    pixels: Array | None = None
    for number, picture in enumerate(pictures):
        if progress is not None:
            progress(number, len(images))
        try:
            array = prepared.array_pixels(picture)
        except (DataError, ValueError) as error:
            raise DataError(f"{source}: image {number}: {error}") from None
        if pixels is None:
            pixels = room(len(images), array.shape)
        pixels[number] = array
    assert pixels is not None  # there is at least one image
    return ImageSet(source, pixels, targets, names, prepared)


def checked_targets(source: str, targets: Any, count: int, classes: Sequence[str] | None) -> Any:
    """Targets, one an image; class numbers within what is named.

    Raises:
        DataError: another number of them, or numbers that are no classes.
    """
    if len(targets) != count:
        shape = (
            f"{targets.dtype} of {targets.shape}" if isinstance(targets, np.ndarray) else str(len(targets))
        )
        raise DataError(f"{source}: labels are {shape}: expected {count} class numbers, or targets")
    if not isinstance(targets, np.ndarray) or targets.ndim != 1:
        return targets
    if targets.dtype.kind not in "iu":
        raise DataError(
            f"{source}: labels are {targets.dtype} of {targets.shape}: expected {count} class numbers"
        )
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= (MAX_LABEL if classes is None else len(classes)):
        names = "" if classes is None else f", and {len(classes)} classes are named"
        raise DataError(f"{source}: labels {low}..{high}: expected class numbers from 0 on{names}")
    return targets.astype(np.int64)


def _inputs(source: str, images: Array, preprocessing: Preprocessing | None) -> NDArray[np.float32]:
    if preprocessing is not None:
        raise DataError(
            f"{source}: images are {images.dtype}: floats are inputs of the network: expected no "
            "preprocessing"
        )
    if images.ndim == 3:
        images = images[:, None]
    with np.errstate(over="ignore"):
        inputs = np.ascontiguousarray(images, np.float32)
    if not np.isfinite(inputs).all():
        raise DataError(f"{source}: images hold NaN, infinity, or more than float32 can: expected numbers")
    return inputs


def _wide(source: str, images: Array, preprocessing: Preprocessing) -> Array:
    """Whole numbers other than bytes: taken as they are, channel by channel."""
    if preprocessing.channel_order != "stored" or preprocessing.resize_size or preprocessing.crop_size:
        raise DataError(
            f"{source}: images are {images.dtype}: expected uint8, or a preprocessing with channel_order "
            "stored that neither resizes nor crops, whose rescale, mean and std are meant for such numbers"
        )
    if np.abs(images.astype(np.int64)).max() > 1 << 24:
        raise DataError(
            f"{source}: images of {images.dtype} beyond 2^24, which float32 does not hold: expected less"
        )
    planes = images[..., None] if images.ndim == 3 else _channels_last(images, preprocessing, source)
    return np.ascontiguousarray(planes.transpose(0, 3, 1, 2))


def _npy(path: Path) -> Array:
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # headers go wrong in many ways
        raise DataError(f"{path}: expected an array: {shown(str(error))}") from None
    return np.asarray(found)


def _npz(path: Path, targets: bool) -> tuple[Array, Array | None]:
    """Images and targets, whose sizes are known before they are read.

    Raises:
        DataError: there are no images, or a compressed one is too large.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if item.compress_type != zipfile.ZIP_STORED and item.file_size > MAX_COMPRESSED:
                    raise DataError(
                        f"{path}: {shown(item.filename)} has {item.file_size:,} bytes, compressed: expected "
                        f"at most {MAX_COMPRESSED:,}; numpy.savez stores arrays of any size as they are"
                    )
                if item.compress_type == zipfile.ZIP_STORED and item.file_size > path.stat().st_size:
                    raise DataError(f"{path}: {shown(item.filename)} claims more bytes than the file has")
        with np.load(path, allow_pickle=False) as archive:
            image = [name for name in IMAGES if name in archive.files]
            target = [name for name in TARGETS if name in archive.files]
            if len(image) != 1 or len(target) > 1:
                names = ", ".join(map(shown, archive.files)) or "none"
                raise DataError(f"{path}: arrays {names}: expected arrays 'images' and 'labels'")
            return archive[image[0]], archive[target[0]] if target and targets else None
    except DataError:
        raise
    except Exception as error:  # zip files and array headers go wrong in many ways
        raise DataError(f"{path}: expected arrays 'images' and 'labels': {shown(str(error))}") from None


def _channels_last(images: Array, preprocessing: Preprocessing, source: str) -> Array:
    """Arrays (N, H, W, C), whichever layout they came in; it must be plain which one that is."""
    counts = {preprocessing.channels} if preprocessing.channel_order == "stored" else {1, 3}
    first, last = images.shape[1] in counts, images.shape[3] in counts
    if first and last:
        raise DataError(
            f"{source}: images of {images.shape[1:]}: either end could be the channels: expected N x H x W x "
            "C or N x C x H x W that can be told apart"
        )
    if not first and not last:
        raise DataError(
            f"{source}: images of {images.shape[1:]}: expected {' or '.join(map(str, sorted(counts)))} "
            "channels on the first or the last axis; a preprocessing with channel_order stored takes as "
            "many as it has means"
        )
    return images if last else images.transpose(0, 2, 3, 1)
