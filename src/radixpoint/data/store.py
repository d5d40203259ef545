"""Decoded pixels in a file: made once, mapped into memory by every later run, never trusted blindly.

Two files a set: ``pixels-KEY.bin``, the images one after the other, and ``pixels-KEY.index``, written last,
with the shape and the SHA-256 of every image. The key says what they were made from. An image is compared
with its hash whenever it is read, so one that was damaged is noticed.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from radixpoint.errors import DataError, RunError
from radixpoint.files import partial_beside, read_record, sweep, write_record

FOLDER = "RADIXPOINT_STORE"
"""Environment variable: the folder of pixel stores."""
STORED_FROM = 1 << 28
"""Bytes of pixels from which on they go to a store; fewer are decoded again sooner than asked for."""
_AT_ONCE = 64
"""Images that are mapped at a time."""


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a store holds.

    Attributes:
        shape: of an image.
        dtype: of its numbers.
        marks: SHA-256 of each image, one after the other.
        kept: places in the source of the images that could be read.
        unreadable: (name, reason) of the others.
    """

    shape: tuple[int, ...]
    dtype: str
    marks: bytes
    kept: list[int]
    unreadable: list[tuple[str, str]]


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Images in a file, or some of them; read as an array is, a slice or places at a time.

    Attributes:
        path: of the images.
        index: of the file.
        places: of these images in it.
    """

    path: Path
    index: Index
    places: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """(images, channels, height, width)."""
        return (len(self.places), *self.index.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of a pixel."""
        return np.dtype(self.index.dtype)

    @property
    def marks(self) -> tuple[bytes, ...]:
        """SHA-256 of each image."""
        return tuple(self.index.marks[32 * i : 32 * i + 32] for i in self.places.tolist())

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[NDArray[Any]]:
        for start in range(0, len(self), _AT_ONCE):
            yield from self[start : start + _AT_ONCE]

    def __getitem__(self, asked: Any) -> Any:
        """A slice: an array. Places: what is there, still in the file. One place: an image."""
        if isinstance(asked, slice):
            return self._read(self.places[asked])
        if np.ndim(asked) == 0:
            return self._read(self.places[[asked]])[0]
        return StoredPixels(self.path, self.index, self.places[np.asarray(asked)])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them, in memory."""
        return np.asarray(self._read(self.places), dtype)

    def _read(self, places: NDArray[np.int64]) -> NDArray[Any]:
        result = np.empty((len(places), *self.index.shape), self.dtype)
        size = int(np.prod(self.index.shape)) * self.dtype.itemsize
        for start in range(0, len(places), _AT_ONCE):
            some = places[start : start + _AT_ONCE]
            low, high = int(some.min()), int(some.max()) + 1
            if high - low > 4 * _AT_ONCE:  # far apart: one by one, so that little is mapped at a time
                for i, place in enumerate(some.tolist(), start):
                    result[i] = self._mapped(place, place + 1, size)[0]
            else:
                result[start : start + len(some)] = self._mapped(low, high, size)[some - low]
        for image, place in zip(result, places.tolist(), strict=True):
            if hashlib.sha256(image).digest() != self.index.marks[32 * place : 32 * place + 32]:
                raise DataError(
                    f"{self.path}: image {place} is damaged: delete the file, and it is made again"
                )
        return result

    def _mapped(self, low: int, high: int, size: int) -> NDArray[Any]:
        try:
            return np.memmap(self.path, self.dtype, "r", low * size, (high - low, *self.index.shape))
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: image {low} cannot be read: {error}: delete the file") from None


def store_folder() -> Path:
    """Where stores are kept: ``RADIXPOINT_STORE``, else the user's folder for caches."""
    given = os.environ.get(FOLDER)
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or str(Path.home() / "AppData" / "Local")
    else:
        base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "radixpoint" / "pixels"


class Store:
    """A folder of pixel stores.

    Args:
        folder: made if it is not there.

    Raises:
        DataError: it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            sweep(folder)
        except OSError as error:
            raise DataError(f"{folder}: cannot hold pixels: {error.strerror}") from None

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"pixels-{key}.bin", self.folder / f"pixels-{key}.index"

    def known(self, key: str) -> StoredPixels | None:
        """What is there already, or None: nothing, or something damaged."""
        path, about = self._paths(key)
        try:
            data = read_record(about)
            index = None if data is None else msgspec.msgpack.decode(data, type=Index)
        except (OSError, msgspec.MsgspecError):
            return None
        if index is None or len(index.marks) != 32 * len(index.kept):
            return None
        size = len(index.kept) * int(np.prod(index.shape)) * np.dtype(index.dtype).itemsize
        if not path.is_file() or path.stat().st_size != size:
            return None
        return StoredPixels(path, index, np.arange(len(index.kept)))

    def forget(self, key: str) -> None:
        """Let no later run find it."""
        self._paths(key)[1].unlink(missing_ok=True)

    def make(
        self, key: str, images: Iterable[tuple[int, NDArray[Any]]], unreadable: list[tuple[str, str]]
    ) -> StoredPixels:
        """Write images as they come.

        Args:
            key: of what they are made from.
            images: (place in the source, image); all of one shape and dtype.
            unreadable: filled by whoever makes the images, complete once they end.

        Raises:
            DataError: the disk has not as much room, or there are no images.
        """
        path, about = self._paths(key)
        kept: list[int] = []
        marks: list[bytes] = []
        shape: tuple[int, ...] = ()
        dtype = ""
        partial = partial_beside(path)
        try:
            with partial.open("xb") as handle:
                for place, image in images:
                    handle.write(np.ascontiguousarray(image).data)
                    marks.append(hashlib.sha256(np.ascontiguousarray(image).data).digest())
                    kept.append(place)
                    shape, dtype = image.shape, image.dtype.str
                handle.flush()
                os.fsync(handle.fileno())
            if not kept:
                raise DataError("no images that can be read")
            about.unlink(missing_ok=True)  # of what is replaced
            partial.replace(path)
            write_record(
                about, msgspec.msgpack.encode(Index(shape, dtype, b"".join(marks), kept, unreadable))
            )
        except (OSError, RunError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(
                f"{path}: pixels cannot be kept: {reason}; {FOLDER} names another folder"
            ) from None
        finally:
            partial.unlink(missing_ok=True)
        index = Index(shape, dtype, b"".join(marks), kept, unreadable)
        return StoredPixels(path, index, np.arange(len(kept)))


def key_of(parts: Iterable[str]) -> str:
    """Name of a store made from these."""
    content = hashlib.sha256()
    for part in parts:
        content.update(part.encode("utf-8", "surrogateescape") + b"\0")
    return content.hexdigest()[:32]
