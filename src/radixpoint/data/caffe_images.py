"""How Caffe prepares the images of a network: ``transform_param`` and mean files as a ``Preprocessing``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from radixpoint.data.caffe_schema import (
    DATA_LAYERS,
    active,
    declared_images,
    kind_of,
    parse_binary,
    parse_text,
)
from radixpoint.data.preprocessing import Preprocessing
from radixpoint.errors import DataError
from radixpoint.files import read_regular

MAX_TEXT = 1 << 24
"""Bytes of a description."""
MAX_MEAN = 1 << 28
"""Bytes of a mean file."""


def caffe_preprocessing(description: str | Path, mean_file: str | Path | None = None) -> Preprocessing:
    """What a Caffe network's images go through: (pixel - mean) * scale, of the pixels 0..255, blue first.

    A mean image is subtracted place by place, its middle where it is larger than the crop. Its size is that
    of the images it was made of: they are resized to it first. ``mean`` is the mean of each channel, and
    ``mean_image`` how the mean image differs from that.

    Args:
        description: a ``.prototxt``; the data layer of phase TEST says mean, scale and crop, else the size of
            the network's input is the crop.
        mean_file: a ``.binaryproto``, instead of what the description names.

    Raises:
        DataError: unreadable, or it does not say how images are prepared.
    """
    try:
        net = parse_text("Net", read_regular(description, MAX_TEXT).decode("utf-8"))
    except OSError as error:
        raise DataError(f"{description}: {error.strerror}") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{description}: not a Caffe description: {error}") from None
    layers = [layer for layer in active(net) if kind_of(layer) in DATA_LAYERS]
    transform = layers[0].transform_param if len(layers) == 1 else None
    if mean_file is None and (transform is None or not layers[0].HasField("transform_param")):
        raise DataError(
            f"{description}: does not say how images are prepared: expected a data layer with "
            "transform_param (as in train_val.prototxt), a mean file (.binaryproto), or a preprocessing in "
            "JSON"
        )
    shapes = [shape for _, shape in declared_images(net) if shape is not None]
    channels, crop = _sizes(transform, shapes)
    values: list[float] = list(transform.mean_value) if transform is not None else []
    size: int | None = None
    image: NDArray[np.float64] | None = None
    named = "" if transform is None else transform.mean_file
    if mean_file is not None or named:
        path = _beside(Path(description), named) if mean_file is None else Path(mean_file)
        image = _mean_image(path)
        values, size = image.mean((1, 2)).tolist(), min(image.shape[1:])
        channels = len(values)
        crop = crop or size
    if len(values) not in (0, 1, channels):
        raise DataError(f"{description}: {len(values)} mean values: expected one, or {channels}")
    scale = 1.0 if transform is None else float(transform.scale)
    if not scale > 0:
        raise DataError(f"{description}: scale {scale}: expected one above 0")
    return Preprocessing(
        mean=tuple(values * channels if len(values) == 1 else values or [0.0] * channels),
        std=(1 / scale,) * channels,
        resize_size=size if size is not None and size >= (crop or 0) else None,
        crop_size=crop,
        channel_order={1: "L", 3: "BGR"}.get(channels, "stored"),  # type: ignore[arg-type]
        rescale=1.0,
        mean_image=_beyond_its_mean(image, crop, description),
    )


def _beyond_its_mean(
    image: NDArray[np.float64] | None, crop: int | None, description: str | Path
) -> bytes | None:
    """The middle of a mean image less the mean of each channel; None if nothing is left."""
    if image is None or crop is None:
        return None
    height, width = image.shape[1:]
    if min(height, width) < crop:
        raise DataError(f"{description}: a mean image of {width}x{height} is smaller than the crop of {crop}")
    top, left = round((height - crop) / 2), round((width - crop) / 2)
    rest = (image - image.mean((1, 2), keepdims=True))[:, top : top + crop, left : left + crop]
    return np.ascontiguousarray(rest, "<f4").tobytes() if rest.any() else None


def _sizes(transform: Any, shapes: list[tuple[int, ...]]) -> tuple[int, int | None]:
    """Channels of the network's image, and the side that is cropped."""
    image = shapes[0][1:] if len(shapes) == 1 and len(shapes[0]) == 4 else (3, 0, 0)
    crop = int(transform.crop_size) if transform is not None else 0
    return image[0], crop or (image[1] if image[1] == image[2] else 0) or None


def _beside(description: Path, named: str) -> Path:
    """The mean file that a description names: beside it, or from the working folder."""
    places = [description.parent / named, Path(named), description.parent / Path(named).name]
    for place in places:
        if place.is_file():
            return place
    raise DataError(
        f"{description}: its mean file {named!r} is not there (looked for {', '.join(map(str, places))}): "
        "give it as the preprocessing, or one in JSON"
    )


def _mean_image(path: Path) -> NDArray[np.float64]:
    """A mean image (channels, height, width).

    Raises:
        DataError: unreadable, or no mean image.
    """
    try:
        blob = parse_binary("Blob", read_regular(path, MAX_MEAN))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise DataError(f"{path}: not a mean file of Caffe: {error}") from None
    shape = tuple(blob.shape.dim) or (blob.num, blob.channels, blob.height, blob.width)
    values = np.array(blob.data if len(blob.data) else blob.double_data, np.float64)
    shape = shape[-3:]
    if len(shape) != 3 or min(shape) < 1 or int(np.prod(shape)) != values.size:
        raise DataError(
            f"{path}: {values.size} numbers for an image of {shape}: expected a mean file of Caffe"
        )
    return values.reshape(shape)
