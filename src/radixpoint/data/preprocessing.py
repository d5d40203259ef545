"""From a stored image to a network's input: which pixels are taken, and what they become.

No pixel is altered in silence. Each property of an image file has one conversion that loses nothing, one that
the preprocessing declares, or none, and then the image is refused (``docs/images.md`` has the table).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from radixpoint.data.presets import parsed
from radixpoint.errors import DataError
from radixpoint.files import read_regular

MAX_PIXELS = 1 << 26
"""Pixels of one image at most, as stored and after resizing."""
_MAX_JSON = 1 << 20
Lossy = Literal["alpha", "cmyk", "depth"]
ChannelOrder = Literal["RGB", "BGR", "L", "stored"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]
_BYTE, _DEEP = 255, 65535


class Preprocessing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """From a stored image to the network's input; the names are torchvision's.

    In this order: turn by the EXIF orientation; convert to ``channel_order``; resize to ``resize_size``; crop
    the centre to ``crop_size`` (the other way round with ``crop_first``); multiply by ``rescale``; subtract
    ``mean_image``, then ``mean``, and divide by ``std`` (float32).

    Attributes:
        mean, std: one number a channel, in ``channel_order``.
        resize_size: the shorter side in pixels; or (height, width); or None to keep the size.
        crop_size: side of the central square in pixels; or (height, width); or None to keep all.
        fit: how an image comes to ``resize_size``. "cover": one number is the shorter side, two are stretched
            to. "letterbox": the image is scaled until it fits inside, and centred on ``fill``.
        fill: value of the pixels beside a letterboxed image.
        crop_first: crop, then resize.
        interpolation: filter of the resize (Pillow, with antialiasing, as torchvision on PIL images).
        channel_order: "RGB", "BGR", "L" (one channel; of colours their luma by ITU-R 601), or "stored": the
            channels of the file or array as they are, as many as ``mean`` has numbers.
        rescale: factor from the stored 0..255.
        mean_image: float32 (channels, height, width) of the size of an input, as bytes (little-endian), in
            units of a rescaled pixel; or None.
        exif_orientation: "apply" shows a photograph upright, as viewers do; "ignore" takes it as stored, as
            torchvision does.
        lossy: conversions that lose something, allowed by name: "alpha" drops transparency, "cmyk" turns
            printing inks into colours, "depth" keeps the upper 8 of 16 bits.
    """

    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    resize_size: int | tuple[int, int] | None = None
    crop_size: int | tuple[int, int] | None = None
    interpolation: Interpolation = "bilinear"
    channel_order: ChannelOrder = "RGB"
    rescale: float = 1 / 255
    exif_orientation: Literal["apply", "ignore"] = "apply"
    lossy: tuple[Lossy, ...] = ()
    fit: Literal["cover", "letterbox"] = "cover"
    fill: int = 0
    crop_first: bool = False
    mean_image: bytes | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("interpolation", get_args(Interpolation)),
            ("channel_order", get_args(ChannelOrder)),
            ("exif_orientation", ("apply", "ignore")),
            ("fit", ("cover", "letterbox")),
        ):
            if getattr(self, name) not in known:
                raise DataError(f"{name} {getattr(self, name)!r}: expected one of {', '.join(known)}")
        if unknown := set(self.lossy) - set(get_args(Lossy)):
            raise DataError(f"lossy {min(unknown)!r}: expected some of {', '.join(get_args(Lossy))}")
        channels = len(self.mean) if self.channel_order == "stored" else len(self.channel_order)
        if len(self.mean) != channels or len(self.std) != channels or not channels:
            raise DataError(
                f"{len(self.mean)} means and {len(self.std)} deviations: expected one of each for every "
                f"channel of {self.channel_order}, {channels or 'at least one'}"
            )
        with np.errstate(over="ignore"):
            numbers = np.array([*self.mean, *self.std, self.rescale], np.float64).astype(np.float32)
        if not np.isfinite(numbers).all() or numbers[channels : 2 * channels].min() <= 0:
            raise DataError(
                f"mean {self.mean}, std {self.std}, rescale {self.rescale}: expected finite numbers of "
                "binary32, those of std positive"
            )
        for name in ("resize_size", "crop_size"):
            size = getattr(self, name)
            if isinstance(size, list):
                continue  # told below
            sides = size if isinstance(size, tuple) else (1, size)
            if size is not None and not (min(sides) >= 1 and sides[0] * sides[1] <= MAX_PIXELS):
                raise DataError(
                    f"{name} {size}: expected a positive number of pixels, or a height and a width"
                )
        for size in (self.resize_size, self.crop_size):
            if not (size is None or type(size) is int or (type(size) is tuple and len(size) == 2)):
                raise DataError(f"a size of {size!r}: expected a number of pixels, or a height and a width")
        if self.fit == "letterbox" and self.resize_size is None:
            raise DataError("fit letterbox without resize_size: expected the size that images are put into")
        if self.fill and self.fit != "letterbox":
            raise DataError(f"fill {self.fill} with fit {self.fit}: expected fit letterbox")
        if self.crop_first and (self.resize_size is None or self.crop_size is None):
            raise DataError("crop_first without resize_size or crop_size: expected both")
        if self.rescale == 0:
            raise DataError("rescale 0: expected another number, or all images would be alike")
        if not 0 <= self.fill <= _BYTE:
            raise DataError(f"fill {self.fill}: expected 0 to {_BYTE}")
        if self.mean_image is not None:
            values = np.frombuffer(self.mean_image, "<f4") if len(self.mean_image) % 4 == 0 else np.zeros(0)
            crop = self.crop_size if not isinstance(self.crop_size, int) else (self.crop_size, self.crop_size)
            fits = crop is None or self.crop_first or len(values) == channels * crop[0] * crop[1]
            if not len(values) or len(values) % channels or not np.isfinite(values).all() or not fits:
                raise DataError(
                    f"mean_image of {len(self.mean_image)} bytes: expected finite float32, all channels alike"
                )

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return len(self.mean)

    @classmethod
    def load(cls, path: str | Path) -> Preprocessing:
        """Read it from a file: JSON, or what torchvision or timm print (``radixpoint.data.presets``).

        Raises:
            DataError: unreadable, or not a preprocessing.
        """
        try:
            return msgspec.convert(parsed(read_regular(path, _MAX_JSON).decode("utf-8-sig")), cls)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}") from None
        except (msgspec.ValidationError, UnicodeDecodeError, RecursionError, DataError) as error:
            raise DataError(f"{path}: not a preprocessing: {error}") from None

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Convert, resize and crop: uint8 (channels, height, width).

        Args:
            image: opened and not yet loaded, so that what its file holds can still be told.

        Raises:
            DataError: a conversion that loses something and is not declared, or an image smaller than the
                crop.
            ValueError: more than ``MAX_PIXELS`` pixels.
        """
        _check_size(*image.size)
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise DataError("several pictures in one file: expected one")
        if image.format == "TIFF":
            self._check_tiff(image)
        tiles = getattr(image, "tile", ())
        if image.format == "GIF" and tiles and tuple(tiles[0][1]) != (0, 0, *image.size):
            raise DataError("a picture smaller than its canvas: expected one that fills it")
        if _is_deep(image) and "depth" not in self.lossy:
            raise DataError(
                "more than 8 bits a channel: expected at most 8, or a preprocessing with lossy depth"
            )
        if image.format == "PPM" and _is_deep(image) and (image.mode == "RGB" or _largest(image) != _DEEP):
            raise DataError(f"values up to {_largest(image)}: expected up to 255, or gray up to {_DEEP}")
        if image.mode not in ("P", "PA") and "transparency" in image.info:  # a colour that stands for nothing
            if "alpha" not in self.lossy:
                raise DataError(
                    "a transparent colour: expected opaque pixels, or a preprocessing with lossy alpha"
                )
            del image.info["transparency"]
        image.load()
        turned = ImageOps.exif_transpose(image) if self.exif_orientation == "apply" else image
        return self._placed(self._bands(turned))

    def _check_tiff(self, image: Image.Image) -> None:
        """Refuse what Pillow would drop, turn or invert in silence.

        Raises:
            DataError: samples beyond those of the mode, numbers with a sign, depths other than whole bytes,
            or
                an orientation that is to be ignored.
        """
        tags = image.tag_v2  # type: ignore[attr-defined]  # of TIFF images
        samples, bits = tags.get(277, 1), set(tags.get(258, (1,)))
        if samples != len(image.getbands()):
            raise DataError(f"{samples} samples a pixel, read as {image.mode}: expected as many as that has")
        if set(tags.get(339, (1,))) != {1} or not bits <= {1, 2, 4, 8, 16}:
            raise DataError("samples that are signed, real or of an odd depth: expected whole numbers from 0")
        if 16 in bits and tags.get(262) not in (1, 2):
            raise DataError("16 bits that are not gray from black on, nor RGB: expected one of these")
        if tags.get(274, 1) != 1 and self.exif_orientation == "ignore":
            raise DataError(
                "an orientation in a TIFF, which cannot be ignored: expected exif_orientation apply"
            )

    def array_pixels(self, array: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The same of an array (height, width) or (height, width, channels) of 8-bit values.

        Raises:
            DataError: another number of channels than the preprocessing's, or an array smaller than the crop.
        """
        _check_size(array.shape[1], array.shape[0])
        planes = array[..., None] if array.ndim == 2 else array
        if planes.shape[2] in (1, 3) and self.channel_order != "stored":
            return self._placed(
                self._bands(Image.fromarray(planes[..., 0] if planes.shape[2] == 1 else planes))
            )
        if planes.shape[2] != self.channels or self.channel_order != "stored":
            raise DataError(
                f"{planes.shape[2]} channels: expected {self._expected()}; a preprocessing with "
                "channel_order stored takes all channels, with a mean and a deviation for each"
            )
        return self._placed(
            [Image.fromarray(np.ascontiguousarray(planes[..., i])) for i in range(self.channels)]
        )

    def _expected(self) -> str:
        return "1 or 3" if self.channel_order != "stored" else str(self.channels)

    def _bands(self, image: Image.Image) -> list[Image.Image]:
        """The image as one picture in mode L or RGB, or as one in mode L for each channel."""
        image = self._as_bytes(image)
        if self.channel_order == "stored":
            bands = list(image.split())
            if len(bands) != self.channels:
                raise DataError(
                    f"{len(bands)} channels as stored: expected {self.channels}, one for each mean"
                )
            return bands
        if image.mode in ("LA", "RGBA"):
            alpha = np.asarray(image.getchannel("A"))
            if "alpha" not in self.lossy and alpha.min(initial=_BYTE) < _BYTE:
                raise DataError(
                    "transparent pixels: expected opaque ones, or a preprocessing with lossy alpha, which "
                    "takes the colours as if nothing were transparent"
                )
            image = image.convert("L" if image.mode == "LA" else "RGB")
        if image.mode == "CMYK":
            if "cmyk" not in self.lossy:
                raise DataError("printing inks (CMYK): expected RGB, or a preprocessing with lossy cmyk")
            image = image.convert("RGB")
        return [image.convert("L" if self.channel_order == "L" else "RGB")]

    def _as_bytes(self, image: Image.Image) -> Image.Image:
        """The image in a mode whose channels are bytes, with a palette and a transparent colour resolved."""
        if image.mode.startswith("I"):  # of 16 bits: what has more was refused before
            return Image.fromarray((np.asarray(image, np.int64) >> 8).astype(np.uint8))
        if image.mode == "P":
            return image.convert("RGBA" if "transparency" in image.info else "RGB")
        if image.mode == "PA":
            return image.convert("RGBA")
        if image.mode == "1":
            return image.convert("L")
        if image.mode not in ("L", "LA", "RGB", "RGBA", "CMYK"):
            raise DataError(f"colours of mode {image.mode}: expected gray, RGB, a palette or CMYK")
        return image

    def _placed(self, bands: Sequence[Image.Image]) -> NDArray[np.uint8]:
        steps = (self._cropped, self._resized) if self.crop_first else (self._resized, self._cropped)
        for step in steps:
            bands = step(bands)
        planes = np.stack([np.asarray(band, np.uint8) for band in bands]) if len(bands) > 1 else None
        if planes is None:
            array = np.asarray(bands[0], np.uint8)
            planes = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return np.ascontiguousarray(planes[:: -1 if self.channel_order == "BGR" else 1])

    def _resized(self, bands: Sequence[Image.Image]) -> Sequence[Image.Image]:
        if self.resize_size is None:
            return bands
        width, height = bands[0].size
        if self.fit == "letterbox":
            return self._letterboxed(bands)
        if isinstance(self.resize_size, tuple):
            size = self.resize_size[::-1]
        else:
            short, long = min(width, height), max(width, height)
            longer = self.resize_size * long // short  # as torchvision has it: cut, not rounded
            size = (self.resize_size, longer) if width <= height else (longer, self.resize_size)
        _check_size(*size)
        return [band.resize(size, Image.Resampling[self.interpolation.upper()]) for band in bands]

    def _letterboxed(self, bands: Sequence[Image.Image]) -> list[Image.Image]:
        width, height = bands[0].size
        asked = self.resize_size
        tall, wide = asked if isinstance(asked, tuple) else (asked or 0, asked or 0)
        scale = min(tall / height, wide / width)
        inner = (min(max(round(width * scale), 1), wide), min(max(round(height * scale), 1), tall))
        place = ((wide - inner[0]) // 2, (tall - inner[1]) // 2)
        boxed = []
        for band in bands:
            own = Image.new(band.mode, (wide, tall), (self.fill,) * len(band.getbands()))
            own.paste(band.resize(inner, Image.Resampling[self.interpolation.upper()]), place)
            boxed.append(own)
        return boxed

    def _cropped(self, bands: Sequence[Image.Image]) -> Sequence[Image.Image]:
        if self.crop_size is None:
            return bands
        width, height = bands[0].size
        tall, wide = self.crop_size if isinstance(self.crop_size, tuple) else (self.crop_size, self.crop_size)
        if wide > width or tall > height:
            crop = f"{wide}" if wide == tall else f"{wide}x{tall}"
            raise DataError(f"an image of {width}x{height} is smaller than the crop of {crop}")
        left, top = round((width - wide) / 2), round((height - tall) / 2)
        return [band.crop((left, top, left + wide, top + tall)) for band in bands]

    def normalize(self, pixels: NDArray[np.integer]) -> NDArray[np.float32]:
        """(images, channels, height, width) of stored values to float32 network input.

        Raises:
            DataError: another number of channels, or another size than the mean image's.
        """
        if pixels.ndim != 4 or pixels.shape[1] != self.channels:
            raise DataError(f"pixels of shape {pixels.shape}: expected {self.channels} channels on axis 1")
        mean = np.array(self.mean, np.float32).reshape(-1, 1, 1)
        std = np.array(self.std, np.float32).reshape(-1, 1, 1)
        scaled = pixels.astype(np.float32) * np.float32(self.rescale)
        if self.mean_image is not None:
            image = np.frombuffer(self.mean_image, "<f4")
            if image.size != scaled[0].size:
                raise DataError(
                    f"a mean image of {image.size} numbers: expected one of the images' size, "
                    f"{pixels.shape[1:]}"
                )
            scaled = scaled - image.reshape(scaled.shape[1:])
        return np.asarray((scaled - mean) / std, np.float32)


def _check_size(width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"{width}x{height} pixels: expected 1 to {MAX_PIXELS:,}")


def _largest(image: Image.Image) -> int:
    """Largest value that a PPM says it may hold."""
    told = _decoding(image)
    if any(isinstance(a, str) and ";16" in a for a in told):
        return _DEEP
    return max([_BYTE, *(a for a in told if isinstance(a, int))])


def _decoding(image: Image.Image) -> list[Any]:
    """What Pillow tells the decoder of an image that is not loaded yet."""
    arguments: list[Any] = []
    for tile in getattr(image, "tile", ()):
        arguments += tile[3] if isinstance(tile[3], tuple | list) else [tile[3]]
    return arguments


def _is_deep(image: Image.Image) -> bool:
    """Whether the file holds more than 8 bits a channel, which Pillow would cut or scale in silence."""
    if image.mode.startswith("I") or image.mode == "F":
        return True
    if image.format == "PPM":
        return _largest(image) > _BYTE
    return image.format in ("PNG", "TIFF") and any(
        isinstance(a, str) and ";16" in a for a in _decoding(image)
    )
