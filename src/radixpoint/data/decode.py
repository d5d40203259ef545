"""Image files -> pixels: on all cores, in order, into memory or a store."""

from __future__ import annotations

import errno
import io
import lzma
import os
import tarfile
import tempfile
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL
from numpy.typing import NDArray
from PIL import Image

from radixpoint.data.entries import Entry, Found
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.data.store import STORED_FROM, Store, StoredPixels, key_of, store_folder
from radixpoint.errors import DataError
from radixpoint.ir.ops import Shape

FORMATS = ("JPEG", "PNG", "BMP", "PPM", "GIF", "WEBP", "TIFF")
"""What Pillow may take a file for, whatever its name says: no format that runs a program."""
DAMAGED = (
    *(tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError),
    *(ValueError, OverflowError, MemoryError),
)
"""What reading a damaged archive or file may end in."""
_IN_MEMORY = 1 << 30
"""Pixels beyond this many bytes go to a temporary file mapped into memory, where no store is wanted."""
_AHEAD = 8
"""Images being decoded at a time, for each core."""

Progress = Callable[[int, int], None]
Decoded = tuple[int, NDArray[np.uint8]]
"""An image and its place among the entries."""


def picture(data: bytes, name: str, preprocessing: Preprocessing) -> NDArray[np.uint8]:
    """Pixels (channels, height, width) of an image file.

    Raises:
        DataError: what the preprocessing refuses.
        ValueError: anything that Pillow raises.
    """
    stream = io.BytesIO(data)
    try:
        with warnings.catch_warnings():  # what matters is an error of ours
            warnings.simplefilter("ignore")
            with Image.open(stream, formats=FORMATS) as image:
                return preprocessing.pixels(image)
    except DataError:
        raise
    except Exception as error:  # Pillow raises nearly anything on a damaged file
        said = str(error).replace(repr(stream), name)  # an address would differ from run to run
        raise ValueError(f"{type(error).__name__}: {said}") from None


def room(count: int, shape: Shape, dtype: Any = np.uint8) -> NDArray[Any]:
    """Room for pixels: in memory, or in an unlinked temporary file if they are many.

    Raises:
        DataError: the disk has not as much room.
    """
    size = count * int(np.prod(shape)) * np.dtype(dtype).itemsize
    if size <= _IN_MEMORY:
        return np.empty((count, *shape), dtype)
    with tempfile.TemporaryFile() as handle:
        try:
            if hasattr(os, "posix_fallocate"):  # else a full disk would end the process on a later write
                os.posix_fallocate(handle.fileno(), 0, size)
            return np.memmap(handle, dtype, "w+", shape=(count, *shape))
        except OSError as error:
            raise DataError(
                f"{size:,} bytes of pixels in {tempfile.gettempdir()}: {error.strerror}; TMPDIR names "
                f"another folder"
            ) from None


class Decoder:
    """Decodes the images of one source.

    Args:
        source: for messages.
        found: its images.
        preprocessing: what becomes of them.
        progress: called with images done and images in all.
    """

    def __init__(
        self, source: str, found: Found, preprocessing: Preprocessing, progress: Progress | None
    ) -> None:
        self.source, self.entries = source, found.entries
        self.preprocessing, self.progress = preprocessing, progress
        self.unreadable: list[tuple[str, str]] = []
        self.passing = False
        """Whether a file could not be read for a reason that may pass."""

    def _one(self, entry: Entry) -> NDArray[np.uint8] | DataError | str:
        """Pixels; or an error that ends everything; or why this image takes no part."""
        try:
            return picture(entry.read(), entry.name, self.preprocessing)
        except DataError as error:
            return DataError(f"{self.source}: {entry.name}: {error}")
        except OSError as error:
            self.passing = self.passing or error.errno not in (None, 0, errno.ENOENT)
            return f"{type(error).__name__}: {error.strerror or error}"
        except DAMAGED as error:
            return str(error)

    def images(self) -> Iterator[Decoded]:
        """Images in order, as they are decoded; those that cannot be read are noted instead."""
        cores = os.cpu_count() or 1
        shape: Shape | None = None
        with ThreadPoolExecutor(cores) as pool:
            waiting: deque[Future[Any]] = deque()
            rest = iter(self.entries)
            try:
                for place, entry in enumerate(self.entries):
                    while len(waiting) < _AHEAD * cores and (coming := next(rest, None)) is not None:
                        waiting.append(pool.submit(self._one, coming))
                    if self.progress is not None:
                        self.progress(place, len(self.entries))
                    result = waiting.popleft().result()
                    if isinstance(result, DataError):
                        raise result
                    if isinstance(result, str):
                        self.unreadable.append((entry.name, result))
                        continue
                    if shape is not None and result.shape != shape:
                        raise DataError(
                            f"{self.source}: {entry.name} is {result.shape}, the images before it {shape}: "
                            "declare resize_size and crop_size in the preprocessing"
                        )
                    shape = result.shape
                    yield place, result
            finally:
                for task in waiting:
                    task.cancel()

    def run(self, store: str | Path | bool | None) -> tuple[NDArray[np.uint8] | StoredPixels, list[int]]:
        """Pixels, and the places of the images among the entries.

        Args:
            store: a folder of stores; None for the user's, for many pixels only; False for none.

        Raises:
            DataError: an image that may not be converted, or none that can be read.
        """
        folder = store_folder() if store is None or store is True else Path(store or ".")
        key = key_of(
            [
                *(PIL.__version__, msgspec.json.encode(self.preprocessing).decode()),
                *(f"{entry.name}\0{entry.stamp}" for entry in self.entries),
            ]
        )
        stamped = store is not False and all(entry.stamp for entry in self.entries)
        if stamped and folder.is_dir() and (known := Store(folder).known(key)) is not None:
            self.unreadable = list(known.index.unreadable)
            return known, known.index.kept
        images = self.images()
        first = next(images, None)
        if first is None:
            name, reason = self.unreadable[0]
            raise DataError(
                f"{self.source}: none of {len(self.entries)} images can be read; {name}: {reason}"
            )
        everything = chain([first], images)
        wanted = store is not None or len(self.entries) * first[1].size >= STORED_FROM
        if stamped and wanted:
            made = Store(folder).make(key, everything, self.unreadable)
            if self.passing:
                Store(folder).forget(key)
            return made, made.index.kept
        pixels = room(len(self.entries), first[1].shape)
        kept: list[int] = []
        for place, image in everything:
            pixels[len(kept)] = image
            kept.append(place)
        return pixels[: len(kept)], kept
