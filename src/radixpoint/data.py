"""Images: a folder per class, a tar of that, an ``.npz`` or a list file -> pixels, labels, float inputs.

Decoded pixels are kept as uint8; each batch is normalized when it is asked for.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from radixpoint.errors import DataError
from radixpoint.ops import Shape

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".gif", ".webp", ".tif", ".tiff"}
_IN_MEMORY = 1 << 30
"""Pixels beyond this many bytes go to a temporary file mapped into memory."""


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a stored image to the network's input; the names are torchvision's.

    In this order: convert to ``channel_order``; resize so that the shorter side is ``resize_size``; crop the
    centre to ``crop_size``; multiply by ``rescale``; subtract ``mean`` and divide by ``std`` (float32).

    Attributes:
        mean, std: one number a channel, in ``channel_order``.
        resize_size: shorter side in pixels, or None to keep the size.
        crop_size: side of the central square in pixels, or None to keep all.
        interpolation: filter of the resize (Pillow, with antialiasing, as torchvision on PIL images).
        channel_order: "RGB", "BGR" or "L" (one channel).
        rescale: factor from the stored 0..255.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize_size: int | None = None
    crop_size: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    channel_order: Literal["RGB", "BGR", "L"] = "RGB"
    rescale: float = 1 / 255

    def __post_init__(self) -> None:
        channels = len(self.channel_order)
        if len(self.mean) != channels or len(self.std) != channels:
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations for {channels} channel(s)"
            )
        if any(not np.isfinite(v) for v in (*self.mean, *self.std)) or min(self.std) <= 0:
            raise ValueError(f"std {self.std}: expected positive numbers")
        if any(size is not None and size < 1 for size in (self.resize_size, self.crop_size)):
            raise ValueError("sizes must be positive")

    @classmethod
    def load(cls, path: str | Path) -> Preprocessing:
        """Read it from JSON; a size may be a one-element list, as torchvision prints its presets.

        Raises:
            DataError: unreadable, or not a preprocessing.
        """
        try:
            raw = msgspec.json.decode(Path(path).read_bytes())
            if isinstance(raw, dict):
                for key in ("resize_size", "crop_size"):
                    if isinstance(raw.get(key), list) and len(raw[key]) == 1:
                        raw[key] = raw[key][0]
            return msgspec.convert(raw, cls)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except (msgspec.MsgspecError, ValueError) as error:
            raise DataError(f"{path}: not a preprocessing: {error}") from None

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Decode, convert, resize and crop: uint8 (channels, height, width)."""
        image = image.convert("L" if self.channel_order == "L" else "RGB")
        if self.resize_size is not None:
            width, height = image.size
            scale = self.resize_size / min(width, height)
            # torchvision truncates the longer side
            size = (
                (self.resize_size, int(scale * height))
                if width <= height
                else (int(scale * width), self.resize_size)
            )
            image = image.resize(size, Image.Resampling[self.interpolation.upper()])
        if self.crop_size is not None:
            width, height = image.size
            side = self.crop_size
            if side > min(width, height):
                raise ValueError(f"an image of {width}x{height} is smaller than the crop of {side}")
            left, top = round((width - side) / 2), round((height - side) / 2)
            image = image.crop((left, top, left + side, top + side))
        array = np.asarray(image, np.uint8)
        if array.ndim == 2:
            return array[None]
        return np.ascontiguousarray(array.transpose(2, 0, 1)[:: -1 if self.channel_order == "BGR" else 1])

    def normalize(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(images, channels, height, width) uint8 to float32 network input."""
        mean = np.array(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(self.std, np.float32).reshape(-1, 1, 1)
        scaled = pixels.astype(np.float32) * np.float32(self.rescale)
        return np.asarray((scaled - mean) / std, np.float32)


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Decoded images with labels.

    Attributes:
        source: where they come from, for messages.
        pixels: uint8 (images, channels, height, width).
        labels: int64 (images,), an index into ``classes``.
        classes: names of the classes in the order of the network's outputs.
        preprocessing: how a pixel becomes an input.
        unreadable: (name, reason) of every image that could not be read; they take no part.
    """

    source: str
    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    unreadable: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.labels)

    def inputs(self, start: int, stop: int) -> NDArray[np.float32]:
        """Network input of the images start..stop-1."""
        return self.preprocessing.normalize(self.pixels[start:stop])

    def batches(self, size: int) -> Iterator[NDArray[np.float32]]:
        """All images in order, at most ``size`` at a time."""
        for start in range(0, len(self), size):
            yield self.inputs(start, start + size)

    def first(self, count: int) -> ImageSet:
        """The first ``count`` of a fixed shuffle: a random choice from all classes."""
        order = np.sort(np.random.default_rng(0).permutation(len(self))[:count])
        return replace(self, pixels=self.pixels[order], labels=self.labels[order])

    def parted(self, count: int) -> tuple[ImageSet, ImageSet]:
        """The ``count`` images of :meth:`first`, and the others; the first part tells what was unreadable.

        Raises:
            DataError: one of the two would be empty.
        """
        if not 0 < count < len(self):
            raise DataError(
                f"{self.source}: {len(self)} images, {len(self) - count} of them held out: "
                f"expected at least one "
                "held out and one left"
            )
        order = np.random.default_rng(0).permutation(len(self))
        rest = np.sort(order[count:])
        return self.first(count), replace(
            self, pixels=self.pixels[rest], labels=self.labels[rest], unreadable=()
        )

    def shared_with(self, other: ImageSet) -> int:
        """How many of these images, by their pixels, are in ``other`` too."""
        known = {hashlib.sha256(image.tobytes()).digest() for image in other.pixels}
        return sum(hashlib.sha256(image.tobytes()).digest() in known for image in self.pixels)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels, labels and preprocessing."""
        content = hashlib.sha256(msgspec.json.encode(self.preprocessing))
        content.update(repr(self.pixels.shape).encode())
        content.update(np.ascontiguousarray(self.labels, "<i8").tobytes())
        for start in range(0, len(self), 256):
            content.update(np.ascontiguousarray(self.pixels[start : start + 256]).tobytes())
        return content.hexdigest()

    def check(self, shape: Shape, classes: int) -> None:
        """Check that the images fit a network.

        Raises:
            DataError: another shape than ``shape``, or labels beyond ``classes``.
        """
        if self.pixels.shape[1:] != shape:
            raise DataError(
                f"{self.source}: images of {self.pixels.shape[1:]} (channels, height, width) after "
                f"preprocessing, but the network takes {shape}"
            )
        if len(self.classes) > classes or int(self.labels.max()) >= classes:
            raise DataError(
                f"{self.source}: {len(self.classes)} classes (largest label {int(self.labels.max())}), "
                f"but the network has {classes} outputs"
            )


@dataclass(frozen=True)
class _Entry:
    name: str
    label: str
    read: Callable[[], bytes]


def load_images(
    path: str | Path,
    preprocessing: Preprocessing | None = None,
    classes: Sequence[str] | None = None,
) -> ImageSet:
    """Read and decode a set of images.

    Args:
        path: a folder with a folder per class; a ``.tar`` (or compressed tar) of that; an ``.npz`` with
            ``images`` (uint8, N x H x W, N x H x W x C, N x C x H x W) and integer ``labels``; or a ``.txt``
            whose lines are "image-path label", paths relative to it.
        preprocessing: the default is ImageNet's mean and deviation, size as stored.
        classes: names of the class folders in the order of the network's outputs; sorted if not given.

    Returns:
        The images, ordered by name; what could not be read is listed in ``unreadable``.

    Raises:
        DataError: no images, none readable, sizes that differ, or labels that do not fit the classes.
    """
    path, preprocessing = Path(path), preprocessing or Preprocessing()
    if path.is_dir():
        try:
            return _decode(str(path), _folder(path), preprocessing, classes)
        except OSError as error:
            raise DataError(f"{path}: {error.filename or path}: {error.strerror}") from None
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder")
    if path.suffix == ".npz":
        return _npz(path, preprocessing, classes)
    if path.suffix == ".txt":
        return _decode(str(path), _list(path), preprocessing, classes)
    try:
        with tarfile.open(path) as archive:
            return _decode(str(path), _tar(archive), preprocessing, classes)
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(":") if str(error) else type(error).__name__
        raise DataError(f"{path}: expected a folder, .tar, .npz or .txt list: {reason}") from None


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Class names, one a line.

    Raises:
        DataError: unreadable, empty, or a name given twice.
    """
    try:
        names = tuple(line.strip() for line in Path(path).read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: {error}") from None
    if not names or len(set(names)) != len(names):
        raise DataError(f"{path}: expected distinct class names, one a line")
    return names


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in _SUFFIXES and not Path(name).name.startswith(".")


def _folder(path: Path) -> list[_Entry]:
    files = sorted(f for f in path.glob("*/**/*") if f.is_file() and _is_image(f.name))
    return [_Entry(str(f.relative_to(path)), f.relative_to(path).parts[0], f.read_bytes) for f in files]


def _tar(archive: tarfile.TarFile) -> list[_Entry]:
    members = [m for m in archive.getmembers() if m.isfile() and _is_image(m.name)]
    parts = [[p for p in m.name.split("/") if p != "."] for m in members]
    # The class is the first folder below whatever single folder holds everything.
    roots = {p[0] for p in parts}
    depth = 1 if len(roots) == 1 and parts and all(len(p) > 2 for p in parts) else 0
    entries = []
    for member, names in zip(members, parts, strict=True):
        if len(names) < depth + 2:
            raise DataError(f"{member.name}: an image outside any class folder")

        def read(member: tarfile.TarInfo = member) -> bytes:
            handle = archive.extractfile(member)
            return b"" if handle is None else handle.read()

        entries.append(_Entry(member.name, names[depth], read))
    return sorted(entries, key=lambda entry: entry.name)


def _list(path: Path) -> list[_Entry]:
    entries = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a list of images in UTF-8: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.rsplit(maxsplit=1)
        if len(fields) != 2:
            raise DataError(f"{path}, line {number}: {line!r}: expected 'image-path label'")
        entries.append(_Entry(fields[0], fields[1], (path.parent / fields[0]).read_bytes))
    return entries


def _store(count: int, shape: Shape) -> NDArray[np.uint8]:
    """Room for the pixels: in memory, or in an unlinked temporary file if they are many."""
    if count * int(np.prod(shape)) <= _IN_MEMORY:
        return np.empty((count, *shape), np.uint8)
    with tempfile.TemporaryFile() as handle:
        return np.memmap(handle, np.uint8, "w+", shape=(count, *shape))


def _class_indices(
    source: str, labels: Sequence[str], classes: Sequence[str] | None
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    found = sorted(set(labels))
    if classes is None:
        if all(name.isdigit() for name in found):  # a list file with numbers: the output's index
            numbers = np.array([int(name) for name in labels], np.int64)
            return numbers, tuple(str(i) for i in range(int(numbers.max()) + 1))
        classes = found
    index = {name: i for i, name in enumerate(classes)}
    strangers = [name for name in found if name not in index]
    if strangers:
        raise DataError(
            f"{source}: {len(strangers)} of {len(found)} labels are no known class, such as {strangers[0]!r}"
        )
    return np.array([index[name] for name in labels], np.int64), tuple(classes)


def _decode(
    source: str, entries: list[_Entry], preprocessing: Preprocessing, classes: Sequence[str] | None
) -> ImageSet:
    if not entries:
        raise DataError(f"{source}: no images (looked for {', '.join(sorted(_SUFFIXES))} in class folders)")
    pixels: NDArray[np.uint8] | None = None
    labels: list[str] = []
    unreadable: list[tuple[str, str]] = []
    for entry in entries:
        stream = io.BytesIO()
        try:
            stream = io.BytesIO(entry.read())
            with Image.open(stream) as image:
                image.load()
                array = preprocessing.pixels(image)
        except Exception as error:  # Pillow raises nearly anything on a damaged file
            said = str(error).replace(repr(stream), entry.name)  # an address would differ from run to run
            unreadable.append((entry.name, f"{type(error).__name__}: {said}"))
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
    numbers, names = _class_indices(source, labels, classes)
    return ImageSet(source, pixels[: len(labels)], numbers, names, preprocessing, tuple(unreadable))


def _npz(path: Path, preprocessing: Preprocessing, classes: Sequence[str] | None) -> ImageSet:
    try:
        with np.load(path, allow_pickle=False) as archive:
            images, labels = archive["images"], archive["labels"]
    except (OSError, ValueError, KeyError, EOFError, Exception) as error:
        raise DataError(f"{path}: expected arrays 'images' and 'labels': {error}") from None
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) == 0:
        raise DataError(
            f"{path}: images are {images.dtype} of {images.shape}: expected uint8, N x H x W [x C]"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu" or int(labels.min()) < 0:
        raise DataError(
            f"{path}: labels are {labels.dtype} of {labels.shape}: expected {len(images)} class numbers"
        )
    if images.ndim == 4 and images.shape[1] in (1, 3) and images.shape[3] not in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim == 4 and images.shape[3] == 1:
        images = images[..., 0]
    arrays = [preprocessing.pixels(Image.fromarray(image)) for image in images]
    names = tuple(classes) if classes is not None else tuple(str(i) for i in range(int(labels.max()) + 1))
    if int(labels.max()) >= len(names):
        raise DataError(f"{path}: label {int(labels.max())}, but only {len(names)} classes")
    return ImageSet(str(path), np.stack(arrays), labels.astype(np.int64), names, preprocessing)
